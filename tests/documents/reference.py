"""The compiled loops of documents/ once more in plain Python: slow, and written apart from them, to compare with.

Only the character lists are shared. What a character is comes from str's own methods here, from tables there.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from headwater.documents.text import characters as c
from headwater.documents.text.words import CHUNK

DIGITS = "0123456789"
TERMINALS = c.code_points(c.TERMINALS)


@functools.lru_cache(4096)
def words(text: str) -> list[str]:
    """The words of a text as words.words parts them."""
    return [word for run in text.split() for i in range(0, len(run), CHUNK) for word in _split(run[i : i + CHUNK])]


def _split(run: str) -> list[str]:
    front, back = [], []
    i, j = 0, len(run)
    while i < j:
        size = _stops(run[i:j]) or (_opens(run[i], run[i + 1 : i + 2]) and 1)
        if not size:
            break
        front.append(run[i : i + size])
        i += size
    while i < j:
        size = _stops(run[i:j][::-1]) or _ending(run[i:j])
        if not size:
            break
        back.append(run[j - size : j])
        j -= size
    rest = run[i:j]
    is_url = re.match(r".{2,5}://|www\..", rest, re.DOTALL)
    return [*front, *([rest] if is_url and rest else _inner(rest)), *back[::-1]]


def _stops(run: str) -> int:
    """Length of a group of two or more full stops at the beginning."""
    count = len(run) - len(run.lstrip("."))
    return count if count > 1 else 0


def _opens(letter: str, after: str) -> bool:
    if letter == "+":
        return not (after and after in DIGITS)
    return letter in c.QUOTES + c.PUNCTUATION + c.CURRENCIES + "§%=—–" or _is_pictograph(letter)


def _ending(run: str) -> int:
    last, before, before2 = run[-1], run[-2:-1], run[-3:-2]
    if last == ".":
        if before.isalpha() and before2 in ("", "."):
            return 0
        if _is_upper(before) and _is_upper(before2):
            return 1
        marks = DIGITS + c.QUOTES + c.PUNCTUATION + "%²-+"
        return int(bool(before) and (_is_lower(before) or before in marks))
    if run.endswith("):"):
        return 2
    if last in c.QUOTES + c.PUNCTUATION + "—–" or _is_pictograph(last):
        return 1
    if before and before in DIGITS and last in c.CURRENCIES + "+%":
        return 1
    if re.search(r"['’][sSmd]$", run):
        return 2
    return 3 if re.search(r"n['’]t$|['’](ll|re|ve)$", run) else 0


def _inner(rest: str) -> Iterator[str]:
    begun = k = 0
    while k < len(rest):
        size = _parting(rest, k)
        if size:
            if k > begun:
                yield rest[begun:k]
            yield rest[k : k + size]
            begun = k + size
        k += size or 1
    if rest[begun:]:
        yield rest[begun:]


def _parting(rest: str, k: int) -> int:
    """Length of what parts two words at k."""
    mark, before, after = rest[k], rest[k - 1] if k else "", rest[k + 1 : k + 2]
    if before.isalpha() or (before and before in DIGITS):
        dashes = re.compile(r"-{1,3}|[–—~]").match(rest, k)
        if dashes and rest[dashes.end() : dashes.end() + 1].isalpha():
            return len(dashes[0])
    if _stops(rest[k:]):
        return _stops(rest[k:])
    if mark == "…" or _is_pictograph(mark):
        return 1
    if not before or not after:
        return 0
    if mark == ".":
        return int((_is_lower(before) or before in c.QUOTES) and (_is_upper(after) or after in c.QUOTES))
    if mark in "+*^-":
        return int(before in DIGITS and after in DIGITS + "-")
    if mark == ",":
        return int(before.isalpha() and after.isalpha())
    return int(mark in ":<>=/" and (before.isalpha() or before in DIGITS) and after.isalpha())


def _is_upper(letter: str) -> bool:
    return letter.isalpha() and (letter.isupper() or letter.istitle())


def _is_lower(letter: str) -> bool:
    return letter.isalpha() and not _is_upper(letter)


def _is_pictograph(letter: str) -> bool:
    return letter > "\x7f" and unicodedata.category(letter) == "So"


def is_symbol(letter: str) -> bool:
    point = ord(letter)
    control = unicodedata.category(letter) == "Cc" and letter not in "\t\n"
    return control or letter in c.SYMBOLS or point in TERMINALS


def paragraphs(text: str) -> list[str]:
    """Paragraphs between empty lines; blank lines around the text do not count."""
    lines = text.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return [part for part in re.split(r"\n{2,}", "\n".join(lines)) if part]


def repeated(elements: Sequence[str]) -> tuple[int, int]:
    """Elements that occurred before, and their characters. Source: datatrove 0.10.1, find_duplicates."""
    seen: set[str] = set()
    count = characters = 0
    for element in elements:
        if element in seen:
            count += 1
            characters += len(element)
        seen.add(element)
    return count, characters


def most_common_gram(parts: Sequence[str], n: int) -> int:
    """Characters in the most frequent n-gram. Source: datatrove 0.10.1, find_top_duplicate."""
    grams = Counter(" ".join(parts[i : i + n]) for i in range(len(parts) - n + 1))
    return max((len(gram) * count for gram, count in grams.most_common(1)), default=0)


def repeated_grams(parts: Sequence[str], n: int) -> int:
    """Characters in repeated n-grams. Source: datatrove 0.10.1, find_all_duplicate."""
    seen: set[tuple[str, ...]] = set()
    i = characters = 0
    while i < len(parts) - n + 1:
        gram = tuple(parts[i : i + n])
        if gram in seen:
            characters += len("".join(gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters


def folded_words(text: str) -> list[str]:
    """The words that near-duplicates are compared by: every number is one 0, marks are not seen."""
    digit, mark = "\ue000", "\ue001"  # stand for digits outside ASCII, and for marks
    letters = []
    for letter in text:
        category = unicodedata.category(letter)
        if letter in ".,":
            letters.append(letter)
        elif letter.isspace() or is_symbol(letter):
            letters.append(" ")
        elif category == "Nd":
            letters.append("0" if letter in DIGITS else digit)
        elif category == "Mn":
            letters.append(mark)
        else:
            plain = [x for x in unicodedata.normalize("NFD", letter.lower()) if unicodedata.category(x) != "Mn"]
            letters.append(plain[0] if len(plain) == 1 else letter)
    number = f"[0{digit}][0{digit}{mark}]*(?:[.,](?=0)[0{digit}{mark}]+)?"
    return re.sub(number, "0", "".join(letters)).replace(mark, "").replace(".", " ").replace(",", " ").split()


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    """The set of n-grams of folded words."""
    parts = folded_words(text)
    return {tuple(parts[i : i + n]) for i in range(len(parts) - n + 1)}


def jaccard(a: set[tuple[str, ...]], b: set[tuple[str, ...]]) -> float:
    """Share of two sets' members that are in both."""
    return len(a & b) / max(1, len(a | b))


def minima(text: str, ngram: int, permutations: Sequence[tuple[int, int]]) -> list[int]:
    """The smallest value of each permutation over the hashes of a text's n-grams; none for a text with too few words."""
    hashes = []
    for gram in shingles(text, ngram):
        key = 0
        for word in gram:
            hashed = 0xCBF29CE484222325
            for letter in word:
                hashed = (hashed ^ ord(letter)) * 0x100000001B3 % 2**64
            key = (key * 0xD1342543DE82EF95 + hashed) % 2**64
        hashes.append(((key ^ key >> 32) * 0x9E3779B97F4A7C15 % 2**64) >> 32)
    return [min((a * hashed + b) % 2**32 for hashed in hashes) for a, b in permutations] if hashes else []
