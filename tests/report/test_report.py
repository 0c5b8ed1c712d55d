"""The report says what the manifests say, in both forms, whatever is in the documents and whichever stages ran."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from headwater.core.stage import Workspace
from headwater.core.store import read_json
from headwater.documents.document import read_batches, shards_in
from headwater.report import Report, figures, report
from headwater.report.evidence import Evidence
from headwater.report.page import fenced, plain, visible
from headwater.report.sections.model import tasks as tasks_section

Run = Any
"""The class of conftest.py, which tests cannot import."""


class Reader(HTMLParser):
    """Collects what a browser would see: tags with their attributes, and the cells of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.cells.append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def page(report_folder: Path) -> str:
    return (report_folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def twin(report_folder: Path) -> str:
    return (report_folder / "report.md").read_text(encoding="utf-8")


def outside_fences(text: str) -> Iterator[str]:
    """Lines of markdown that are not inside a fenced block, by CommonMark's rule: a fence ends with one as long."""
    fence = ""
    for line in text.splitlines():
        run = re.match(r"`{3,}", line)
        if not fence and run:
            fence = run[0]
        elif fence and run and len(run[0]) >= len(fence) and not line.strip("`").strip():
            fence = ""
        elif not fence:
            yield line
    assert not fence, "a fence is never closed"


def test_summary_holds_the_promised_numbers(summary: dict, made_run: Run) -> None:
    assert list(summary) == [
        *("initial_loss", "expected_initial_loss", "final_validation_bits_per_byte", "documents_in", "documents_out"),
        *("dropped", "tokens", "steps", "tokens_per_second", "mfu", "seconds", "parameters", "forecast"),
    ]
    assert summary["documents_in"] - sum(summary["dropped"].values()) == summary["documents_out"] > 0
    assert set(summary["dropped"]) == {"malformed_json", "gopher_quality.min_words", "near_duplicate"}
    assert set(summary["final_validation_bits_per_byte"]) == {"prose", "code", "total"}
    last = Evidence({"train": made_run.steps["train"].folder}, made_run.machine).metrics[-1]
    assert summary["final_validation_bits_per_byte"] == last["validation_bits_per_byte"]
    assert (summary["initial_loss"], summary["expected_initial_loss"]) == (9.0301, 9.0622)
    assert (summary["steps"], summary["tokens"], summary["parameters"]) == (
        made_run.training_steps,
        made_run.training_steps * 8192,
        5_247_232,
    )
    assert summary["seconds"] == {name: step.manifest()["seconds"] for name, step in made_run.steps.items()}


@pytest.mark.parametrize(
    "only",
    [
        ("read",),
        ("read", "clean"),
        ("read", "clean", "dedup", "split", "tokenizer", "encode"),
        ("train",),
        ("initialize",),
        ("evaluate",),
    ],
)
def test_stages_that_did_not_run_are_left_out(made_run: Run, only: tuple[str, ...]) -> None:
    folder = made_run.report(only=only)
    summary = read_json(folder / "summary.json")
    assert (summary["documents_in"] is None) == ("read" not in only)
    assert (summary["tokens"] is None) == ("train" not in only)
    assert set(summary["seconds"]) == set(only)
    titles = [
        line for line in (folder / "report.md").read_text(encoding="utf-8").splitlines() if line.startswith("## ")
    ]
    assert ("## What became of the documents" in titles) == ("read" in only)
    assert ("## How it learnt" in titles) == ("train" in only)
    assert ("## Scores" in titles) == ("evaluate" in only)
    assert "nan" not in (folder / "report.html").read_text(encoding="utf-8").lower().replace("evidence", "").split()


def test_both_pages_hold_the_same_tables(page: str, twin: str) -> None:
    rows = [line for line in outside_fences(twin) if line.startswith("| ")]
    cells = [
        re.sub(r"\\(?=\W)", "", html.unescape(cell)).strip()
        for row in rows
        for cell in re.split(r"(?<!\\)\|", row)[1:-1]
    ]
    tiles = 3 * (1 + 6)  # in HTML these are not a table
    written = [cell for cell in cells if cell not in ("---", "---:")]
    assert written[tiles:] == Reader(page).cells


def test_numbers_come_from_the_manifests(page: str, made_run: Run) -> None:
    cells = Reader(page).cells
    train, clean = (made_run.steps[name].manifest() for name in ("train", "clean"))
    assert cells[cells.index("measured") + 1] == f"{train['counts']['initial_loss']:.3f}"
    few = clean["counts"]["dropped"]["gopher_quality.min_words"]["documents"]
    assert cells[cells.index("clean: gopher_quality.min_words") + 1] == str(few)
    assert "1.259 ± 0.021" in cells
    assert "3.287 ± 0.004" in cells
    for step in made_run.steps.values():
        assert step.fingerprint[:16] in page
        for file in step.manifest()["files"].values():
            assert file["sha256"] in cells


def test_cost_is_power_times_time(made_run: Run, twin: str) -> None:
    manifests = [step.manifest() for step in made_run.steps.values()]
    watt_hours = made_run.machine.watts * sum(manifest["seconds"] for manifest in manifests) / 3600
    row = next(line for line in twin.splitlines() if line.startswith("| all stages"))
    assert f"| {watt_hours:.3g} Wh |" in row
    assert f"| {watt_hours / 1000 * made_run.machine.carbon_grams_per_kwh:.3g} g |" in row
    assert "40 W, set in machine.watts" in twin


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    for tag, attributes in Reader(page).tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:,")) or not value, f"<{tag} {name}={value!r}>"
    assert "url(" not in page
    assert "@import" not in page


def test_text_of_documents_cannot_become_markup(page: str, twin: str) -> None:
    reader = Reader(page)
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert not [tag for tag, _ in reader.tags if tag in ("img", "files", "dropped")]
    assert not [attribute for _, found in reader.tags for attribute in found if attribute.startswith("on")]
    assert "&lt;script&gt;alert(&#39;documents&#39;)&lt;/script&gt;" in page
    lines = list(outside_fences(twin))
    assert not [line for line in lines if re.search(r"<\w", line)]
    assert "# not a heading \\x07 \\u202eturned" in twin
    assert not [line for line in lines if "not a heading" in line]
    for text in (page, twin):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


@given(st.text(st.characters(codec=None), max_size=60))
def test_any_text_is_kept_inside_its_fence_and_its_cell(text: str) -> None:
    assert list(outside_fences(fenced(text))) == []
    cell = plain(text)
    cell.encode("utf-8")
    assert len(cell.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*\|", cell)
    assert "<" not in cell
    visible(text).encode("utf-8")


def test_dropped_documents_are_a_fair_sample_without_repetition(made_run: Run) -> None:
    evidence = Evidence({"clean": made_run.steps["clean"].folder}, made_run.machine)
    found = evidence.dropped_documents("clean", per_rule=1000)["gopher_quality.min_words"]
    texts = [row["text"] for row in found]
    assert texts.count(made_run.hostile) == 1, "seven documents of this text were dropped"
    some = evidence.dropped_documents("clean", per_rule=4)["gopher_quality.min_words"]
    assert [row["id"] for row in some] == sorted(row["id"] for row in found)[:4]
    assert all(row["value"] < row["threshold"] == 20 for row in found)


def test_a_near_duplicate_stands_beside_what_was_kept_in_its_place(made_run: Run, twin: str) -> None:
    evidence = Evidence({"dedup": made_run.steps["dedup"].folder}, made_run.machine)
    row = evidence.dropped_documents("dedup", 1)["near_duplicate"][0]
    original = evidence.kept_documents("dedup", {row["detail"]})[row["detail"]]
    assert original["text"] != row["text"]
    part = twin.partition("### dedup: near_duplicate")[2]
    assert (
        part.index(f"copy of: {original['url']}") < part.index(row["text"][:200]) < part.index(original["text"][:200])
    )
    assert evidence.kept_documents("dedup", {row["id"]}) == {}


def test_samples_are_as_many_and_as_long_as_asked_for(made_run: Run) -> None:
    def written(settings: Report) -> str:
        return (made_run.report(settings, only=("read", "clean")) / "report.md").read_text(encoding="utf-8")

    few = written(Report(samples_per_reason=2, sample_characters=30))
    part = few.partition("clean: gopher_quality.min_words (")[2].partition("### ")[0]
    assert part.count("measured: ") == 2
    assert "more characters]" in part
    texts = re.findall(r"^```+\n(.*?)(?:\n\[… .*?)?\n```+$", part, re.MULTILINE | re.DOTALL)
    assert [len(text) <= 30 for text in texts] == [True, True]
    assert "## What was dropped, and why" in few
    assert "## What was dropped, and why" not in written(Report(samples_per_reason=0))


def test_the_same_evidence_gives_the_same_report(made_run: Run, report_folder: Path, tmp_path: Path) -> None:
    inputs = {name: step.folder for name, step in made_run.steps.items()}
    report(Report(title="made", about="A run that never was."), inputs, Workspace(tmp_path, made_run.machine))
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "report.md", "data-card.md", "summary.json"}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (report_folder / file.name).read_bytes()


def test_the_recipe_in_the_report_has_every_setting(twin: str, made_run: Run) -> None:
    text = (
        twin.partition("### The recipe with every setting written out")[2].partition("```yaml\n")[2].partition("```")[0]
    )
    recipe = YAML(typ="safe", pure=True).load(text)
    assert recipe == {name: step.settings.model_dump(mode="json") for name, step in made_run.steps.items()}
    assert list(recipe) == list(made_run.steps)


def test_warnings_are_shown_first(page: str) -> None:
    assert page.index("1 warning") < page.index("What it writes")
    assert "read: code: 1 of 401 records is malformed and was &lt;dropped&gt;" in page


def test_loading_the_settings_loads_no_chart_library() -> None:
    code = "import sys, headwater.report; sys.exit('altair' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_charts_use_colours_that_have_a_dark_partner(page: str) -> None:
    body = page[page.index("<body") :]
    used = set(re.findall(r'(?:fill|stroke)="(#[^"]*|[a-z]+)"', body)) - {"none", "transparent"}
    assert used <= set(figures.DARK)
    assert len(used) >= 5


@pytest.mark.parametrize("light", [True, False])
def test_colours_stand_out_from_the_page(light: bool) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground = luminance("#ffffff" if light else "#15181c")
    for colour, partner in figures.DARK.items():
        if colour != figures.GRID:
            low, high = sorted((luminance(colour if light else partner), ground))
            assert (high + 0.05) / (low + 0.05) >= 4.5, colour


@given(st.integers(0, 2000))
def test_thinning_keeps_both_ends_and_the_mean(count: int) -> None:
    rows = [{"tokens": index, "loss": float(index % 7)} for index in range(count)]
    thin = figures.thinned(rows, "loss")
    assert len(thin) == min(count, len(thin)) <= figures.MOST_POINTS
    assert [row["tokens"] for row in thin] == sorted(row["tokens"] for row in thin)
    if count:
        assert (thin[0], thin[-1]) == (rows[0], rows[-1])


def test_many_reasons_still_fit_in_the_funnel() -> None:
    drops = [(f"clean: rule_{index}", index + 1) for index in range(40)]
    figure = figures.funnel(1000, drops)
    assert "rule_39" in figure.wide
    assert "rule_3<" not in figure.wide
    assert f"{40 - figures.MOST_BARS + 1} other reasons" in figure.wide
    assert "180 (18.0 %) are kept" in figure.description


def test_how_much_hangs_on_each_threshold_is_told(twin: str) -> None:
    assert "| length.min_words | 20 | 800 | 20 | 13 | 8 |" in twin
    assert "| length | ip address | 7 |" in twin


def test_what_a_quality_model_can_do_is_told(twin: str) -> None:
    assert "Scores of 3 good samples and 1 bad one that the model had not seen: area under the curve 1.000" in twin
    assert "| 0.50 | 100.0 % | 66.7 % | 50.0 % |" in twin


def test_records_that_are_no_documents_are_told(twin: str) -> None:
    assert "| prose | status 404 | 1 |" in twin


def test_kept_documents_are_a_fair_sample_of_each_source(made_run: Run, twin: str) -> None:
    evidence = Evidence({name: step.folder for name, step in made_run.steps.items()}, made_run.machine)
    sample = evidence.sample_of_kept(3)
    assert {name: len(rows) for name, rows in sample.items()} == {"prose": 3, "code": 3}
    everything = [
        row
        for shard in shards_in(made_run.steps["split"].folder / "documents")
        for batch in read_batches(shard)
        for row in batch.to_pylist()
    ]
    for name, rows in sample.items():
        ids = sorted(row["id"] for row in everything if row["source"] == name)
        assert [row["id"] for row in rows] == ids[:3]
    assert "### prose (3 documents)" in twin


def test_tasks_stand_with_chance_and_what_they_cannot_say():
    of = {"items": 40, "chance": 0.25, "detectable": 0.19, "signal": "no signal: not above chance", "metric": "acc"}
    of |= {"metrics": {"acc": {"value": 0.3, "standard_error": 0.07}}}
    told = {"tasks": {"arc": {**of, "shots": 5, "notes": ["cut"], "parts": {"sub_part": of}}}}
    told["groups"] = {"all": {"value": 0.1, "standard_error": 0.02, "centred": True, "scored": 1, "members": 2}}
    _, tasks, groups = tasks_section(SimpleNamespace(tasks=told))
    assert tasks.rows[0] == [
        "arc",
        "acc",
        "no signal: not above chance; cut",
        "0.300 ± 0.070",
        "0.250",
        "5",
        "40",
        "0.190",
    ]
    assert tasks.rows[1][:2] == ["- sub part", "acc"]
    assert groups.rows == [["all", "centred mean of 1 of 2 tasks", "0.100 ± 0.020"]]
    assert list(tasks_section(SimpleNamespace(tasks={}))) == []
