"""Lines that many pages of one site share are found over all shards and removed, whatever the workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater.documents.clean import Clean, clean
from headwater.documents.cleaning import boilerplate
from headwater.documents.document import SCHEMA, Shards, documents_of, shards_in

from . import corpus

PAGES = 40


def write(folder: Path, shard_bytes: int = 2000) -> Path:
    """Pages of two sites with a menu and a footer, and files without an address, in many shards."""
    with Shards(folder / "documents", "web", SCHEMA, shard_bytes) as shards:
        for number in range(PAGES):
            for site in ("one.org", "www.two.org"):
                text = (
                    f"Home | About | {site}\nArticle {number} of {site} tells its own story.\nAll rights reserved\n\n"
                )
                text += "A line that stands on a few pages.\n" if number < 5 else ""
                shards.write(documents_of("web", [text], url=f"https://{site}/{number}"))
            shards.write(documents_of("web", ["All rights reserved\nNot a page"], url="file.txt"))
    return folder


def run(folder: Path, inputs: Path, workers: int, **settings: object) -> tuple[list[str], dict[str, object]]:
    out = corpus.Place(folder, workers)
    steps = [{"use": "boilerplate", **settings}]
    counts = clean(Clean.model_validate({"steps": steps}), {"documents": inputs}, out)
    return corpus.texts(folder / "documents"), counts


@pytest.mark.parametrize("workers", [1, 3])
def test_shared_lines_go_and_others_stay(tmp_path: Path, workers: int) -> None:
    inputs = write(tmp_path / "read")
    assert len(shards_in(inputs / "documents")) > 3
    texts, counts = run(tmp_path / "clean", inputs, workers)
    first = "Article 0 of one.org tells its own story.\n\nA line that stands on a few pages.\n"
    assert texts[0] == first
    assert texts[2] == "All rights reserved\nNot a page"
    assert not any("Home |" in text for text in texts)
    assert sum("All rights reserved" in text for text in texts) == PAGES
    assert counts["prepared"] == {"0": {"sites": 2, "lines_shared": 4}}
    assert counts["found"]["0"]["lines"] == 4 * PAGES  # pyright: ignore


def test_thresholds(tmp_path: Path) -> None:
    inputs = write(tmp_path / "read")
    few, _ = run(tmp_path / "few", inputs, 1, min_pages=5)
    assert not any("a few pages" in text for text in few)  # 5 of 40 is more than a tenth
    share, _ = run(tmp_path / "share", inputs, 1, min_pages=5, min_share=0.2)
    assert sum("a few pages" in text for text in share) == 10
    source, _ = run(tmp_path / "source", inputs, 1, by_source=True)
    assert not any("All rights reserved" in text for text in source)


def test_a_run_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, folder = write(tmp_path / "read"), tmp_path / "clean"
    whole, _ = run(tmp_path / "whole", inputs, 1)
    with monkeypatch.context() as patch:
        patch.setattr(boilerplate, "_sites", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(folder, inputs, 1)
    assert run(folder, inputs, 1)[0] == whole
    assert json.loads((folder / "boilerplate-0.json").read_text())["lines_shared"] == 4
    assert not list(folder.glob(".boilerplate*"))
