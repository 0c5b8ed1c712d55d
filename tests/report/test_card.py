from __future__ import annotations

import re
from pathlib import Path

import pytest

from headwater.core.hardware import Machine
from headwater.report.card import data_card
from headwater.report.evidence import Evidence

from .conftest import Run


@pytest.fixture(scope="module")
def evidence(made_run: Run) -> Evidence:
    return Evidence({name: step.folder for name, step in made_run.steps.items()}, Machine())


@pytest.fixture(scope="module")
def card(evidence: Evidence) -> str:
    return data_card(evidence, "Made | documents", "For tests.")


def test_the_hub_reads_its_head(card: str, evidence: Evidence) -> None:
    repocard = pytest.importorskip("huggingface_hub").DatasetCard(card)
    head = repocard.data.to_dict()
    assert head["pretty_name"] == "Made | documents"
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["text-generation"]
    assert head["license"] == ["other"], "some licences are unknown or not in the hub's list"
    assert "unknown" not in head["language"]


def test_it_names_sources_licences_and_what_was_dropped(card: str, evidence: Evidence) -> None:
    for name, counts in evidence.counts(evidence.curated)["sources"].items():
        assert f"| {name} | {counts['documents_out']} |" in card
    for (stage, rule), counts in evidence.dropped.items():
        assert f"| {stage} | {rule} | {counts['documents']} |" in card


def test_settings_are_written_as_in_a_recipe(card: str) -> None:
    assert not re.search(r"\b(None|True|False)\b", card)
    assert "'" not in "".join(line for line in card.splitlines() if line.startswith(("- read", "- clean", "- dedup")))


def test_it_says_what_was_not_done(card: str) -> None:
    assert "Nothing was done about personal data" in card
    assert "was not compared with benchmarks" in card
    assert "have no licence on record" in card


def test_personal_data_that_was_treated_is_told(evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = evidence.manifests["clean"]
    steps = [{"use": "personal_data", "email": "redact"}]
    changed = clean | {"settings": {"steps": steps}, "counts": clean["counts"] | {"edited": {"personal_data": 7}}}
    monkeypatch.setitem(evidence.manifests, "clean", changed)
    text = data_card(evidence, "Made", "")
    assert "`personal_data` email redact" in text
    assert "it changed 7 documents" in text


def test_a_run_without_documents_has_no_card(tmp_path: Path) -> None:
    assert data_card(Evidence({}, Machine()), "x", "") == ""


def test_it_lies_beside_the_report(report_folder: Path) -> None:
    assert (report_folder / "data-card.md").read_text(encoding="utf-8").startswith("---\npretty_name:")
