"""The peers' half of bench/near_duplicates.py: MinHash of 112 slots over 5-grams of words, in an environment of its own.

python minhash_documents.py documents.jsonl    one line for each peer: name, documents, CPU seconds
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator

SLOTS, NGRAM = 112, 5
WORD = re.compile(r"\w+")


def grams(text: str) -> Iterator[str]:
    words = WORD.findall(text.lower())
    return (" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1))


def daft(texts: list[str]) -> None:
    import daft
    from daft import col

    frame = daft.from_pydict({"text": texts})
    text = col("text").normalize(remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
    frame.select(text.minhash(num_hashes=SLOTS, ngram_size=NGRAM, seed=1, hash_function="xxhash3_64")).collect()


def rensa(texts: list[str]) -> None:
    from rensa import RMinHash

    for text in texts:
        sketch = RMinHash(num_perm=SLOTS, seed=1)
        sketch.update(list(grams(text)))
        sketch.digest()


def datasketch(texts: list[str]) -> None:
    from datasketch import MinHash

    for text in texts:
        sketch = MinHash(num_perm=SLOTS, seed=1)
        sketch.update_batch([gram.encode() for gram in grams(text)])
        sketch.digest()


def measure(peer: Callable[[list[str]], None], texts: list[str]) -> None:
    peer(texts[:20])
    before = time.process_time()
    peer(texts)
    print(peer.__name__, len(texts), time.process_time() - before, sep="\t", flush=True)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as lines:  # noqa: PTH123
        documents = [json.loads(line)["text"] for line in lines]
    measure(daft, documents)
    measure(rensa, documents[:2000])
    measure(datasketch, documents[:1000])
    sys.stdout.flush()
    os._exit(0)  # daft 0.7 may abort when the interpreter ends, after its work is done
