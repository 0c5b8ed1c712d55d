"""Keep or drop as datatrove 0.10.1 does, with spaCy's tokenizer as it is shipped, on real documents.

Datatrove does not install beside us (it needs xxhash before 4), so it judges in an environment of its own, which
`python bench/documents.py` makes on its first run. `python bench/cleaning.py` compares more documents of more kinds; its
table, with the reasons of what differs, is in docs/guides/cleaning.md.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from headwater.documents.cleaning.c4 import C4
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.filters import FineWebQuality, GopherQuality, GopherRepetition
from headwater.documents.document import documents_of

from ..documents.conftest import english, many_scripts, source_code  # noqa: F401, TID252  (fixtures)

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv" / "peers" / "datatrove" / "bin" / "python"
STEPS = {
    "gopher_repetition": GopherRepetition(use="gopher_repetition"),
    "gopher_quality": GopherQuality(use="gopher_quality"),
    "c4": C4(use="c4"),
    "c4_fineweb": C4(use="c4", terminal_punctuation=False),
    "fineweb_quality": FineWebQuality(use="fineweb_quality"),
}


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="datatrove is not installed; `python bench/documents.py` does it")
def test_documents_are_kept_or_dropped_as_datatrove_does(
    tmp_path: Path,
    english: list[str],  # noqa: F811
    source_code: list[str],  # noqa: F811
    many_scripts: dict[str, list[str]],  # noqa: F811
) -> None:
    texts = [*english, *source_code[:60], *(text for part in many_scripts.values() for text in part)]
    texts += ["\n\n".join(english[start : start + 10]) for start in range(0, len(english), 10)]
    texts = [text for text in texts if text.strip()]
    file = tmp_path / "documents.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    command = [PEER, ROOT / "bench" / "peers" / "datatrove_documents.py", "judge", file]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    theirs = [json.loads(line) for line in output.splitlines()]
    batch = Features(documents_of("web", texts))
    for name, step in STEPS.items():
        verdict = step(batch)
        keep = verdict.keep.tolist()
        differ = Counter(theirs[i][name] or "keep" for i in range(len(texts)) if keep[i] != (theirs[i][name] is None))
        assert 0.1 < sum(keep) / len(texts) < 0.95
        assert sum(differ.values()) <= 0.01 * len(texts), (name, differ)
        if name.startswith("c4"):
            edited = verdict.columns["text"].to_pylist()
            both = [i for i in range(len(texts)) if keep[i] and theirs[i][name] is None]
            assert [edited[i] for i in both] == [theirs[i][f"{name}_text"] for i in both]
