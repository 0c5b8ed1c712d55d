"""Learning from a teacher: the gradient is the right one, memory is bounded, and a resumed run is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F  # noqa: N812

from headwater.core.errors import InputError, MismatchError
from headwater.core.log import read_metrics
from headwater.core.store import hash_file
from headwater.model import checkpoint
from headwater.model.config import ModelConfig
from headwater.model.initialize import random_model
from headwater.model.transformer import Transformer
from headwater.training import distill
from headwater.training.config import Distill
from headwater.training.distill import Teacher
from headwater.training.parallel import Arithmetic
from headwater.training.speed import Choice
from headwater.training.train import train

from .conftest import VOCABULARY, make_settings, workspace

ROW = torch.randint(0, VOCABULARY, (3, 20), generator=torch.Generator().manual_seed(0))
DOCUMENTS = torch.zeros_like(ROW)
FP32 = Arithmetic("cpu", Choice("fp32", "blocks", micro_batch=1, threads=1), 1e9)


def model(seed: int, **shape: Any) -> Transformer:
    small = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 64}
    made = random_model(ModelConfig.model_validate({**small, **shape}), seed, "plain")
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return made


@pytest.fixture
def teacher(tmp_path):
    def save(weight: float = 0.5, temperature: float = 1.0, **shape: Any) -> Distill:
        checkpoint.save(tmp_path / "teacher", model(5, **{"num_layers": 3, **shape}), 0)
        source = {"use": "checkpoint", "path": str(tmp_path / "teacher")}
        return Distill.model_validate({"source": source, "weight": weight, "temperature": temperature})

    return save


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (0.9, 2.5), (1.0, 0.7)])
def test_losses_and_gradients_are_those_of_the_formula(teacher, out, monkeypatch, tied, weight, temperature):
    monkeypatch.setattr(distill, "CHUNK_LOGITS", 2 * 32 * VOCABULARY)  # two chunks
    student, plain = model(1, tie_embeddings=tied), model(1, tie_embeddings=tied)
    taught = Teacher(teacher(weight, temperature), student, 20, FP32, out)
    losses = taught.losses(student, ROW[:, :-1], ROW[:, 1:], DOCUMENTS[:, 1:])
    losses.objective.backward()
    logits, target = plain(ROW[:, :-1]).flatten(0, 1), ROW[:, 1:].flatten()
    token = F.cross_entropy(logits, target)
    theirs = (taught.model(ROW[:, :-1]).flatten(0, 1) / temperature).log_softmax(-1)
    divergence = F.kl_div((logits / temperature).log_softmax(-1), theirs, log_target=True, reduction="batchmean")
    ((1 - weight) * token + weight * temperature**2 * divergence).backward()
    assert float(losses.token) == pytest.approx(float(token.detach()), rel=1e-5)
    assert float(losses.teacher) == pytest.approx(float(divergence.detach()), rel=1e-4)
    for name, parameter in student.named_parameters():
        expected = plain.get_parameter(name).grad
        assert torch.allclose(parameter.grad, expected, atol=1e-6 + 1e-4 * float(expected.abs().max())), name


def test_targets_that_do_not_count_are_left_out(teacher, out):
    student, short = model(1), model(1)
    taught = Teacher(teacher(), student, 20, FP32, out)
    targets = ROW[:, 1:].clone()
    targets[1, 5:] = -1
    targets[2] = -1
    taught.losses(student, ROW[:, :-1], targets, DOCUMENTS[:, 1:]).objective.backward()
    parts = [
        taught.losses(short, ROW[n : n + 1, :size], ROW[n : n + 1, 1 : size + 1], DOCUMENTS[:1, :size])
        for n, size in ((0, 19), (1, 5))
    ]
    ((19 * parts[0].objective + 5 * parts[1].objective) / 24).backward()
    for name, parameter in student.named_parameters():
        expected = short.get_parameter(name).grad
        assert torch.allclose(parameter.grad, expected, atol=1e-6 + 1e-4 * float(expected.abs().max())), name


def test_a_teacher_has_nothing_to_teach_itself(teacher, out):
    settings = teacher(weight=1.0)
    student = checkpoint.load_model(settings.source.path)[0]
    losses = Teacher(settings, student, 20, FP32, out).losses(student, ROW[:, :-1], ROW[:, 1:], DOCUMENTS[:, 1:])
    losses.objective.backward()
    assert float(losses.teacher) == pytest.approx(0, abs=1e-5)
    assert max(float(parameter.grad.abs().max()) for parameter in student.parameters()) < 1e-5


def weights(folder) -> dict[str, torch.Tensor]:
    return checkpoint.load_model(folder / "checkpoint")[0].state_dict()


def test_a_resumed_run_with_a_teacher_is_the_same(world, tmp_path, teacher, monkeypatch):
    settings = make_settings(steps=8, checkpoint_every=3, distill=teacher())
    whole = workspace(tmp_path / "whole")
    counts = train(settings, world, whole)
    assert counts["distilled"]["parameters"] == model(5, num_layers=3).config.parameters()
    lines = [line for line in read_metrics(whole.folder / "metrics.jsonl") if "loss" in line]
    assert counts["distilled"]["divergence"] == lines[-1]["teacher_divergence"] > 0
    part = workspace(tmp_path / "part")
    original = Teacher.losses
    calls = 0

    def killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(Teacher, "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        train(settings, world, part)
    again = train(settings, world, part)
    assert again["distilled"] == counts["distilled"]
    for name, tensor in weights(whole.folder).items():
        assert torch.equal(tensor, weights(part.folder)[name]), name


def test_a_teacher_counts_in_time_and_identity(world, tmp_path, teacher):
    plain, taught = make_settings(steps=2), make_settings(steps=2, distill=teacher())
    assert plain.fingerprint(hash_file) is None
    before = taught.fingerprint(hash_file)
    assert set(before["teacher"]) == {"model.json", "weights.safetensors"}
    flops = [
        train(settings, world, workspace(tmp_path / name))["flops_per_token"]
        for name, settings in (("a", plain), ("b", taught))
    ]
    assert flops[1] == flops[0] + model(5, num_layers=3).config.flops_per_token(plain.sequence_length) // 3
    teacher(num_layers=4)
    assert taught.fingerprint(hash_file) != before


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"vocab_size": 99}, "the teacher knows 99 tokens, the model 64"),
        ({"context_length": 16}, "the teacher's context_length 16 is less than the 32 tokens of a row"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(world, out, teacher, shape, problem):
    with pytest.raises(MismatchError, match=problem):
        train(make_settings(steps=2, distill=teacher(**shape)), world, out)


def test_a_missing_teacher_is_named(tmp_path):
    source = {"use": "checkpoint", "path": str(tmp_path / "nowhere")}
    with pytest.raises(InputError, match="nowhere: is not a folder"):
        make_settings(steps=2, distill={"source": source}).fingerprint(hash_file)
    with pytest.raises(ValidationError, match="a teacher is taken as it is; leave vocabulary out"):
        Distill.model_validate({"source": {**source, "vocabulary": {"use": "means"}}})
