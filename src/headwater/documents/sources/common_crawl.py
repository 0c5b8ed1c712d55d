"""Common Crawl as a source: some files of one dump, from its server or from a copy on this machine."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import Field, model_validator

from headwater.core.config import nearest
from headwater.core.errors import InputError
from headwater.core.units import Count
from headwater.documents.sources.files import Span, missing, unreadable
from headwater.documents.sources.remote import RemoteFile, is_remote
from headwater.documents.sources.source import Intake
from headwater.documents.sources.warc import Pages

_MEAN_BYTES = {"warc": 1000 << 20, "wet": 157 << 20}
"""Size of a file on Common Crawl's server, for estimates. Source: September 2016 has 30,374 files of each kind, 28.94 TiB of
WARC and 4.54 TiB of WET, compressed (https://commoncrawl.org/2016/10/september-2016-crawl-archive-now-available/)."""
_LISTING_BYTES = 256 << 20  # a listing decompressed: those of whole dumps are 12 MB


class CommonCrawl(Pages):
    """Files of one Common Crawl dump: pages (`kind: warc`) or texts that Common Crawl took out of them (`kind: wet`)."""

    use: Literal["common_crawl"]
    dump: str = Field(pattern=r"^CC-[A-Z]+(-[A-Z]+)*-\d{4}(-\d{2}){0,2}$")
    """Name of the dump, such as `CC-MAIN-2024-10`; https://commoncrawl.org/get-started lists them."""
    kind: Literal["warc", "wet"] = "warc"
    """Which files: `warc` has the pages as they were served, `wet` their whole text, menus and all."""
    files: Count | None = Field(default=None, ge=1)
    """How many files; a dump has tens of thousands, of about 1 GiB (WARC) or 160 MiB (WET) each."""
    fraction: float | None = Field(default=None, gt=0, le=1)
    """Share of the files, in place of their number."""
    seed: int = 0
    """Which files are taken. With the same seed, a larger number takes the same files and more."""
    base: str = "https://data.commoncrawl.org"
    """Where `crawl-data/` is: an http address, or a folder with a copy."""

    @model_validator(mode="after")
    def _one_amount(self) -> CommonCrawl:
        if (self.files is None) == (self.fraction is None):
            raise ValueError("say how much of the dump to read: either files or fraction")
        return self

    @model_validator(mode="after")
    def _settings_of_pages(self) -> CommonCrawl:
        idle = {"extract", "content_types", "statuses"} & self.model_fields_set
        if self.kind == "wet" and idle:
            raise ValueError(f"{min(idle)} has no effect on wet files, which hold text already; it needs kind: warc")
        return self

    def chosen(self) -> list[str]:
        """Paths of the files to read below `base`, in the order of the dump's listing.

        Raises:
            InputError: there is no such dump, or it has fewer files.
        """
        listing = f"crawl-data/{self.dump}/{self.kind}.paths.gz"
        paths = _listing(self.base, listing)
        count = self.files if self.files is not None else max(1, round((self.fraction or 1) * len(paths)))
        if count > len(paths):
            problem = f"lists {len(paths)} files, fewer than `files: {count}`"
            raise InputError(problem, place=_join(self.base, listing), hint=f"set files to {len(paths)} or less")
        drawn = sorted(range(len(paths)), key=lambda n: xxhash.xxh3_128_hexdigest(f"{self.seed} {paths[n]}".encode()))
        return [paths[number] for number in sorted(drawn[:count])]

    def parts(self, part_bytes: int) -> Sequence[Any]:
        """One file each: they are large, wherever they lie."""
        del part_bytes
        chosen = [_join(self.base, path) for path in self.chosen()]
        if not is_remote(self.base):
            for path in chosen:
                _size(path)
        return [(Span(path),) for path in chosen]

    def read(self, part: tuple[Span, ...], intake: Intake) -> None:
        """Read record by record, while the file is downloaded if it is not on this machine."""
        for span in part:
            self.read_archive(span.path, intake, RemoteFile(span.path) if is_remote(span.path) else None)

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """The files chosen; of a copy on this machine, also their sizes and hashes. Common Crawl does not change its files."""
        if is_remote(self.base):
            return [[path] for path in self.chosen()]
        found = [(path, Path(_join(self.base, path))) for path in self.chosen()]
        return [[path, _size(str(file)), hash_file(file)] for path, file in found]

    def input_bytes(self) -> int:
        """Size of the files: on this machine as they are, elsewhere by the mean of their kind."""
        if is_remote(self.base):
            return len(self.chosen()) * _MEAN_BYTES[self.kind]
        return sum(_size(_join(self.base, path)) for path in self.chosen())


def _join(base: str, path: str) -> str:
    return f"{base.rstrip('/')}/{path}" if is_remote(base) else str(Path(base).expanduser() / path)


def _size(path: str) -> int:
    """Size of a file of the copy.

    Raises:
        InputError: the listing names it, but it is not there or cannot be read.
    """
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise unreadable(path, error) from None


@functools.lru_cache(maxsize=8)
def _listing(base: str, path: str) -> tuple[str, ...]:
    """The paths that a listing of a dump names."""
    place = _join(base, path)
    if is_remote(base):
        with RemoteFile(place) as file:
            packed = file.read()
    else:
        try:
            packed = Path(place).read_bytes()
        except FileNotFoundError:
            raise _no_dump(base, place) from None
        except OSError as error:
            raise unreadable(place, error) from None
    try:
        unpacked = zlib.decompressobj(31)
        text = unpacked.decompress(packed, _LISTING_BYTES)
        if not unpacked.eof:
            raise EOFError("it is cut off")
        lines = text.decode().split()
    except (zlib.error, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"is no gzip list of paths ({error})", place=place, hint="download it again") from None
    if not lines or any(line.startswith("/") or ".." in line.split("/") for line in lines):
        raise InputError("is no list of paths below `base`", place=place, hint="download it again")
    return tuple(lines)


def _no_dump(base: str, place: str) -> InputError:
    """Say that a copy does not have a dump, and which ones it has."""
    folder = Path(base).expanduser() / "crawl-data"
    if not folder.is_dir():
        return InputError("has no folder `crawl-data`", place=base, hint="give the folder in which it lies as `base`")
    dump = Path(place).parent.name
    if not Path(place).parent.is_dir():
        others = [entry.name for entry in folder.iterdir()]
        return InputError(f"no dump '{dump}'{nearest(dump, others)}", place=str(folder), hint="check `dump`")
    return missing(place)
