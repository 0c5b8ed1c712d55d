"""C4's rules: lines that go, documents that go, each rule by itself, and sentences as spaCy's sentencizer counts them."""

from __future__ import annotations

from typing import Any

import pytest

from headwater.documents.cleaning.c4 import C4, _count_sentences
from headwater.documents.cleaning.features import Features
from headwater.documents.document import documents_of

GOOD = "The river rose in the night.\nBy morning the people had left.\nWe walked along the bank.\n"
GOOD += "There was mud on every field.\nNo one had seen it so high."


def run(text: str, **settings: Any) -> tuple[str | None, str]:
    """The rule that a text fails, or None, and what the text is afterwards."""
    batch = Features(documents_of("web", [text]))
    verdict = C4.model_validate({"use": "c4", **settings})(batch)
    failed = int(verdict.failed[0])
    return (verdict.rules[failed] if failed >= 0 else None), batch.with_columns(verdict.columns).texts[0].as_py()


def test_good_lines_stay_as_they_are() -> None:
    assert run(GOOD) == (None, GOOD)


@pytest.mark.parametrize(
    ("line", "switch"),
    [
        ("A menu without an end", {"terminal_punctuation": False}),
        ("It goes on and on...", {"terminal_punctuation": False}),
        ("Read more.", {"min_line_words": None}),
        (f"See {'x' * 1001} for it.", {"max_word_characters": None}),
        ("Please enable Javascript to see this.", {"javascript_lines": False}),
        ("By going on you accept our Privacy Policy.", {"policy_lines": False}),
    ],
)
def test_each_rule_removes_its_lines_and_can_be_switched_off(line: str, switch: dict[str, Any]) -> None:
    text = f"{GOOD}\n{line}"
    assert run(text) == (None, GOOD)
    assert run(text, **switch) == (None, text)


def test_citations_are_cut_out_of_lines() -> None:
    text = GOOD.replace("night.", "night.[12][citation needed]")
    assert run(text) == (None, GOOD)
    assert run(text, citations=False) == (None, "\n".join(text.split("\n")[1:])) or run(text, citations=False)[0]


@pytest.mark.parametrize(
    ("line", "rule", "switch"),
    [
        ("Lorem ipsum dolor sit amet.", "lorem_ipsum", {"lorem_ipsum": False}),
        ("void main() { return; } and so on.", "curly_bracket", {"curly_bracket": False}),
    ],
)
def test_marks_that_drop_a_document(line: str, rule: str, switch: dict[str, Any]) -> None:
    text = f"{GOOD}\n{line}"
    assert run(text)[0] == rule
    assert run(text, **switch) == (None, text)
    assert run(f"{GOOD}\n{line.rstrip('.')}")[0] is None  # a line that goes does not count


def test_too_few_sentences() -> None:
    four = GOOD.rpartition("\n")[0]
    assert run(four)[0] == "min_sentences"
    assert run(four, min_sentences=4) == (None, four)
    assert run(GOOD.replace("\n", " ")) == (None, GOOD.replace("\n", " "))
    assert run("A menu\nAnother one", min_sentences=None) == (None, "")


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One sentence only.", 1),
        ("Two of them. Here is the other.", 2),
        ("Really?! Yes. (It is.) Good", 4),
        ("Version 3.14 of the U.S. report", 1),
        ("wait... what", 1),
        ("No end at all", 1),
        ("...", 1),
        ("", 0),
    ],
)
def test_sentences(line: str, sentences: int) -> None:
    assert _count_sentences([[line]]).tolist() == [sentences]


def test_odd_documents() -> None:
    texts = ["", "\n\n", "\x00", "{", "\u2028" * 9, "[" * 5000, "a" * 5000]
    verdict = C4(use="c4")(Features(documents_of("web", texts)))
    assert not verdict.keep.any()
