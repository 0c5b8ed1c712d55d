"""Rules have the published thresholds, drop what they should, and judge as plain Python does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.filters import Code, FineWebQuality, GopherQuality, GopherRepetition, Length
from headwater.documents.cleaning.steps import CleaningStep, Verdict
from headwater.documents.document import documents_of

from . import reference

PROSE = (
    "The river rose in the night, and by the morning the people of the valley had to be taken out of their houses. "
    "That is what the old woman told me with a smile, as if it were a story of another country.\n"
    "We have walked along the bank to see where the water had been; it left mud and branches on every field.\n"
)


def judge(step: CleaningStep, *texts: str) -> Verdict:
    return step(Features(documents_of("web", texts)))


def rules(step: CleaningStep, *texts: str) -> list[str | None]:
    """The rule that each text fails, or None."""
    verdict = judge(step, *texts)
    return [verdict.rules[index] if index >= 0 else None for index in verdict.failed.tolist()]


def only(step: type[CleaningStep], use: str, **wanted: Any) -> CleaningStep:
    """A step with every rule switched off but one."""
    off = {name: None for name in step.model_fields if name.startswith(("min_", "max_")) and name != "min_occurrences"}
    return step.model_validate({"use": use, **off, **wanted})


def test_thresholds_are_the_published_ones() -> None:
    repetition = GopherRepetition(use="gopher_repetition")
    assert (repetition.max_repeated_lines, repetition.max_repeated_paragraphs) == (0.30, 0.30)
    assert (repetition.max_repeated_line_characters, repetition.max_repeated_paragraph_characters) == (0.20, 0.20)
    assert (repetition.max_top_2_gram, repetition.max_top_3_gram, repetition.max_top_4_gram) == (0.20, 0.18, 0.16)
    grams = [getattr(repetition, f"max_repeated_{n}_grams") for n in range(5, 11)]
    assert grams == [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    quality = GopherQuality(use="gopher_quality")
    assert (quality.min_words, quality.max_words) == (50, 100_000)
    assert (quality.min_mean_word_length, quality.max_mean_word_length) == (3, 10)
    assert (quality.max_number_signs, quality.max_ellipses) == (0.1, 0.1)
    assert (quality.max_bullet_lines, quality.max_ellipsis_lines) == (0.9, 0.3)
    assert (quality.min_words_with_letter, quality.min_stop_words) == (0.8, 2)
    assert set(quality.stop_words) == {"the", "be", "to", "of", "and", "that", "have", "with"}
    web = FineWebQuality(use="fineweb_quality")
    assert (web.min_sentence_lines, web.max_short_lines, web.short_line_characters) == (0.12, 0.67, 30)
    assert (web.max_repeated_line_characters, web.max_newlines) == (0.01, 0.3)


def test_good_prose_passes_every_published_rule() -> None:
    for step in (
        GopherRepetition(use="gopher_repetition"),
        GopherQuality(use="gopher_quality"),
        FineWebQuality(use="fineweb_quality"),
    ):
        assert rules(step, PROSE) == [None]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("min_words", "Too short, this is, and to be dropped."),
        ("max_words", "the of and " * 33_400),
        ("min_mean_word_length", "I am a b c of it to be at an x y z the " * 10),
        ("max_mean_word_length", "the and extraordinarily incomprehensibilities " * 40),
        ("max_number_signs", PROSE + "# " * 15),
        ("max_ellipses", PROSE + "and... " * 30),
        ("max_bullet_lines", "- the river and the valley with mud\n" * 12),
        ("max_ellipsis_lines", (PROSE.strip() + "\n") * 2 + "and so it went...\n" * 5),
        ("min_words_with_letter", PROSE + "1234 5678 2024 " * 8),
        ("min_stop_words", "der Fluss stieg in jener Nacht, und am Morgen mussten alle Leute fort. " * 5),
    ],
)
def test_each_rule_of_gopher_quality(rule: str, text: str) -> None:
    assert rules(GopherQuality(use="gopher_quality"), text) == [rule]
    assert rules(GopherQuality.model_validate({"use": "gopher_quality", rule: None}), text) != [rule]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("max_repeated_paragraphs", "\n\n".join(["one", "two", "three", "one", "two", "one"])),
        ("max_repeated_paragraph_characters", "\n\n".join([PROSE.split("\n")[0]] * 2 + list("abcdefg"))),
        ("max_repeated_lines", "\n".join(["one", "two", "three", "one", "two", "one"])),
        ("max_repeated_line_characters", "\n".join([PROSE.split("\n")[0]] * 2 + list("abcdefg"))),
        ("max_top_2_gram", "say again, " + " ".join(f"say again {letter}" for letter in "abcdefghijklmnop")),
        ("max_top_3_gram", " ".join(f"say it again {letter}{letter}{letter}" for letter in "abcdefghijklmnop")),
        ("max_repeated_5_grams", PROSE.replace("\n", " ") + PROSE.replace("\n", " - ")),
    ],
)
def test_each_kind_of_rule_of_gopher_repetition(rule: str, text: str) -> None:
    assert rules(only(GopherRepetition, "gopher_repetition", **{rule: 0.19}), text) == [rule]
    assert rules(only(GopherRepetition, "gopher_repetition", **{rule: 0.99}), text) == [None]
    assert rules(GopherRepetition(use="gopher_repetition"), text) != [None]


def test_words_that_stand_once_are_no_repetition_when_two_occurrences_are_asked_for() -> None:
    text = "Return the number of elements that satisfy the given predicate."
    published = GopherRepetition(use="gopher_repetition")
    assert rules(published, text) == ["max_top_3_gram"]
    assert rules(GopherRepetition(use="gopher_repetition", min_occurrences=2), text) == [None]
    repeated = "say it again, say it again, say it again"
    assert rules(GopherRepetition(use="gopher_repetition", min_occurrences=2), repeated) == ["max_top_2_gram"]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("min_sentence_lines", "Home of the long menu that no one reads\nAbout us and all the others here too\n" * 3),
        ("max_short_lines", "Yes.\nNo.\nWhy.\nWell then, this line is clearly longer than thirty characters."),
        ("max_repeated_line_characters", "The same long line of many words, again and again.\n" * 2 + PROSE * 2),
        ("max_newlines", "Yes.\n\n\n\n\n\nThis is the only long line of all the lines here."),
    ],
)
def test_each_rule_of_fineweb_quality(rule: str, text: str) -> None:
    assert rules(FineWebQuality(use="fineweb_quality"), text) == [rule]


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("max_line_characters", "x = 1\n" * 50 + "y = '" + "ab" * 600 + "'\n"),
        ("max_mean_line_characters", ("z" * 150 + "\n") * 5),
        ("min_alphanumeric", "[[], {}, (), --, ++]\n" * 10 + "a = 1"),
        ("generated_markers", "# Copyright\n#\n# This file is AUTOMATICALLY generated by a tool.\nimport os\n"),
        (
            None,
            "import os\n\n\ndef read(path):\n    return open(path).read()\n"
            + "# x\n" * 9
            + "# automatically generated",
        ),
        (None, "{\n  return {};\n}\nint main(void) { return 0; }\n"),
    ],
)
def test_each_rule_of_code(rule: str | None, text: str) -> None:
    assert rules(Code(use="code"), text) == [rule]


def test_length_counts_characters_and_words() -> None:
    step = Length(use="length", min_characters=3, max_characters=20, min_words=2, max_words=4)
    texts = ["é", "日本", "abc", "a b", "a b c d e", "x" * 21, "aaa, bbb"]
    assert rules(step, *texts) == [
        "min_characters",
        "min_characters",
        "min_words",
        None,
        "max_words",
        "max_characters",
        None,
    ]
    verdict = judge(step, *texts)
    assert verdict.values[[0, 2, 4, 5]].tolist() == [1, 1, 5, 21]
    assert verdict.thresholds[[0, 2, 4, 5]].tolist() == [3, 2, 4, 20]
    assert np.isnan(verdict.values[3])


def test_a_step_without_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match="does nothing"):
        Length(use="length")
    with pytest.raises(ValidationError, match="min_stop_words 3 is more than"):
        GopherQuality(use="gopher_quality", min_stop_words=3, stop_words=("le", "la"))


@pytest.mark.parametrize("use", ["gopher_repetition", "gopher_quality", "fineweb_quality", "code"])
def test_texts_without_words_do_not_divide_by_nothing(use: str) -> None:
    kinds = {
        kind.model_fields["use"].annotation.__args__[0]: kind
        for kind in (GopherRepetition, GopherQuality, FineWebQuality, Code)
    }
    verdict = judge(kinds[use](use=use), "", " \n ", "\x00", "\n\n\n", "\u2028", "\U0001f50e\ufe0f", "\u0301", "\ufffe")
    assert np.isfinite(verdict.values[~verdict.keep]).all()


# ------------------------------------------------------------------------------- the same rules once more, in plain Python


def gopher_repetition(text: str) -> str | None:
    lines, parts = [line for line in text.split("\n") if line], reference.paragraphs(text)
    repeated_parts, repeated_lines = reference.repeated(parts), reference.repeated(lines)
    words = reference.words(text)
    shares = [
        ("max_repeated_paragraphs", repeated_parts[0] / max(1, len(parts)), 0.3),
        ("max_repeated_paragraph_characters", repeated_parts[1] / len(text), 0.2),
        ("max_repeated_lines", repeated_lines[0] / max(1, len(lines)), 0.3),
        ("max_repeated_line_characters", repeated_lines[1] / len(text), 0.2),
    ]
    for n, most in ((2, 0.20), (3, 0.18), (4, 0.16)):
        shares.append((f"max_top_{n}_gram", reference.most_common_gram(words, n) / len(text), most))
    for n, most in zip(range(5, 11), (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True):
        shares.append((f"max_repeated_{n}_grams", reference.repeated_grams(words, n) / len(text), most))
    return next((rule for rule, value, most in shares if value > most), None)


def gopher_quality(text: str) -> str | None:
    words, lines = reference.words(text), text.split("\n")[: -1 if text.endswith("\n") else None]
    plain = [word for word in words if not all(map(reference.is_symbol, word))]
    ellipses = text.count("...") + text.count("…")
    with_letter = sum(any(map(str.isalpha, word)) for word in words)
    stop_words = {"the", "be", "to", "of", "and", "that", "have", "with"} & set(words)
    checks = [
        ("min_words", len(plain) < 50),
        ("max_words", len(plain) > 100_000),
        ("min_mean_word_length", sum(map(len, plain)) / max(1, len(plain)) < 3),
        ("max_mean_word_length", sum(map(len, plain)) / max(1, len(plain)) > 10),
        ("max_number_signs", text.count("#") / max(1, len(words)) > 0.1),
        ("max_ellipses", ellipses / max(1, len(words)) > 0.1),
        ("max_bullet_lines", sum(line.lstrip().startswith(("•", "-")) for line in lines) / max(1, len(lines)) > 0.9),
        ("max_ellipsis_lines", sum(line.rstrip().endswith(("...", "…")) for line in lines) / max(1, len(lines)) > 0.3),
        ("min_words_with_letter", with_letter / max(1, len(words)) < 0.8),
        ("min_stop_words", len(stop_words) < 2),
    ]
    return next((rule for rule, fails in checks if fails), None)


def fineweb_quality(text: str) -> str | None:
    lines = [line for line in text.split("\n") if line.strip()]
    ends = sum(ord(line[-1]) in reference.TERMINALS for line in lines)
    characters = max(1, len(text.replace("\n", "")))
    checks = [
        ("min_sentence_lines", ends / max(1, len(lines)) < 0.12),
        ("max_short_lines", sum(len(line) <= 30 for line in lines) / max(1, len(lines)) > 0.67),
        ("max_repeated_line_characters", reference.repeated(lines)[1] / characters > 0.01),
        ("max_newlines", text.count("\n") / max(1, len(reference.words(text))) > 0.3),
    ]
    return next((rule for rule, fails in checks if fails), None)


@pytest.mark.parametrize(
    ("step", "plain"),
    [
        (GopherRepetition(use="gopher_repetition"), gopher_repetition),
        (GopherQuality(use="gopher_quality"), gopher_quality),
        (FineWebQuality(use="fineweb_quality"), fineweb_quality),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_verdicts_equal_plain_python_on_real_text(
    step: CleaningStep, plain: Any, english: list[str], source_code: list[str], many_scripts: dict[str, list[str]]
) -> None:
    texts = [*english[:150], *source_code[:3], *(text for part in many_scripts.values() for text in part[:25])]
    texts += ["\n\n".join(english[start : start + 8]) for start in range(0, 120, 8)]  # longer than a docstring
    assert len({*rules(step, *texts)}) >= 4
    assert rules(step, *texts) == [plain(text) for text in texts]
