"""Personal data is found by its form and its check digits, and nothing else is; it is redacted, dropped or counted."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from headwater.documents.clean import Clean, clean
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.identifiers import DETECTORS, is_card, is_iban
from headwater.documents.cleaning.national_ids import NATIONAL_IDS
from headwater.documents.cleaning.redact import PersonalData
from headwater.documents.document import documents_of

from . import corpus

ALL = PersonalData(use="personal_data")


def kinds(text: str, **settings: Any) -> list[tuple[str, str]]:
    step = PersonalData.model_validate({"use": "personal_data", **settings})
    return [(found.kind, found.text) for found in step.find(text)]


def redacted(text: str, **settings: Any) -> str:
    batch = Features(documents_of("web", [text]))
    step = PersonalData.model_validate({"use": "personal_data", **settings})
    return batch.with_columns(step(batch).columns).texts[0].as_py()


YES = {
    "email": [
        "jo.smith+news@mail.example.net.au",
        "o'brien@uni-bonn.de",
        "x_1@a.io",
        "UtaKortig@jourrapide.com",
    ],
    "ip": ["81.2.69.142", "2a02:26f7:c9c8::ab12:1"],
    "phone": [
        "+1 (212) 736-5000",
        "+49 30 901820",
        "(212) 736-5000",
        "212-736-5000",
        "020 7946 0958",
        "02-751-1500",
        "+66 2 281 2222",
    ],
    "credit_card": ["4111 1111 1111 1111", "378282246310005", "6011-1111-1111-1117", "5555555555554444"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "FR1420041010050500013M02606"],
    "national_id": [
        "460-89-9847",
        "900101-1234567",
        "1-1014-00000-00-6",
        "QQ 12 34 56 C",
        "2 55 08 14 168 025 38",
        "12345678Z",
        "X1234567L",
        "RSSMRA85T10A562S",
        "529.982.247-25",
        "11010519491231002X",
    ],
    "secret": [
        "AKIAIOSFODNN7EXAMPLQ",
        "ghp_" + "a1B2" * 9,
        "xoxb-123456789012-abcdefABCDEF",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7bq\nAAAA\n-----END RSA PRIVATE KEY-----",
        "AIza" + "Sy0-" * 8 + "abc",
    ],
}
SKIPPED = {"QQ 12 34 56 C"}  # Q begins no National Insurance number: the form is checked, see below
CONTEXT = {
    "national_id": [
        ("Steuer-ID: ", "86095742719"),
        ("マイナンバー ", "1234 5678 9018"),
        ("BSN ", "111222333"),
        ("PESEL ", "44051401359"),
        ("Aadhaar ", "2341 2341 2346"),
        ("Thai citizen id ", "1101400000006"),
    ],
    "phone": [("Tel. ", "467 3395"), ("Fax: ", "5403926876"), ("전화 ", "751 1500")],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind in YES for text in YES[kind] if text not in SKIPPED])
def test_each_kind_is_found_and_redacted(kind: str, text: str) -> None:
    sentence = f"Before it, {text} and after."
    assert kinds(sentence) == [(kind, text)]
    assert redacted(sentence) == f"Before it, <{kind}> and after."
    assert redacted(sentence, **{kind: "leave"}).count(text) == 1


@pytest.mark.parametrize(("kind", "word", "text"), [(kind, *pair) for kind in CONTEXT for pair in CONTEXT[kind]])
def test_plain_numbers_count_after_a_word_that_names_them(kind: str, word: str, text: str) -> None:
    assert kinds(f"{word}{text}.") == [(kind, text)]
    assert (kind, text) not in kinds(f"There were {text} of them.")


NO = [
    "icon@2x.png is an image, git@github.com:a/b.git a repository, jo@example.com nobody",
    "at 127.0.0.1, 10.0.0.7, 192.168.1.20, 169.254.1.1, ::1, fe80::1 or 8.8.8.8",
    "version 81.2.69.142 of it, and 1.2.3.4.5, and 12:30:45",
    "4111 1111 1111 1112 has a wrong check digit, 1234567890123452 no issuer",
    "DE88 3704 0044 0532 0130 00 is no account",
    "on 2024-05-12 10:30 to 2025-05-12, in 1914-1918, 1 234 567 people, 3.1415926535",
    "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567, 123-45-0000",
    "901301-1234567, 1-1014-00000-00-1, 12345678A, 529.982.247-24, 110105194912310021",
    "2 55 08 14 168 025 39, RSSMRA85T10A562T, BG 12 34 56 A",
    'password = "${PASSWORD}"; token: "your-token-here"; secret = "aaaaaaaaaaaaaaaa1"; key = "hello world"',
    "http://user:pass@host.org/ amqp://guest:guest@host publicKeyToken='1fc8b3b9a1e18e3b'",
    "https://user:<password>@host.org/ and https://host.org/a:b@c",
    "0.8509181282 and 12.34567890, page 100-110, ISBN 978-3-16-148410-0",
    "a" * 5000 + "@" + "b" * 5000,
    "1" * 5000,
    "(" * 3000 + "1 2 3 " * 1000,
]


@pytest.mark.parametrize("text", NO, ids=range(len(NO)))
def test_what_is_none_stays(text: str) -> None:
    assert kinds(text) == []
    assert redacted(text) == text


def test_passwords_in_addresses_and_assignments() -> None:
    assert redacted("postgres://joe:s3cr7Pq!x@db.org/x") == "postgres://joe:<secret>@db.org/x"
    assert redacted("DB_PASSWORD = 'Xk29fLq8Zt'") == "DB_PASSWORD = '<secret>'"
    assert redacted('{"api_key": "9f8e7d6c5b4a39281706"}') == '{"api_key": "<secret>"}'


def test_check_digits() -> None:
    assert is_iban("GB29 NWBK 6016 1331 9268 19")
    assert not is_iban("GB29 NWBK 6016 1331 9268 91")
    assert is_card("180016070420458")
    assert not is_card("0" * 16)
    for country, rule in NATIONAL_IDS.items():
        assert rule.pattern.pattern, country


@pytest.mark.parametrize("kind", DETECTORS)
def test_gates_let_through_whatever_can_be_found(kind: str) -> None:
    texts = [*YES[kind], *(word + text for word, text in CONTEXT.get(kind, []))]
    step = PersonalData.model_validate(
        {"use": "personal_data"} | {other: "leave" for other in DETECTORS if other != kind}
    )
    batch = Features(documents_of("web", [text for text in texts if text not in SKIPPED]))
    assert [index for index, _ in step._candidates(batch)] == list(range(batch.rows.num_rows))


def test_actions_and_counts(tmp_path: Path) -> None:
    texts = [
        "Write to jo@mail.net or to ann@mail.net today.",
        "My card is 4111 1111 1111 1111, thank you.",
        "The server at 81.2.69.142 is down.",
        "Nothing is here.",
    ]
    inputs = {"documents": corpus.write(tmp_path / "read", {"web": texts})}
    step = {"use": "personal_data", "credit_card": "drop", "ip": "tag", "placeholders": {"email": "email@example.com"}}
    out = corpus.Place(tmp_path / "clean")
    counts = clean(Clean.model_validate({"steps": [step]}), inputs, out)
    rows = corpus.rows(out.folder / "documents")
    assert [row["text"] for row in rows] == [
        "Write to email@example.com or to email@example.com today.",
        "The server at 81.2.69.142 is down.",
        "Nothing is here.",
    ]
    assert [row["meta"] and json.loads(row["meta"]) for row in rows] == [None, {"personal_data": {"ip": 1}}, None]
    (dropped,) = corpus.rows(out.folder / "dropped")
    assert (dropped["rule"], dropped["value"]) == ("personal_data.credit_card", 1)
    found = counts["found"]["0"]
    assert {kind: number for kind, number in found.items() if number} == {"email": 2, "credit_card": 1, "ip": 1}
    assert counts["edited"] == {"personal_data": 1}


def test_settings_without_effect_or_sense_are_refused() -> None:
    with pytest.raises(ValidationError, match="does nothing"):
        PersonalData.model_validate({"use": "personal_data"} | dict.fromkeys(DETECTORS, "leave"))
    with pytest.raises(ValidationError, match="no rule for national ids of 'uk'"):
        PersonalData(use="personal_data", countries=("uk",))
    with pytest.raises(ValidationError, match="did you mean 'email'"):
        PersonalData(use="personal_data", placeholders={"emial": "x"})


def test_redacting_twice_changes_nothing_more() -> None:
    for text in (text for texts in YES.values() for text in texts):
        once = redacted(f"See {text} there.")
        assert redacted(once) == once


def test_recall_and_precision_on_marked_sentences(shared_data: Path) -> None:
    with zstandard.open(shared_data / "gold/pii/presidio-synth_dataset_v2.json.zst", "rt", encoding="utf-8") as file:
        rows = json.load(file)
    names = {"CREDIT_CARD": "credit_card", "EMAIL_ADDRESS": "email", "IBAN_CODE": "iban", "IP_ADDRESS": "ip"}
    names |= {"US_SSN": "national_id", "PHONE_NUMBER": "phone"}
    marked = dict.fromkeys(names.values(), 0)
    hit, said = dict(marked), dict(marked)
    for row in rows:
        found = list(ALL.find(row["full_text"]))
        for kind in found:
            said[kind.kind] = said.get(kind.kind, 0) + 1
        for span in row["spans"]:
            kind = names.get(span["entity_type"])
            if kind:
                start, end = span["start_position"], span["end_position"]
                marked[kind] += 1
                hit[kind] += any(one.kind == kind and one.start < end and start < one.end for one in found)
    for kind in ("credit_card", "email", "iban", "ip", "national_id"):
        assert hit[kind] == marked[kind] > 0, kind
        assert said[kind] == hit[kind], kind
    assert hit["phone"] / marked["phone"] > 0.85
    assert hit["phone"] / said["phone"] > 0.95


UNITS = [
    "1 ",
    "1-",
    "a@",
    "@a.",
    "-----BEGIN PRIVATE KEY-----",
    "password='",
    "://a:",
    "jo@mail.net ",
    "4111 1111 1111 1111 ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_length_alone(unit: str) -> None:
    """Eight times the text takes some eight times as long, not sixty-four."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        return min(_timed(text) for _ in range(3))

    assert seconds(160_000) < 24 * max(seconds(20_000), 0.001)


def _timed(text: str) -> float:
    before = time.process_time()
    list(ALL.find(text))
    return time.process_time() - before


@given(st.text(st.sampled_from("0123456789+-.()@: aZGB/=_'\n"), max_size=120))
def test_any_text_goes_through_and_what_is_found_is_where_it_is_said_to_be(text: str) -> None:
    found = list(ALL.find(text))
    assert all(text[one.start : one.end] == one.text for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    redacted(text)
