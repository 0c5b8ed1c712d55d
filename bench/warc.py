"""Web archives to text: pages per CPU second, Headwater beside datatrove, on the same archive.

    python bench/warc.py [--repeats 4] [--archives FILE ...]

The archive: the HTML responses of real crawls (by default those beside the checkout), each written `--repeats` times. One
process each; CPU seconds without imports. Headwater's numbers hold everything to finished shards on disk; datatrove's only
reading and extracting. datatrove's extraction runs in a process of its own with a time limit, as it is shipped.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from headwater.core.hardware import Machine, processor_name
from headwater.core.stage import Workspace
from headwater.documents.read import Read, read
from headwater.documents.sources.archives import Damage, records
from peers.environment import PEERS, python_of

WEB = Path(__file__).resolve().parents[2] / "shared" / "data" / "web"
ARCHIVES = [WEB / "aut-example.warc.gz", WEB / "resiliparse-warcfile.warc.gz", WEB / "aut-issue-493.warc"]


def build(path: Path, archives: list[Path], repeats: int) -> int:
    """Write the HTML responses of archives, again and again; returns how many."""
    import fastwarc

    members = []
    for archive in archives:
        for record in fastwarc.ArchiveIterator(str(archive), record_types=fastwarc.WarcRecordType.response):
            if (
                record.is_http_parsed
                and record.http_headers.status_code == 200
                and "html" in (record.http_content_type or "")
            ):
                block = io.BytesIO()
                record.write(block)
                members.append(gzip.compress(block.getvalue(), 6))
    with path.open("wb") as out:
        for _ in range(repeats):
            out.writelines(members)
    return len(members) * repeats


def ours(folder: Path, archive: Path, tier: str) -> tuple[float, dict[str, int]]:
    """CPU seconds from archive to shards, and the counts."""
    source = {"use": "warc", "paths": str(archive), "extract": tier}
    out = Workspace(folder, Machine(workers=1))
    before = time.process_time()
    counts = read(Read.model_validate({"sources": {"web": source}, "max_bad_fraction": 1}), {}, out)
    return time.process_time() - before, {key: counts[key] for key in ("documents_in", "documents_out")}


def only_reading(archive: Path) -> float:
    """CPU seconds to read every record to its end."""
    before = time.process_time()
    for record in records(str(archive)):
        assert not isinstance(record, Damage), record
        record.read(record.length)
    return time.process_time() - before


def theirs(folder: Path, *options: str) -> tuple[float, float, dict[str, float]]:
    """CPU seconds of datatrove: reading, extracting (with its own child process), and what it found."""
    command = [python_of("datatrove_warc"), PEERS / "datatrove_warc.py", folder, *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads(done.stdout.splitlines()[-1])
    return found["read_seconds"], total, found


def row(name: str, pages: int, seconds: float, more: str = "") -> float:
    rate = pages / seconds
    print(f"{name:44s} {pages:6d} pages  {seconds:7.2f} CPU s  {rate:8,.0f} pages/CPU s   {more}", flush=True)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=4, help="times that each page is written")
    parser.add_argument("--archives", type=Path, nargs="+", default=ARCHIVES, help="archives to take pages from")
    options = parser.parse_args()
    python_of("datatrove_warc")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        archive = folder / "in" / "pages.warc.gz"
        pages = build(archive, options.archives, options.repeats)
        print(f"{processor_name()}; {pages} pages, {archive.stat().st_size / 1e6:.1f} MB compressed")
        only_reading(archive)
        reading = row("headwater, reading alone", pages, only_reading(archive))
        rates = {}
        for tier in ("fast", "balanced", "precise"):
            ours(folder / f"warm-{tier}", archive, tier)
            seconds, counts = ours(folder / tier, archive, tier)
            rates[tier] = row(f"headwater {tier}, to shards on disk", pages, seconds, str(counts))
        read_seconds, _, found = theirs(folder / "in")
        their_reading = row("datatrove 0.10.1 WarcReader", pages, read_seconds, f"{found['read']} read")
        start = theirs(folder / "in")[1] - read_seconds  # imports, and starting up
        _, total, found = theirs(folder / "in", "--trafilatura")
        more = f"{found['read']} read, {found['extracted']} extracted"
        rate = row("datatrove WarcReader + Trafilatura", pages, total - start, more)
    print(f"reading: {reading / their_reading:.1f}x datatrove; to text: " + ", ".join(
        f"{tier} {value / rate:.1f}x" for tier, value in rates.items()
    ))  # fmt: skip


if __name__ == "__main__":
    main()
