"""The step that drops documents by word lists of the user's."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from headwater.core.errors import InputError
from headwater.documents.cleaning.features import Features, share
from headwater.documents.cleaning.steps import CleaningStep, Verdict, at_most, judge

UNSPACED = frozenset({"ja", "km", "lo", "my", "th", "zh"})
"""Languages that put no spaces between words: there an entry is found inside other text. Korean is not one of them, but
its particles stick to words, so that an entry may have letters behind it. Source: C4's bad-words filter as
datatrove 0.10.1 has it, for ja, th and zh."""


class Toxicity(CleaningStep):
    """Drop documents with too many words of your lists; no list is shipped.

    C4 drops a page with a single word of the list LDNOOBW, and with it much of what is written by and about minorities
    (Dodge et al., arXiv 2104.08758); a share of words is the milder rule.
    """

    use: Literal["toxicity"]
    lists: dict[str, Path] = Field(min_length=1)
    """For each language a file of words or phrases, one on each line."""
    default_language: str | None = None
    """Whose list judges documents of a language that is unknown or has no list; such documents stay by default."""
    max_words: int | None = Field(default=None, ge=0)
    """Words of the list that a document has at most; 0 drops it for a single one, as C4 does."""
    max_share: float | None = Field(default=0.01, ge=0, le=1)
    """Words of the list as a share of all words; of characters in languages without spaces."""

    def files(self) -> dict[str, Path]:
        """The lists.

        Raises:
            InputError: there is no such file.
        """
        for file in self.lists.values():
            if not file.is_file():
                raise InputError("there is no such file", place=str(file), hint="check the path in `use: toxicity`")
            _entries(file)
        return {f"toxicity.{language}: {file}": file for language, file in self.lists.items()}

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        languages = batch.rows.column("language").to_pylist()
        documents = len(languages)
        hits, parts, wholes = (np.zeros(documents) for _ in range(3))
        examples: list[str | None] = [None] * documents
        for index in np.flatnonzero(batch.wanted).tolist():
            language = languages[index] if languages[index] in self.lists else self.default_language
            if language not in self.lists:
                continue
            text = batch.texts[index].as_py().lower()
            found = [match[0] for match in _words_of(self.lists[language], language).finditer(text)]
            unspaced = language in UNSPACED
            hits[index] = len(found)
            parts[index] = sum(map(len, found)) if unspaced else sum(len(word.split()) for word in found)
            wholes[index] = len(text) if unspaced else len(text.split())
            examples[index] = found[0] if found else None
        return judge(
            documents,
            at_most("max_words", hits, self.max_words),
            at_most("max_share", share(parts, wholes), self.max_share),
            details=pa.array(examples, pa.string()),
        )


def _entries(file: Path) -> list[str]:
    """The words and phrases of a list in small letters, the longest first.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    try:
        lines = [line.strip().lower() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot be read as a list: {error}", place=str(file), hint="UTF-8, one on each line"
        ) from None
    entries = {line for line in lines if line and not line.startswith("#")}
    if not entries:
        raise InputError("holds no words", place=str(file), hint="one word or phrase on each line")
    return sorted(entries, key=lambda word: (-len(word), word))


@functools.lru_cache(64)
def _words_of(file: Path, language: str) -> re.Pattern[str]:
    """An expression for the entries of a list."""
    words = "|".join(map(re.escape, _entries(file)))
    if language in UNSPACED:
        return re.compile(words)
    return re.compile(rf"(?<!\w)(?:{words})" if language == "ko" else rf"(?<!\w)(?:{words})(?!\w)")
