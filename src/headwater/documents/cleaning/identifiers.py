"""What personal data and secrets look like: patterns, and the check digits that tell them from other numbers."""

from __future__ import annotations

import functools
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from headwater.documents.cleaning.national_ids import national_ids


class Found(NamedTuple):
    """A place in a text."""

    kind: str
    start: int
    end: int
    text: str


class Detector(NamedTuple):
    """How one kind of thing is found."""

    gate: str
    """RE2 expression, cheap, that finds something in every text that may hold one."""
    find: Callable[[str, Sequence[str], Sequence[str]], Iterator[Found]]
    """(text, countries, phone regions) -> what is found."""


def _matches(kind: str, pattern: re.Pattern[str], text: str, accept: Callable[[str], Any]) -> Iterator[Found]:
    for match in pattern.finditer(text):
        if accept(match[0]):
            yield Found(kind, match.start(), match.end(), match[0])


# ------------------------------------------------------------------------------------------------- addresses

_EMAIL = re.compile(
    r"(?<![\w.+%-])[A-Za-z0-9_](?:[\w.+%'-]{0,62}[\w+%-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}"
    r"[A-Za-z]{2,24}(?![\w@]|-\w)"
)
_NOBODY = re.compile(
    r"(?i)^git@|[@.]example\.(?:com|org|net)$|\.(?:example|invalid|localhost|test|png|jpe?g|gif|svg|webp|js|css)$"
)
"""Addresses that reach nobody: names reserved for examples (RFC 2606), Git's login, and `icon@2x.png`."""

_LOGIN_BEFORE = re.compile(r"://[^\s/@:]*:[^\s/@]*$")
"""The user's name of an address such as `ftp://name:password@host`, whose end looks like an e-mail address."""


def _emails(text: str, *_: Sequence[str]) -> Iterator[Found]:
    for found in _matches("email", _EMAIL, text, lambda found: not _NOBODY.search(found) and ".." not in found):
        if not _LOGIN_BEFORE.search(text[max(0, found.start - 80) : found.start]):
            yield found


_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){2,7}:?(?:[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{1,4}){0,5})?(?![\w:])")
_VERSION = re.compile(r"(?i)(?:version|release|build|\bver\.?|[§#])\s*$")


def _ips(text: str, *_: Sequence[str]) -> Iterator[Found]:
    for pattern in (_IPV4, _IPV6):
        for found in _matches("ip", pattern, text, _is_public):
            if not _VERSION.search(text[max(0, found.start - 10) : found.start]):
                yield found


def _is_public(text: str) -> bool:
    if text.count(".") == 3 and all(len(part) == 1 for part in text.split(".")):
        return False  # a version such as 7.4.1.2, or a public name server such as 8.8.8.8
    try:
        return ipaddress.ip_address(text).is_global
    except ValueError:
        return False


# --------------------------------------------------------------------------------------------------- numbers

_CARD = re.compile(r"(?<![\w.,/-])\d{4}(?:[ -]?\d){8,15}(?![\w]|[.,/-]\d)")
_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3}){0,2}$|(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720)\d+$|3[47]\d{13}$|6(?:011|4[4-9]|5)\d+$"
    r"|3(?:0[0-5]|[68])\d{11,16}$|35\d{14,17}$|(?:2131|1800)\d{11}$|62\d{14,17}$"
    r"|(?:5018|5020|5038|0604|5[678]\d\d|6304|6390|6759|676[1-3])\d{8,15}$"
)
"""First digits and lengths: Visa, Mastercard, American Express, Discover, Diners, JCB (also its old 15 digits), UnionPay,
Maestro. Source: ISO/IEC 7812 issuer ranges as Wikipedia's "Payment card number" lists them."""


def _cards(text: str, *_: Sequence[str]) -> Iterator[Found]:
    return _matches("credit_card", _CARD, text, lambda found: is_card(_digits(found)))


def is_card(digits: str) -> bool:
    """Whether digits are a card number: issuer, length and check digit.

    >>> is_card("4111111111111111"), is_card("4111111111111112")
    (True, False)
    """
    if not 12 <= len(digits) <= 19 or len(set(digits)) < 2 or not _ISSUERS.match(digits):
        return False
    mastercard = re.match(r"5[1-5]|2[2-7]", digits) and not digits.startswith("2131")
    return (not mastercard or len(digits) == 16) and luhn(digits)


def luhn(digits: str) -> bool:
    """The check of card numbers. Source: ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


_IBAN = re.compile(r"(?i)(?<![\w])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)")
_IBAN_LENGTHS = {
    code: int(length)
    for length, codes in {
        "15": "NO", "16": "BE", "18": "DK FI FO GL NL", "19": "MK SI", "20": "AT BA EE KZ LT LU XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS", "23": "AE GI IL IQ TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV", "29": "BR EG PS QA UA", "30": "JO KW MU", "31": "MT SC", "32": "LC",
        "33": "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
"""Source: SWIFT IBAN registry."""


def _ibans(text: str, *_: Sequence[str]) -> Iterator[Found]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        end, seen = match.start(), 0
        while end < match.end() and seen < length:  # words that follow are not part of it
            seen += text[end] != " "
            end += 1
        given = text[match.start() : end]
        if seen == length and length and not text[end : end + 1].isalnum() and is_iban(given):
            yield Found("iban", match.start(), end, given)


def is_iban(text: str) -> bool:
    """Whether the check digits of an IBAN are right. Source: ISO 13616, ISO 7064 mod 97-10.

    >>> is_iban("GB82 WEST 1234 5698 7654 32"), is_iban("GB83 WEST 1234 5698 7654 32")
    (True, False)
    """
    plain = text.replace(" ", "").upper()
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


# ----------------------------------------------------------------------------------------------- telephones

_PHONE = re.compile(
    r"(?<![\w.,:/$€£%+-])(?:\+|00)?\(?\d(?:[ .\u00a0/-]?[()]?[ ]?\d){6,14}\)?(?:\s?(?:x|ext\.?)\s?\d{1,5})?(?![\w%]|[.,:/-]\d)"
)
_PHONE_WORD = re.compile(
    r"(?i)(?:phone|tel|fax|mobile|mob|cell|call|whatsapp|hotline|desk|contact|text|dial|reach|전화|휴대폰|연락처|電話|携帯|โทร|"
    r"telefon|handy|rufnummer|téléphone|tél|móvil|teléfono)\b[^\d\n]{0,24}$"
)
_PHONE_LABEL = re.compile(r"(?i)\s?[-(]?(?:office|fax|mobile|cell|home)\b")
_NOT_PHONE = re.compile(
    r"^\(?(?:19|20)\d\d[-./ ]|[-./ ](?:19|20)\d\d\)?$|^\d+$|^\d\d?[./-]\d\d?[./-]\d{2,4}$|^\d{1,3}(?:[ .]\d{3})+$"
    r"|^\(?\d+\.\d+\)?$"
)
"""Years, dates, digits without a break, thousands and decimals."""
_DATE = re.compile(r"(?:19|20)\d\d[-/.]\d\d?[-/.]\d\d?")
_NORTH_AMERICAN = re.compile(r"(?:1[-. ])?\(?[2-9]\d\d\)?[-. ]\d{3}[-. ]\d{4}(?:\s?(?:x|ext\.?)\s?\d{1,5})?")


def _phones(text: str, _countries: Sequence[str], regions: Sequence[str]) -> Iterator[Found]:
    for match in _PHONE.finditer(text):
        given = match[0]
        if not 7 <= sum(map(str.isdigit, given)) <= 20 or given.count("(") != given.count(")"):
            continue
        told = _PHONE_WORD.search(text[max(0, match.start() - 40) : match.start()])
        told = told or _PHONE_LABEL.match(text[match.end() : match.end() + 12])
        if _is_phone(given, told is not None, tuple(regions)):
            yield Found("phone", match.start(), match.end(), given)


@functools.lru_cache(1 << 14)
def _is_phone(given: str, told: bool, regions: tuple[str, ...]) -> bool:
    """Whether digits are a telephone number; `told` when a word before says so.

    Without such a word it must be international, or begin as national numbers do, or have North America's three groups.
    """
    digits = _digits(given)
    if given.startswith("+"):
        return len(digits) >= 9 or _is_valid(given, (None,))
    if told:
        return not _DATE.fullmatch(given)
    if _NOT_PHONE.search(given) or not (given.startswith(("0", "(")) or _NORTH_AMERICAN.fullmatch(given)):
        return False
    breaks = len(re.findall(r"[^\d()]+", given))
    return _is_valid(given, regions) or (given[0] == "0" and given[1] != "0" and breaks >= 2 and 9 <= len(digits) <= 11)


def _is_valid(given: str, regions: Iterable[str | None]) -> bool:
    """Whether a number is in use, by Google's tables of all countries' numbers."""
    import phonenumbers

    for region in regions:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(given, region)):
                return True
        except phonenumbers.NumberParseException:
            continue
    return False


def _national_ids(text: str, countries: Sequence[str], _: Sequence[str]) -> Iterator[Found]:
    for start, end in national_ids(text, countries):
        yield Found("national_id", start, end, text[start:end])


# --------------------------------------------------------------------------------------------------- secrets

_SECRET = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----)){20,20000}-----END (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"
    r"|\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_[A-Za-z0-9_]{22,255}\b|\bglpat-[\w-]{20,}"
    r"|\bxox[abeoprs]-[0-9A-Za-z-]{10,250}|hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,}"
    r"|\bAIza[\w-]{35}\b|\b[rs]k_live_[0-9A-Za-z]{20,}\b|\bsk-(?:proj-|ant-)?[\w-]{32,}\b|\bhf_[A-Za-z0-9]{34,}\b"
    r"|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgEI[\w-]{50,}|\bSG\.[\w-]{22}\.[\w-]{43}\b|\bya29\.[\w-]{40,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)
"""Private keys; tokens of AWS, GitHub, GitLab, Slack, Google, Stripe, OpenAI and Anthropic, Hugging Face, npm, PyPI,
SendGrid; JSON web tokens. Source: the services' documentation of their prefixes."""
_LOGIN = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>]{1,80}:([^\s/@\"'<>]{3,120})@[\w.-]+")
_ASSIGNED = re.compile(
    r"(?i)(?<!publickey)(?:passw(?:or)?d|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|auth[_-]?key|private[_-]?key|credential)"
    r"[\w-]{0,20}[\"']?\s{0,4}(?:=>|:=|=|:)\s{0,4}[\"']([^\s\"'\\]{8,200})[\"']"
)
_PLACEHOLDER = re.compile(
    r"(?i)example|changeme|your|xxxx|\*\*\*|placeholder|dummy|password|secret|token|[<>{}()$%\[\]]"
)
_MIN_ENTROPY = 3.0
"""Bits per character that a quoted value has at least: words have less. Source: detect-secrets' default for hexadecimal
strings (limit 3.0)."""


def _secrets(text: str, *_: Sequence[str]) -> Iterator[Found]:
    yield from _matches("secret", _SECRET, text, bool)
    for pattern in (_LOGIN, _ASSIGNED):
        for match in pattern.finditer(text):
            value = match[1]
            if _is_random(value) and not _PLACEHOLDER.search(value):
                yield Found("secret", match.start(1), match.end(1), value)


def _is_random(value: str) -> bool:
    """Whether a value has letters and digits as passwords have: `pass`, `guest` and the like are examples."""
    mixed = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
    return bool(mixed) and entropy(value) >= _MIN_ENTROPY


def entropy(text: str) -> float:
    """Bits per character.

    >>> entropy("abab")
    1.0
    """
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


DETECTORS = {
    "secret": Detector(
        r"PRIVATE KEY|AKIA|ASIA|AROA|AIDA|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|hooks\.slack|AIza|k_live_|sk-|hf_|npm_"
        r"|pypi-AgEI|SG\.|ya29\.|eyJ|://[^\s/:@]+:[^\s/@]+@"
        r"|(?i:passw|pwd|secret|token|key|credential)[\w-]{0,20}[\"']?\s{0,4}(?:=>|:=|=|:)\s{0,4}[\"'][^\s\"'\\]{8}",
        _secrets,
    ),
    "email": Detector(r"\w@\w", _emails),
    "iban": Detector(r"[A-Za-z]{2}[0-9]{2} ?[A-Za-z0-9]{4}", _ibans),
    "credit_card": Detector(r"[0-9]{4}(?:[ -]?[0-9]){8}", _cards),
    "national_id": Detector(
        r"[0-9]{3}[ -][0-9]{2}[ -][0-9]{4}|[0-9]{6} ?- ?[0-9]{7}|[0-9][ -][0-9]{4}[ -][0-9]{5}[ -]|[0-9]{9}"
        r"|[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}|[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}|[A-Z]{2} ?(?:[0-9]{2} ?){3}[A-D]"
        r"|[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}|(?:[0-9]{8}|[XYZ]-?[0-9]{7})-?[A-Z]"
        r"|[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z]|[0-9]{4}\.[0-9]{2}\.[0-9]{3}|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-",
        _national_ids,
    ),
    "ip": Detector(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:", _ips),
    "phone": Detector(r"[0-9](?:[ .\x{a0}/-]?[()]? ?[0-9]){6}", _phones),
}
"""How each kind is found; in order: where two overlap, the first one counts."""
