"""The step that is a function of the user's."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from headwater.core.errors import InputError
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.steps import CleaningStep, Rule, Verdict, judge


class PythonStep(CleaningStep):
    """Keep the documents that a function of yours says to keep.

    The function takes a document, a dict with the columns of document.SCHEMA, and returns True to keep it. It is looked
    for in the current folder first. A change of its file runs the stage again.
    """

    use: Literal["python"]
    call: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """The function, as in `my_module:keep`."""

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents.

        Raises:
            InputError: there is no such function, it fails, or it does not say True or False.
        """
        function = _function(self.call, self.file())
        keep = np.ones(batch.rows.num_rows, np.bool_)
        for index in np.flatnonzero(batch.wanted).tolist():
            document = batch.rows.slice(index, 1).to_pylist()[0]
            place = f"{self.call}, document {document['id']}"
            try:
                answer = function(document)
            except Exception as error:
                problem = f"your function failed: {type(error).__name__}: {error}"
                raise InputError(problem, place=place, hint="mend the function") from error
            if not isinstance(answer, bool | np.bool_):
                raise InputError(f"your function returned {answer!r}", place=place, hint="return True or False")
            keep[index] = answer
        return judge(len(keep), Rule(self.call, keep.astype(np.float64), ~keep, 1.0))

    def files(self) -> dict[str, Path]:
        """The file that the function is in."""
        return {self.call: self.file()}

    def file(self) -> Path:
        """The file that the function is in.

        Raises:
            InputError: there is no such module.
        """
        module = self.call.partition(":")[0]
        nearby = Path(module.replace(".", "/") + ".py")
        if nearby.is_file():
            return nearby
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None or found.origin is None or not Path(found.origin).is_file():
            hint = f"put {nearby} in the current folder, or install the module"
            raise InputError(f"no module '{module}'", place=f"use: python, call: {self.call}", hint=hint)
        return Path(found.origin)


def _function(call: str, file: Path) -> Callable[[dict[str, Any]], Any]:
    return _load(call, file, file.stat().st_mtime_ns)


@functools.cache
def _load(call: str, file: Path, changed: int) -> Callable[[dict[str, Any]], Any]:  # noqa: ARG001  (a newer file is another)
    """Import the function that a python step names.

    Raises:
        InputError: the module cannot be loaded or has no such function.
    """
    name, _, function_name = call.partition(":")
    place = f"use: python, call: {call}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        problem = f"{file} cannot be loaded: {type(error).__name__}: {error}"
        raise InputError(problem, place=place, hint="mend the file") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(
            f"{file} has no function '{function_name}'", place=place, hint="check the name after the colon"
        )
    return function
