"""Datasets of the Hugging Face hub, or of a folder that is laid out like one.

The files of a split are found as the hub's own library finds them, and read by Headwater's readers in parallel parts.
What they do not read goes through the `datasets` library. Code in a repository is never run.
Source: https://huggingface.co/docs/hub/datasets-manual-configuration and datasets-file-names-and-splits.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from headwater.core.config import nearest
from headwater.core.errors import InputError, MissingExtraError
from headwater.documents.sources.dataset_layout import (
    card_of,
    data_files,
    language_of_card,
    licence_of_card,
    matching,
    some,
    splits_of,
)
from headwater.documents.sources.delimited import Csv
from headwater.documents.sources.files import FileSource, Paths, Span, compression_of, missing
from headwater.documents.sources.formats import Fields, JsonLines, Text
from headwater.documents.sources.source import EnoughError, Intake, SourceSettings
from headwater.documents.sources.tables import Arrow, Parquet

_COMMIT = re.compile(r"[0-9a-f]{40}")
_READERS: tuple[type[FileSource], ...] = (Parquet, JsonLines, Csv, Arrow, Text)


@dataclass(frozen=True)
class Listing:
    """What is in a dataset's repository."""

    root: str
    """What stands before a file's name: `hf://datasets/owner/name@commit/` or a folder."""
    commit: str | None
    """None for a folder."""
    files: tuple[str, ...]
    card: Mapping[str, Any]
    """The metadata of the dataset's card."""


@dataclass(frozen=True)
class Part:
    """What one worker reads, complete: workers ask the hub for nothing but contents, at the commit that was planned."""

    listing: Listing
    """Where it is; files are named only for the `datasets` library."""
    reader: FileSource | None
    """None: the `datasets` library reads."""
    spans: tuple[Span, ...]


class HuggingFace(SourceSettings):
    """A dataset of the Hugging Face hub."""

    use: Literal["huggingface"]
    repo: str = Field(min_length=1)
    """`owner/name` of the dataset, or a folder that is laid out like one. For a private one the library takes the token
    of `hf auth login` or of HF_TOKEN; it never belongs in a recipe."""
    config: str | None = None
    """Which configuration, also called subset. None: the default one."""
    split: str | None = None
    """Which split. None: `train`, or the only one."""
    revision: str | None = None
    """Commit, branch or tag; a branch is resolved to its commit, which the manifest keeps. None: the main branch."""
    data_files: Paths | None = None
    """Patterns of files in the repository, such as `en/*.parquet`, in place of a configuration and a split."""
    columns: Fields = Fields()
    """Which columns hold what."""
    streaming: bool = True
    """Read off the hub and keep nothing. False: download each file whole into the library's cache first."""
    licence: str | None = None
    """Licence of the documents as an SPDX expression. None: what the dataset's card says."""
    language: str | None = None
    """Language of the documents as ISO 639-1 code. None: what the dataset's card says, if it is one language."""

    @model_validator(mode="after")
    def _files_or_split(self) -> HuggingFace:
        if self.data_files and (self.config or self.split):
            raise ValueError("data_files takes the place of config and split; leave these out")
        return self

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """The commit on the hub and the files that are read; of a folder the content hashes of these and of the card."""
        listing = self.listing()
        files = self.chosen(listing)
        if listing.commit:
            return {"commit": listing.commit, "files": files}
        card = ["README.md"] if (Path(self.repo) / "README.md").exists() else []
        return [[name, hash_file(Path(listing.root + name))] for name in [*card, *files]]

    def input_bytes(self) -> int:
        """Size of the files."""
        reader = self.reader()
        return reader.input_bytes() if reader else 0

    def warnings(self) -> list[str]:
        """Whether the revision can change."""
        commit = self.listing().commit
        if commit is None or _COMMIT.fullmatch(self.revision or ""):
            return []
        return [
            f"{self.repo} is read at its commit of today; set revision: {commit} to read the same at any later time"
        ]

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Stretches of files; everything in one part when the number of documents is limited or the library reads."""
        listing, reader = self.listing(), self.reader()
        if reader is None:
            return [Part(dataclasses.replace(listing, files=tuple(self.chosen(listing))), None, ())]
        bare = dataclasses.replace(listing, files=(), card={})
        parts = reader.parts(part_bytes)
        if self.max_documents:
            parts = [tuple(span for part in parts for span in part)]
        paths = [tuple(dict.fromkeys(span.path for span in part)) for part in parts]
        readers = [reader.model_copy(update={"paths": inside}) for inside in paths]
        return [Part(bare, its_reader, tuple(part)) for its_reader, part in zip(readers, parts, strict=True)]

    def read(self, part: Part, intake: Intake) -> None:
        """Read with the reader for the kind of file, or with the `datasets` library."""
        if part.reader is None:
            self._read_with_library(part.listing, intake)
            return
        for span in part.spans:
            part.reader.read((self._here(span, part.reader, part.listing),), intake)

    def check_fields(self, known: set[str], source: str) -> None:
        """Make sure that each field that the settings name is in some record of JSON Lines."""
        reader = self.reader()
        if reader:
            reader.check_fields(known, source)

    def listing(self) -> Listing:
        """What is in the repository.

        Raises:
            InputError: there is no such dataset, folder or revision, or the hub does not let us see it.
        """
        folder = Path(self.repo).expanduser()
        if folder.is_dir():
            if self.revision:
                raise InputError("is a folder, which has no revisions", place=self.repo, hint="leave revision out")
            return _folder(folder)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo) or self.repo.startswith("."):
            raise missing(str(folder))
        return _on_the_hub(self.repo, self.revision)

    def chosen(self, listing: Listing) -> list[str]:
        """Names of the files to read, by name.

        Raises:
            InputError: no file fits, or there is no such configuration or split; names those there are.
        """
        data = data_files(listing.files)
        if self.data_files:
            for pattern in self.data_files:
                if not matching(data, [pattern]):
                    raise InputError(f"no file fits {pattern}", place=self.repo, hint=f"its files: {some(data)}")
            return matching(data, self.data_files)
        splits = splits_of(data, self._configuration(listing))
        if not splits:
            raise InputError("holds no data files", place=self.repo, hint=f"its files: {some(listing.files)}")
        split = self.split or ("train" if "train" in splits or len(splits) > 1 else next(iter(splits)))
        if split not in splits:
            problem = f"has no split '{split}'{nearest(split, splits)}"
            raise InputError(problem, place=self.repo, hint=f"set split; there are: {', '.join(splits)}")
        return sorted(splits[split])

    def _configuration(self, listing: Listing) -> Mapping[str, Any]:
        """The card's entry for the configuration; empty when the card has none."""
        known = {entry.get("config_name", "default"): entry for entry in listing.card.get("configs") or ()}
        described = listing.card.get("dataset_info") or ()
        names = list(known) or [
            entry.get("config_name", "default")
            for entry in (described if isinstance(described, list | tuple) else [described])
        ]
        if not self.config:
            marked = [entry for entry in known.values() if entry.get("default")]
            default = marked[0] if marked else known.get("default") or (next(iter(known.values()), {}))
            if len(known) > 1 and not marked and "default" not in known:
                hint = f"set config; there are: {some(names, 30)}"
                raise InputError(f"has {len(known)} configurations", place=self.repo, hint=hint)
            return default
        if self.config not in names and not (self.config == "default" and not names):
            problem = f"has no configuration '{self.config}'{nearest(self.config, names)}"
            raise InputError(problem, place=self.repo, hint=f"set config; there are: {some(names, 30) or 'default'}")
        return known.get(self.config, {})

    def reader(self) -> FileSource | None:
        """The reader for the files; None when only the `datasets` library reads them.

        Raises:
            InputError: the files are of several kinds.
        """
        listing = self.listing()
        files = self.chosen(listing)
        kinds = {kind: [name for name in files if _kind(name) is kind] for kind in (*_READERS, None)}
        present = [kind for kind, names in kinds.items() if names]
        if len(present) > 1:
            named = ", ".join(some(kinds[kind], 1) for kind in present)
            hint = "set data_files to a pattern that fits one kind"
            raise InputError(f"holds files of several kinds, such as {named}", place=self.repo, hint=hint)
        kind = present[0]
        if kind is None:
            return None
        common: dict[str, Any] = {
            "paths": [listing.root + name for name in files],
            "licence": self.licence or licence_of_card(listing.card),
            "language": self.language or language_of_card(listing.card),
        }
        if kind is Text:
            return Text(use="text", split="lines", **common)
        if kind is JsonLines:
            return JsonLines(use="jsonl", fields=self.columns, **common)
        return kind.model_validate({"use": _use(kind), "columns": self.columns, **common})

    def _here(self, span: Span, reader: FileSource, listing: Listing) -> Span:
        """The span of the file's copy on this machine, unless it is to be streamed."""
        if self.streaming or listing.commit is None:
            return span
        from huggingface_hub import constants, hf_hub_download

        name = span.path.removeprefix(listing.root)
        with _hub_errors(self.repo, self.revision):
            path = hf_hub_download(
                self.repo, name, repo_type="dataset", revision=listing.commit, endpoint=constants.ENDPOINT
            )
        reader.know_as(path, span.path)
        return dataclasses.replace(span, path=path)

    def _read_with_library(self, listing: Listing, intake: Intake) -> None:
        """Read what only the `datasets` library reads, such as archives; it streams and runs no code of a repository."""
        datasets = _library("datasets", self.repo)
        card_columns: dict[str, Any] = {"licence": self.licence or licence_of_card(listing.card)}
        card_columns |= {"language": self.language or language_of_card(listing.card)}
        table = Arrow(use="arrow", paths=(self.repo,), columns=self.columns, **card_columns)
        table.know_as(self.repo, listing.root.rstrip("/"))
        files = [listing.root + name for name in listing.files]
        row = 0
        try:
            where = {"revision": listing.commit} if listing.commit else {}
            rows = datasets.load_dataset(self.repo, data_files={"all": files}, split="all", streaming=True, **where)
            for batch in rows.with_format("arrow").iter(batch_size=1000):
                if row == 0:
                    table.check_schema(batch.schema, self.repo)
                for piece in batch.select(table.names()).combine_chunks().to_batches():
                    table.read_batch(piece, self.repo, row, intake)
                    row += piece.num_rows
        except (InputError, EnoughError):
            raise
        except Exception as error:  # the library raises whatever its parsers raise
            problem = f"cannot be read by the datasets library ({(str(error).strip() or repr(error)).splitlines()[0]})"
            raise InputError(problem, place=self.repo, hint="set data_files to files of a kind that is read") from error


# ------------------------------------------------------------------------------------------------------- listings


def _folder(folder: Path) -> Listing:
    """What is in a folder that is laid out like a dataset's repository."""
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    return Listing(f"{folder}/", None, tuple(path.as_posix() for path in paths), card_of(text, str(readme)))


@functools.lru_cache(maxsize=64)
def _on_the_hub(repo: str, revision: str | None) -> Listing:
    """What is in a repository of the hub; asked once, so that planning and reading see the same commit."""
    hub = _library("huggingface_hub", repo)
    from huggingface_hub import constants

    with _hub_errors(repo, revision):
        info = hub.HfApi(endpoint=constants.ENDPOINT).repo_info(repo, repo_type="dataset", revision=revision)
        root = f"hf://datasets/{repo}@{info.sha}/"
        system = hub.HfFileSystem(endpoint=constants.ENDPOINT)
        files = system.find(root.removesuffix("/"))
    inner = root.removeprefix("hf://")
    card = info.card_data.to_dict() if info.card_data else {}
    return Listing(root, info.sha, tuple(sorted(name.removeprefix(inner) for name in files)), card)


class _hub_errors:  # noqa: N801  (used like a function)
    """Say in one line what the hub did not give, and what there is instead."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo, self.revision = repo, revision

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, InputError):
            return
        from huggingface_hub import errors

        place = f"dataset {self.repo}"
        if isinstance(error, errors.RevisionNotFoundError):
            names = _revisions(self.repo)
            problem = f"has no revision '{self.revision}'{nearest(self.revision or '', names)}"
            raise InputError(problem, place=place, hint=f"there are: {some(names, 10)}, and commits") from None
        if isinstance(error, errors.GatedRepoError):
            hint = "ask for access on its page, then log in with hf auth login or set HF_TOKEN"
            raise InputError("is only for those who asked for access", place=place, hint=hint) from None
        if isinstance(error, errors.RepositoryNotFoundError):
            hint = "check the name; for a private one log in with hf auth login or set HF_TOKEN"
            raise InputError("is not on the hub, or you may not read it", place=place, hint=hint) from None
        problem = f"cannot be reached ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        hint = "check the network and the environment variables HF_ENDPOINT and HF_HUB_OFFLINE"
        raise InputError(problem, place=place, hint=hint) from None


def _revisions(repo: str) -> list[str]:
    """Names of branches and tags, as far as the hub tells."""
    from huggingface_hub import HfApi, constants

    try:
        refs = HfApi(endpoint=constants.ENDPOINT).list_repo_refs(repo, repo_type="dataset")
    except Exception:  # only for a hint
        return ["main"]
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _library(name: str, place: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        hint = "pip install 'headwater[hub]'"
        raise MissingExtraError(f"needs the package {name}, which is not installed", place=place, hint=hint) from None


# ---------------------------------------------------------------------------------------------------------- kinds


def _use(kind: type[FileSource]) -> str:
    return kind.model_fields["use"].annotation.__args__[0]  # type: ignore[union-attr]


def _kind(name: str) -> type[FileSource] | None:
    """The reader of a file, going by its name."""
    plain = name.rsplit(".", 1)[0] if compression_of(name) else name
    return next((kind for kind in _READERS if plain.lower().endswith(kind.suffixes())), None)
