"""Text comes to one form; text that has it already is left alone."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.normalise import Normalise
from headwater.documents.document import documents_of

PIECES = st.sampled_from(
    ["a", " ", "\t", "\n", "\r", "\r\n", "\x00", "\x85", "\u2028", "\ufeff", "e\u0301", "é", "ﬁ", "\x7f", "\x9b"]
)
TEXT = st.lists(st.one_of(PIECES, st.characters(exclude_categories=["Cs"])), max_size=30).map("".join)


def edit(*texts: str, **settings: object) -> list[str]:
    step = Normalise.model_validate({"use": "normalise", **settings})
    batch = Features(documents_of("web", texts))
    verdict = step(batch)
    assert verdict.keep.all()
    found = batch.with_columns(verdict.columns).texts.to_pylist()
    assert verdict.edited is not None
    assert verdict.edited.tolist() == [before != after for before, after in zip(texts, found, strict=True)]
    return found


def test_each_kind_of_edit() -> None:
    assert edit("a\r\nb\rc\n") == ["a\nb\nc"]
    assert edit("tab\there\x00 and\x1b[0m\ufeff") == ["tab\there and[0m"]
    assert edit("cafe\u0301") == ["café"]
    assert edit("a  \t\nb \n\n  c") == ["a\nb\n\n  c"]
    assert edit("\n \n  indented\n\n") == ["  indented"]
    assert edit("ﬁne") == ["ﬁne"]
    assert edit("ﬁne", unicode="NFKC") == ["fine"]


def test_each_edit_can_be_switched_off() -> None:
    text = "e\u0301\r\n\x00 \n"
    only = {"unicode": None, "newlines": False, "control_characters": False, "trailing_space": False}
    assert edit(text, **only | {"unicode": "NFC"}) == ["é\r\n\x00 \n"]
    assert edit(text, **only | {"newlines": True}) == ["e\u0301\n\x00 \n"]
    assert edit(text, **only | {"control_characters": True}) == ["e\u0301\r\n \n"]
    assert edit(text, **only | {"trailing_space": True}) == ["e\u0301\r\n\x00"]
    with pytest.raises(ValidationError, match="does nothing"):
        Normalise.model_validate({"use": "normalise", **only})


@given(st.lists(TEXT, max_size=3))
@example(["\x00 ", " \n", "", "a\u2028 \u2028"])
def test_the_result_is_normal_and_stays_so(texts: list[str]) -> None:
    once = edit(*texts)
    assert edit(*once) == once
    for before, after in zip(texts, once, strict=True):
        assert unicodedata.is_normalized("NFC", after)
        assert not set(after) & {"\r", "\x00", "\x7f", "\x9b", "\ufeff"}
        assert after == "\n".join(line.rstrip(" \t") for line in after.split("\n")).strip("\n")
        visible = [letter for letter in unicodedata.normalize("NFC", before) if letter.isalnum()]
        assert [letter for letter in after if letter.isalnum()] == visible


def test_all_suspicious_documents_are_found() -> None:
    """What the quick look passes by needs no edit."""
    step = Normalise(use="normalise")
    texts = ["plain", "a\nb", "  indented\n  code", "ends\n", " \nx", "x \ny", "\tx", "\n", "x\x0b", "日本語", "x\n\ny"]
    expected = [step.edit(text) for text in texts]
    assert edit(*texts) == expected


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("The cafÃ© is â€œopenâ€\x9d, isnâ€™t it? " * 2, "The café is “open”, isn’t it? " * 2),
        ("Ã¼ber das StraÃŸenfest", "über das Straßenfest"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "Привет"),
        ("The café is “open”, isn’t it?", "The café is “open”, isn’t it?"),
        ("Größe und Maß, Übung: Ärger", "Größe und Maß, Übung: Ärger"),
        ("AÑOS · São Paulo – œuvre", "AÑOS · São Paulo – œuvre"),
        ("日本語と한국어", "日本語と한국어"),
    ],
)
def test_text_decoded_in_the_wrong_encoding_is_mended(text: str, mended: str) -> None:
    assert Normalise(use="normalise", encoding=True).edit(text.strip()) == mended.strip()
    if text != mended:
        assert Normalise(use="normalise").edit(text.strip()) != mended.strip()


def test_the_gate_lets_through_what_ftfy_mends(many_scripts: dict[str, list[str]]) -> None:
    """Real text of other scripts, spoilt on purpose: what ftfy can mend, the gate does not hold back."""
    import ftfy

    step = Normalise(use="normalise", encoding=True, trailing_space=False, unicode=None)
    mended = 0
    for texts in many_scripts.values():
        for text in texts[:20]:
            spoilt = text[:300].encode().decode("latin-1")
            expected = ftfy.fix_encoding(spoilt)
            assert step.edit(spoilt) == step.edit(expected)
            mended += expected == text[:300]
    assert mended > 10


def test_lines_of_symbols_go() -> None:
    step = Normalise(use="normalise", symbol_lines="|-")
    text = "a | b\n| |\n---\n |\nc\n\nd"
    verdict = step(Features(documents_of("web", [text, "clean"])))
    assert verdict.columns["text"].to_pylist() == ["a | b\nc\n\nd", "clean"]
