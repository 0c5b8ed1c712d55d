"""The whole flow on a tiny recipe: once, again, changed, and from Python as from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headwater import load, plan, run
from headwater.core.errors import MismatchError, RecipeError, StoreError
from headwater.core.stage import library_versions
from headwater.flow import Results, report_so_far

from .conftest import TINY

STAGES = [
    "read",
    "clean",
    "dedup",
    "decontaminate",
    "split",
    "tokenizer",
    "encode",
    "index",
    "initialize",
    "train",
    "evaluate",
    "memorization",
    "export",
    "report",
]


def test_every_stage_ran_and_the_links_work(results: Results) -> None:
    assert list(results.ran) == STAGES
    assert results.report is not None
    assert "<html" in results.report.read_text(encoding="utf-8")
    assert (results.folder / "report.md").read_text(encoding="utf-8").startswith("# ")
    assert results.model is not None
    names = {path.name for path in results.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    for name in STAGES:
        assert (results.folder / "stages" / name / "manifest.json").is_file()


def test_the_summary_agrees_with_the_manifests(results: Results) -> None:
    summary = results.summary
    manifests = {name: json.loads((path / "manifest.json").read_text()) for name, path in results.stages.items()}
    assert summary["documents_in"] == manifests["read"]["counts"]["documents_in"]
    assert summary["documents_in"] - sum(summary["dropped"].values()) == summary["documents_out"]
    assert summary["documents_out"] == manifests["decontaminate"]["counts"]["documents_out"]
    assert summary["steps"] == 20
    assert summary["tokens"] == 20 * 512
    assert summary["parameters"] == manifests["initialize"]["counts"]["parameters"]
    assert summary["initial_loss"] == pytest.approx(summary["expected_initial_loss"], abs=0.1)
    scores = summary["final_validation_bits_per_byte"]
    assert set(scores) == {"prose", "total"}
    assert 1.0 < scores["total"] < 8.0
    assert 0 < summary["mfu"] < 1
    assert summary["tokens_per_second"] > 0
    assert set(summary["seconds"]) >= set(STAGES) - {"report"}


def test_the_document_with_the_benchmark_question_is_gone(results: Results) -> None:
    manifest = json.loads((results.stages["decontaminate"] / "manifest.json").read_text())
    assert manifest["counts"]["benchmarks"]["quiz"]["items_contaminated"] == 1
    assert list(manifest["counts"]["dropped"]) == ["quiz"]
    assert "quiz" in (results.folder / "report.md").read_text(encoding="utf-8")


def test_training_taught_something(results: Results) -> None:
    scores = json.loads((results.stages["evaluate"] / "scores.json").read_text())["bits_per_byte"]
    assert scores["trained"]["total"]["value"] < 0.9 * scores["untrained"]["total"]["value"]


def test_every_document_is_somewhere(results: Results) -> None:
    import pyarrow.parquet as pq

    def ids(name: str, folder: str) -> list[str]:
        files = sorted((results.stages[name] / folder).glob("*.parquet"))
        return [value for file in files for value in pq.read_table(file, columns=["id"])["id"].to_pylist()]

    assert sorted(ids("read", "documents")) == sorted(ids("clean", "documents") + ids("clean", "dropped"))
    assert sorted(ids("clean", "documents")) == sorted(ids("dedup", "documents") + ids("dedup", "dropped"))
    assert sorted(ids("dedup", "documents")) == sorted(
        ids("decontaminate", "documents") + ids("decontaminate", "dropped")
    )
    assert sorted(ids("decontaminate", "documents")) == sorted(ids("split", "documents") + ids("split", "held_out"))
    assert set(ids("split", "documents")).isdisjoint(ids("split", "held_out"))


def test_nothing_runs_twice(results: Results, settings: tuple[str, ...], place: Path) -> None:
    again = run(load(TINY, *settings))
    assert again.ran == ()
    assert again.stages == results.stages
    command = [sys.executable, "-m", "headwater", "run", str(TINY), *settings]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=place)
    assert time.perf_counter() - start < 10  # the goal is 2 s; bench/second_run.py measures it
    assert "Nothing to do" in done.stdout
    assert "torch" not in done.stderr


def test_another_version_of_a_library_is_told_and_reruns_nothing(
    results: Results, settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "made with" not in str(plan(load(TINY, *settings)))
    versions = library_versions()
    monkeypatch.setattr("headwater.flow.library_versions", lambda: versions | {"numpy": "99.1"})
    again = plan(load(TINY, *settings))
    assert not again.waiting
    assert f"note: {', '.join(STAGES)}: made with numpy {versions['numpy']} (now 99.1)" in str(again)


def test_the_second_run_loads_no_torch(results: Results, settings: tuple[str, ...]) -> None:
    code = "import sys; from headwater import load, run; run(load(*sys.argv[1:])); print('torch' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(TINY), *settings], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_a_changed_setting_reruns_what_depends_on_it(results: Results, settings: tuple[str, ...]) -> None:
    def waiting(*overrides: str) -> dict[str, str]:
        return {step.name: step.reason for step in plan(load(TINY, *settings, *overrides)).waiting}

    assert waiting("evaluate.max_new_tokens=8") == {
        "evaluate": "max_new_tokens 16 -> 8",
        "memorization": "evaluate changed",  # it traces what was written
        "export": "evaluate changed",  # the model card holds the scores
        "report": "evaluate changed, memorization changed, export changed",
    }
    assert list(waiting("train.steps=30")) == ["train", "evaluate", "memorization", "export", "report"]
    assert list(waiting("clean.steps.1.min_characters=200")) == STAGES[1:]
    assert waiting("clean.steps.1.min_characters=200")["clean"] == "steps.1.min_characters 160 -> 200"
    assert waiting("machine.workers=1", "machine.threads=1") == {}


def test_a_run_until_a_stage_keeps_the_links_of_later_ones(results: Results, settings: tuple[str, ...]) -> None:
    again = run(load(TINY, *settings), until="clean")
    assert list(again.stages) == ["read", "clean"]
    assert again.report is not None
    assert again.model is not None


def test_until(settings: tuple[str, ...]) -> None:
    planned = plan(load(TINY, *settings), until="split")
    assert [step.name for step in planned.steps] == STAGES[: STAGES.index("split") + 1]


def test_worker_count_does_not_change_results(results: Results, settings: tuple[str, ...], tmp_path: Path) -> None:
    other = run(load(TINY, *settings, f"machine.store={tmp_path}", "machine.workers=3"), until="encode")
    for name in STAGES[1 : STAGES.index("encode") + 1]:
        one = json.loads((results.stages[name] / "manifest.json").read_text())
        three = json.loads((other.stages[name] / "manifest.json").read_text())
        assert one["fingerprint"] == three["fingerprint"]
        assert one["files"] == three["files"], name


def test_a_missing_section_is_named(settings: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(load(TINY, *settings, "encode=null"))
    assert caught.value.lines == (
        "tiny: train: needs encode; add a section 'encode:'",
        "tiny: evaluate: needs encode; add a section 'encode:'",
        "tiny: memorization: needs encode; add a section 'encode:'",
    )


def test_a_store_edited_by_hand_is_refused(results: Results, settings: tuple[str, ...]) -> None:
    file = results.stages["encode"] / "tokens.json"
    before = file.read_bytes()
    try:
        file.write_bytes(before.replace(b"1", b"2"))
        with pytest.raises(StoreError, match=r"tokens\.json: was changed after its stage finished \(hash mismatch\)"):
            plan(load(TINY, *settings))
    finally:
        file.write_bytes(before)


def test_a_report_before_the_end(settings: tuple[str, ...], tmp_path: Path) -> None:
    recipe = load(TINY, *settings, f"machine.store={tmp_path / 's'}", f"machine.runs={tmp_path / 'r'}")
    with pytest.raises(StoreError, match="no stage is finished yet"):
        report_so_far(recipe)
    run(recipe, until="clean")
    partial = report_so_far(recipe)
    assert partial.report is not None
    assert "clean" in partial.report.read_text(encoding="utf-8")
    assert partial.summary["steps"] is None


def test_the_plan_says_what_each_source_must_deliver(results: Results, settings: tuple[str, ...]) -> None:
    assert plan(load(TINY, *settings)).delivery is None, "it has been trained already"
    counted = plan(load(TINY, *settings, "train.steps=30")).delivery
    assert counted is not None
    assert (counted.basis, counted.ends_by, counted.problem) == ("counted", "tokens", None)
    row = counted.rows()[0]
    summary = json.loads((results.stages["encode"] / "manifest.json").read_text())["counts"]
    assert (row["requested_tokens"], row["available_tokens"]) == (30 * 512, summary["tokens"])
    with pytest.raises(MismatchError, match=r"source 'prose' cannot give .* in 4 epochs"):
        plan(load(TINY, *settings, "train.steps=1M"))
    budget = plan(load(TINY, *settings, "train.steps=null", "train.budget=10 d", "train.schedule={use: wsd}")).delivery
    assert budget is not None
    assert budget.ends_by == "budget"
    assert "training may end before its budget" in str(budget)


def test_before_anything_is_read_the_plan_estimates(prose: Path, tmp_path: Path, results: Results) -> None:
    elsewhere = (f"read.sources.prose.paths=[{prose}]", f"machine.store={tmp_path / 'store'}")
    delivery = plan(load(TINY, *elsewhere)).delivery
    assert delivery is not None
    assert (delivery.basis, delivery.problem) == ("estimated", None)
    there = json.loads((results.stages["encode"] / "manifest.json").read_text())["counts"]["tokens"]
    assert there / 2 < delivery.rows()[0]["available_tokens"] < there * 2
    problem = plan(load(TINY, *elsewhere, "train.steps=1M")).delivery
    assert problem is not None
    assert "cannot give 512,000,000 tokens" in str(problem)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        "{preset: gpt2-124m, hidden_size: 64, num_layers: 2, num_heads: 4, context_length: 64}",
        "{preset: llama-1m, ffn: relu2}",
    ],
    ids=["gpt2", "arcee"],
)
def test_other_families_go_the_whole_way(settings: tuple[str, ...], model: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    from headwater.model.checkpoint import load_model

    change = f"initialize={{use: random, vocabulary_multiple: 100, model: {model}}}"
    results = run(load(TINY, *settings, change, "name=family", f"machine.runs={tmp_path}"))
    assert results.model is not None
    assert results.summary["initial_loss"] == pytest.approx(results.summary["expected_initial_loss"], abs=0.1)
    ours, _ = load_model(results.stages["train"] / "checkpoint")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(results.model).eval()
    assert (ours.config.vocab_size, theirs.config.vocab_size) == (600, 512)
    row = torch.randint(0, 512, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (ours(row) - theirs(input_ids=row).logits).abs().max() < 1e-5
