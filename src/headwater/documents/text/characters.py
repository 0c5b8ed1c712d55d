"""What kind of character each Unicode code point is: the alphabet that the compiled loops of kernels.py read text by.

Two-stage tables (`page = pages[point >> 8]`, `entry = table[page << 8 | point & 255]`) hold for every code point a set of
flags, and the letter that it counts as when near-duplicates are sought. They are built once in a process, in about 0.1 s.
"""

from __future__ import annotations

import functools
import string
import unicodedata
from dataclasses import dataclass

import numpy as np

SPACE = 1 << 0  # white space: parts words
LETTER = 1 << 1  # alphabetic in any script
LOWER = 1 << 2  # a small letter, or a letter of a script without capitals
UPPER = 1 << 3
DIGIT = 1 << 4  # 0-9
OPENS = 1 << 5  # a word of its own before another word: quotes, brackets, currency, pictographs
CLOSES = 1 << 6  # a word of its own after another word
QUOTE = 1 << 7
PICTOGRAPH = 1 << 8  # a word of its own wherever it stands
FULL_STOP_AFTER = 1 << 9  # a full stop that follows is a word of its own
SYMBOL = 1 << 10  # punctuation and control characters: a word of only these is no word to the Gopher rules
TERMINAL = 1 << 11  # ends a sentence
CURRENCY = 1 << 12

QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
PUNCTUATION = "…:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
CURRENCIES = "$£€¥฿₽﷼₩₹"
"""How English text is split in words. Source: spaCy 3.8, lang/char_classes.py and lang/en/punctuation.py (MIT), which
datatrove's filters count by; pictographs are Unicode's category So, currencies the common ones."""

SYMBOLS = string.punctuation + "«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．：；？～"
"""Characters that make no word. Source: CCNet's list as datatrove 0.10.1 uses it (utils/text.py, Apache-2.0), without
its full-width digit one, a slip."""

TERMINALS = (
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d 83e 964 965 104a 104b 1362 1367 1368 166e 1735 1736 17d4-17d6 "
    "17d9 17da 1803 1809 1944 1945 1aa8-1aab 1b5a 1b5b 1b5e 1b5f 1b7d 1b7e 1c3b 1c3c 1c7e 1c7f 203c 203d 2047-2049 "
    "2e2e 2e3c 2e53 2e54 3002 a4ff a60e a60f a6f3 a6f7 a876 a877 a8ce a8cf a92f a9c8 a9c9 aa5d-aa5f aaf0 aaf1 abeb "
    "fe52 fe56 fe57 ff01 ff0e ff1f ff61 10a56 10a57 10f55-10f59 10f86-10f89 11047 11048 110be-110c1 11141-11143 111c5 "
    "111c6 111cd 111de 111df 11238 11239 1123b 1123c 112a9 1144b 1144c 115c2 115c3 115c9-115d7 11641 11642 1173c-1173e "
    "11944 11946 11a42 11a43 11a9b 11a9c 11c41 11c42 11ef7 11ef8 11f43 11f44 16a6e 16a6f 16af5 16b37 16b38 16b44 16e98 "
    "1bc9f 1da88"
)
"""Code points that end a sentence. Source: datatrove 0.10.1, utils/text.py TERMINAL_PUNCTUATION, equal to Unicode's
property Sentence_Terminal."""

SEPARATOR = 0
UNSEEN = -1
ITSELF = -2
"""What `Alphabet.folded` holds for code points that part words when near-duplicates are sought, for marks that are not
seen then, and for code points without a character, which stay as they are."""

_ASSIGNED = (range(0x32000), range(0xE0000, 0xE0200))  # no letter, mark or punctuation lies outside


@dataclass(frozen=True)
class Alphabet:
    """The tables: `kinds[pages[point >> 8] << 8 | point & 255]` holds the flags of a code point.

    Page 0 comes first: below 256 a code point is its own index.
    """

    pages: np.ndarray
    """[0x1100] uint16"""
    kinds: np.ndarray
    """[pages * 256] uint16: the flags above"""
    folded: np.ndarray
    """[pages * 256] int32: the code point that it counts as in near-duplicate search: a small letter without marks, "0"
    for every digit, or one of the three above."""


@functools.cache
def alphabet() -> Alphabet:
    """The tables of this Python's Unicode version."""
    pages = np.full(0x1100, 0xFFFF, np.uint16)
    kinds: list[np.ndarray] = []
    folded: list[np.ndarray] = []
    terminals = code_points(TERMINALS)
    for points in _ASSIGNED:
        for first in range(points.start, points.stop, 256):
            pages[first >> 8] = len(kinds)
            page = [chr(point) for point in range(first, first + 256)]
            if _is_plain(page):  # most of the table: ideographs, and code points without a character
                kinds.append(np.full(256, _kinds(page[0], terminals), np.uint16))
                folded.append(np.arange(first, first + 256, dtype=np.int32))
            else:
                kinds.append(np.array([_kinds(letter, terminals) for letter in page], np.uint16))
                folded.append(np.array([_folded(letter, terminals) for letter in page], np.int32))
    pages[pages == 0xFFFF] = len(kinds)  # code points without a character share a page
    kinds.append(np.zeros(256, np.uint16))
    folded.append(np.full(256, ITSELF, np.int32))
    return Alphabet(pages, np.concatenate(kinds), np.concatenate(folded))


def _is_plain(page: list[str]) -> bool:
    """Whether 256 characters are all alike and each counts as itself."""
    categories = set(map(unicodedata.category, page))
    if len(categories) > 1 or not categories <= {"Lo", "Cn", "Co"}:
        return False
    return "\uac00" <= page[0] <= "\ud7a3" or unicodedata.is_normalized("NFD", "".join(page))


def _kinds(letter: str, terminals: frozenset[int]) -> int:
    kinds = 0
    if letter.isspace():
        kinds |= SPACE
    if letter.isalpha():
        upper = letter.isupper() or letter.istitle()
        kinds |= LETTER | (UPPER if upper else LOWER | FULL_STOP_AFTER)
    if letter in string.digits:
        kinds |= DIGIT | FULL_STOP_AFTER
    if letter in QUOTES or letter in PUNCTUATION:
        kinds |= OPENS | CLOSES | FULL_STOP_AFTER | (QUOTE if letter in QUOTES else 0)
    if letter in "%²-+":
        kinds |= FULL_STOP_AFTER
    if letter in CURRENCIES:
        kinds |= OPENS | CURRENCY
    if letter in "—–":
        kinds |= OPENS | CLOSES
    if letter in "§%=":
        kinds |= OPENS
    if letter > "\x7f" and unicodedata.category(letter) == "So":
        kinds |= PICTOGRAPH | OPENS | CLOSES
    if _is_symbol(letter, terminals):
        kinds |= SYMBOL
    if ord(letter) in terminals:
        kinds |= TERMINAL
    return kinds


def _is_symbol(letter: str, terminals: frozenset[int]) -> bool:
    point = ord(letter)
    control = point < 0x20 or 0x7F <= point < 0xA0
    return (control and letter not in "\t\n") or letter in SYMBOLS or point in terminals


def _folded(letter: str, terminals: frozenset[int]) -> int:
    """The code point that a letter counts as in near-duplicate search.

    Source: datatrove 0.10.1, utils/text.py simplify_text (lowercase, numbers to 0, punctuation to space, no diacritics),
    letter by letter; what has no single base letter, such as a Hangul syllable, stays as it is.
    """
    if letter.isspace() or _is_symbol(letter, terminals):
        return SEPARATOR
    category = unicodedata.category(letter)
    if category == "Mn":
        return UNSEEN
    if category == "Nd":
        return ord("0")
    plain = [part for part in unicodedata.normalize("NFD", letter.lower()) if unicodedata.category(part) != "Mn"]
    return ord(plain[0]) if len(plain) == 1 else ord(letter)


def code_points(ranges: str) -> frozenset[int]:
    """Code points from hexadecimal ranges such as "21 61d-61f"."""
    found: set[int] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        found.update(range(int(first, 16), int(last or first, 16) + 1))
    return frozenset(found)
