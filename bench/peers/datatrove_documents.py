"""The peer's half of bench/documents.py: quality filters and MinHash by datatrove, in an environment of its own.

python datatrove_documents.py time documents.jsonl FOLDER [--fast-words]   CPU seconds per part, as JSON
python datatrove_documents.py judge documents.jsonl                        verdicts of its filters, one JSON line each
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils import word_tokenizers
from datatrove.utils.logging import logger

logger.remove()


def swap_tokenizer() -> None:
    """Replace spaCy, most of datatrove's time, by a regular expression."""
    words = re.compile(r"\w+|[^\w\s]+")
    word_tokenizers.SpaCyTokenizer.word_tokenize = lambda _, text: words.findall(text)


def measure(file: Path, folder: Path) -> dict[str, float]:
    config = MinhashConfig()
    parts = {
        "quality": [
            JsonlReader(str(file.parent), glob_pattern=file.name),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            JsonlWriter(str(folder / "kept")),
        ],
        "signatures": [JsonlReader(str(folder / "kept")), MinhashDedupSignature(str(folder / "signatures"), config)],
        "buckets": [MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)],
        "clusters": [MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config)],
        "filter": [
            JsonlReader(str(folder / "kept")),
            MinhashDedupFilter(str(folder / "remove")),
            JsonlWriter(str(folder / "documents")),
        ],
    }
    GopherQualityFilter().filter(Document(text="warm up the tokenizer", id="0"))
    seconds = {}
    for name, pipeline in parts.items():
        before = time.process_time()
        tasks = config.num_buckets if name == "buckets" else 1
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(folder / "logs" / name)).run()
        seconds[name] = time.process_time() - before
    return seconds


def judge(file: Path) -> None:
    filters = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(),
        "c4_fineweb": C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb_quality": FineWebQualityFilter(),
    }
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            verdicts = {}
            for name, rule in filters.items():
                document = Document(text=json.loads(line)["text"], id="")  # a new one each: C4's rules edit it
                verdict = rule.filter(document)
                verdicts[name] = None if verdict is True else verdict[1]
                if name.startswith("c4"):
                    verdicts[f"{name}_text"] = document.text
            print(json.dumps(verdicts))


if __name__ == "__main__":
    if "--fast-words" in sys.argv:
        swap_tokenizer()
    if sys.argv[1] == "time":
        print(json.dumps(measure(Path(sys.argv[2]), Path(sys.argv[3]))))
    else:
        judge(Path(sys.argv[2]))
