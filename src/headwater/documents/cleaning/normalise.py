"""The step that brings text to one form."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.steps import CleaningStep, Verdict, judge


class Normalise(CleaningStep):
    """Edit text to one form: Unicode NFC, plain newlines, no control characters, no space at the ends of lines."""

    use: Literal["normalise"]
    unicode: Literal["NFC", "NFKC"] | None = "NFC"
    """Unicode normalisation form: NFC joins letters with their marks; NFKC also unifies ligatures and full-width forms."""
    newlines: bool = True
    """Make every line end with \\n alone."""
    control_characters: bool = True
    """Remove control characters other than newline and tab, and byte order marks."""
    trailing_space: bool = True
    """Remove spaces and tabs at the ends of lines, and blank lines around the text."""
    encoding: bool = False
    """Mend text that was decoded in the wrong encoding, such as `cafÃ©`. Source: ftfy 6.3 (Speer), its `fix_encoding`,
    which changes a text only where all of it makes sense as another encoding."""
    symbol_lines: str = ""
    """Remove lines of only these characters and spaces, such as the `|` that tables leave behind."""

    @model_validator(mode="after")
    def _has_effect(self) -> Normalise:
        self._need_one_of("unicode", "newlines", "control_characters", "trailing_space", "encoding")
        return self

    def __call__(self, batch: Features) -> Verdict:
        """Edit a batch of documents."""
        texts = batch.texts.to_pylist()
        edited = np.zeros(len(texts), np.bool_)
        for index in self._suspicious(batch.texts):
            text = self.edit(texts[index])
            edited[index] = text != texts[index]
            texts[index] = text
        columns = {"text": pa.array(texts, pa.string())} if edited.any() else {}
        return judge(len(texts), columns=columns, edited=edited)

    def edit(self, text: str) -> str:
        r"""Normalise one text.

        >>> Normalise(use="normalise").edit("cafe\u0301 \r\nis\x00 open\n\n")
        'café\nis open'
        """
        if self.encoding and _MOJIBAKE.search(text):
            from ftfy import fix_encoding

            text = fix_encoding(text)
        if self.symbol_lines:
            text = "\n".join(line for line in text.split("\n") if not _is_of(line, self.symbol_lines))
        if self.newlines:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if self.control_characters:
            text = _CONTROL.sub("", text)
        if self.unicode:
            text = unicodedata.normalize(self.unicode, text)
        if self.trailing_space:
            lines = [line.rstrip(" \t") for line in text.split("\n")]
            text = "\n".join(lines).strip("\n")
        return text

    def _suspicious(self, texts: pa.StringArray) -> list[int]:
        """Documents that may need an edit: most do not, and finding them is 20 times as fast as editing."""
        marks = [
            (self.newlines, r"\r"),
            (self.control_characters, r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
            (self.trailing_space, r"[ \t]\n|[ \t\n]\z|\A[ \t]*\n"),
            (bool(self.symbol_lines), rf"(?m)^[{re.escape(self.symbol_lines)} \t]+$"),
        ]
        pattern = "|".join(["[^\\x00-\\x7f]", *(mark for wanted, mark in marks if wanted)])
        found = pc.call_function("match_substring_regex", [texts], pc.MatchSubstringOptions(pattern))
        return np.flatnonzero(found.to_numpy(zero_copy_only=False)).tolist()


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")
"""C0 and C1 control characters without tab, newline, carriage return and next line; byte order marks."""

_MOJIBAKE = re.compile(
    "[\u00c2\u00c3\u00c4\u00c5\u00ce\u00cf\u00d0\u00d1\u00d7\u00d8\u00d9\u00e0-\u00ef\u00f0]"
    "[\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-\u201e"
    "\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
"""The first and second byte of a UTF-8 character read as Windows-1252 or Latin-1: without such a pair ftfy, which takes
50 times as long as this search, need not be asked."""


def _is_of(line: str, symbols: str) -> bool:
    """Whether a line holds some of these characters and nothing else but space."""
    plain = line.strip()
    return bool(plain) and not plain.strip(symbols + " \t")
