"""Language identification: accuracy and speed of `use: language` on paragraphs of 30 languages, by length.

    python bench/language.py

Texts: articles of the Universal Declaration of Human Rights (translated by people), help pages of LibreOffice, Korean film
reviews, Thai social media. Each is labelled by its file. A document is found right when the likeliest language is its own.
"""

from __future__ import annotations

import itertools
import json
import random
import time
import zipfile
from collections import Counter
from collections.abc import Iterator

import zstandard

from headwater.core.hardware import processor_name
from headwater.documents.cleaning.classify import Language
from headwater.documents.cleaning.features import Features
from headwater.documents.document import documents_of
from peers.varied import DATA

UDHR = {
    "ar": "arb", "bg": "bul", "ca": "cat", "cs": "ces", "da": "dan", "de": "deu_1901", "el": "ell_monotonic", "en": "eng",
    "es": "spa", "et": "est", "fa": "pes_1", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind",
    "it": "ita", "ja": "jpn", "ko": "kor", "nl": "nld", "no": "nob", "pl": "pol", "pt": "por_PT", "ro": "ron_1993",
    "ru": "rus", "sv": "swe", "th": "tha", "tr": "tur", "uk": "ukr", "vi": "vie", "zh": "cmn_hans",
}  # fmt: skip


def udhr() -> Iterator[tuple[str, str, str]]:
    with zipfile.ZipFile(DATA / "text/nltk-udhr2.zip") as archive:
        names = set(archive.namelist())
        for language, code in UDHR.items():
            name = f"udhr2/{code}.txt"
            if name not in names:
                print(f"no {name}")
                continue
            lines = [line.strip() for line in archive.read(name).decode().splitlines()]
            yield from (("udhr", language, line) for line in lines if len(line) >= 40)


def lines_of(file: str, count: int) -> Iterator[str]:
    with zstandard.open(DATA / file, "rt", encoding="utf-8") as lines:
        yield from itertools.islice(lines, count)


def help_pages() -> Iterator[tuple[str, str, str]]:
    """Paragraphs of help pages that hold no example of a formula or a macro, which are English everywhere."""
    english = {json.loads(line)["text"] for line in lines_of("lang/libreoffice-help-en.jsonl.zst", 1000)}
    known = {part.strip() for text in english for part in text.split("\n")}
    for language in ("en", "de", "ja", "ko"):
        for line in lines_of(f"lang/libreoffice-help-{language}.jsonl.zst", 400):
            for part in json.loads(line)["text"].split("\n"):
                plain = part.strip()
                if len(plain) >= 60 and (language == "en" or plain not in known):
                    yield "help", language, plain


def people() -> Iterator[tuple[str, str, str]]:
    for line in lines_of("lang/ko-nsmc-reviews.jsonl.zst", 3000):
        yield "reviews", "ko", json.loads(line)["text"]
    for name in ("pos", "neu", "neg"):
        yield from (("social", "th", line.strip()) for line in lines_of(f"lang/th-wisesight/{name}.txt.zst", 1000))


def main() -> None:
    texts = list(
        {text: (kind, language, text) for kind, language, text in (*udhr(), *help_pages(), *people()) if text}.values()
    )
    random.Random(0).shuffle(texts)
    batch = Features(documents_of("web", [text for _, _, text in texts]))
    step = Language(use="language")
    step(Features(documents_of("web", ["warm up"])))
    before = time.process_time()
    found = batch.with_columns(step(batch).columns).rows.column("language").to_pylist()
    seconds = time.process_time() - before
    size = sum(len(text.encode()) for _, _, text in texts) / 1e6
    print(
        f"{processor_name()}; {len(texts)} texts, {len(texts) / seconds:,.0f} texts/CPU s, {size / seconds:.1f} MB/CPU s"
    )
    for low, high in ((20, 40), (40, 80), (80, 200), (200, 10**9)):
        chosen = [(l, f) for (_, l, text), f in zip(texts, found, strict=True) if low <= len(text) < high]  # noqa: E741
        print(
            f"{low}-{high if high < 10**9 else ''} characters: {sum(a == b for a, b in chosen) / len(chosen):.4f} of {len(chosen)}"
        )
    for kind in ("udhr", "help", "reviews", "social"):
        chosen = [(language, f) for (k, language, _), f in zip(texts, found, strict=True) if k == kind]
        print(f"{kind}: {sum(a == b for a, b in chosen) / len(chosen):.4f} of {len(chosen)}")
    chosen = [(language, f) for (k, language, text), f in zip(texts, found, strict=True) if len(text) >= 80]
    by_language = {}
    for language in sorted({language for language, _ in chosen}):
        of = [f for wanted, f in chosen if wanted == language]
        by_language[language] = of.count(language) / len(of)
        wrong = Counter(f for f in of if f != language).most_common(3)
        print(f"  {language} {by_language[language]:.4f} of {len(of):5d}  {', '.join(f'{n} {c}' for n, c in wrong)}")
    macro = sum(by_language.values()) / len(by_language)
    print(
        f"80 characters and more, {len(by_language)} languages: {sum(a == b for a, b in chosen) / len(chosen):.4f}, macro {macro:.4f}"
    )


if __name__ == "__main__":
    main()
