"""Recipes are read with includes and overrides, and every problem is explained with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

from headwater.core.config import Config, difference, load
from headwater.core.errors import InputError, RecipeError
from headwater.core.units import Tokens


class Length(Config):
    use: Literal["length"]
    min_words: int = Field(default=5, ge=0)
    length: int = 3


class Keep(Config):
    use: Literal["keep"]
    languages: tuple[str, ...] = ()
    order: Literal["first", "last"] = "first"


Rule = Annotated[Length | Keep, Field(discriminator="use")]


class Clean(Config):
    steps: tuple[Rule, ...] = ()
    by_name: dict[str, Rule] = Field(default_factory=dict)


class Train(Config):
    learning_rate: float = 0.1
    tokens: Tokens = 10

    @field_validator("learning_rate")
    @classmethod
    def _positive(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("must be above 0, or nothing is learnt")
        return value


class Book(Config):
    title: str
    clean: Clean | None = None
    train: Train = Train()


def write(folder: Path, text: str, name: str = "book.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(Book, path, overrides)
    return [line.replace(str(path), "book.yaml") for line in caught.value.lines]


def test_yaml_1_2_numbers_and_words(tmp_path: Path) -> None:
    path = write(tmp_path, "title: no\ntrain: {learning_rate: 6e-4, tokens: 2M tokens}\n")
    book = load(Book, path)
    assert (book.title, book.train.learning_rate, book.train.tokens) == ("no", 6e-4, 2_000_000)


def test_every_problem_at_once_with_its_line(tmp_path: Path) -> None:
    text = """
title: x
clean:
  steps:
    - use: length
      min_wrods: 3
    - use: lenght
    - {use: keep, order: firts}
    - {min_words: 3}
    - use: length
      min_words: -1
  by_name:
    one: {use: keep, langauges: [en]}
train:
  learning_rate: 0
  tokens: many
tain: {}
"""
    assert problems(write(tmp_path, text)) == [
        "book.yaml:6: clean.steps.0.min_wrods: no such setting; did you mean 'min_words'?",
        "book.yaml:7: clean.steps.1.use: no such choice 'lenght'; did you mean 'length'?",
        "book.yaml:8: clean.steps.2.order: 'firts' is not one of the choices; did you mean 'first'?",
        "book.yaml:9: clean.steps.3: say which one with 'use:'; choose from keep, length",
        "book.yaml:11: clean.steps.4.min_words: input should be greater than or equal to 0, got -1",
        "book.yaml:13: clean.by_name.one.langauges: no such setting; did you mean 'languages'?",
        "book.yaml:15: train.learning_rate: must be above 0, or nothing is learnt",
        'book.yaml:16: train.tokens: expected a count such as 10000, "10k" or "300B tokens", got \'many\'',
        "book.yaml:17: tain: no such setting; did you mean 'train'?",
    ]


def test_a_setting_that_is_named_like_its_choice(tmp_path: Path) -> None:
    path = write(tmp_path, "title: x\nclean:\n  steps:\n    - use: length\n      length: long\n")
    assert problems(path) == [
        "book.yaml:5: clean.steps.0.length: input should be a valid integer, unable to parse string as an integer, got 'long'"
    ]


class Box(Config):
    width: int = 3
    height: int = Field(default_factory=lambda known: 2 * known["width"])


def test_a_default_that_follows_from_a_wrong_setting_is_no_second_problem(tmp_path: Path) -> None:
    path = write(tmp_path, "width: wide\n")
    with pytest.raises(RecipeError) as caught:
        load(Box, path)
    assert [problem.partition(": ")[2].partition(":")[0] for problem in caught.value.problems] == ["width"]


def test_missing_setting(tmp_path: Path) -> None:
    assert problems(write(tmp_path, "train: {}\n")) == ["book.yaml: title: this setting is required"]


def test_broken_yaml_and_duplicate_keys(tmp_path: Path) -> None:
    assert problems(write(tmp_path, "title: x\ntrain: {tokens: 1\n"))[0].startswith("book.yaml:3: ")
    assert problems(write(tmp_path, "title: x\ntitle: y\n"))[0].startswith("book.yaml:2: found duplicate key")


def test_not_a_recipe(tmp_path: Path) -> None:
    assert problems(write(tmp_path, "")) == ["book.yaml: holds no settings"]
    with pytest.raises(InputError, match="cannot be read"):
        load(Book, tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"title: \xff\xfe")
    with pytest.raises(InputError, match=r"not UTF-8 \(byte 7\)"):
        load(Book, tmp_path / "binary.yaml")


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "title: x\nclean:\n  steps: [{use: length}]\n")
    book = load(Book, path, ["clean.steps.0.min_words=20", "train.tokens=3k", "title=a=b"])
    assert book.clean is not None
    assert book.clean.steps[0] == Length(use="length", min_words=20)
    assert (book.train.tokens, book.title) == (3000, "a=b")
    assert load(Book, path, ["clean=null"]).clean is None
    assert problems(path, "train.tokns=3") == ["train.tokns=3: train.tokns: no such setting; did you mean 'tokens'?"]
    assert "the list has 1 entries" in problems(path, "clean.steps.4.min_words=2")[0]
    assert problems(path, "train.tokens") == ["train.tokens: is not key=value"]


def test_includes_are_merged_and_places_kept(tmp_path: Path) -> None:
    write(tmp_path, "title: base\ntrain:\n  tokens: 5\n  learning_rate: -1\n", "base.yaml")
    path = write(tmp_path, "include: [base.yaml]\ntitle: mine\ntrain: {tokens: 7}\n")
    assert problems(path) == [f"{tmp_path / 'base.yaml'}:4: train.learning_rate: must be above 0, or nothing is learnt"]
    book = load(Book, path, ["train.learning_rate=0.5"])
    assert (book.title, book.train.tokens, book.train.learning_rate) == ("mine", 7, 0.5)


def test_include_replaces_another_choice(tmp_path: Path) -> None:
    write(tmp_path, "title: b\nclean:\n  by_name: {a: {use: length, min_words: 3}}\n", "base.yaml")
    path = write(tmp_path, "include: base.yaml\nclean:\n  by_name: {a: {use: keep}}\n")
    assert load(Book, path).clean == Clean(by_name={"a": Keep(use="keep")})


def test_circular_include(tmp_path: Path) -> None:
    path = write(tmp_path, "include: book.yaml\ntitle: x\n")
    assert problems(path) == ["book.yaml: includes itself"]


def test_checks_between_settings_have_places(tmp_path: Path) -> None:
    path = write(tmp_path, "title: x\ntrain:\n  tokens: 5\n")
    with pytest.raises(RecipeError) as caught:
        load(Book, path, check=lambda book: [(("train", "tokens"), f"{book.train.tokens} is too few")])
    assert caught.value.lines == (f"{path}:3: train.tokens: 5 is too few",)


def test_difference_names_each_setting() -> None:
    before = {"steps": [{"min_words": 5}], "old": 1, "same": 2, "names": ["a"]}
    after = {"steps": [{"min_words": 6}], "new": 1, "same": 2, "names": ["a", "b"]}
    assert list(difference(before, after)) == [
        "steps.0.min_words 5 -> 6",
        "old removed",
        "names: 1 -> 2 entries",
        "new added",
    ]


def test_odd_yaml_is_explained_and_merge_keys_work(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="include: expected a file name"):
        load(Book, write(tmp_path, "title: x\ninclude: 5\n"))
    text = "title: x\nclean:\n  by_name:\n    a: &a {use: length, min_words: 3}\n    b: {<<: *a, min_words: 4}\n"
    book = load(Book, write(tmp_path, text))
    assert book.clean is not None
    assert book.clean.by_name["b"] == Length(use="length", min_words=4)
    assert "special characters" in problems(write(tmp_path, "title: \x07\n"))[0]
    assert "tokens: expected a count" in problems(write(tmp_path, "title: x\ntrain: {tokens: .inf}\n"))[0]
