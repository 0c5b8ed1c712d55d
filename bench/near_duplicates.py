"""Near-duplicates: recall, precision and exactness against comparing all with all, and the speed of sketches beside peers.

    python bench/near_duplicates.py [--languages en ko ja th] [--documents 600] [--no-peers] [--mb 20]

Real texts in four languages (beside the checkout; English docstrings elsewhere), and copies in which one word in 500 to 12,
or one character in 800 to 20, is another. Goals: recall 1.0 at a Jaccard similarity of .9 and more, .93 from .8 to .9, precision
99.5 % at .5, error of the estimate at most .03 (root mean square) and .005 (mean). Peers run in an environment of their own,
on the same documents: at least 2x daft, 8x rensa, 20x datasketch in documents per CPU second, without import and compilation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import zstandard

from headwater.core.hardware import Machine, processor_name
from headwater.core.stage import Workspace
from headwater.documents.dedup import Dedup, dedup
from headwater.documents.document import Shards, documents_of, read_batches, shards_in
from headwater.documents.overlap.near import NearDuplicates
from headwater.documents.overlap.sketch import minhash
from headwater.documents.text.shingles import gram_hashes, units
from peers import texts as sample
from peers.environment import PEERS, python_of

DATA = sample.BOOKS.parents[1]
RATES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08)
SETTINGS = NearDuplicates()


def texts_of(language: str, count: int) -> list[str]:
    """Real texts of one language, cut to 3,000 characters."""
    if language == "en" or not DATA.is_dir():
        return list(itertools.islice(sample.documents(10**9, seed=5), 4 * count))[-count:]
    if language == "th":
        with zstandard.open(DATA / "lang/th-wisesight/neu.txt.zst", "rt", encoding="utf-8") as lines:
            posts = list(dict.fromkeys(line.strip() for line in lines))
        return [" ".join(posts[start : start + 8])[:3000] for start in range(0, 8 * count, 8)]
    with zstandard.open(DATA / f"lang/libreoffice-help-{language}.jsonl.zst", "rt", encoding="utf-8") as lines:
        found = [json.loads(line)["text"] for line in lines]
    return [text[:3000] for text in found if len(text) > 400][:count]


def edited(text: str, rate: float, characters: bool, pool: list[str], generator: random.Random) -> str:
    """A copy in which some words, or characters, are others."""
    parts = list(text) if characters else text.split(" ")
    return ("" if characters else " ").join(
        generator.choice(pool) if generator.random() < rate and part.strip() else part for part in parts
    )


def gram_sets(texts: list[str]) -> list[set[int]]:
    """The n-grams of each text, as 64-bit hashes."""
    table = units(pa.array(texts), SETTINGS.compare)
    offsets, hashes = gram_hashes(table, SETTINGS.sizes(table.characters))
    return [set(hashes[a:b].tolist()) for a, b in itertools.pairwise(offsets.tolist())]


def most_similar(sets: list[set[int]]) -> np.ndarray:
    """Of each document the similarity to the most similar other one, by comparing all that share anything."""
    holders: dict[int, list[int]] = {}
    for number, grams in enumerate(sets):
        for gram in grams:
            holders.setdefault(gram, []).append(number)
    best = np.zeros((2, len(sets)))  # among earlier ones; among all
    for number, grams in enumerate(sets):
        common: dict[int, int] = {}
        for gram in grams:
            for other in holders[gram]:
                common[other] = common.get(other, 0) + 1
        for other, count in common.items():
            if other != number:
                similar = count / (len(grams) + len(sets[other]) - count)
                best[1, number] = max(best[1, number], similar)
                if other < number:
                    best[0, number] = max(best[0, number], similar)
    return best


def quality(language: str, count: int) -> None:
    generator, originals = random.Random(7), texts_of(language, count)
    by_character = language in ("ko", "ja", "th") and DATA.is_dir()
    pool = sorted({part for text in originals for part in (text if by_character else text.split(" ")) if part.strip()})
    same = SETTINGS.ngram / SETTINGS.character_ngram if by_character else 1.0  # makes copies as similar as of words
    copies = [
        edited(text, same * rate, by_character, pool, generator)
        for text in originals
        for rate in generator.sample(RATES, 2)
    ]
    documents = list(dict.fromkeys(originals + copies))
    sets = gram_sets(documents)
    best = most_similar(sets)
    rows = {}
    kinds = {"plain": {"min_similarity": 0}, "default": {}, "verified": {"verify": True}}
    for kind, changed in kinds.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with Shards(folder / "clean" / "documents", "web") as shards:
                shards.write(documents_of("web", documents))
            out = Workspace(folder / "dedup", Machine(workers=1))
            out.folder.mkdir()
            near = NearDuplicates.model_validate(changed)
            dedup(Dedup(exact=False, near=near), {"documents": folder / "clean"}, out)
            kept = {
                text
                for shard in shards_in(out.folder / "documents")
                for batch in read_batches(shard, ["text"])
                for text in batch.column("text").to_pylist()
            }
        gone = np.array([text not in kept for text in documents])
        near_ones, middle = best[0] >= 0.9, (best[0] >= 0.8) & (best[0] < 0.9)
        rows[kind] = (gone[near_ones].mean(), gone[middle].mean(), (best[1][gone] >= 0.5).mean(), int(gone.sum()))
    pairs = [(i, len(originals) + 2 * i + k) for i in range(len(originals)) for k in (0, 1)]
    known = {text: number for number, text in enumerate(documents)}
    both = [(known[originals[i]], known[(originals + copies)[j]]) for i, j in pairs]
    true = np.array([len(sets[i] & sets[j]) / max(1, len(sets[i] | sets[j])) for i, j in both])
    _, marks, _ = minhash(pa.array(documents), 5, 14, 8, 1, compare="auto")
    agree = np.array([(marks[i] == marks[j]).mean() for i, j in both])
    error = (agree - 1 / 256) / (1 - 1 / 256) - true
    close = true >= 0.8
    for kind, (high, medium, precise, dropped) in rows.items():
        print(
            f"{language} {kind:8s}: {len(documents):5d} documents, {int((best[0] >= 0.9).sum())}"
            f" at >= .9 and {int(((best[0] >= 0.8) & (best[0] < 0.9)).sum())} at .8-.9; recall {high:.4f}, {medium:.4f};"
            f" {dropped} dropped, precision at .5 {precise:.4f}"
        )
    rms = np.sqrt((error[close] ** 2).mean())
    print(
        f"{language} estimate: RMSE {rms:.4f} at >= .8, {np.sqrt((error**2).mean()):.4f} of all; bias {error.mean():+.4f}"
    )


def peers(megabytes: int) -> None:
    documents = list(sample.documents(megabytes * 1_000_000))
    size = sum(len(text.encode()) for text in documents) / 1e6
    column = pa.array(documents)
    minhash(column.slice(0, 10), 5, 14, 8, 1)
    seconds = []
    for _ in range(3):
        before = time.process_time()
        minhash(column, 5, 14, 8, 1, compare="auto")
        seconds.append(time.process_time() - before)
    ours = len(documents) / sorted(seconds)[1]
    print(
        f"headwater   {len(documents):7d} documents {sorted(seconds)[1]:8.2f} CPU s {ours:9,.0f} documents/CPU s {size / sorted(seconds)[1]:6.1f} MB/CPU s"
    )
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "documents.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
        command = [python_of("minhash"), PEERS / "minhash_documents.py", file]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        peer, count, spent = line.split("\t")
        rate = int(count) / float(spent)
        print(
            f"{peer:11s} {count:>7s} documents {float(spent):8.2f} CPU s {rate:9,.0f} documents/CPU s   ratio {ours / rate:.1f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--languages", nargs="*", default=["en", "ko", "ja", "th"])
    parser.add_argument("--documents", type=int, default=600, help="real texts of each language; twice as many copies")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--mb", type=int, default=20, help="text for the comparison of speed [MB]")
    options = parser.parse_args()
    print(processor_name())
    for language in options.languages:
        quality(language, options.documents)
    if not options.no_peers:
        peers(options.mb)


if __name__ == "__main__":
    main()
