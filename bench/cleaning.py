"""Keep or drop: how often Headwater's published rules and datatrove 0.10.1's give the same verdict, and why not.

    python bench/cleaning.py [--each 2000]

Both judge the same real documents: prose, web pages, code, German and Korean. Where they differ, the differences are
counted by the rule that dropped the document on one side alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from headwater.core.hardware import processor_name
from headwater.documents.cleaning.c4 import C4
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.filters import FineWebQuality, GopherQuality, GopherRepetition
from headwater.documents.document import documents_of
from peers.environment import PEERS, python_of
from peers.varied import documents

STEPS = {
    "gopher_repetition": GopherRepetition(use="gopher_repetition"),
    "gopher_quality": GopherQuality(use="gopher_quality"),
    "c4": C4(use="c4"),
    "c4_fineweb": C4(use="c4", terminal_punctuation=False),
    "fineweb_quality": FineWebQuality(use="fineweb_quality"),
}


def theirs(texts: list[str]) -> list[dict[str, str | None]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "documents.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        command = [python_of("datatrove"), PEERS / "datatrove_documents.py", "judge", file]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=2000, help="documents of each kind")
    parser.add_argument("--examples", type=Path, help="write the documents with different verdicts to this file")
    options = parser.parse_args()
    examples = []
    total = {name: [0, 0] for name in STEPS}
    reasons: Counter[tuple[str, str, str]] = Counter()
    print(processor_name())
    print(f"{'kind':10s} documents  " + "  ".join(f"{name:>17s}" for name in STEPS) + "  same C4 text")
    for kind, texts in documents(options.each).items():
        batch, verdicts = Features(documents_of(kind, texts)), theirs(texts)
        cells, same_text, kept_by_both = [], 0, 0
        for name, step in STEPS.items():
            before = time.process_time()
            verdict = step(batch)
            assert time.process_time() >= before
            edited = verdict.columns.get("text", batch.texts)
            equal = 0
            for index, other in enumerate(verdicts):
                mine = verdict.rules[verdict.failed[index]] if verdict.failed[index] >= 0 else "keep"
                its = other[name] or "keep"
                if (mine == "keep") == (its == "keep"):
                    equal += 1
                    if name == "c4" and mine == "keep":
                        kept_by_both += 1
                        same_text += edited[index].as_py() == other["c4_text"]
                else:
                    reasons[name, f"ours {mine}", f"theirs {its}"] += 1
                    examples.append({"rule": name, "ours": mine, "theirs": its, "text": texts[index]})
            total[name][0] += equal
            total[name][1] += len(texts)
            cells.append(f"{100 * equal / len(texts):15.2f} %")
        print(f"{kind:10s} {len(texts):9d}  " + "  ".join(cells) + f"  {same_text}/{kept_by_both}", flush=True)
    shares = "  ".join(f"{100 * equal / of:15.2f} %" for equal, of in total.values())
    print(f"{'all':10s} {total['c4'][1]:9d}  " + shares)
    for (name, mine, its), count in reasons.most_common():
        print(f"{count:5d}  {name}: {mine}, {its}")
    if options.examples:
        lines = (json.dumps(example, ensure_ascii=False) + "\n" for example in examples)
        options.examples.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
