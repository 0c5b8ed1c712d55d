"""Licences are judged as expressions, addresses in one form, and both say what they were dropped for."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from headwater.core.errors import InputError
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.policy import Licence, Url, normal_url
from headwater.documents.document import documents_of


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("mit", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only OR MIT", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND Apache-2.0", True),
        ("GPL-3.0-only AND (MIT OR Apache-2.0)", False),
        ("GPL-3.0-only OR MIT AND Apache-2.0", True),
        ("(MIT OR GPL-3.0-only) AND GPL-2.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("CC-BY-4.0", True),
        ("CC-BY-NC-4.0", False),
        ("LGPL-2.1+", True),
        ("LGPL-2.1-or-later", True),
        ("LGPL-2.1", True),
        ("NOASSERTION", None),
        ("all rights reserved", None),
        (None, None),
        ("", None),
    ],
)
def test_expressions(licence: str | None, allowed: bool | None) -> None:
    step = Licence(use="licence", allow=("MIT", "Apache-2.0", "CC-BY-*", "LGPL-2.1-only"), deny=("CC-BY-NC-*",))
    assert step.judge(licence) is allowed


def test_verdicts_name_the_licence() -> None:
    batch = documents_of("web", ["a", "b", "c"], licence=["MIT", "GPL-3.0-only", None])
    verdict = Licence(use="licence", deny=("GPL-*",))(Features(batch))
    assert [verdict.rules[index] if index >= 0 else None for index in verdict.failed] == [
        None,
        "not_allowed",
        "unknown",
    ]
    assert verdict.details is not None
    assert verdict.details[1].as_py() == "GPL-3.0-only"
    assert Licence(use="licence", deny=("GPL-*",), unknown="keep")(Features(batch)).keep.tolist() == [True, False, True]


def test_senseless_licence_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="does nothing"):
        Licence(use="licence", unknown="keep")
    with pytest.raises(ValidationError, match="no SPDX identifier"):
        Licence(use="licence", allow=("BSD",))


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("http://WWW.Example.org:80/", "example.org"),
        ("https://example.org./a/#top", "example.org/a"),
        ("example.org/a", "example.org/a"),
        ("https://bücher.example/ä", "xn--bcher-kva.example/ä"),
        ("https://example.org/%7Ea?x=1", "example.org/~a?x=1"),
        ("ftp://example.org/a", None),
        ("http://[::1", None),
        ("mailto:a@b", None),
        ("", None),
    ],
)
def test_addresses_in_one_form(url: str, same: str | None) -> None:
    assert normal_url(url) == same


def test_lists_from_settings_and_files(tmp_path: Path) -> None:
    (tmp_path / "domains").write_text("# a hosts file\n0.0.0.0 ads.org\nhttps://www.Spam.net/ # this too\n\n")
    (tmp_path / "out").write_text("optout.com\n")
    step = Url(
        use="url",
        domains=("bücher.example",),
        domains_file=tmp_path / "domains",
        urls=("https://ok.org/bad/",),
        substrings=("casino",),
        opted_out_file=tmp_path / "out",
        unknown="drop",
    )
    urls = {
        "https://sub.ads.org/x": "domain",
        "https://spam.net:8080": "domain",
        "http://xn--bcher-kva.example/": "domain",
        "http://WWW.ok.org/bad#x": "url",
        "http://ok.org/bad/more": None,
        "https://fun.org/Casino-1": "substring",
        "https://blog.optout.com/": "opted_out",
        "https://notads.org/": None,
        "file.jsonl#3": "unknown",
        None: "unknown",
    }
    batch = documents_of("web", [str(index) for index in range(len(urls))], url=list(urls))
    verdict = step(Features(batch))
    assert [verdict.rules[index] if index >= 0 else None for index in verdict.failed] == list(urls.values())
    assert verdict.details is not None
    details = verdict.details.to_pylist()
    assert (details[0], details[3], details[5], details[6]) == ("ads.org", "ok.org/bad", "casino", "optout.com")
    assert set(step.files().values()) == {tmp_path / "domains", tmp_path / "out"}


def test_bad_lists_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        Url(use="url", urls_file=tmp_path / "none").files()
    (tmp_path / "bad").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as a list"):
        Url(use="url", urls_file=tmp_path / "bad").files()
    (tmp_path / "empty").write_text("# nothing yet\n\n")
    with pytest.raises(InputError, match="holds no entry: nothing would be blocked"):
        Url(use="url", opted_out_file=tmp_path / "empty").files()
    with pytest.raises(ValidationError, match="does nothing"):
        Url(use="url")
