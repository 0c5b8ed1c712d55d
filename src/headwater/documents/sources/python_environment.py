"""A source that every machine has: the Python that runs Headwater, its standard library and installed packages.

Their docstrings are English technical prose, their files are code; both have natural duplicates, and each package
states its licence. Files are only read, never imported or run.
"""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import io
import os
import platform
import re
import sys
import sysconfig
import tokenize
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headwater.core.config import nearest
from headwater.core.errors import InputError
from headwater.documents.sources.docstrings import docstrings
from headwater.documents.sources.files import BLOCK_BYTES
from headwater.documents.sources.licences import licence_of_package
from headwater.documents.sources.source import MAX_RECORD_BYTES, Intake, SourceSettings

STANDARD_LIBRARY = "python"
"""How the standard library is named among packages."""
_OURSELVES = "headwater"
_LICENCE_FILE = re.compile(r"(licen[sc]e|copying)(\.(txt|md|rst))?", re.IGNORECASE)  # not those of third parties
_PART_BYTES = 8 << 20
"""Code in a part [bytes]: under a second of work, so that two or twenty workers end at about the same time."""


@dataclass(frozen=True)
class Package:
    """An installed distribution, or the standard library."""

    name: str
    version: str
    folder: Path
    """Folder that its files' names begin from."""
    metadata: Path | None
    """Its .dist-info folder; None for the standard library."""


@dataclass(frozen=True)
class Module:
    """One Python file of a package."""

    path: Path
    url: str
    """`torch==2.13.0/torch/nn/functional.py`."""
    licence: str | None


class PythonEnvironment(SourceSettings):
    """Docstrings or source files of the Python environment that Headwater runs in."""

    use: Literal["python_environment"]
    part: Literal["docstrings", "source"]
    """`docstrings`: a document for each module's own docstring, each function, and each class with its methods.
    `source`: a document for each file."""
    packages: tuple[str, ...] | None = None
    """Names of the packages to read, `python` for the standard library. None: all but Headwater itself."""

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Files in groups; `part_bytes` counts only where it is smaller than what keeps workers equally busy."""
        parts: list[list[Module]] = [[]]
        room = part_bytes = min(part_bytes, _PART_BYTES)
        for package in self.chosen():
            for module, size in modules_of(package):
                if size > room and parts[-1]:
                    parts.append([])
                    room = part_bytes
                parts[-1].append(module)
                room -= size
        return [tuple(part) for part in parts if part]

    def read(self, part: tuple[Module, ...], intake: Intake) -> None:
        """Read files; one that cannot be decoded, or is too large to be a module, is a bad record."""
        gathered = _Gathered(intake)
        for module in part:
            size = module.path.stat().st_size
            if size > MAX_RECORD_BYTES:
                problem, most = f"has {size:,} bytes, more than {MAX_RECORD_BYTES:,}", MAX_RECORD_BYTES
                intake.reject(
                    "too_large", "", url=module.url, place=module.url, problem=problem, value=size, threshold=most
                )
                continue
            content = module.path.read_bytes()
            try:
                encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
                source = content.decode(encoding)
            except (SyntaxError, UnicodeDecodeError) as error:  # SyntaxError: it declares an encoding that is none
                shown, problem = content.decode(errors="replace"), f"not in the encoding that it declares ({error})"
                intake.reject("not_utf8", shown, url=module.url, place=module.url, problem=problem)
                continue
            if self.part == "source":
                gathered.add(source, module.url, module.licence)
            elif '"""' in source or "'''" in source:  # the others have next to no docstrings
                for name, text in docstrings(source):
                    text = text.encode(errors="replace").decode()  # a literal can hold lone surrogates
                    gathered.add(text, f"{module.url}#{name}" if name else module.url, module.licence)
        gathered.flush()

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:  # noqa: ARG002  (versions say as much, at once)
        """Version of Python, and name and version of each package."""
        packages = sorted([package.name, package.version] for package in self.chosen())
        return {"python": platform.python_version(), "packages": packages}

    def input_bytes(self) -> int:
        """Size of the Python files."""
        return sum(size for package in self.chosen() for _, size in modules_of(package))

    def text_bytes(self) -> float:
        """All of the files, or the part of them that docstrings usually are: 17 % in the demo's packages."""
        return self.input_bytes() * (0.17 if self.part == "docstrings" else 1.0)

    def chosen(self) -> list[Package]:
        """The packages to read.

        Raises:
            InputError: a package is not installed.
        """
        installed = {package.name: package for package in packages_installed()}
        if self.packages is None:
            return list(installed.values())
        wanted = dict.fromkeys(_normalised(name) for name in self.packages)
        for name in wanted:
            if name not in installed:
                hint = f"install it with pip install {name}, or name another one"
                problem = f"package '{name}' is not installed{nearest(name, installed)}"
                raise InputError(problem, place="python_environment", hint=hint)
        return [installed[name] for name in wanted]


# ------------------------------------------------------------------------------------------------------- packages


def packages_installed() -> list[Package]:
    """The standard library, then every installed distribution by name; Headwater itself is left out.

    Names and versions are read off the .dist-info folders' names, which is some 50 times faster than their metadata.
    Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages
    """
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, Package] = {}
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry)
        for info in folder.glob("*.dist-info") if folder.is_dir() else ():
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            name = _normalised(name)
            if name != _OURSELVES:
                found.setdefault(name, Package(name, version, folder, info))  # the first on the path is what imports
    packages = [found[name] for name in sorted(found)]
    return [Package(STANDARD_LIBRARY, platform.python_version(), library, None), *packages]


@functools.cache
def modules_of(package: Package) -> tuple[tuple[Module, int], ...]:
    """The Python files of a package and their sizes [bytes], by name."""
    licence = _licence(package)
    modules = []
    for name in sorted(_files_of(package)):
        path = package.folder / name
        try:
            size = path.stat().st_size
        except OSError:
            continue  # the package's list of files names one that its owner removed
        modules.append((Module(path, f"{package.name}=={package.version}/{name}", licence), size))
    return tuple(modules)


def _files_of(package: Package) -> Iterator[str]:
    """Names of the Python files of a package below its folder."""
    if package.metadata is not None:
        record = package.metadata / "RECORD"
        rows = csv.reader(record.read_text(encoding="utf-8").splitlines()) if record.exists() else ()
        yield from (name for name, *_ in rows if name.endswith(".py") and not name.startswith(("..", "/")))
        return
    others = {"site-packages", "dist-packages", "__pycache__"}
    for folder, folders, files in os.walk(package.folder):
        folders[:] = [name for name in folders if name not in others]
        inner = Path(folder).relative_to(package.folder).as_posix()
        yield from (name if inner == "." else f"{inner}/{name}" for name in files if name.endswith(".py"))


def _licence(package: Package) -> str | None:
    if package.metadata is None:
        return "PSF-2.0"  # https://docs.python.org/3/license.html
    metadata = importlib.metadata.Distribution.at(package.metadata).metadata
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(package.metadata.rglob("*"))
        if path.is_file() and _LICENCE_FILE.fullmatch(path.name)
    ]
    expression, field = (next(iter(metadata.get_all(name) or ()), None) for name in ("License-Expression", "License"))
    return licence_of_package(expression, field, metadata.get_all("Classifier") or (), texts)


def _normalised(name: str) -> str:
    """A package's name as the index knows it. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


# -------------------------------------------------------------------------------------------------------- reading


class _Gathered:
    """Documents of many small files on their way into the intake, which likes a MB at a time."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self._rows: list[tuple[str, str, str | None]] = []
        self._size = 0

    def add(self, text: str, url: str, licence: str | None) -> None:
        self._rows.append((text, url, licence))
        self._size += len(text)
        if self._size >= BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            texts, urls, licences = zip(*self._rows, strict=True)
            self.intake.add(texts, url=urls, licence=licences)
        self._rows, self._size = [], 0
