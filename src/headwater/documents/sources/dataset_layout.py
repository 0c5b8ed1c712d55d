"""How the repository of a dataset is laid out: the metadata of its card, its configurations and splits.

Source: https://huggingface.co/docs/hub/datasets-manual-configuration and datasets-file-names-and-splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from headwater.core.errors import InputError
from headwater.documents.sources.licences import licence_of_name

_KEYWORDS = {
    "train": "train|training",
    "validation": "validation|valid|dev|val",
    "test": "test|testing|eval|evaluation",
}
"""What a split's files or folders are called. Source: datasets.data_files.SPLIT_KEYWORDS."""
_SHARDED = re.compile(r"data/(?P<split>[^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_NO_DATA = {"README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_LICENCES = {"odc-by": "ODC-By-1.0", "pddl": "PDDL-1.0", "odbl": "ODbL-1.0", "bsl-1.0": "BSL-1.0", "lgpl-lr": "LGPLLR"}
"""The hub's names of licences where they are not SPDX's. Source: https://huggingface.co/docs/hub/repositories-licenses."""


def card_of(readme: str, place: str) -> Mapping[str, Any]:
    """The metadata at the top of a dataset's card: YAML between two lines of three dashes."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    match = re.match(r"\ufeff?---\s*\n(.*?)\n---\s*(\n|\Z)", readme, re.DOTALL)
    try:
        card = YAML(typ="safe", pure=True).load(match[1]) if match else {}
    except YAMLError as error:
        problem = f"its metadata is not YAML ({str(error).splitlines()[0]})"
        raise InputError(problem, place=place, hint="mend what stands between the dashes at its top") from None
    return card if isinstance(card, dict) else {}


def licence_of_card(card: Mapping[str, Any]) -> str | None:
    """The licence of a dataset's card as SPDX expression; None when it is several, or none that SPDX knows."""
    stated = card.get("license")
    if isinstance(stated, list | tuple):
        stated = stated[0] if len(stated) == 1 else None
    if not isinstance(stated, str) or stated in ("other", "unknown", "cc", "bsd", "gpl", "lgpl"):
        return None
    return _LICENCES.get(stated.lower()) or licence_of_name(stated)


def language_of_card(card: Mapping[str, Any]) -> str | None:
    """The language of a dataset's card as ISO 639-1 code; None when it has several."""
    stated = card.get("language")
    if isinstance(stated, list | tuple):
        stated = stated[0] if len(stated) == 1 else None
    return stated if isinstance(stated, str) and re.fullmatch("[a-z]{2}", stated) else None


def splits_of(files: Sequence[str], configuration: Mapping[str, Any]) -> dict[str, list[str]]:
    """Split -> files, as the configuration says, or else as their names say."""
    folder = str(configuration.get("data_dir") or "").strip("/")
    if folder:
        files = [name for name in files if name.startswith(f"{folder}/")]
    stated = configuration.get("data_files")
    if not stated:
        return _splits_by_name(files, folder)
    if isinstance(stated, Mapping):
        stated = [{"split": split, "path": path} for split, path in stated.items()]
    elif isinstance(stated, str) or all(isinstance(entry, str) for entry in stated):
        stated = [{"split": "train", "path": stated}]
    patterns = {
        str(entry["split"]): [entry["path"]] if isinstance(entry["path"], str) else entry["path"] for entry in stated
    }
    prefix = f"{folder}/" if folder else ""
    found = {split: matching(files, [prefix + pattern for pattern in paths]) for split, paths in patterns.items()}
    return {split: names for split, names in found.items() if names}


def _splits_by_name(files: Sequence[str], folder: str) -> dict[str, list[str]]:
    """The splits that names of shards, of folders or of files tell; everything is `train` when none of them does.

    >>> _splits_by_name(["data/test.csv", "data/train.csv"], "")
    {'train': ['data/train.csv'], 'test': ['data/test.csv']}
    """
    inner = {name: name.removeprefix(f"{folder}/") if folder else name for name in files}
    sharded: dict[str, list[str]] = {}
    for name, short in inner.items():
        if match := _SHARDED.fullmatch(short):
            sharded.setdefault(match["split"], []).append(name)
    if sharded:
        return sharded
    for parts in (lambda path: path.parts[:-1], lambda path: path.parts[-1:]):
        found = {
            split: [
                name for name, short in inner.items() if any(_says(part, words) for part in parts(PurePosixPath(short)))
            ]
            for split, words in _KEYWORDS.items()
        }
        if any(found.values()):
            return {split: names for split, names in found.items() if names}
    return {"train": list(files)} if files else {}


def _says(part: str, words: str) -> bool:
    return re.search(rf"(?:^|[-._ 0-9])(?:{words})(?:$|[-._ 0-9])", part) is not None


def matching(files: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Files that fit a pattern: `*` stays within a folder, `**` does not."""
    from fsspec.utils import glob_translate

    rules = [re.compile(glob_translate(pattern.removeprefix("./"))) for pattern in patterns]
    return [name for name in files if any(rule.match(name) for rule in rules)]


def data_files(files: Sequence[str]) -> list[str]:
    """Those files of a repository that can hold data: neither hidden nor about the repository itself."""
    return [
        name
        for name in files
        if PurePosixPath(name).name not in _NO_DATA
        and not any(part.startswith((".", "__")) for part in PurePosixPath(name).parts)
    ]


def some(names: Sequence[str], most: int = 5) -> str:
    """The first of many names, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
