"""The command line: what it prints where, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parent / "flow" / "tiny.yaml"


def headwater(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headwater", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_new_check_show(tmp_path: Path) -> None:
    done = headwater("new", "my.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "headwater check my.yaml" in done.stdout
    done = headwater("check", "my.yaml", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("my.yaml: ok, 11 stages: read, clean")
    done = headwater("show", "my.yaml", "--json", "train.seed=7", folder=tmp_path)
    assert json.loads(done.stdout)["train"]["seed"] == 7
    done = headwater("show", "my.yaml", folder=tmp_path)
    (tmp_path / "shown.yaml").write_text(done.stdout)
    again = headwater("show", "shown.yaml", folder=tmp_path)
    assert again.stdout == done.stdout


def test_new_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("mine")
    done = headwater("new", "my.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["my.yaml: exists already", "hint: choose another name, or remove it"]
    assert (tmp_path / "my.yaml").read_text() == "mine"


def test_problems_are_lines_with_places_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("read:\n  sources:\n    a: {use: tekst, paths: [x]}\ntrian: {}\n")
    done = headwater("check", "bad.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[:2] == [
        "bad.yaml:3: read.sources.a.use: no such choice 'tekst'; did you mean 'text'?",
        "bad.yaml:4: trian: no such setting; did you mean 'train'?",
    ]
    assert done.stderr.splitlines()[2].startswith("hint: ")


def test_a_recipe_that_cannot_run_does_not_pass_its_check(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "read:\n  sources:\n    a: {use: text, paths: [nothing.txt]}\nclean: {steps: [{use: normalise}]}\n"
    )
    done = headwater("check", "my.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout.startswith("my.yaml: well-formed, 3 stages: read, clean, report")
    assert done.stderr.startswith("it cannot run yet: nothing.txt: no such file")
    assert "\nhint: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "demmo"), "demmo: no such recipe; did you mean 'demo'?"),
        (("run", "absent.yaml"), "absent.yaml: no such recipe"),
        (("plan", "demo", "--until", "trian"), "no such stage 'trian'; did you mean 'train'?"),
        (("list", "recipe"), "no such list 'recipe'; did you mean 'recipes'?"),
        (("runn", "demo"), "runn"),
        (("tokens", "demo", "--to", "rows.parquet", "--steps", "0"), "steps: 0 training steps have no rows"),
        (("plan", "demo", "train.sede=1"), "train.sede=1: train.sede: no such setting; did you mean 'seed'?"),
    ],
)
def test_what_the_user_can_cause_is_one_line(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = headwater(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_plan_as_a_table_and_as_json(tmp_path: Path, prose: Path) -> None:
    source = f"read.sources.prose.paths=[{prose}]"
    done = headwater("plan", str(TINY), source, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["stage", "state", "time", "disk", "basis", "why"]
    assert done.stdout.splitlines()[-1].startswith("tiny: 13 of 13 stages run, about ")
    done = headwater("plan", str(TINY), source, "--json", "--until", "clean", folder=tmp_path)
    assert [row["stage"] for row in json.loads(done.stdout)["stages"]] == ["read", "clean"]
    assert not (tmp_path / "store").exists()


def test_check_and_plan_say_what_the_model_will_be(tmp_path: Path, prose: Path) -> None:
    settings = (
        f"read.sources.prose.paths=[{prose}]",
        "initialize={use: random, dial: {parameters: 1M, num_layers: 3}}",
    )
    expected = [
        "model: llama of 705,408 parameters: 3 layers of 128, 2 heads, 512 rows of vocabulary; ",
        "  hidden_size 128: the whole heads with which 3 layers come nearest to 1,000,000 parameters",
        "  num_heads 2: head_size 64",
        "  ffn_size 384: 8/3 x hidden_size",
        "  parameters 705,408: exact count, -29.5% from",
        "  training tokens ",
    ]
    for command in ("check", "plan"):
        done = headwater(command, str(TINY), *settings, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        begin = next(at for at, line in enumerate(lines) if line.startswith("model: "))
        for line, start in zip(lines[begin:], expected, strict=False):
            assert line.startswith(start), line
    model = json.loads(headwater("plan", str(TINY), *settings, "--json", folder=tmp_path).stdout)["model"]
    assert model["hidden_size"] == 128
    assert [number["value"] for number in model["derived"] if number["setting"] == "parameters"] == [
        model["parameters"]
    ]
    done = headwater(
        "check",
        str(TINY),
        "initialize.model=null",
        "initialize.dial={hidden_size: 256, parameters: 100k}",
        folder=tmp_path,
    )
    assert done.returncode == 2
    assert (
        "initialize.dial: 512 tokens x hidden_size 256 alone are 131,328 parameters, more than 100,000" in done.stderr
    )


def test_list_and_doctor(tmp_path: Path) -> None:
    done = headwater("list", folder=tmp_path)
    assert {"demo", "shakespeare"} <= {line.split()[0] for line in done.stdout.splitlines()[1:] if line[0] != " "}
    for what in ("stages", "sources", "steps", "runs"):
        done = headwater("list", what, "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), list)
    done = headwater("list", "models", "--json", folder=tmp_path)
    solar = next(facts for facts in json.loads(done.stdout) if facts["model"] == "solar-10.7b")
    assert solar["parameters"] == 10_731_524_096
    assert solar["training_bytes"]["fp32 none"] == 16 * solar["parameters"]
    assert solar["serving_bytes"]["bf16"] == 2 * solar["parameters"]
    done = headwater("list", "models", folder=tmp_path)
    assert "10,731,524,096" in done.stdout
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 100
    done = headwater("doctor", "--json", folder=tmp_path)
    assert done.returncode == 0
    assert {"Python", "torch", "disk"} <= {finding["what"] for finding in json.loads(done.stdout)}


def test_version_and_help(tmp_path: Path) -> None:
    import headwater as package

    assert headwater("--version", folder=tmp_path).stdout.strip() == package.__version__
    done = headwater("--help", folder=tmp_path)
    assert done.returncode == 0
    for verb in ("new", "check", "show", "plan", "run", "report", "export", "list", "doctor"):
        assert verb in done.stdout


def test_help_loads_neither_torch_nor_numba(tmp_path: Path) -> None:
    code = "import sys, headwater.cli, headwater.flow, headwater.recipe; print([m for m in ('torch', 'numba', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
