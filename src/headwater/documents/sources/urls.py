"""Files elsewhere: found, measured and streamed through fsspec, so that a bucket or a web server reads like a folder.

Each `scheme://` needs a driver, a package of its own such as s3fs; where one is missing the error names the pip command.
Credentials are the driver's business: it reads them from its usual files and variables, Headwater never sees them.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from headwater.core.config import nearest
from headwater.core.errors import HeadwaterError, InputError, MissingExtraError, UnreachableError

BLOCK_BYTES = 1 << 20
"""Asked for at once [bytes]."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # one letter would be a drive of Windows
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
}
"""The package that drives a scheme. Source: fsspec.registry.known_implementations."""
_CHECKSUMS = ("ETag", "etag", "md5Hash", "crc32c", "Content-MD5", "Digest", "content_md5", "blob_id", "checksum")
_DATES = ("Last-Modified", "LastModified", "last_modified", "updated", "mtime")
"""What drivers call the checksum of a file, and its date; the first that is there counts."""
_DEEPEST = 32
"""Folders inside each other on a web server; behind a loop of links there are infinitely many."""
_PATIENCE_SECONDS = 60
"""A web server that says nothing for so long is given up."""


def is_url(path: str) -> bool:
    """Whether a path is a URL that fsspec is to open.

    >>> is_url("s3://bucket/a.jsonl"), is_url("/data/a.jsonl"), is_url("c:/data")
    (True, False, False)
    """
    return _URL.match(path) is not None


def local(path: str) -> str:
    """A path as the operating system knows it: `~` and `file://` are resolved, other URLs stay.

    >>> local("file:///data/a%20b.jsonl")
    '/data/a b.jsonl'
    """
    if path.lower().startswith("file://"):
        return unquote(urlsplit(path).path)
    return path if is_url(path) else str(Path(path).expanduser())


def name_of(path: str) -> str:
    """The last part of a path or URL, without a query.

    >>> name_of("https://x.org/data/a.jsonl.gz?download=true")
    'a.jsonl.gz'
    """
    return PurePosixPath(urlsplit(path).path).name if _URL.match(path) else Path(path).name


def find(url: str, endings: tuple[str, ...]) -> list[str]:
    """Files that one URL stands for: a file, a folder (on a web server: ending in `/`) or a pattern.

    Raises:
        InputError: there is nothing, or it cannot be looked at.
        MissingExtraError: the driver is not installed.
    """
    with _explained(url):
        system, path = _system(url)
        on_the_web = url.lower().startswith("http")
        if any(sign in url for sign in ("*[" if on_the_web else "*?[")):
            found = system.glob(path, detail=True)
            names = sorted(name for name, info in found.items() if info["type"] == "file")
            if not names:
                raise InputError("no file fits this pattern", place=url, hint="look at what lies there")
            return [system.unstrip_protocol(name) for name in names]
        if on_the_web and url.endswith("/"):
            names, within = list(_below(system, path)), len(path)
        else:
            info = system.info(path)
            if info["type"] != "directory":
                if info.get("size") == 0:
                    raise InputError("is empty", place=url, hint="take it out of `paths`, or check how it was made")
                return [url]
            names, within = system.find(path), len(info["name"])
        wanted = [name for name in sorted(names) if name_of(system.unstrip_protocol(name)).endswith(endings)]
        wanted = [name for name in wanted if "/." not in f"/{name[within:].lstrip('/')}"]  # hidden, as on this machine
        if not wanted:
            problem = f"this folder holds no {', '.join(endings)} file"
            raise InputError(problem, place=url, hint="give a pattern, such as folder/**/*.ending, to read other files")
        return [system.unstrip_protocol(name) for name in wanted]


def size_of(url: str) -> int | None:
    """Size of a file [bytes]; None when its server does not tell."""
    with _explained(url):
        system, path = _system(url)
        return system.info(path).get("size")


def stamp(url: str) -> list[Any]:
    """What tells this content of a file from another one: size, and what its driver has.

    That is a checksum (the ETag of S3 and of web servers, MD5 or CRC32C of Google), or else the date of the last change.
    Where a server has neither, the content is read once and hashed. Two uploads of the same bytes can differ in it.

    Returns:
        size [bytes], name of the evidence, the evidence.
    """
    with _explained(url):
        system, path = _system(url)
        info = system.info(path)
        for field in (*_CHECKSUMS, *_DATES):
            if info.get(field):
                return [info.get("size"), field, str(info[field])]
    return [info.get("size"), "sha256", _content_hash(url)]


def opened(url: str) -> io.RawIOBase:
    """Open a file to be streamed; it can be moved in where the server gives parts of files."""
    with _explained(url):
        system, path = _system(url)
        if has_ranges(url):
            return Told(system.open(path, "rb", block_size=BLOCK_BYTES, cache_type="readahead"))
        return Told(system.open(path, "rb", block_size=0), seekable=False)


@functools.lru_cache(maxsize=10_000)
def has_ranges(url: str) -> bool:
    """Whether parts of a file can be asked for: everywhere but on some web servers, which is tried out."""
    if not url.lower().startswith("http"):
        return True
    with _explained(url):
        system, path = _system(url)
        size = system.info(path).get("size")
        if not size or size < 2:
            return False
        with system.open(path, "rb", block_size=1 << 16, cache_type="none") as file:
            try:
                file.seek(1)
                return len(file.read(1)) == 1
            except (ValueError, OSError):
                return False


class Told(io.RawIOBase):
    """A binary stream whose every failure is an OSError: each driver and decoder has its own kinds of errors.

    Args:
        stream: a driver's, whose errors get a number as those of a disk have, or a decoder's, whose get none.
        seekable: it can be moved in.
        decoder: it is a decoder's.
    """

    def __init__(self, stream: Any, *, seekable: bool = True, decoder: bool = False) -> None:
        super().__init__()
        self._stream = stream
        self._seekable = seekable
        self._number = None if decoder else errno.EIO

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes; all that is left by default."""
        with _as_os_error(self._number):
            return self._stream.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to another place."""
        if not self.seekable():
            raise OSError("its server does not give parts of files")
        with _as_os_error(self._number):
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Where the stream is."""
        with _as_os_error(self._number):
            return self._stream.tell()

    def seekable(self) -> bool:
        """Whether it can be moved in."""
        return self._seekable and bool(self._stream.seekable())

    def readable(self) -> bool:
        """It can be read."""
        return True

    def close(self) -> None:
        """Let go of the file."""
        if not self.closed:
            with contextlib.suppress(Exception):  # nothing was written that could be lost
                self._stream.close()
        super().close()


@contextlib.contextmanager
def _as_os_error(number: int | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # drivers raise whatever their libraries raise
        if isinstance(error, OSError) and (error.errno is not None or number is None):
            raise
        raise (OSError(_first_line(error)) if number is None else OSError(number, _first_line(error))) from error


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Say in one line what a driver could not do."""
    try:
        yield
    except HeadwaterError:
        raise
    except FileNotFoundError:
        raise InputError("no such file or folder", place=url, hint="check the URL, and that you may read it") from None
    except Exception as error:  # drivers raise whatever their libraries raise
        hint = "check the URL, the network and your credentials"
        raise UnreachableError(f"cannot be read ({_first_line(error)})", place=url, hint=hint) from error


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name when it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _system(url: str) -> tuple[Any, str]:
    """The driver for a URL, and the URL as the driver calls it.

    Raises:
        InputError: there is no driver for the scheme.
        MissingExtraError: it is not installed.
    """
    import fsspec
    from fsspec.registry import known_implementations

    scheme = url.partition("://")[0].lower()
    package = _DRIVERS.get(scheme, scheme)
    if scheme not in known_implementations and scheme not in fsspec.available_protocols():
        problem = f"nothing is known to read {scheme}://{nearest(scheme, _DRIVERS)}"
        raise InputError(problem, place=url, hint="use a path, or a URL such as s3://bucket/folder")
    try:
        return fsspec.core.url_to_fs(url, **_options(scheme))
    except ImportError:
        problem = f"reading {scheme}:// needs the package {package}, which is not installed"
        raise MissingExtraError(problem, place=url, hint=f"pip install {package}") from None


def _options(scheme: str) -> dict[str, Any]:
    """What a driver must be told."""
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE_SECONDS, sock_read=_PATIENCE_SECONDS)
        return {"client_kwargs": {"timeout": timeout}}
    if scheme == "hf":
        from huggingface_hub import constants

        return {"endpoint": constants.ENDPOINT}
    return {}


def _below(system: Any, folder: str) -> Iterator[str]:
    """Files below a folder of a web server, as its pages list them."""
    level = [folder]
    for _ in range(_DEEPEST):
        entries = {entry["name"] for each in level for entry in system.ls(each, detail=True)}
        inside = {entry for entry in entries if entry.startswith(folder) and ".." not in entry and "?" not in entry}
        yield from (entry for entry in inside if not entry.endswith("/"))
        level = sorted(entry for entry in inside if entry.endswith("/"))
        if not level:
            return
    problem = f"has more than {_DEEPEST} folders inside each other"
    raise InputError(problem, place=folder, hint="is there a loop of links? name the folders to read")


@functools.lru_cache(maxsize=10_000)
def _content_hash(url: str) -> str:
    digest = hashlib.sha256()
    with opened(url) as stream, _explained(url):
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
