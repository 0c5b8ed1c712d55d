"""A quality model learns to tell samples apart, is calibrated, deterministic, and part of the stage's identity."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.core.errors import InputError
from headwater.core.store import HashMemory
from headwater.documents.clean import Clean, clean
from headwater.documents.cleaning.linear import LinearModel, isotonic, platt, report
from headwater.documents.cleaning.quality import TrainedQuality, train

from . import corpus

NOUNS = ["river", "bridge", "committee", "harbour", "valley", "engine", "letter", "garden", "winter", "teacher"]


def texts(kind: str, count: int, seed: int) -> list[str]:
    """Sentences of two kinds that share their nouns and differ in what is said of them."""
    generator = random.Random(f"{kind}{seed}")
    said = {
        "good": ["explains why the", "was built beside the", "is older than the"],
        "bad": ["buy now the", "click the"],
    }
    return [
        " ".join(
            f"{generator.choice(NOUNS)} {generator.choice(said[kind if generator.random() < 0.8 else 'good'])}"
            for _ in range(12)
        )
        for _ in range(count)
    ]


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, Any]:
    for kind in ("good", "bad"):
        lines = (json.dumps({"text": text}) + "\n" for text in texts(kind, 400, 0))
        (tmp_path / f"{kind}.jsonl").write_text("".join(lines))
    return {"positive": str(tmp_path / "good.jsonl"), "negative": [str(tmp_path / "bad.jsonl")]}


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_it_tells_samples_apart_and_says_how_well(samples: dict[str, Any], calibration: str) -> None:
    model, told = train(TrainedQuality.model_validate({**samples, "calibration": calibration}))
    held_out = told["held_out"]
    assert held_out["auc"] > 0.97
    assert held_out["calibration_error"] < 0.1
    assert told["learned_from"] + told["calibrated_by"] + held_out["positive"] + held_out["negative"] == 800
    rows = held_out["thresholds"]
    assert [row["threshold"] for row in rows] == sorted(row["threshold"] for row in rows)
    kept = [row["kept"] for row in rows]
    assert kept == sorted(kept, reverse=True)
    assert rows[9]["precision"] > 0.85
    assert np.diff(model.points[:, 1]).min() >= 0


def test_the_same_samples_give_the_same_file(samples: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(TrainedQuality.model_validate(samples))[0].save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    train(TrainedQuality.model_validate({**samples, "seed": 1}))[0].save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def run(folder: Path, step: dict[str, Any], sources: dict[str, Sequence[str]], workers: int = 1) -> Any:
    inputs = {"documents": corpus.write(folder / "read", sources, 2000)}
    out = corpus.Place(folder / "clean", workers)
    return clean(Clean.model_validate({"steps": [step]}), inputs, out), out


def test_the_step_keeps_what_is_like_the_good_ones(samples: dict[str, Any], tmp_path: Path) -> None:
    sources = {"web": [*texts("good", 50, 1), *texts("bad", 50, 1)]}
    counts, out = run(tmp_path, {"use": "quality", "model": samples, "tag": True}, sources)
    rows = corpus.rows(out.folder / "documents")
    good = set(sources["web"][:50])
    assert sum(row["text"] in good for row in rows) >= 45
    assert sum(row["text"] not in good for row in rows) <= 5
    assert all(json.loads(row["meta"])["quality"] >= 0.5 for row in rows)
    assert counts["prepared"]["0"]["held_out"]["auc"] > 0.97
    assert counts["sensitivity"]["0"]["min_score"]["judged"] == 100
    model = out.folder / "quality-0.model"
    again, other = run(tmp_path / "again", {"use": "quality", "model": str(model), "tag": True}, sources, workers=3)
    assert corpus.rows(other.folder / "documents") == rows
    assert again["prepared"]["0"]["model_hash"] == counts["prepared"]["0"]["model_hash"]


def test_samples_and_models_are_part_of_the_identity(samples: dict[str, Any], tmp_path: Path) -> None:
    settings = Clean.model_validate({"steps": [{"use": "quality", "model": samples}]})
    memory = HashMemory(tmp_path / "hashes.json")
    before = settings.fingerprint(memory)
    assert len(before) == 2
    with (tmp_path / "good.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    assert settings.fingerprint(memory) != before


def test_folders_of_samples(tmp_path: Path) -> None:
    for kind in ("good", "bad"):
        (tmp_path / kind).mkdir()
        for number, text in enumerate(texts(kind, 100, 2)):
            (tmp_path / kind / f"{number}.txt").write_text(text)
    settings = TrainedQuality(positive=(str(tmp_path / "good"),), negative=(str(tmp_path / "bad"),))
    assert train(settings)[1]["held_out"]["auc"] > 0.9


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"text": "a"}\n' * 3, "3 documents are too few"),
        ("not json\n" * 30, r"bad\.jsonl.* 1"),
        ('{"title": "a"}\n' * 30, r"text"),
    ],
)
def test_bad_samples_are_one_line(samples: dict[str, Any], tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(InputError, match=problem):
        train(TrainedQuality.model_validate(samples))


def test_bad_models_and_paths_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.model").write_bytes(b"HWLM garbage")
    with pytest.raises(InputError, match="is not a quality model"):
        LinearModel.load(tmp_path / "x.model")
    (tmp_path / "x.model").write_bytes(b"HWLM" + np.array([1, 2, 400, 1 << 40], np.int64).tobytes())
    with pytest.raises(InputError, match="is not a quality model"):
        LinearModel.load(tmp_path / "x.model")
    for model in ("none.model", {"positive": "none.jsonl", "negative": "none.jsonl"}):
        with pytest.raises(InputError, match="no such file"):
            Clean.model_validate({"steps": [{"use": "quality", "model": model}]}).fingerprint(lambda _: "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no file of samples"):
        TrainedQuality(positive=(str(tmp_path / "empty"),), negative=("x",)).sample_files()


def test_calibrations_recover_known_probabilities() -> None:
    generator = np.random.default_rng(0)
    raw = generator.normal(0, 0.01, 20_000)
    truth = 1 / (1 + np.exp(-(300 * raw - 0.5)))
    good = generator.random(len(raw)) < truth
    for points in (platt(raw, good), isotonic(raw, good)):
        assert np.abs(np.interp(raw, points[:, 0], points[:, 1]) - truth).mean() < 0.02
    assert platt(raw, np.ones(len(raw), bool))[:, 1].max() <= 1  # one kind alone does not blow up


def test_isotonic_equals_the_textbook() -> None:
    points = isotonic(np.array([1.0, 2, 3, 4, 5]), np.array([False, True, False, True, True]))
    assert points.tolist() == [[1, 0], [2.5, 0.5], [4.5, 1]]


def test_report_of_ties_and_of_the_worst() -> None:
    assert report(np.full(4, 0.5), np.array([True, True, False, False]))["auc"] == 0.5
    assert report(np.array([0.1, 0.9]), np.array([True, False]))["auc"] == 0
