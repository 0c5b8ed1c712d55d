from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.core.stage import Workspace
from headwater.documents.document import documents_of, read_batches, shards_in
from headwater.documents.read import Read, read
from headwater.documents.sources.removal import Removal, Search

LINES = [
    {"text": "by Jane about one", "url": "https://example.org/jane/1", "author": "Jane"},
    {"text": "by Jane about two", "url": "https://example.org/jane/2", "author": "Jane"},
    {"text": "by Joan about three", "url": "https://example.org/joan/3", "author": "Joan"},
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def settings(place: Path, **more: object) -> Read:
    fields = {"url": "url", "meta": ["author"]}
    sources = {"notes": {"use": "jsonl", "paths": str(place / "notes.jsonl"), "fields": fields}}
    return Read.model_validate({"sources": sources, **more})


def texts(folder: Path) -> list[str]:
    return [text for shard in shards_in(folder) for batch in read_batches(shard) for text in batch.to_pydict()["text"]]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ({"url": "https://example.org/jane/"}, ["by Joan about three"]),
        ({"meta": {"author": "Joan"}}, ["by Jane about one", "by Jane about two"]),
        (
            {"id": documents_of("x", ["by Jane about two"]).column("id")[0].as_py()},
            [LINES[0]["text"], LINES[2]["text"]],
        ),
        ({"id": "00000000"}, [line["text"] for line in LINES]),
        ({"source": "other"}, [line["text"] for line in LINES]),
        ({"url": "https://example.org/", "meta": {"author": "Joan"}}, ["by Jane about one", "by Jane about two"]),
    ],
)
def test_what_is_on_a_list_is_no_document_and_kept_nowhere(place: Path, line: dict, left: list[str]) -> None:
    (place / "list.jsonl").write_text(json.dumps(line) + "\n\n")
    out = Workspace(place / "out", Machine(workers=1))
    out.folder.mkdir()
    counts = read(settings(place, forget=str(place / "list.jsonl")), {}, out)
    assert texts(out.folder / "documents") == left
    assert counts["documents_in"] == 3
    assert counts["dropped"].get("forgotten", {}).get("documents", 0) == 3 - len(left)
    assert all(text == "" for text in texts(out.folder / "dropped"))
    dropped = [batch for shard in shards_in(out.folder / "dropped") for batch in read_batches(shard)]
    table = pa.Table.from_batches(dropped) if dropped else None
    if table is not None:
        assert table.column("url").null_count == table.column("meta").null_count == len(table)
    assert bool(out.warnings) == (len(left) == 3), "a list without effect is told"


def test_lines_that_fit_nothing_are_named_by_their_place_alone(place: Path) -> None:
    """What a line says is what is to be forgotten: it must not come into a manifest or report."""
    wanted = [{"meta": {"author": "Joan"}}, {"meta": {"author": "Jonas"}}, {"id": "0" * 32}, {"url": LINES[0]["url"]}]
    (place / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in wanted))
    out = Workspace(place / "out", Machine(workers=1))
    counts = read(settings(place, forget=str(place / "list.jsonl")), {}, out)
    assert counts["dropped"]["forgotten"]["documents"] == 2
    path = place / "list.jsonl"
    assert out.warnings == [f"read.forget: 2 of 4 lines fit documents, 2 in all; these fit none: {path}:2, {path}:3"]


def test_the_list_is_part_of_the_identity(place: Path) -> None:
    (place / "list.jsonl").write_text('{"source": "notes"}\n')
    with_list = settings(place, forget=[str(place / "list.jsonl")])
    before = with_list.fingerprint(lambda path: path.read_text())
    (place / "list.jsonl").write_text('{"source": "notes2"}\n')
    assert with_list.fingerprint(lambda path: path.read_text()) != before
    assert "read.forget" not in settings(place).fingerprint(lambda path: path.read_text())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("not json", "list.jsonl:1: is no line of a removal list"),
        ('{"source": "a"}\n{"adress": "b"}', "list.jsonl:2: is no line of a removal list"),
        ('["a"]', "list.jsonl:1: is no line"),
        ('{"url": null, "source": "notes"}', "list.jsonl:1: is no line"),
        ('{"meta": {"author": null}}', "list.jsonl:1: is no line"),
        ('{"id": 5}', "list.jsonl:1: is no line"),
        ("{}", "list.jsonl:1: says nothing: it would forget every document"),
        (None, "list.jsonl: cannot be read"),
    ],
)
def test_a_list_that_cannot_be_understood_is_refused_before_anything_runs(
    place: Path, content: str | None, problem: str
) -> None:
    if content is not None:
        (place / "list.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        settings(place, forget=[str(place / "list.jsonl")]).fingerprint(lambda path: "")
    assert problem in str(caught.value)
    assert caught.value.hint


def test_long_lists_of_ids_are_looked_up_not_compared(tmp_path: Path) -> None:
    batch = documents_of("x", [f"text {number}" for number in range(100_000)])
    ids = batch.column("id").to_pylist()
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"id": name}) + "\n" for name in ids[::2]))
    removal = Removal([str(tmp_path / "list.jsonl")])
    assert removal.fits(batch).tolist() == [number % 2 == 0 for number in range(100_000)]
    assert not removal._searches


def test_everything_that_is_given_must_fit() -> None:
    row = {"id": "ab12", "source": "web", "url": None, "meta": None}
    assert Search(id="ab").fits(row)
    assert Search(source="web", id="ab").fits(row)
    assert not Search(source="wiki", id="ab").fits(row)
    assert not Search(url="https://").fits(row)
    assert not Search(meta={"author": "Jane"}).fits(row)
    assert not Search(meta={"author": "None"}).fits(row | {"meta": '{"title": "x"}'}), "no author is nobody's name"
