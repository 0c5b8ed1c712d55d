"""Numbers of people's identity, tax and social insurance, by country: their form and their check digits."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

import pyarrow.compute as pc


class NationalId(NamedTuple):
    """The rule of one country."""

    form: str
    """Expression of the number alone, in the syntax that RE2 and Python's `re` share."""
    pattern: re.Pattern[str]
    """The same, not inside a longer number or word."""
    valid: Callable[[str], bool]
    """Of the match in capitals without spaces and marks."""
    word: str = ""
    """A word that must stand nearby where the number alone could be any number."""


def _ssn(digits: str) -> bool:
    """Source: Social Security Administration: no area 000, 666 or 9xx, no group 00, no serial 0000."""
    return digits[:3] not in {"000", "666"} and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


def _rrn(digits: str) -> bool:
    """A day of birth and a seventh digit that fits; the last digit is random since October 2020, so it is not checked."""
    century = {"1": 19, "2": 19, "5": 19, "6": 19, "3": 20, "4": 20, "7": 20, "8": 20, "9": 18, "0": 18}[digits[6]]
    return _is_day(century * 100 + int(digits[:2]), digits[2:4], digits[4:6])


def _thai(digits: str) -> bool:
    """Source: Thailand, Department of Provincial Administration: weights 13 to 2, mod 11."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, range(13, 1, -1), strict=False))
    return digits[0] != "0" and (11 - total % 11) % 10 == int(digits[12])


def _my_number(digits: str) -> bool:
    """Source: Japan, ordinance no. 85 of 2014 of the Ministry of Internal Affairs, article 5."""
    total = sum(int(digit) * (n + 1 if n <= 6 else n - 5) for n, digit in enumerate(reversed(digits[:11]), 1))
    return (0 if total % 11 <= 1 else 11 - total % 11) == int(digits[11])


def _steuer_id(digits: str) -> bool:
    """Source: Bundeszentralamt für Steuern: of ten digits one stands twice or three times; check ISO 7064 mod 11, 10."""
    counts = sorted(Counter(digits[:10]).values(), reverse=True)
    if digits[0] == "0" or counts[0] not in (2, 3) or counts[1:2] not in ([1], [2]) or counts.count(counts[0]) > 1:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def _nino(text: str) -> bool:
    """Source: HM Revenue & Customs, National Insurance Manual NIM39110."""
    return text[:2] not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


def _nir(text: str) -> bool:
    """Source: INSEE: 97 minus the number mod 97; Corsica's 2A and 2B count as 19 and 18."""
    plain = text.replace("2A", "19").replace("2B", "18")
    return plain.isdigit() and 97 - int(plain[:13]) % 97 == int(plain[13:])


def _dni(text: str) -> bool:
    """Source: Spain, Ministerio del Interior: letter by the number mod 23; X, Y, Z of foreigners count as 0, 1, 2."""
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def _codice_fiscale(text: str) -> bool:
    """Source: Italy, decree of 23 December 1976."""
    odd = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23]
    values = [int(letter, 36) - (0 if letter.isdigit() else 10) for letter in text[:15]]
    total = sum(odd[value] if place % 2 == 0 else value for place, value in enumerate(values))
    return chr(65 + total % 26) == text[15]


def _bsn(digits: str) -> bool:
    """Source: Netherlands, Rijksdienst voor Identiteitsgegevens: weights 9 to 2 and -1, mod 11."""
    weights = [9, 8, 7, 6, 5, 4, 3, 2, -1]
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True)) % 11 == 0


def _pesel(digits: str) -> bool:
    """Source: Poland, law of 24 September 2010 on population registration: a day of birth and a check digit."""
    month = int(digits[2:4])
    year = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[month // 20] + int(digits[:2])
    total = sum(int(digit) * weight for digit, weight in zip(digits, [1, 3, 7, 9] * 3, strict=False) if digit)
    check = (10 - (total - int(digits[10]) * 7) % 10) % 10
    return _is_day(year, str(month % 20), digits[4:6]) and check == int(digits[10])


def _cpf(digits: str) -> bool:
    """Source: Brazil, Receita Federal: two check digits, mod 11."""
    for length in (9, 10):
        total = sum(int(digit) * weight for digit, weight in zip(digits, range(length + 1, 1, -1), strict=False))
        if total * 10 % 11 % 10 != int(digits[length]):
            return False
    return len(set(digits)) > 1


def _resident_id(text: str) -> bool:
    """Source: China, GB 11643-1999: a day of birth and a check by ISO 7064 mod 11-2."""
    check = "10X98765432"[sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(text[:17])) % 11]
    return _is_day(int(text[6:10]), text[10:12], text[12:14]) and check == text[17]


_VERHOEFF = [[(i + j) % 5 if j < 5 else (i + j) % 5 + 5 for j in range(10)] for i in range(5)]
_VERHOEFF += [[(i - j) % 5 + 5 if j < 5 else (i - j) % 5 for j in range(10)] for i in range(5, 10)]
_VERHOEFF_TURN = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]


def _aadhaar(digits: str) -> bool:
    """Source: India, UIDAI: first digit 2 to 9, check by Verhoeff's dihedral group."""
    check = 0
    for place, letter in enumerate(reversed(digits)):
        digit = int(letter)
        for _ in range(place % 8):
            digit = _VERHOEFF_TURN[digit]
        check = _VERHOEFF[check][digit]
    return digits[0] in "23456789" and check == 0


def _is_day(year: int, month: str, day: str) -> bool:
    try:
        return date(year, int(month), int(day)) <= date(2100, 1, 1)
    except ValueError:
        return False


def _id(pattern: str, valid: Callable[[str], bool], word: str = "") -> NationalId:
    return NationalId(pattern, re.compile(rf"(?<![\w.,/+-])(?:{pattern})(?!\w|[.,/-]\d)"), valid, word)


NATIONAL_IDS = {
    "us": _id(r"\d{3}-\d{2}-\d{4}|\d{3} \d{2} \d{4}", _ssn),
    "kr": _id(r"\d{6} ?- ?[0-9]\d{6}", _rrn),
    "th": _id(r"\d-\d{4}-\d{5}-\d{2}-\d|\d \d{4} \d{5} \d{2} \d", _thai),
    "th_plain": _id(r"\d{13}", _thai, "ประชาชน|citizen id|thai id|national id"),
    "jp": _id(r"\d{4}[ -]?\d{4}[ -]?\d{4}", _my_number, "マイナンバー|個人番号|my ?number|individual number"),
    "de": _id(r"\d{2} ?\d{3} ?\d{3} ?\d{3}", _steuer_id, r"steuer|idnr|identifikationsnummer|\btin\b|tax id"),
    "gb": _id(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]", _nino),
    "fr": _id(r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", _nir),
    "es": _id(r"(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]", _dni),
    "it": _id(r"[A-Z]{6}\d{2}[ABCDEHLMPRST]\d{2}[A-Z]\d{3}[A-Z]", _codice_fiscale),
    "nl": _id(r"\d{9}|\d{4}\.\d{2}\.\d{3}", _bsn, r"\bbsn\b|burgerservicenummer|sofinummer"),
    "pl": _id(r"\d{11}", _pesel, "pesel"),
    "br": _id(r"\d{3}\.\d{3}\.\d{3}-\d{2}", _cpf),
    "cn": _id(r"\d{17}[\dX]", _resident_id),
    "in": _id(r"\d{4}[ -]?\d{4}[ -]?\d{4}", _aadhaar, "aadhaar|aadhar|uidai|आधार"),
}
"""Rules by country; a second rule of one has its code and more behind a `_`."""
_THAI_PLAIN = NATIONAL_IDS.pop("th_plain")
_RULES = {country: (rule, *((_THAI_PLAIN,) if country == "th" else ())) for country, rule in NATIONAL_IDS.items()}
_NEARBY = 60
"""Characters on either side in which the word must stand."""
_LONG = 4000
"""Characters from which on RE2, a hundred microseconds to set up and ten times as fast, is asked before Python's `re`."""


@functools.cache
def _form(form: str) -> pc.MatchSubstringOptions:
    return pc.MatchSubstringOptions(form)


@functools.cache
def _hints(word: str) -> tuple[str, ...]:
    r"""Plain text that stands wherever one of the words does: looking for it takes a tenth of the time.

    >>> _hints(r"my ?number|\btin\b")
    ('number', 'tin')
    """
    return tuple(re.findall(r"[^\W_]{2,}", part.replace("\\b", ""))[-1] for part in word.split("|"))


def national_ids(text: str, countries: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where the numbers of some countries stand in a text."""
    small = text.lower()
    for country in countries:
        for rule in _RULES[country]:
            if rule.word and not any(map(small.__contains__, _hints(rule.word))):
                continue
            if len(text) > _LONG and not pc.call_function("match_substring_regex", [text], _form(rule.form)).as_py():
                continue
            for match in rule.pattern.finditer(text):
                nearby = small[max(0, match.start() - _NEARBY) : match.end() + _NEARBY]
                if rule.valid(re.sub(r"[ .-]", "", match[0])) and re.search(rule.word, nearby):
                    yield match.span()
