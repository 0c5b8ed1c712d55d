"""Keep or drop as datatrove 0.10.1 does, with spaCy's tokenizer as it is shipped, on real documents.

Datatrove does not install beside us (it needs xxhash before 4), so it judges in an environment of its own, which
`python bench/documents.py` makes on its first run.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from headwater.documents.document import documents_of
from headwater.documents.features import Features
from headwater.documents.filters import FineWebQuality, GopherQuality, GopherRepetition

from ..documents.conftest import english, many_scripts, source_code  # noqa: F401, TID252  (fixtures)

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv" / "peers" / "datatrove" / "bin" / "python"
STEPS = (
    GopherRepetition(use="gopher_repetition"),
    GopherQuality(use="gopher_quality"),
    FineWebQuality(use="fineweb_quality"),
)


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
    for step in STEPS:
        keep = step(batch).keep.tolist()
        differ = Counter(
            theirs[i][step.name] or "keep" for i in range(len(texts)) if keep[i] != (theirs[i][step.name] is None)
        )
        assert 0.1 < sum(keep) / len(texts) < 0.95
        assert sum(differ.values()) <= 0.01 * len(texts), (step.name, differ)
