"""Code repositories as a source: git repositories of this machine or elsewhere at a commit, and plain folders."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, field_validator

from headwater.core.config import nearest
from headwater.core.errors import InputError
from headwater.core.units import Bytes
from headwater.documents.sources import git
from headwater.documents.sources.files import BLOCK_BYTES, Paths, missing, unreadable
from headwater.documents.sources.licences import licence_of_files, licence_of_header
from headwater.documents.sources.programming_languages import (
    DATA,
    LANGUAGES,
    language_of,
    unwanted_content,
    unwanted_name,
)
from headwater.documents.sources.source import Intake, SourceSettings

_LICENCE_FILE = re.compile(r"(?:un)?licen[sc]e(?:[-._](?!3rd|third)\w[\w.-]*)?|copying(?:\.\w+)?", re.IGNORECASE)
_BINARY_HEAD = 8000
"""Bytes in which a NUL makes a file binary. Source: git's buffer_is_binary (xdiff-interface.c)."""
_FETCHES = 4  # repositories that are cloned at the same time


@dataclass(frozen=True)
class Place:
    """A repository that lies on this machine."""

    folder: Path
    commit: str | None
    """None: a plain folder."""
    prefix: str
    """Folder inside the repository that is read; ends in a slash unless it is empty."""
    address: str
    """How the documents' urls name it."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a repository."""

    folder: Path
    blob: str | None
    """None: a file of a plain folder."""
    path: str
    size: int
    is_link: bool
    language: str
    commit: str | None
    url: str
    licence: str | None
    date: str | None


class Repository(SourceSettings):
    """Files of code repositories: a document for each, with its programming language, path and commit in `meta`."""

    use: Literal["repository"]
    repositories: Paths = Field(min_length=1)
    """Folders, git checkouts, or URLs that git can clone (`https://`, `ssh://`, `git@host:`, `file://`). `#` and a branch,
    tag or commit may follow, as in `https://github.com/psf/requests#v2.32.3`. Of a checkout its commit is read, not what
    is changed since."""
    languages: tuple[str, ...] | None = None
    """Programming languages, such as `Python` and `C++`. None: all but data formats such as JSON."""
    include: tuple[str, ...] = ()
    """Patterns of paths as in a .gitignore, such as `src/` or `*.py`; files that fit none are not read. Empty: all."""
    exclude: tuple[str, ...] = ()
    """Patterns of paths that are not read."""
    max_file_bytes: Bytes = Field(default=1 << 20, ge=1)
    """Largest file [bytes]; larger ones are data more often than code. Source: The Stack, https://arxiv.org/abs/2211.15533."""
    licence: str | None = None
    """SPDX expression for repositories in which no licence is found."""

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        spelled = {name.lower(): name for name in LANGUAGES}
        for name in languages or ():
            if name.lower() not in spelled:
                raise ValueError(f"no such language '{name}'{nearest(name, LANGUAGES)}")
        return tuple(spelled[name.lower()] for name in languages) if languages else None

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """The commit of each repository; of a plain folder size and content hash of each file."""
        seen = []
        for repository, revision in self._named():
            if git.is_remote(repository):
                seen.append([git.public_address(repository), git.remote_commit(repository, revision)])
                continue
            place = _local(repository, revision)
            if place.commit:
                seen.append([repository, place.commit])
            else:
                files = [file for file in self._files(place) if not file.is_link]
                seen.append([repository, [[f.path, f.size, hash_file(place.folder / f.path)] for f in files]])
        return seen

    def input_bytes(self) -> int:
        """Size of the files; not known before repositories from elsewhere are here."""
        if any(git.is_remote(name) for name, _ in self._named()):
            return 0
        places = [_local(name, revision) for name, revision in self._named()]
        return sum(file.size for place in places for file in self._files(place))

    def warnings(self) -> list[str]:
        """Repositories that can change, and changes that are not read."""
        found = []
        for repository, revision in self._named():
            if not git.is_remote(repository):
                place = _local(repository, revision)
                if place.commit and git.is_changed(place.folder, place.prefix):
                    found.append(f"{repository} has changes that are not committed; its commit is read without them")
            elif not git.COMMIT.fullmatch(revision or ""):
                commit, name = git.remote_commit(repository, revision), git.public_address(repository)
                found.append(f"{name} is read at its commit of today; write {name}#{commit} to read the same later")
        return found

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """Files of repositories on this machine; `fetch` has those from elsewhere too."""
        return self.fetch(part_bytes, Path(), 1)

    def fetch(self, part_bytes: int, cache: Path, workers: int) -> Sequence[Any]:
        """Clone what is elsewhere, then gather files until they are about `part_bytes`."""
        del workers  # a clone waits for the network, not for a processor
        with ThreadPoolExecutor(_FETCHES) as pool:
            places = list(pool.map(lambda named: _brought(named[0], named[1], cache), self._named()))
        parts: list[list[SourceFile]] = [[]]
        room = part_bytes
        for place in places:
            before = room, len(parts), len(parts[-1])
            for file in self._files(place):
                if file.size > room and parts[-1]:
                    parts.append([])
                    room = part_bytes
                parts[-1].append(file)
                room -= file.size
            if before == (room, len(parts), len(parts[-1])):
                hint = "check `languages`, `include` and `exclude`"
                raise InputError("holds no file that is wanted", place=place.address, hint=hint)
        return [tuple(part) for part in parts if part]

    def read(self, part: tuple[SourceFile, ...], intake: Intake) -> None:
        """Read files; what nobody wrote there, and what is no text, is left out with the reason."""
        for folder, files in itertools.groupby(part, lambda file: file.folder):
            with ExitStack() as stack:
                contents: git.Blobs | None = None
                rows: list[tuple[SourceFile, str]] = []
                size = 0
                for file in files:
                    if self._is_unwanted(file, intake):
                        continue
                    if file.blob and contents is None:
                        contents = stack.enter_context(git.blobs(folder))
                    content = contents.read(file.blob) if contents and file.blob else _content(file)
                    text = _text_of(file, content, intake)
                    if text is not None:
                        rows.append((file, text))
                        size += len(text)
                    if size >= BLOCK_BYTES:
                        _add(rows, intake)
                        rows, size = [], 0
                _add(rows, intake)

    def _named(self) -> list[tuple[str, str | None]]:
        """Each repository, and the revision that is asked for."""
        split = [name.partition("#") for name in self.repositories]
        return [(name, revision or None) for name, _, revision in split]

    def _is_unwanted(self, file: SourceFile, intake: Intake) -> bool:
        """Leave out what needs no look inside to be told."""
        if file.is_link:
            _leave_out(file, intake, "link", "", problem="a symbolic link, not a file")
        elif file.size > self.max_file_bytes:
            limits = {"value": float(file.size), "threshold": float(self.max_file_bytes)}
            _leave_out(file, intake, "too_large", "", problem=f"has {file.size:,} bytes", **limits)
        elif found := unwanted_name(file.path):
            _leave_out(file, intake, found[0], "", problem=found[1])
        else:
            return False
        return True

    def _files(self, place: Place) -> Iterator[SourceFile]:
        """The files of a repository that are wanted, by path."""
        from pathspec import GitIgnoreSpec

        include = GitIgnoreSpec.from_lines(self.include) if self.include else None
        exclude = GitIgnoreSpec.from_lines(self.exclude) if self.exclude else None
        if place.commit:
            found = list(git.entries(place.folder, place.commit, place.prefix))
        else:
            found = sorted(_entries_of_folder(place.folder), key=lambda entry: entry.path)
        licence = _licence(place, found) or self.licence
        date = git.date_of(place.folder, place.commit) if place.commit else None
        for entry in found:
            language = language_of(entry.path)
            wanted = language in self.languages if self.languages else language not in DATA
            if language is None or not wanted or (exclude and exclude.match_file(entry.path)):
                continue
            if include is None or include.match_file(entry.path):
                url = (
                    git.file_address(place.address, place.commit, entry.path)
                    if place.commit
                    else f"{place.address}/{entry.path}"
                )
                about = (language, place.commit, url, licence, date)
                yield SourceFile(place.folder, entry.blob or None, entry.path, entry.size, entry.is_link, *about)


# --------------------------------------------------------------------------------------------------------- places


def _local(repository: str, revision: str | None) -> Place:
    """A checkout or plain folder of this machine.

    Raises:
        InputError: it is not there, or has no such commit.
    """
    folder = Path(repository).expanduser().resolve()
    if not folder.is_dir():
        raise missing(str(Path(repository).expanduser()))
    found = git.top_of(folder)
    if found is None:
        if revision:
            hint = "leave out what stands behind #"
            raise InputError("is no git repository, it has no revisions", place=repository, hint=hint)
        return Place(folder, None, "", folder.as_uri())
    top, prefix = found
    commit = git.local_commit(top, revision)
    if prefix and not revision and next(git.entries(top, commit, prefix), None) is None:
        return Place(folder, None, "", folder.as_uri())  # a folder that git does not know, such as one it is to ignore
    return Place(top, commit, prefix, git.origin(top) or top.as_uri())


def _brought(repository: str, revision: str | None, cache: Path) -> Place:
    """A repository that is here, after fetching it when it was elsewhere."""
    if not git.is_remote(repository):
        return _local(repository, revision)
    commit = git.remote_commit(repository, revision)
    address = git.public_address(repository)
    folder = cache.absolute() / f"{re.sub(r'[^A-Za-z0-9]+', '-', address)}-{commit[:12]}.git"
    git.fetch(repository, commit, folder)
    return Place(folder, commit, "", address)


def _entries_of_folder(folder: Path) -> Iterator[git.Entry]:
    """The files of a plain folder by path, without what its .gitignore files name; links are not followed."""
    from pathspec import GitIgnoreSpec

    rules: dict[str, GitIgnoreSpec] = {}
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(folder / prefix) as scanned:
                inside = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(str(folder / prefix), error) from None
        if any(entry.name == ".gitignore" and entry.is_file(follow_symlinks=False) for entry in inside):
            text = (folder / prefix / ".gitignore").read_text(encoding="utf-8", errors="replace")
            rules[prefix] = GitIgnoreSpec.from_lines(text.splitlines())
        for entry in inside:
            path = prefix + entry.name
            if entry.is_symlink():
                yield git.Entry(path, "", 0, is_link=True)
            elif entry.is_dir():
                if entry.name != ".git" and not _is_ignored(f"{path}/", rules):
                    waiting.append(f"{path}/")
            elif entry.is_file() and not _is_ignored(path, rules):
                yield git.Entry(path, "", entry.stat().st_size, is_link=False)


def _is_ignored(path: str, rules: dict[str, Any]) -> bool:
    """Whether .gitignore files name a path: the last word is that of the innermost one that has a say."""
    verdict = None
    for prefix, rule in rules.items():  # outer folders first
        if path.startswith(prefix):
            said = rule.check_file(path.removeprefix(prefix)).include
            verdict = said if said is not None else verdict
    return bool(verdict)


def _licence(place: Place, found: Sequence[git.Entry]) -> str | None:
    """The licence of a repository, from the licence files at its top."""
    entries = [entry for entry in found if _LICENCE_FILE.fullmatch(entry.path) and not entry.is_link]
    if place.commit and place.prefix:  # a folder inside: the licence lies at the top
        everything = git.entries(place.folder, place.commit)
        entries = [entry for entry in everything if _LICENCE_FILE.fullmatch(entry.path) and not entry.is_link]
    entries = [entry for entry in entries if entry.size <= BLOCK_BYTES]
    if not entries:
        return None
    if place.commit is None:
        texts = {entry.path: (place.folder / entry.path).read_text("utf-8", "replace") for entry in entries}
    else:
        with git.blobs(place.folder) as contents:
            texts = {entry.path: contents.read(entry.blob).decode(errors="replace") for entry in entries}
    return licence_of_files(texts)


# -------------------------------------------------------------------------------------------------------- reading


def _leave_out(file: SourceFile, intake: Intake, rule: str, text: str, problem: str, **measured: float | None) -> None:
    """Keep a file among the dropped with why; it is no fault of the repository."""
    intake.reject(rule, text, url=file.url, place=file.path, problem=problem, bad=False, **measured)


def _content(file: SourceFile) -> bytes:
    path = file.folder / file.path
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(str(path), error) from None


def _text_of(file: SourceFile, content: bytes, intake: Intake) -> str | None:
    """The text of a file; None when it is left out."""
    if b"\0" in content[:_BINARY_HEAD]:
        _leave_out(file, intake, "binary", "", problem="has NUL bytes, so it is no text")
        return None
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 (byte {error.start}: {error.reason})"
        _leave_out(file, intake, "not_utf8", content.decode(errors="replace"), problem=detail)
        return None
    if found := unwanted_content(text, file.language):
        rule, detail, value, threshold = found
        _leave_out(file, intake, rule, text, problem=detail, value=value, threshold=threshold)
        return None
    return text


def _add(rows: list[tuple[SourceFile, str]], intake: Intake) -> None:
    if not rows:
        return
    files = [file for file, _ in rows]
    texts = [text for _, text in rows]
    intake.add(
        texts,
        url=[file.url for file in files],
        licence=[licence_of_header(text) or file.licence for file, text in rows],
        date=[file.date for file in files],
        meta=[_meta(file) for file in files],
    )


def _meta(file: SourceFile) -> str:
    about = {"path": file.path, "programming_language": file.language, "commit": file.commit}
    return orjson.dumps({name: value for name, value in about.items() if value is not None}).decode()
