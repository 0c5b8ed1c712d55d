"""A store behind a URL, such as a bucket: each machine works on copies in a folder of its own.

    <scratch>/clean-7fdd2d8a.partial/documents/web-00000.parquet   a stage at work, on the machine that runs the recipe
    s3://bucket/store/clean-7fdd2d8a/documents/web-00000.parquet   the same file for every machine
    s3://bucket/store/clean-7fdd2d8a/manifest.json                 written last: a stage that has one is finished

A bucket can neither rename nor lock nor append, and is asked for none of these: files appear whole and in their final
place. Workers of a cluster bring the files that a shard needs when it is begun, and put what it wrote before it counts
as done (`exchange`); the machine that runs the recipe gets these, and so has all that a run on a shared folder leaves.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from headwater.core.errors import HeadwaterError, MismatchError, MissingExtraError, StoreError
from headwater.core.hardware import Machine
from headwater.core.log import logger
from headwater.core.store import atomic_path, noting_written, read_json, storage_error, write_json
from headwater.core.units import format_bytes

MANIFEST = "manifest.json"
PARTIAL = ".partial"
"""End of the name of a folder in which a stage works; in the bucket its files have their final place at once."""
AT_ONCE = 8
"""Files that are on their way at the same time: one connection seldom fills the line of a data centre."""
_FOLDERS = frozenset(("file", "local", "ftp", "hdfs", "sftp", "smb", "ssh", "webhdfs"))
"""Schemes with folders, which somebody has to make. Elsewhere nothing is made: a mistyped name would become a new bucket."""
_NOTE = "README"
"""File of the bucket, beside the stages, that says what they are."""
_ROLE = ".role"
"""File of the folder of copies: `runs <its id>` where recipes are run, `copies <session>` where workers keep theirs."""
_STAGE = re.compile(r"[a-z_]+-[0-9a-f]{8}(\.partial)?")


class Bucket:
    """A store's URL, and the folder of this machine's copies."""

    def __init__(self, url: str, folder: Path, home: str = "", session: str = "") -> None:
        self.url, self.folder = url.rstrip("/"), folder
        self.home = home
        """What the folder of the machine that runs the recipe says of itself, so that its own workers know it."""
        self.session = session or uuid.uuid4().hex
        """One process that runs recipes, and what works for it elsewhere."""
        self._same: dict[str, tuple[int, int]] = {}  # name -> size and time of change of a file that is there as here
        self._joined = False

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker needs the addresses, and connects for itself."""
        return Bucket, (self.url, self.folder, self.home, self.session)

    # ------------------------------------------------------------------------------------- where recipes are run

    def claim(self) -> None:
        """Make this machine one on which recipes of this store run; what it kept as a worker goes."""
        with self._alone() as file:
            role = file.read_text(encoding="utf-8") if file.exists() else ""
            if role.startswith("copies"):
                self._remove_copies()
            if not role.startswith("runs"):
                file.write_text(f"runs {uuid.uuid4().hex}", encoding="utf-8")
            self.home = file.read_text(encoding="utf-8")

    def check(self) -> None:
        """Find out whether anything can be written before hours of work go into it, by saying what the place is.

        Raises:
            StoreError: it cannot.
        """
        note = self.folder / _NOTE
        note.write_text("Results of Headwater: a folder with a manifest.json is a finished stage.\n", encoding="utf-8")
        self._put(note)

    def manifest(self, name: str) -> dict[str, Any] | None:
        """The manifest of a finished stage by the name of its folder; None when the bucket has none."""
        with self._explained(name):
            try:
                return json.loads(self._system.cat_file(self._remote(f"{name}/{MANIFEST}")))
            except FileNotFoundError:
                return None

    def settle(self, folder: Path) -> None:
        """Make a stage that is finished here or there finished and whole in both places.

        Raises:
            StoreError: both have one, and they differ.
        """
        there = self.manifest(folder.name)
        if there is None:
            self.publish(folder)
            return
        if not (folder / MANIFEST).is_file():
            write_json(folder / MANIFEST, there)
        if (here := read_json(folder / MANIFEST)).get("sha256") != there.get("sha256"):
            problem = f"is not what {self.url}/{folder.name} is: two machines made it, or one of them was changed"
            raise StoreError(problem, place=str(folder), hint="remove the one that you do not want")
        sizes = {f"{folder.name}/{name}": file["bytes"] for name, file in here["files"].items()}
        missing = {name: size for name, size in sizes.items() if not (self.folder / name).is_file()}
        if missing:
            logger.info("  bringing %s, %s, from %s", folder.name, format_bytes(sum(missing.values())), self.url)
            self.get(missing)
            (folder / MANIFEST).touch()  # what is younger than it would look changed

    def publish(self, folder: Path) -> None:
        """Put the files of a finished stage in the bucket: the manifest last, and nothing that it does not name."""
        files = read_json(folder / MANIFEST)["files"]
        self._put_all([folder / name for name in files])
        wanted = {self._remote(f"{folder.name}/{name}") for name in files}
        with self._explained(folder.name):
            self._system.invalidate_cache()
            for left in set(self._system.find(self._remote(folder.name))) - wanted:
                self._system.rm_file(left)
        self._put_all([folder / MANIFEST])

    def put_new(self, partial: Path) -> None:
        """Put what the machine that runs the recipe has written in a stage's folder, for the workers to read."""
        written = (path for path in partial.rglob("*") if path.is_file())
        self._put_all([path for path in written if not _for_one_machine(path.relative_to(partial))])

    def get(self, sizes: Mapping[str, int]) -> None:
        """Bring files by their names, unless files of these sizes are here already."""

        def one(name: str) -> None:
            path = self.folder / name
            if not (path.is_file() and path.stat().st_size == sizes[name]):
                self._bring(path)
            if path.stat().st_size != sizes[name]:
                problem = f"has {path.stat().st_size:,} bytes, and was put there with {sizes[name]:,}"
                raise StoreError(problem, place=f"{self.url}/{name}", hint="run again")
            self._is_same(path)

        self._at_once(one, list(sizes))

    # -------------------------------------------------------------------------------------------- where shards are

    @contextmanager
    def at_work(self) -> Iterator[list[Path]]:
        """Bring files when they are asked for by `here`, and note which ones are written, in this process.

        Raises:
            StoreError: the folder of copies holds the work of somebody else.
        """
        global _at_work
        self.join()
        before, _at_work = _at_work, self
        try:
            with noting_written() as written:
                yield written
        finally:
            _at_work = before

    def join(self) -> None:
        """Make this machine one that keeps copies; those of an earlier run go, so that nothing stale is ever read.

        Raises:
            StoreError: its folder holds the results of recipes that were run here.
        """
        if self._joined:
            return
        with self._alone() as file:
            role = file.read_text(encoding="utf-8") if file.exists() else ""
            if role not in (self.home, f"copies {self.session}"):
                if not role.startswith("copies") and self._copies():
                    problem = f"holds results of other runs with the store {self.url}, and would be emptied"
                    raise StoreError(problem, place=str(self.folder), hint="give this run another machine.scratch")
                self._remove_copies()
                file.write_text(f"copies {self.session}", encoding="utf-8")
        self._joined = True

    def bring(self, path: Path) -> None:
        """Bring a file of a stage, if it is not here.

        Raises:
            StoreError: it is not in the bucket either.
        """
        if self.folder in path.parents and not path.exists():
            self._bring(path)

    def put(self, written: Sequence[Path]) -> dict[str, int]:
        """Put files that were written; returns their names and sizes."""
        ours = [path for path in dict.fromkeys(written) if path.is_file() and self.folder in path.parents]
        paths = [path for path in ours if self._same.get(self._name(path)) != _stamp(path)]  # not what was brought
        self._put_all(paths)
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in paths}

    # ------------------------------------------------------------------------------------------------- one file

    def _put_all(self, paths: Sequence[Path]) -> None:
        self._at_once(self._put, [path for path in paths if self._same.get(self._name(path)) != _stamp(path)])

    def _put(self, path: Path) -> None:
        place = self._remote(self._name(path))
        with self._explained(self._name(path)):
            try:
                self._system.put_file(str(path), place)
            except FileNotFoundError:
                if self.url.partition("://")[0] not in _FOLDERS:
                    raise
                self._system.makedirs(place.rpartition("/")[0], exist_ok=True)
                self._system.put_file(str(path), place)
        self._is_same(path)

    def _bring(self, path: Path) -> None:
        name = self._name(path)
        with atomic_path(path) as temporary, self._explained(name):
            self._system.get_file(self._remote(name), str(temporary))
        self._is_same(path)

    def _is_same(self, path: Path) -> None:
        self._same[self._name(path)] = _stamp(path)

    def _at_once(self, work: Callable[[Any], None], items: Sequence[Any]) -> None:
        if len(items) < 2:
            for item in items:
                work(item)
            return
        with ThreadPoolExecutor(min(AT_ONCE, len(items))) as threads:
            list(threads.map(work, items))

    def _name(self, path: Path) -> str:
        """Name of a file in the bucket: that of a finished stage, also while the stage is at work."""
        stage, *rest = path.relative_to(self.folder).parts
        return "/".join([stage.removesuffix(PARTIAL), *rest])

    def _remote(self, name: str) -> str:
        stage, _, rest = name.partition("/")
        return str(PurePosixPath(self._root) / stage.removesuffix(PARTIAL) / rest)

    @property
    def _system(self) -> Any:
        return self._connected[0]

    @property
    def _root(self) -> str:
        return self._connected[1]

    @functools.cached_property
    def _connected(self) -> tuple[Any, str]:
        """The driver of the URL's scheme, and the URL as the driver calls it."""
        import fsspec

        scheme = self.url.partition("://")[0]
        try:
            return fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            problem = f"{scheme}:// needs a package that is not installed ({_first_line(error)})"
            raise MissingExtraError(problem, place="machine.store", hint="install it, and on every machine") from None
        except ValueError as error:
            hint = "take a folder, or a URL such as s3://bucket/store"
            raise MismatchError(_first_line(error), place="machine.store", hint=hint) from None

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn what a driver raises into one line; what was done so far is kept."""
        place = f"{self.url}/{name}"
        try:
            yield
        except HeadwaterError:
            raise
        except FileNotFoundError:
            hint = "look whether the bucket exists and whether somebody removes files from it, then run again"
            raise StoreError("is not in the store", place=place, hint=hint) from None
        except Exception as error:  # drivers raise whatever their libraries raise
            hint = "check the URL, the network and your credentials, then run again"
            raise StoreError(f"cannot be reached ({_first_line(error)})", place=place, hint=hint) from error

    # ---------------------------------------------------------------------------------------------- this machine

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """Give the file that says what this machine's folder is, to one process of this machine at a time."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / f"{_ROLE}.lock"):
                yield self.folder / _ROLE
        except OSError as error:
            raise storage_error(error, self.folder) from error

    def _copies(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_dir() and _STAGE.fullmatch(path.name)]

    def _remove_copies(self) -> None:
        for folder in self._copies():
            shutil.rmtree(folder)


_at_work: Bucket | None = None


def here(path: Path) -> Path:
    """The same path, behind which a file is: brought from the store where a shard is worked on far from it."""
    if _at_work is not None:
        _at_work.bring(path)
    return path


def exchange(bucket: Bucket, work: Callable[[Any], Any], shard: Any) -> tuple[Any, dict[str, int]]:
    """Work on a shard with a bucket between this machine and the others: its result, and the files it wrote."""
    with bucket.at_work() as written:
        result = work(shard)
        return result, bucket.put(written)


def bucket_of(machine: Machine) -> Bucket | None:
    """The bucket of a machine's store; None when the store is a folder."""
    return _bucket(machine.store, machine.store_folder) if machine.store_is_url else None


@functools.lru_cache(maxsize=8)
def _bucket(url: str, folder: Path) -> Bucket:
    bucket = Bucket(url, folder)
    bucket.claim()
    return bucket


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _for_one_machine(path: Path) -> bool:
    """Whether a file of a stage's folder concerns only the machine that runs it: markers, and what is half written."""
    return (
        path.name.startswith(".")
        or path.parts[0] == "cache"
        or (path.parent.name == ".done" and path.suffix == ".json")
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
