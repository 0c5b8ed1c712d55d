"""Tracing text to its training documents: time, size and memory of the index, and time of a question.

    python bench/tracing.py [--tokens 10M 100M] [--books books.jsonl.zst]

Pages of real books (docstrings elsewhere), cut as in repeated_spans.py. Once all are used they come again, with another word in the
place of one in about twenty, so that runs of words stand several times, as in real corpora. A tokenizer of 16,384 tokens says how
much text the tokens are. Each size runs in a process of its own. Questions, 100 of each: a page that was indexed, one
that was not, and 200 words glued from pieces of 3 to 12 words, which is what a small model writes. Goal: less than 1 s at 100M tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from headwater.core.hardware import Machine, processor_name
from headwater.core.stage import Workspace
from headwater.core.store import write_json
from headwater.core.units import format_bytes, parse_count
from headwater.documents.document import Shards, documents_of
from headwater.evaluation.trace import trace
from headwater.tokens.codec import Codec
from headwater.tokens.encode import Encode, encode
from headwater.tokens.index import Index, index
from headwater.tokens.text_index import TextIndex
from headwater.tokens.tokenizer import TrainBpe, tokenizer
from headwater.training.config import Train
from headwater.training.phases import PhasedBatches
from repeated_spans import pages

QUESTIONS = 100
VOCABULARY = 16_384


def varied(generator: random.Random) -> Iterator[str]:
    """Pages of books; from the second time on with one word in about twenty replaced."""
    first = list(pages(random.Random(3)))
    yield from first
    words = first[0].split()
    while True:
        for page in first:
            text = page.split(" ")
            for place in range(generator.randrange(20), len(text), 20):
                text[place] = generator.choice(words)
            yield " ".join(text)


def documents(folder: Path, total_bytes: int) -> tuple[list[str], list[str]]:
    """Write so much text as documents; returns some that are among them and some that are not."""
    generator, size = random.Random(5), 0
    inside: list[str] = []
    outside: list[str] = []
    with Shards(folder / "documents", "books") as shards:
        batch: list[str] = []
        for number, page in enumerate(varied(generator)):
            if len(outside) < QUESTIONS and number % 50 == 7:
                outside.append(page)
                continue
            batch.append(page)
            size += len(page.encode())
            if len(inside) < QUESTIONS and generator.random() < 0.01:
                inside.append(page)
            if len(batch) == 1000 or size >= total_bytes:
                shards.write(documents_of("books", batch, url=[f"book#{number - i}" for i in range(len(batch))]))
                batch = []
            if size >= total_bytes:
                return inside, outside
    raise AssertionError


def glued(inside: list[str], generator: random.Random) -> str:
    """200 words in pieces of 3 to 12, each from somewhere else."""
    words: list[str] = []
    while len(words) < 200:
        page = generator.choice(inside).split()
        begin = generator.randrange(len(page))
        words += page[begin : begin + generator.randrange(3, 13)]
    return " ".join(words)


def bytes_per_token(folder: Path) -> float:
    """Of a tokenizer that is trained on the same text, which it leaves in `folder`."""
    out = Workspace(folder / "tokenizer", Machine())
    out.folder.mkdir()
    tokenizer(TrainBpe(use="train_bpe", vocab_size=VOCABULARY, sample_bytes=10_000_000), {"documents": folder}, out)
    sample = [page for page, _ in zip(varied(random.Random(1)), range(1000), strict=False)]
    ids = Codec(out.folder / "tokenizer").encode(sample)
    return sum(len(text.encode()) for text in sample) / sum(map(len, ids))


def measure(folder: Path, tokens: int) -> None:
    """One size, in this process."""
    inside, outside = json.loads((folder / "pages.json").read_text())
    warm = folder / "warm"
    with Shards(warm / "documents", "books") as shards:
        shards.write(documents_of("books", inside))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for place, given in ((folder / "warm-index", warm), (folder / "index", folder)):
        place.mkdir()
        before = time.process_time(), time.perf_counter()
        counts = index(Index(), {"documents": given}, Workspace(place, Machine()))
        cpu, wall = time.process_time() - before[0], time.perf_counter() - before[1]
        write_json(place / "manifest.json", {"schema": 1, "files": {}, **counts})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size, text = counts["index_bytes"], counts["text_bytes"]
    print(
        f"{tokens / 1e6:.0f}M tokens, {format_bytes(text)} of text, {counts['documents']:,} documents, {counts['parts']} "
        f"parts: built in {cpu:.0f} CPU s ({text / 1e6 / cpu:.1f} MB/CPU s; {wall:.0f} s), {format_bytes(size)} "
        f"({size / text:.2f} per byte of text, {size / tokens:.1f} per token), peak {format_bytes(peak)} "
        f"(before, with the libraries: {format_bytes(resident)})"
    )
    generator = random.Random(7)
    questions = {
        "a page that was indexed": inside,
        "a page that was not": outside,
        "200 words glued from pieces": [glued(inside, generator) for _ in range(QUESTIONS)],
        "50 pages that were not, as one text": [" ".join(outside[:50])] * 3,
    }
    before = time.perf_counter()
    opened = open_unchecked(folder / "index")
    trace(opened, inside[0])
    print(f"  first question, opening included: {1000 * (time.perf_counter() - before):.0f} ms")
    for name, texts in questions.items():
        took = []
        matches = 0
        for one in texts:
            before = time.process_time()
            matches += len(trace(opened, one, min_words=8))
            took.append(1000 * (time.process_time() - before))
        words = statistics.mean(len(one.split()) for one in texts)
        told = f"median {statistics.median(took):.1f}, longest {max(took):.1f} CPU ms"
        print(f"  {name} ({words:.0f} words, {matches / len(texts):.1f} matches): {told}")
    steps_of_a_match(folder, opened, inside)


def open_unchecked(folder: Path) -> TextIndex:
    """The index of a folder whose manifest has no hashes, because no stage finished it."""
    from headwater.tokens import text_index as module

    module.check_quickly = lambda _: None
    return TextIndex(folder)


def steps_of_a_match(folder: Path, opened: TextIndex, inside: list[str]) -> None:
    """Time of following matches to the training steps that read them."""
    tokens = folder / "tokens"
    tokens.mkdir()
    counts = encode(Encode(), {"documents": folder, "tokenizer": folder / "tokenizer"}, Workspace(tokens, Machine()))
    train = Train(steps=2 * counts["tokens"] // (64 * 1024), batch_tokens=64 * 1024, sequence_length=1024)
    before = time.process_time()
    batches = PhasedBatches(tokens, train)
    opening = time.process_time() - before
    took = []
    for page in inside[:30]:
        source = trace(opened, page)[0].sources[0]
        before = time.process_time()
        assert batches.steps_with("books", source.number, train.planned_steps or 0, (1, 200))
        took.append(1000 * (time.process_time() - before))
    told = f"median {statistics.median(took):.1f}, longest {max(took):.1f} CPU ms"
    print(
        f"  steps of a document in 2 epochs, {counts['tokens'] / 1e6:.0f}M tokens: {told} after {opening:.1f} s of opening"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", default=["10M", "100M"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder, tokens = json.loads(options.one)
        measure(Path(folder), tokens)
        return
    print(processor_name())
    with tempfile.TemporaryDirectory() as name:
        small = Path(name) / "small"
        documents(small, 20_000_000)
        ratio = bytes_per_token(small)
        print(f"{ratio:.2f} bytes per token of a vocabulary of {VOCABULARY:,}")
        for size in options.tokens:
            folder = Path(name) / size
            folder.mkdir()
            shutil.copytree(small / "tokenizer", folder / "tokenizer")
            (folder / "pages.json").write_text(json.dumps(documents(folder, int(parse_count(size) * ratio))))
            given = json.dumps([str(folder), parse_count(size)])
            subprocess.run([sys.executable, __file__, "--one", given], check=True)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
