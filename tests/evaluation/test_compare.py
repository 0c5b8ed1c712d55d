"""The command `compare`: what models write and say of references, code that is run, tasks item by item, the page."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from headwater.cli import main
from headwater.core.errors import InputError, RecipeError
from headwater.core.hardware import Machine
from headwater.documents.document import ShardFile, documents_of
from headwater.evaluation.cases import Case, read_cases, shipped
from headwater.evaluation.compare import Comparing, compare, parse_place
from headwater.evaluation.config import Sampling
from headwater.evaluation.opening import open_model
from headwater.evaluation.prompting import prompting
from headwater.report.comparison import comparison_page
from headwater.report.page import html

from .samples import questions, write_samples

MACHINE = Machine(threads=1, device="cpu")
GREEDY = {"max_new_tokens": 12, "temperature": 0.0}


@pytest.fixture
def run(finished: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the recipe `mine` has run, and which is the current one."""
    stages = tmp_path / "runs" / "mine" / "stages"
    for stage, of in (("tokenizer", "tokenizer"), ("initialize", "start"), ("train", "checkpoint")):
        shutil.copytree(finished[of], stages / stage)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish(comparing: Comparing) -> dict[str, Any]:
    for _ in comparing.pieces():
        pass
    return comparing.as_json()


def test_each_model_writes_what_it_writes_alone(run: Path) -> None:
    prompts = ["The value of", "Return the"]
    drawn = {"max_new_tokens": 12, "temperature": 0.9, "seed": 3}
    found = finish(compare(["mine@0", "mine"], prompts, drawn, MACHINE, samples=2))
    assert [model["label"] for model in found["models"]] == ["mine@0", "mine"]
    assert [model["step"] for model in found["models"]] == [0, 60]
    for step, model in ((0, 0), (None, 1)):
        for number, prompt in enumerate(prompts):
            alone = prompting("mine", [prompt], drawn, MACHINE, count=2, step=step).all()
            assert found["cases"][number]["answers"][model]["texts"] == [one.text for one in alone]


def test_the_pieces_are_the_first_sample(run: Path) -> None:
    comparing = compare(["a=mine", "b=mine@0"], ["The value of"], {"max_new_tokens": 9, "temperature": 0.9}, MACHINE)
    written = ["", ""]
    ends = 0
    for case, model, text in comparing.pieces():
        assert case == 0
        if text:
            written[model] += text
        ends += not text
    assert ends == 1
    assert written == [answer["texts"][0] for answer in comparing.as_json()["cases"][0]["answers"]]
    assert comparing.labels == ["a", "b"]


def test_a_reference_is_as_likely_as_the_model_says(run: Path) -> None:
    (run / "p.yaml").write_text("cases:\n- {prompt: Return the, reference: ' value of the object.'}\n")
    (case,) = finish(compare(["mine"], [], GREEDY, MACHINE, file="p.yaml"))["cases"]
    opened = open_model("mine", MACHINE)
    ids = opened.codec.encode(["Return the", "Return the value of the object."])
    assert ids[1][: len(ids[0])].tolist() == ids[0].tolist(), "the tokens of the prompt begin the whole"
    tokens = torch.tensor([ids[1].tolist()])
    with torch.no_grad():
        losses = opened.model.token_losses(tokens[:, :-1], tokens[:, 1:])[0, len(ids[0]) - 1 :]
    reference = case["answers"][0]["reference"]
    assert reference["nats"] == pytest.approx(float(losses.double().sum()), rel=1e-5)
    assert reference["tokens"] == len(losses)
    assert reference["bits_per_byte"] == pytest.approx(reference["nats"] / math.log(2) / len(" value of the object."))


def test_code_passes_when_its_tests_do(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["\n    return max(numbers)\n", "\n    return numbers[0]\n", "\n    while True: pass\n", " nonsense"]
    opened = open_model("mine", MACHINE)
    case = next(case for case in read_cases("lesson1") if case.tests)
    comparing = Comparing([opened], ["mine"], [case], Sampling(temperature=1.0), samples=4)

    def written(*_: object) -> Any:
        yield from ((number, text, 5) for number, text in enumerate(texts))

    monkeypatch.setattr("headwater.evaluation.compare.write", written)
    (answer,) = finish(comparing)["cases"][0]["answers"]
    assert answer["fates"] == ["passed", "failed", "timeout", "failed"]
    assert answer["pass_at"] == {"1": 0.25, "4": 1.0}


def test_a_function_ends_where_the_next_line_begins_something_else() -> None:
    assert "\ndef" in Case(prompt="def f():", tests="f()").stops
    assert Case(prompt="def f():", tests="f()", stop=("x",)).stops == ("x",)
    assert Case(prompt="def f():").stops == ()


def test_places_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_place("runs/demo@40") == ("demo@40", "runs/demo", 40)
    assert parse_place("base=somewhere/model") == ("base", "somewhere/model", None)
    (tmp_path / "a=b@3").mkdir()
    assert parse_place("a=b@3") == ("a=b@3", "a=b@3", None), "what is there is taken as it is"


def test_equal_names_get_numbers(run: Path) -> None:
    comparing = compare(["mine", "mine", "x=mine"], ["The"], GREEDY, MACHINE)
    assert comparing.labels == ["mine (1)", "mine (2)", "x"]


def test_the_command_writes_a_page_and_the_numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "mine@0", "mine", "--max-new-tokens", "8", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "=== engineer" in printed
    assert "--- mine@0" in printed
    assert "tests passed" in printed
    page = (run / "comparison" / "comparison.html").read_text(encoding="utf-8")
    assert "I am an engineer. I love" in page
    assert "pass@1" in page
    assert json.loads((run / "comparison" / "comparison.json").read_text())["cases"][1]["answers"][0]["fates"]


def test_what_a_model_writes_cannot_change_the_page(run: Path) -> None:
    found = finish(compare(["mine"], ["<script>alert(1)</script>"], GREEDY, MACHINE))
    found["cases"][0]["answers"][0]["texts"] = ["</pre><img src=x onerror=alert(2)>\x1b[2J"]
    page = html(comparison_page(found))
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\x1b" not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare"], "there is no model"),
        (["compare", "mine", "--samples", "2"], "2 samples at temperature 0 are all the same"),
        (["compare", "mine", "--samples", "0"], "is less than 1"),
        (["compare", "mine", "--temperature", "-1"], "--temperature"),
        (["compare", "mine", "--prompts", "lesson2"], "did you mean 'lesson1'?"),
        (["compare", "nowhere"], "is neither a run nor a folder of a model"),
        (["compare", "mine", "--tasks", "blimb"], "no such task; did you mean 'blimp'?"),
    ],
)
def test_bad_input(arguments: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: []", "cases"),
        ("cases:\n- {prompt: a, refrence: b}", "did you mean 'reference'"),
        ("cases:\n- {prompt: 'a '}", "ends with a blank"),
        ("cases:\n- {reference: b}", "prompt"),
    ],
)
def test_a_bad_file_of_prompts_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_cases(str(tmp_path / "p.yaml"))
    assert said in str(caught.value)
    assert "p.yaml:" in str(caught.value)


def test_prompts_of_a_text_file_and_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one \n\ntwo\\nlines\n", encoding="utf-8")
    assert [case.prompt for case in read_cases(str(tmp_path / "p.txt"), ("zero ",))] == ["zero", "one", "two\nlines"]
    assert shipped() == ["lesson1"]
    assert [case.name for case in read_cases("lesson1")] == ["engineer", "find_max"]
    with pytest.raises(InputError):
        read_cases(str(tmp_path / "none.txt"))


def test_tasks_are_compared_item_by_item(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_samples(run / "data")
    documents = run / "runs" / "mine" / "stages" / "split" / "documents"
    leaked = "Somebody asked: " + questions()[3]["question"] + " Nobody knew."
    with ShardFile(documents / "web-00000.parquet") as shard:
        shard.write(documents_of("web", [leaked, "Nothing of interest is in here."]))
    command = ["compare", "mine@0", "mine", "--tasks", "arc_easy", "piqa", "--data", str(data), "--device", "cpu"]
    main([*command, "--training", "mine"])
    printed = capsys.readouterr().out
    assert "arc_easy: 1 of 12 items overlap with the training documents." in printed
    found = json.loads((run / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    assert found["cases"] == []
    (pair,) = found["tasks"]["pairs"]
    assert pair["sentence"] in printed
    by_task = {one["task"]: one for one in pair["differences"]}
    assert by_task["arc_easy"]["difference"]["items"] == 12
    assert by_task["arc_easy"]["clean"]["items"] == 11
    assert "clean" not in by_task["piqa"]
    scored = run / "comparison" / "mine" / "items" / "arc_easy.parquet"
    before = scored.stat().st_mtime_ns
    main([*command, "--json"])
    assert scored.stat().st_mtime_ns == before, "what was scored is not scored again"
    assert json.loads(capsys.readouterr().out)["tasks"]["pairs"][0]["differences"][0]["p"] == by_task["arc_easy"]["p"]


def test_tasks_that_fail_leave_a_comparison_of_the_others(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_samples(run / "data")
    (run / "own.yaml").write_text(
        "tasks:\n  none: {use: rolling, about: a, source: b, licence: c, data: {files: [no.jsonl]}, text: '{text}'}\n"
    )
    command = ["compare", "mine@0", "mine", "--data", str(data), "--device", "cpu", "--tasks"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "piqa", "own.yaml"])
    shown = capsys.readouterr()
    assert stopped.value.code == 2
    assert "mine: none: its items are not at hand" in shown.err
    assert "is seen on 1 task" in shown.out or "better" in shown.out
    told = json.loads((run / "comparison" / "comparison.json").read_text(encoding="utf-8"))["tasks"]
    assert [list(of) for of in told["scores"].values()] == [["piqa"], ["piqa"]]
    assert (run / "comparison" / "comparison.html").is_file()
    with pytest.raises(SystemExit):
        main([*command, "own.yaml"])
    told = json.loads((run / "comparison" / "comparison.json").read_text(encoding="utf-8"))["tasks"]
    assert (told["pairs"], len(told["problems"])) == ([], 2)


def test_models_whose_results_would_be_mixed_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "a b=mine@0", "a_b=mine", "--tasks", "piqa", "--device", "cpu"])
    assert "the same folder of results" in capsys.readouterr().err


def test_scores_of_a_step_do_not_take_the_place_of_the_last_ones(run: Path) -> None:
    data = write_samples(run / "data")
    for step in ([], ["--step", "0"]):
        main(["evaluate", "mine", "piqa", "--data", str(data), "--device", "cpu", *step])
    found = [json.loads((run / "evaluations" / name / "tasks.json").read_text()) for name in ("mine", "mine@0")]
    assert found[1]["step"] == 0
    assert found[0]["step"] != 0
