"""The peer's half of bench/documents.py: dolma's tagger of Gopher's rules, in an environment of its own.

python dolma_documents.py documents.jsonl FOLDER    CPU seconds, as JSON

Like `dolma tag`, it writes the attributes of each document and drops none; there are no near-duplicates in dolma.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import msgspec
from dolma.core.data_types import Document, InputSpec
from dolma.taggers.gopher import GopherTaggerV2


def main() -> None:
    tagger, decoder, encoder = GopherTaggerV2(), msgspec.json.Decoder(InputSpec), msgspec.json.Encoder()
    tagger.tag(Document(source="web", id="0", text="warm up"))
    folder = Path(sys.argv[2])
    folder.mkdir()
    before = time.process_time()
    with Path(sys.argv[1]).open("rb") as lines, (folder / "attributes.jsonl").open("wb") as out:
        for line in lines:
            document = Document.from_spec(decoder.decode(line))
            out.write(encoder.encode({"id": document.id, "attributes": tagger.tag(document)}) + b"\n")
    print(json.dumps({"gopher_v2": time.process_time() - before}))


if __name__ == "__main__":
    main()
