"""The command `generate`: which model it opens, what it prints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from headwater.cli import main
from headwater.core.errors import InputError, MismatchError
from headwater.core.hardware import Machine
from headwater.evaluation.opening import open_model
from headwater.evaluation.prompting import read_prompts
from headwater.model import hf

MACHINE = Machine(threads=1, device="cpu")


@pytest.fixture
def run(finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the recipe `mine` has run, and which is the current one."""
    stages = tmp_path / "runs" / "mine" / "stages"
    for stage, of in (("tokenizer", "tokenizer"), ("initialize", "start"), ("train", "checkpoint")):
        shutil.copytree(finished[of], stages / stage)
    shutil.copytree(finished["start"] / "checkpoint", stages / "train" / "checkpoints" / "step-000000")
    shutil.copytree(finished["checkpoint"] / "checkpoint", stages / "train" / "checkpoints" / "step-000060")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_is_opened_by_run_checkpoint_or_folder(run: Path, finished: dict[str, Path]) -> None:
    trained = open_model("mine", MACHINE)
    assert trained.step == 60
    hf.write_folder(run / "exported", trained.model, finished["tokenizer"] / "tokenizer")
    other = {
        "recipe.yaml's name": open_model("somewhere/mine.yaml", MACHINE),
        "folder of the run": open_model("runs/mine", MACHINE),
        "hugging face": open_model("exported", MACHINE),
        "checkpoint": open_model(
            "runs/mine/stages/train/checkpoint", MACHINE, tokenizer=finished["tokenizer"] / "tokenizer"
        ),
        "step": open_model("mine", MACHINE, step=60),
    }
    for name, opened in other.items():
        for key, weight in trained.model.state_dict().items():
            assert weight.equal(opened.model.state_dict()[key]), name
    untrained = open_model("mine", MACHINE, step=0)
    assert untrained.step == 0
    assert not untrained.model.embedding.weight.equal(trained.model.embedding.weight)


@pytest.mark.parametrize(
    ("place", "settings", "problem"),
    [
        ("mime", {}, r"is neither a run nor a folder of a model; did you mean 'mine'\?"),
        (".", {}, "holds no model"),
        ("mine", {"step": 7}, "has no checkpoint of step 7"),
        ("runs/mine/stages/train/checkpoint", {}, "there is no tokenizer.json here"),
        ("runs/mine/stages/train/checkpoint", {"step": 60}, "is one model, not a run"),
        ("mine", {"tokenizer": Path("nowhere")}, "there is no tokenizer.json here"),
    ],
)
def test_what_is_no_model_is_one_clear_line(run: Path, place: str, settings: dict, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        open_model(place, MACHINE, **settings)
    assert caught.value.hint


def test_a_damaged_checkpoint_and_a_foreign_tokenizer_are_named(run: Path, tmp_path: Path) -> None:
    larger = json.loads(Path("runs/mine/stages/tokenizer/tokenizer/tokenizer.json").read_text())
    larger["model"]["vocab"]["one too many"] = 5000
    shutil.copytree("runs/mine/stages/tokenizer/tokenizer", "larger")
    Path("larger/tokenizer.json").write_text(json.dumps(larger))
    with pytest.raises(MismatchError, match="the model knows 400 tokens, the tokenizer has 5,001"):
        open_model("mine", MACHINE, tokenizer=Path("larger"))
    weights = Path("runs/mine/stages/train/checkpoint/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(InputError, match="was changed or damaged"):
        open_model("mine", MACHINE)


def test_the_command_writes_after_the_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "mine", "The value", "--temperature", "0", "--max-new-tokens", "12"])
    alone = capsys.readouterr()
    assert alone.out.startswith("The value")
    assert len(alone.out) > len("The value") + 5
    assert "12 tokens" in alone.err
    main(["generate", "mine", "The value", "An", "--temperature", "0", "--max-new-tokens", "12", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["prompt"] for row in rows] == ["The value", "An"]
    assert rows[0]["prompt"] + rows[0]["text"] + "\n" == alone.out
    assert {row["tokens"] for row in rows} == {12}


def test_several_texts_after_one_prompt_differ(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["generate", "mine", "The", "--count", "3", "--seed", "5", "--json", "--temperature", "1"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in rows] == [5, 6, 7]
    assert len({row["text"] for row in rows}) == 3
    main(["generate", "mine", "The", "--seed", "6", "--json", "--temperature", "1"])
    assert json.loads(capsys.readouterr().out)[0] == rows[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "generate: there is no prompt"),
        (("a", "--temperature", "-1"), "--temperature: input should be greater than or equal to 0"),
        (("a", "--top-p", "1.5"), "--top-p: input should be less than or equal to 1"),
        (("a", "--count", "0"), "--count: is less than 1"),
        (("--prompts", "nowhere.txt"), "nowhere.txt: No such file or directory"),
    ],
)
def test_bad_input_is_one_line(run: Path, arguments: tuple[str, ...], said: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "mine", *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[0] == said


def test_prompts_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("def f():\\n    return\n\nTwo\n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["def f():\n    return", "Two"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.txt")
