"""The law of a ladder: what is true is found, the band holds it, and small models are like the large one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headwater.advice.activations import count
from headwater.advice.architecture import of
from headwater.advice.ladder import Law, Rung, fit, law_from, rungs_of, shrunk
from headwater.core.errors import EmptyResultError
from headwater.model.presets import PRESETS
from headwater.model.shape import ModelConfig

SMALL = ModelConfig(vocab_size=2048, hidden_size=128, num_layers=4, num_heads=2, context_length=256, qk_norm=True)
N0, D0 = SMALL.parameters(), 1_500_000


def measured(E: float, A: float, B: float, a: float, b: float, noise: float, seed: int) -> Law:
    rng = np.random.default_rng(seed)
    rungs = []
    for config, tokens in rungs_of(SMALL, D0, 2048):
        value = E + A * (N0 / config.parameters()) ** a + B * (D0 / tokens) ** b
        rungs.append(Rung(config.parameters(), tokens, value * (1 + noise * rng.normal())))
    return fit(rungs, N0, D0)


def test_the_truth_is_within_three_percent_and_mostly_within_the_band() -> None:
    inside = 0
    for seed in range(20):
        rng = np.random.default_rng(1000 + seed)
        truth = (0.8, 0.2, 0.35, rng.uniform(0.2, 0.5), rng.uniform(0.25, 0.6))
        found = measured(*truth, noise=0.004, seed=seed).predict(N0, D0)
        assert found.value == pytest.approx(sum(truth[:3]), rel=0.03)
        inside += found.low <= sum(truth[:3]) <= found.high
    assert inside >= 17


def test_without_noise_the_law_is_found_and_noise_widens_the_band() -> None:
    law = measured(0.8, 0.2, 0.35, 0.34, 0.34, noise=0.0, seed=0)
    assert law.predict(N0, D0).value == pytest.approx(1.35, rel=0.005)
    noisy = measured(0.8, 0.2, 0.35, 0.34, 0.34, noise=0.02, seed=0)
    sure, unsure = (of.predict(N0, D0) for of in (law, noisy))
    assert unsure.high - unsure.low > sure.high - sure.low
    assert law.predict(2 * N0, D0).value < law.predict(N0, D0).value
    assert law.predict(N0, 2 * D0).value < law.predict(N0, D0).value


FIRST = [
    (104_784, (100_352, 200_704, 401_408), (3.214, 2.925, 2.642)),
    (212_096, (100_352, 200_704, 401_408), (3.142, 2.830, 2.535)),
    (353_628, (100_352, 200_704), (3.086, 2.776)),
]
SECOND = [
    (79_000, (100_352, 200_704, 401_408, 800_768), (3.243, 2.963, 2.707, 2.453)),
    (163_264, (200_704, 401_408), (2.836, 2.542)),
    (294_644, (200_704,), (2.798,)),
]
"""Bits per byte of small runs on 6 MB of books: docs/lab-notes.md."""


@pytest.mark.parametrize("ladder", [FIRST, SECOND])
def test_a_measured_ladder_tells_the_run(ladder: list[tuple[int, tuple[int, ...], tuple[float, ...]]]) -> None:
    """The run itself, 541,920 parameters on 800,768 tokens, came to 2.151."""
    rungs = [Rung(n, d, v) for n, lengths, values in ladder for d, v in zip(lengths, values, strict=True)]
    law = fit(rungs, 541_920, 800_768)
    assert law.predict(541_920, 800_768).value == pytest.approx(2.151, rel=0.03)
    for rung in rungs:
        assert law.predict(rung.parameters, rung.tokens).value == pytest.approx(rung.bits_per_byte, rel=0.01)


def test_the_band_of_a_short_run_is_wide() -> None:
    """The forecast of a run of 313 steps was 5.2 % too high: docs/lab-notes.md."""
    plays = [
        (58_944, (39_936, 79_872, 159_744, 320_512), (3.884, 3.602, 3.213, 2.821)),
        (118_368, (79_872, 159_744), (3.401, 2.966)), (223_176, (79_872,), (3.205,)),
    ]  # fmt: skip
    rungs = [Rung(n, d, v) for n, lengths, values in plays for d, v in zip(lengths, values, strict=True)]
    law = fit(rungs, 390_160, 320_512, steps=313)
    found = law.predict(390_160, 320_512)
    assert found.value == pytest.approx(2.304, rel=0.06)
    assert found.low < 2.304 < found.high
    assert "too few for a law" in str(law)
    assert fit(rungs, 390_160, 320_512, steps=5000).predict(390_160, 320_512).low > found.low


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(EmptyResultError, match="four runs of two sizes"):
        fit([Rung(1e6, n, 2.0) for n in (1e5, 2e5, 4e5, 8e5)], 1e6, 1e6)


def test_a_law_is_read_again() -> None:
    law = measured(0.8, 0.2, 0.35, 0.3, 0.3, noise=0.004, seed=1)
    again = law_from({**law.to_json(), "rungs": [list(rung) for rung in law.rungs]})
    assert again.predict(N0, D0) == law.predict(N0, D0)
    assert "bits per byte = " in str(law)


@pytest.mark.parametrize("name", ["llama-14m", "llama-110m", "smollm2-135m", "gpt2-124m", "qwen3-0.6b", "llama2-7b"])
def test_small_models_are_like_the_large_one(name: str) -> None:
    config = PRESETS[name].config()
    runs = rungs_of(config, 1e9, 2**19)
    assert len(runs) >= 6
    for small, tokens in runs:
        assert small.parameters() < 0.9 * config.parameters()
        assert tokens % 2**19 == 0
        assert (small.num_heads, small.num_kv_heads, small.vocab_size) == (
            config.num_heads,
            config.num_kv_heads,
            config.vocab_size,
        )
        assert small.family == config.family
    cost = sum(small.flops_per_token(512) * tokens for small, tokens in runs)
    assert cost < 0.8 * config.flops_per_token(512) * 1e9
    assert shrunk(config, 0.5).parameters() == pytest.approx(0.5 * config.parameters(), rel=0.35)


def test_activations_are_counted_on_small_copies() -> None:
    """Linear in layers and tokens: the count at 4 layers and another length is what 2 and 6 layers say."""
    import torch

    from headwater.advice.activations import _saved  # the count itself

    found = count(SMALL)
    told = found.fixed_bytes + 128 * found.bytes_per_token(4)
    assert _saved(SMALL, 4, 128, torch.float32) == pytest.approx(told, rel=0.05)
    fused = 4 * of(SMALL).activation_numbers(0)
    assert fused < found.block_bytes < 2.5 * fused


def test_no_law_for_other_tokens(tmp_path: Path) -> None:
    from headwater.advice.ladder import kept_law

    assert kept_law(tmp_path, None, None) is None
