"""Presets become plain steps; wrong ones are explained where they stand; `course` judges as the course does."""

from __future__ import annotations

import heapq
import re
from pathlib import Path
from typing import Any

import fasttext
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from headwater.core import config
from headwater.core.errors import RecipeError
from headwater.documents.clean import Clean, clean
from headwater.documents.cleaning import presets
from headwater.documents.cleaning.classify import model_file
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.filters import FineWebQuality, GopherQuality, GopherRepetition
from headwater.documents.cleaning.steps import CleaningStep
from headwater.documents.document import documents_of

from . import corpus


def steps(*entries: dict[str, Any]) -> tuple[CleaningStep, ...]:
    return Clean.model_validate({"steps": entries}).chosen


def kept(chosen: tuple[CleaningStep, ...], text: str) -> bool:
    """Whether a text that is not blank passes every step."""
    batch = Features(documents_of("web", [text]))
    for step in chosen:
        verdict = step(batch)
        if not verdict.keep[0]:
            return False
        batch = batch.with_columns(verdict.columns)
    return True


@pytest.mark.parametrize("name", sorted(presets.shipped()))
def test_shipped_presets_are_valid_and_say_what_they_are(name: str) -> None:
    languages = {"languages": sorted(presets.read(name)["languages"])} if "languages" in presets.read(name) else {}
    chosen = steps({"use": "preset", "name": name, **languages})
    assert len(chosen) >= 2
    assert presets.read(name)["about"]
    assert len(presets.shipped()[name].read_bytes()) < 100_000
    uses = [step["use"] for step in presets.read(name)["steps"]]
    assert len(set(uses)) == len(uses)  # `change` names steps by their use


def test_a_preset_stands_in_its_place_with_changes_and_sources() -> None:
    chosen = steps(
        {"use": "length", "min_characters": 1},
        {
            "use": "preset",
            "name": "fineweb",
            "sources": ["web"],
            "change": {"gopher_quality": {"min_words": 20}, "c4": None},
        },
        {"use": "length", "max_characters": 9},
    )
    names = [step.name for step in chosen]
    assert names == [
        "length",
        "language",
        "gopher_repetition",
        "gopher_quality",
        "fineweb_quality",
        "personal_data",
        "length",
    ]
    assert isinstance(chosen[3], GopherQuality)
    assert (chosen[3].min_words, chosen[3].max_words) == (20, 100_000)
    assert [step.sources for step in chosen] == [None, *[("web",)] * 5, None]


def test_what_is_printed_is_plain_and_loads_to_the_same() -> None:
    settings = Clean.model_validate({"steps": [{"use": "preset", "name": "gopher"}, {"use": "code"}]})
    plain = settings.model_dump(mode="json")
    assert [step["use"] for step in plain["steps"]] == ["gopher_repetition", "gopher_quality", "code"]
    assert Clean.model_validate(plain).model_dump(mode="json") == plain
    assert [settings.written(index) for index in range(3)] == [0, 0, 1]


RECIPE = """
steps:
  - use: normalise
  - use: preset
    name: {name}
    change: {change}
  - use: length
    min_charcters: 3
"""


@pytest.mark.parametrize(
    ("name", "change", "problems"),
    [
        ("finweb", "{}", ["clean.yaml:5: steps.1.name: no such preset 'finweb'; did you mean 'fineweb'?"]),
        ("gopher", "{c4: null}", ["clean.yaml:6: steps.1.change.c4: 'gopher' has no step 'c4'"]),
        (
            "gopher",
            "{gopher_quality: {min_wrods: 2}}",
            ["clean.yaml:6: steps.1.change.gopher_quality.min_wrods: no such setting; did you mean 'min_words'?"],
        ),
        (
            "gopher",
            "{gopher_quality: {max_ellipses: many}}",
            [
                "clean.yaml:6: steps.1.change.gopher_quality.max_ellipses: input should be a valid number",
                "clean.yaml:8: steps.2.min_charcters: no such setting; did you mean 'min_characters'?",
            ],
        ),
        ("fineweb2", "{}", ["clean.yaml:4: steps.1: 'fineweb2' has thresholds by language; name yours"]),
    ],
)
def test_problems_are_said_where_they_stand(tmp_path: Path, name: str, change: str, problems: list[str]) -> None:
    (tmp_path / "clean.yaml").write_text(RECIPE.format(name=name, change=change))
    with pytest.raises(RecipeError) as error:
        config.load(Clean, tmp_path / "clean.yaml")
    assert len(error.value.problems) == len(problems)
    for said, expected in zip(error.value.problems, problems, strict=True):
        assert said.removeprefix(f"{tmp_path}/").startswith(expected)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"name": "fineweb", "chnage": {}}, "did you mean 'change'"),
        ({"name": "fineweb", "change": []}, "expected settings by step"),
        ({"name": "fineweb", "change": {"c4": 3}}, "expected settings or null"),
        ({"name": "fineweb", "sources": "web"}, "expected a list of names"),
        ({"name": "fineweb2", "languages": ["xx"]}, "no thresholds for 'xx'"),
        ({}, "no such preset None"),
    ],
)
def test_odd_entries_are_refused(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        steps({"use": "preset", **entry})


def test_fineweb_has_the_published_thresholds_and_filters_english_for_real() -> None:
    chosen = steps({"use": "preset", "name": "fineweb"})
    language, repetition, quality, c4, web, personal = chosen
    assert (getattr(language, "keep"), getattr(language, "min_score")) == (("en",), 0.65)  # noqa: B009
    assert repetition == GopherRepetition(use="gopher_repetition")
    assert quality == GopherQuality(use="gopher_quality")
    assert web == FineWebQuality(use="fineweb_quality")
    assert c4.model_dump()["terminal_punctuation"] is False
    assert (personal.model_dump()["email"], personal.model_dump()["phone"]) == ("redact", "leave")
    french = "La commission se réunira de nouveau jeudi pour parler du nouveau pont sur la rivière. " * 9
    batch = Features(documents_of("web", [french]))
    verdict = language(batch)
    assert verdict.rules[verdict.failed[0]] == "keep"


def test_fineweb2_judges_each_language_by_its_own_thresholds() -> None:
    chosen = steps({"use": "preset", "name": "fineweb2", "languages": ["de", "ja"]})
    names = [(step.name, step.languages) for step in chosen]
    assert names == [
        ("normalise", None),
        ("language", None),
        ("gopher_repetition", ("de",)),
        ("gopher_repetition", ("ja",)),
        ("fineweb_quality", ("de",)),
        ("fineweb_quality", ("ja",)),
        ("gopher_quality", ("de",)),
        ("personal_data", None),
    ]
    assert chosen[1].model_dump()["min_scores"] == {"de": 0.821, "ja": 0.886}
    assert chosen[2].model_dump()["max_repeated_lines"] == 0.263
    assert chosen[2].model_dump()["max_repeated_line_characters"] is None
    assert "der" in chosen[6].model_dump()["stop_words"]


# ------------------------------------------------------------------------------- the course, as its own code has it


def course(text: str) -> bool:
    """The three filters of the course's lesson 2, word for word but for names."""
    lines = text.split("\n")
    if len(lines) < 3 or min(heapq.nlargest(3, [len(line) for line in lines])) < 3:
        return False
    paragraphs = re.compile(r"\n{2,}").split(text.strip())
    seen: set[str] = set()
    duplicates = characters = 0
    for element in paragraphs:
        if element in seen:
            characters += len(element)
            duplicates += 1
        else:
            seen.add(element)
    if duplicates / len(paragraphs) > 0.3 or characters / len(text) > 0.2:
        return False
    labels, scores = fasttext.load_model(str(model_file())).predict(text.replace("\n", ""), 1)
    return bool(labels) and labels[0].split("__")[2] == "en" and scores[0] > 0.4


LONG = "The committee will meet again on Thursday to discuss the new bridge across the river. "
GLUED = "\n".join((LONG * 2).split())
DEFECTS = {
    "a 404 page": "404: Not Found",
    "an article on one line": LONG * 60,
    "three lines of nothing": "abc\nabc\nabc",
    "a line a thousand times": "\n".join([LONG] * 1000),
    "paragraphs that repeat": "\n\n".join([LONG, LONG, LONG, "and another"]),
    "words glued across lines": GLUED,
    "code": "import os\n\n\ndef read(path):\n    return open(path).read()\n",
    "German": "Der Ausschuss trifft sich wieder.\nEr spricht über die Brücke.\nUnd über den Fluss.\n",
    "space before a paragraph": " a line of it\n\na line of it\n\nanother line",
}


def test_course_judges_as_the_course_does(english: list[str], source_code: list[str]) -> None:
    chosen = steps({"use": "preset", "name": "course"})
    texts = [*DEFECTS.values(), *english[:300], *source_code[:40]]
    texts += ["\n\n".join([text] * (1 + number % 3)) for number, text in enumerate(english[300:400])]
    verdicts = [course(text) for text in texts]
    assert [kept(chosen, text) for text in texts] == verdicts
    assert 0.1 < sum(verdicts) / len(verdicts) < 0.98


def test_course_judges_other_languages_as_the_course_does(many_scripts: dict[str, list[str]]) -> None:
    chosen = steps({"use": "preset", "name": "course"})
    for texts in many_scripts.values():
        assert [kept(chosen, text) for text in texts] == [course(text) for text in texts]


def test_course_fixed_differs_where_the_course_is_wrong() -> None:
    was, now = steps({"use": "preset", "name": "course"}), steps({"use": "preset", "name": "course_fixed"})
    verdicts = {name: (kept(was, text), kept(now, text)) for name, text in DEFECTS.items()}
    assert verdicts["an article on one line"] == (False, False)  # sixty times the same sentence
    article = LONG + "The old one was closed in spring after ice had lifted two of its piers, and no one crosses since."
    assert (kept(was, article), kept(now, article)) == (False, True)
    assert verdicts["three lines of nothing"][1] is False
    assert verdicts["a line a thousand times"] == (True, False)
    assert verdicts["a 404 page"] == (False, False)


def test_the_run_warns_where_the_course_is_wrong(tmp_path: Path) -> None:
    texts = [f"The {word} is here.\nIt was there before.\nThat is what they have said." for word in ("man", "dog")]
    inputs = {"documents": corpus.write(tmp_path / "read", {"web": [*texts, "  \n", "\n\n\n\n"]})}
    out = corpus.Place(tmp_path / "clean")
    counts = clean(Clean.model_validate({"steps": [{"use": "preset", "name": "course"}]}), inputs, out)
    assert counts["documents_out"] == 2
    assert counts["dropped"]["empty"]["documents"] == 2  # where the course's code divides by zero
    said = "\n".join(out.warnings)
    assert "a whole article on one line" in said
    assert "one line a thousand times over passes" in said
    assert "glues words together" in said


def test_the_recipes_of_the_guide_are_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "cleaning.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        Clean.model_validate(YAML(typ="safe", pure=True).load(block)["clean"])
    named = set(re.findall(r"^\| `(\w+)` \|", page.split("## The same")[0], re.MULTILINE))
    assert named == presets.shipped().keys()
