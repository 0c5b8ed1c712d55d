"""The peer's half of bench/warc.py: web archives to text by datatrove, in an environment of its own.

python datatrove_warc.py FOLDER [--trafilatura]   documents read and extracted, CPU seconds of each part, as JSON
"""

from __future__ import annotations

import json
import sys
import time

from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
from datatrove.utils.logging import logger

logger.remove()


def main() -> None:
    folder = sys.argv[1]
    before = time.process_time()
    documents = list(WarcReader(folder, glob_pattern="*.warc.gz")(rank=0, world_size=1))
    middle = time.process_time()
    found = {"read": len(documents), "read_seconds": middle - before}
    if "--trafilatura" in sys.argv:
        texts = sum(1 for document in Trafilatura(timeout=10)(iter(documents)) if document.text.strip())
        found |= {"extracted": texts, "extract_seconds": time.process_time() - middle}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
