"""Git repositories, read through the git program: which commit, which files, what is in them.

Content comes from git's objects, never from a checkout: no link can lead out of a repository, no hook and no filter
runs, and what is read is exactly what the commit says.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from headwater.core.config import nearest
from headwater.core.errors import InputError, MissingExtraError
from headwater.core.hardware import environment_without

COMMIT = re.compile(r"[0-9a-f]{40}")
_REMOTE = re.compile(r"(?:https?|ssh|git|file)://|[\w.-]+@[\w.-]+:")
_QUIET = ("core.askPass=true", "credential.interactive=false", "core.fsmonitor=false", "core.hooksPath=/dev/null")
_PATIENT = ("http.lowSpeedLimit=1000", "http.lowSpeedTime=60")  # a server that sends less for a minute is given up
_WEB = {"github.com": "/blob/", "gitlab.com": "/-/blob/", "codeberg.org": "/src/commit/", "bitbucket.org": "/src/"}
"""How hosts spell the address of a file at a commit."""


@dataclass(frozen=True)
class Entry:
    """A file of a commit."""

    path: str
    blob: str
    size: int
    """[bytes]"""
    is_link: bool


def is_remote(repository: str) -> bool:
    """Whether a repository is named by a URL that git has to fetch from.

    >>> is_remote("https://github.com/a/b"), is_remote("git@github.com:a/b.git"), is_remote("../b")
    (True, True, False)
    """
    return _REMOTE.match(repository) is not None


def public_address(url: str) -> str:
    """The URL of a repository as it can be shown: on https where it was ssh, without user, password and `.git`.

    >>> public_address("git@github.com:psf/requests.git"), public_address("https://me:token@host.org/a")
    ('https://github.com/psf/requests', 'https://host.org/a')
    """
    if match := re.fullmatch(r"[\w.-]+@([\w.-]+):(.+)", url):
        url = f"https://{match[1]}/{match[2]}"
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "ssh" else parts.scheme
    host = parts.netloc.rpartition("@")[2]
    return f"{scheme}://{host}{parts.path}".rstrip("/").removesuffix(".git")


def file_address(repository: str, commit: str, path: str) -> str:
    """Where a file of a commit can be looked at: on the web where the host's addresses are known.

    >>> file_address("https://github.com/psf/requests", "c0ffee", "setup.py")
    'https://github.com/psf/requests/blob/c0ffee/setup.py'
    >>> file_address("file:///home/me/a", "c0ffee", "setup.py")
    'file:///home/me/a@c0ffee#setup.py'
    """
    between = _WEB.get(urlsplit(repository).netloc)
    path = quote(path)
    return f"{repository}{between}{commit}/{path}" if between else f"{repository}@{commit}#{path}"


@functools.lru_cache(maxsize=1024)
def remote_commit(url: str, revision: str | None) -> str:
    """The commit that a branch or tag of a repository elsewhere stands for; asked once.

    Raises:
        InputError: the repository cannot be reached, is empty, or has no such revision.
    """
    if revision and COMMIT.fullmatch(revision):
        return revision
    lines = _git(["ls-remote", "--", url], place=public_address(url)).decode(errors="replace").splitlines()
    refs = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
    if not refs:
        raise InputError("is an empty repository", place=public_address(url), hint="name one that has commits")
    if not revision:
        return refs.get("HEAD") or next(iter(refs.values()))
    for name in (f"refs/tags/{revision}^{{}}", f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
        if name in refs:
            return refs[name]
    known = sorted({name.split("/", 2)[2].removesuffix("^{}") for name in refs if name.count("/") >= 2})
    problem = f"has no revision '{revision}'{nearest(revision, known)}"
    raise InputError(problem, place=public_address(url), hint="name a branch, a tag or all 40 digits of a commit")


def local_commit(folder: Path, revision: str | None) -> str:
    """The commit that a revision of a checkout stands for; by default the one that is checked out.

    Raises:
        InputError: it has no commit, or no such revision.
    """
    try:
        wanted = ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision or 'HEAD'}^{{commit}}"]
        return _git(wanted, folder).decode().strip()
    except InputError:
        if revision is None:
            raise InputError("has no commits", place=str(folder), hint="commit its files first") from None
        names = _git(["for-each-ref", "--format=%(refname:short)"], folder).decode(errors="replace").split()
        problem = f"has no revision '{revision}'{nearest(revision, names)}"
        raise InputError(problem, place=str(folder), hint="name a branch, a tag or a commit") from None


def top_of(folder: Path) -> tuple[Path, str] | None:
    """The checkout that a folder is in, and the folder's place inside; None when it is in none."""
    try:
        lines = _git(["rev-parse", "--show-toplevel", "--show-prefix"], folder).decode().split("\n")
    except InputError as error:
        if "dubious ownership" in error.problem:
            raise
        return None
    return Path(lines[0]), lines[1]


def is_changed(folder: Path, prefix: str = "") -> bool:
    """Whether a checkout has changes below a folder of it that are not committed."""
    return bool(_git(["status", "--porcelain", "--untracked-files=no", "--", prefix or "."], folder).strip())


def origin(folder: Path) -> str | None:
    """Where a checkout was cloned from, as it can be shown; None when that is nowhere, or on this machine."""
    try:
        url = _git(["config", "--get", "remote.origin.url"], folder).decode(errors="replace").strip()
    except InputError:
        return None
    return public_address(url) if is_remote(url) and not url.startswith("file:") else None


def date_of(folder: Path, commit: str) -> str:
    """The date of a commit in ISO 8601."""
    return _git(["show", "-s", "--format=%cI", commit], folder).decode().strip()


def fetch(url: str, commit: str, folder: Path) -> None:
    """Bring one commit of a repository here, without its history; what is here already is not fetched again.

    Raises:
        InputError: it cannot be fetched.
    """
    if folder.is_dir() and _has(folder, commit):
        return
    folder.mkdir(parents=True, exist_ok=True)
    place = public_address(url)
    _git(["init", "--quiet", "--bare", "."], folder, place=place)
    try:
        _git(["fetch", "--quiet", "--depth=1", "--no-tags", "--", url, commit], folder, place=place)
    except InputError:  # a server that gives no commits by their name: ask for the branches and tags
        _git(["fetch", "--quiet", "--depth=1", "--", url, "+refs/*:refs/*"], folder, place=place)
    if not _has(folder, commit):
        raise InputError(f"does not give commit {commit}", place=place, hint="name a branch or tag in its place")


def _has(folder: Path, commit: str) -> bool:
    try:
        _git(["cat-file", "-e", f"{commit}^{{tree}}"], folder)
    except InputError:
        return False
    return True


def entries(folder: Path, commit: str, prefix: str = "") -> Iterator[Entry]:
    """The files of a commit below a folder of it, by path; submodules are left out."""
    listing = _git(["ls-tree", "-r", "-z", "-l", "--full-tree", commit, *(["--", prefix] if prefix else [])], folder)
    for line in listing.split(b"\0")[:-1]:
        about, _, path = line.partition(b"\t")
        mode, kind, blob, size = about.split()
        if kind == b"blob":
            yield Entry(path.decode(errors="replace"), blob.decode(), int(size), mode == b"120000")


class Blobs:
    """The contents of files, from a git process that stays open."""

    def __init__(self, process: subprocess.Popen[bytes], place: str) -> None:
        self._process = process
        self._place = place

    def read(self, blob: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: the repository is damaged.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(blob.encode() + b"\n")
            self._process.stdin.flush()
            header = self._process.stdout.readline().split()
        except OSError:
            header = []
        if len(header) != 3:
            raise InputError(f"has no object {blob}", place=self._place, hint="check it with git fsck")
        return self._process.stdout.read(int(header[2]) + 1)[:-1]


@contextmanager
def blobs(folder: Path) -> Iterator[Blobs]:
    """Open a repository to read contents of files."""
    process = subprocess.Popen(
        _command(["cat-file", "--batch"], folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=_environment(),
    )
    with process:
        try:
            yield Blobs(process, str(folder))
        finally:
            process.kill()


def _command(arguments: list[str], folder: Path | None) -> list[str]:
    options = [word for option in (*_QUIET, *_PATIENT) for word in ("-c", option)]
    return ["git", *(["-C", str(folder)] if folder else []), *options, *arguments]


def _environment() -> dict[str, str]:
    """The environment without what would point git at another repository, and with messages in English."""
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
    return environment_without(*elsewhere) | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def _git(arguments: list[str], folder: Path | None = None, place: str = "") -> bytes:
    """Run git and return what it prints; it never asks for a password.

    Raises:
        MissingExtraError: there is no git.
        InputError: it fails; says why.
    """
    command = _command(arguments, folder)
    place = place or str(folder)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError:
        hint = "install git, for example with apt install git"
        raise MissingExtraError("needs the program git, which is not installed", place=place, hint=hint) from None
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in said if line.startswith(("fatal:", "error:", "remote:"))] or said or ["no reason"]
        problem = re.sub(r"(://)[^/@\s]+@", r"\1", telling[0])  # git repeats the URL, password and all
        hint = "check its address, the network, and that you may read it"
        raise InputError(f"git cannot read it ({problem})", place=place, hint=hint)
    return done.stdout
