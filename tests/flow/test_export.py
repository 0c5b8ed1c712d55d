"""Exports by the command line, of a run that has finished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headwater import load, run
from headwater.cli import main
from headwater.flow import Results
from headwater.model import gguf

from .conftest import TINY


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_recipes_own_export_is_proven_and_described(results: Results) -> None:
    assert results.model is not None
    counts = json.loads((results.stages["export"] / "manifest.json").read_text())["counts"]
    checks = {check["runtime"]: check for check in counts["proof"]["checks"]}
    assert checks["the independent reader"]["largest"] < 1e-4
    assert checks["transformers"]["largest"] < 1e-4
    assert checks["transformers"]["tokens_equal"]
    card = (results.model / "README.md").read_text(encoding="utf-8")
    assert "# tiny\n\nEvery stage on a few hundred documents." in card
    assert f"| transformers {checks['transformers']['version']} |" in card


@pytest.mark.parametrize(
    ("form", "dtype", "file"),
    [("gguf", "q8_0", "tiny-Q8_0.gguf"), ("safetensors", "bfloat16", "weights.safetensors")],
)
def test_other_formats_of_an_earlier_step(results, settings, here, capsys, form, dtype, file) -> None:
    off = "machine.foreign_python=off"
    main(["export", str(TINY), *settings, off, f"export.dtype={dtype}", "--to", form, "--step", "10"])
    assert capsys.readouterr().out == f"tiny-{form}\n"
    assert (here / f"tiny-{form}" / file).is_file()
    card = (here / f"tiny-{form}" / "README.md").read_text(encoding="utf-8")
    assert "Of the end of training, step 20; the weights here are those after step 10." in card
    assert "Not verified" in card or form == "safetensors"
    assert f"Written as {dtype}, the weights are rounded." in card


def test_what_is_wrong_ends_with_a_line_and_nothing_written(results, settings, here, capsys, monkeypatch) -> None:
    def fails(*arguments: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["export", str(TINY), *settings, "machine.foreign_python=off", *arguments])
        assert caught.value.code == 2
        assert not list(here.glob("*tiny*"))
        return capsys.readouterr().err

    assert "has no checkpoint of step 7" in fails("--step", "7")
    assert "Choose from" in fails("--to", "my-model")
    assert "q8_0 is a number format of gguf, not of safetensors" in fails("export.dtype=q8_0", "--to", "safetensors")
    monkeypatch.setattr(gguf, "_permuted", lambda values, *_: values[::-1].copy())
    assert "what was written is not what is read back" in fails("--to", "gguf")
    (here / "there").mkdir()
    assert "exists already" in fails("--folder", "there")


def test_the_recipe_smollm2_goes_on_with_a_gguf_file(results, settings, here, prose) -> None:
    """Full circle: a model of Headwater leaves as GGUF, and another run begins with it and its tokenizer."""
    main(["export", str(TINY), *settings, "machine.foreign_python=off", "export.dtype=q8_0", "--to", "gguf"])
    path = here / "tiny-gguf" / "tiny-Q8_0.gguf"
    small = ("train.steps=2", "train.sequence_length=64", "train.batch_tokens=128", "train.speed.compile=off")
    cheap = (
        "train.speed.precision=fp32",
        "evaluate.max_bytes=1kB",
        "evaluate.max_new_tokens=4",
        "machine.foreign_python=off",
    )
    sources = f"read.sources={{prose: {{use: jsonl, paths: [{prose}]}}}}"
    continued = run(load("smollm2", f"tokenizer.path={path}", f"initialize.path={path}", sources, *small, *cheap))
    counts = json.loads((continued.stages["initialize"] / "manifest.json").read_text())["counts"]
    assert counts["tensor_types"] == {"Q8_0": 15, "F32": 9}
    before = json.loads((results.stages["tokenizer"] / "facts.json").read_text())
    after = json.loads((continued.stages["tokenizer"] / "facts.json").read_text())
    assert (after["vocab_size"], after["separator"]) == (before["vocab_size"], before["separator"])
    first = continued.summary["initial_loss"]
    assert first < results.summary["initial_loss"] - 0.5, "it begins with what the first run learnt"
    assert continued.model is not None
    card = (continued.model / "README.md").read_text(encoding="utf-8")
    assert "begun with the weights of tiny-Q8_0.gguf (its tensors were 15 Q8_0, 9 F32)" in card
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert "24 tensors of tiny-Q8_0.gguf were quantised" in (continued.folder / "report.md").read_text(encoding="utf-8")
