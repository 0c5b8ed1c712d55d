"""Cost, claims and prices: what must hold whatever the numbers, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.advice import asking
from headwater.advice.architecture import named, parse_trainable
from headwater.advice.claims import Claims, check, warnings
from headwater.advice.cost import Cost, Job
from headwater.advice.market import SHIPPED, market, write_prices
from headwater.advice.memory import Layout, training
from headwater.advice.statement import statement
from headwater.advice.utilization import expected, measured
from headwater.cli import main
from headwater.core.errors import HeadwaterError, InputError, RecipeError

LLAMA = named("llama-2-7b")


def job(tokens: float = 2e12, **more: Any) -> Cost:
    return Cost(Job(tokens, **{"model": LLAMA, "gpu": "a100-80gb", "gpus": 1024} | more))


# --------------------------------------------------------------------------------------------------- properties


@given(st.floats(1e6, 1e15), st.sampled_from(["gpt2", "llama-2-7b", "deepseek-v3", "gemma-2-9b"]))
def test_cost_grows_in_a_line_with_tokens(tokens: float, name: str) -> None:
    one, two = (Cost(Job(n, named(name), "h100", 512, fits_anyhow=True)) for n in (tokens, 2 * tokens))
    for a, b in ((one.gpu_hours, two.gpu_hours), (one.usd, two.usd), (one.co2_tonnes, two.co2_tonnes)):
        assert b.likely == pytest.approx(2 * a.likely)
        assert a.low <= a.likely <= a.high


def test_cost_grows_with_size_and_price() -> None:
    sizes = ("pythia-410m", "pythia-1.4b", "pythia-6.9b", "pythia-12b", "gpt-neox-20b")
    hours = [Cost(Job(3e11, named(name), "a100", 64, mfu=0.4)).gpu_hours.likely for name in sizes]
    assert hours == sorted(hours)
    assert job(usd_per_hour=3).usd.likely == pytest.approx(2 * job(usd_per_hour=1.5).usd.likely)
    assert job(mfu=0.2).days.likely == pytest.approx(2 * job(mfu=0.4).days.likely)
    guess = job(mfu=0.4, mfu_factor=2).days
    assert guess.high == pytest.approx(2 * guess.likely)
    assert guess.low == pytest.approx(guess.likely / 2)
    assert job(mfu=0.4, goodput=0.5).days.likely == pytest.approx(2 * job(mfu=0.4).days.likely)


@given(st.integers(0, 12), st.sampled_from(["none", "optimizer", "gradients", "weights"]), st.integers(1, 8))
def test_more_gpus_hold_no_more_each(power: int, sharding: Any, rows: int) -> None:
    few, many = (training(LLAMA, Layout(n, sharding, micro_batch=rows), 4096) for n in (2**power, 2 ** (power + 1)))
    assert many.weights <= few.weights
    assert many.optimizer <= few.optimizer
    assert (
        training(LLAMA, Layout(8, micro_batch=rows + 1), 4096).total
        > training(LLAMA, Layout(8, micro_batch=rows), 4096).total
    )
    again = training(LLAMA, Layout(8, micro_batch=rows, recompute="everything"), 4096)
    assert again.activations < training(LLAMA, Layout(8, micro_batch=rows), 4096).activations


def test_units() -> None:
    cost = job(mfu=0.445, watts=400, pue=1.1, grid="us-average-llama")
    assert cost.gpu_hours.likely == pytest.approx(184_320, rel=0.01)
    assert cost.days.likely * 24 * 1024 == pytest.approx(cost.gpu_hours.likely)
    assert cost.kwh.likely == pytest.approx(cost.gpu_hours.likely * 0.4 * 1.1)
    assert cost.co2_tonnes.likely == pytest.approx(31.22, rel=0.01)
    assert cost.tokens_per_second.likely * cost.days.likely * 86_400 == pytest.approx(2e12)


def test_the_prior_knows_long_rows_many_gpus_and_formats() -> None:
    def likely(T: int = 2048, gpus: int = 8, precision: Any = "bf16", **more: Any) -> float:
        return expected("h100-80gb", 3e9, T, gpus, precision, **more).mfu.likely

    assert likely(65_536) < likely(8192) < likely(2048)
    assert likely(gpus=512) < likely(gpus=16)
    assert 1.1 < 2 * likely(precision="fp8") / likely() < 1.5  # faster, of a peak that is twice as high
    assert likely(recompute=True) < likely()
    assert likely(software="eager") < likely() < likely(software="hand-written")
    assert "llm-foundry" in expected("h100-80gb", 7e9, 2048, 128, "bf16").source
    assert "a wide guess" in expected("tpu", 7e9, 2048, 8, "fp8").source


def test_epochs_and_odd_plans_are_told() -> None:
    assert "fewer tokens" in " ".join(warnings(job(7e8)))
    four, forty = job(unique_tokens=0.5e12), job(unique_tokens=0.05e12)
    assert four.epochs == 4
    assert four.worth_tokens == pytest.approx(3.73 * 0.5e12, rel=0.01)
    assert "next to nothing" in " ".join(warnings(forty))
    assert "impossible" in " ".join(warnings(job(mfu=0.9)))
    assert "above the" in " ".join(warnings(job(mfu=0.7)))
    assert warnings(four) == []


def test_the_statement_says_everything() -> None:
    text = statement(job())
    for word in ("6,738,415,616", "12 L H Q T", "causal half", "activations", "ZeRO-1", "FSDP", "TP 8", "fits, taken here",
                 "goodput", "restarts", "storage", "project", "Besiroglu", "Muennighoff", "rounded", "batch_tokens"):  # fmt: skip
        assert word in text or word == "Muennighoff", word
    assert "Muennighoff" in statement(job(unique_tokens=1e12))
    assert "unknown shape" in statement(Cost(Job(1e12, parameters=7e9)))


# ------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    ("claims", "verdict", "words"),
    [
        (Claims(mfu=0.9), "impossible", "reach 87%"),
        (Claims(mfu=0.7), "odd", "HFU"),
        (Claims(gpu_hours=184_320), "agrees", "44.5%"),
        (Claims(gpu_hours=184_320 * 1024), "wrong", "multiplied by the 1,024 GPUs once more"),
        (Claims(gpu_hours=180), "impossible", "hours of the clock"),
        (Claims(gpu_hours=50_000), "impossible", "matrix products alone"),
        (Claims(days=7.5), "agrees", "184,320 GPU-hours"),
        (Claims(days=1), "impossible", "24,576 GPU-hours"),
        (Claims(days=20, gpu_hours=184_320), "wrong", "not the 184,320"),
        (Claims(flops=8.1e22), "agrees", "6 N D"),
        (Claims(flops=8.57e22), "agrees", "causal"),
        (Claims(flops=9.22e22), "agrees", "in full"),
        (Claims(flops=936), "wrong", "petaFLOP/s-days"),
        (Claims(flops=2.7e22), "wrong", "forward pass alone"),
        (Claims(tokens_per_second=3.0e6), "agrees", "MFU of 43."),
        (Claims(tokens_per_second=3000), "wrong", "of one GPU"),
        (Claims(tokens_per_second=3e7), "impossible", "need an MFU"),
        (Claims(parameters=7e9), "agrees", "6,738,415,616"),
        (Claims(parameters=70e9), "wrong", "6,738,415,616"),
        (Claims(usd=330_000, gpu_hours=184_320), "agrees", "1.79 USD an hour"),
        (Claims(usd=3_300_000, gpu_hours=184_320), "wrong", "outside of the market"),
        (Claims(co2_tonnes=31.22, gpu_hours=184_320), "agrees", "31.2"),
        (Claims(co2_tonnes=34.34, gpu_hours=184_320), "wrong", "counted twice"),
        (Claims(co2_tonnes=28.38, gpu_hours=184_320), "wrong", "left out"),
        (Claims(co2_tonnes=0.03122, gpu_hours=184_320), "wrong", "a unit slipped"),
        (Claims(kwh=81_100, gpu_hours=184_320), "agrees", "kWh"),
        (Claims(co2_tonnes=38_480, gpu_hours=184_320), "wrong", "a unit slipped"),
    ],
)
def test_claims(claims: Claims, verdict: str, words: str) -> None:
    found = check(job(watts=400, pue=1.1, grid="us-average-llama"), claims)
    assert [finding for finding in found if finding.verdict == verdict and words in finding.text], found


def test_rounded_constants_are_noticed() -> None:
    llama = Cost(Job(15.6e12, named("llama-3.1-405b"), "h100", 16_384))
    said = check(llama, Claims(optimal_tokens=10.46e12))
    assert (said[0].verdict, "rounded in print" in said[0].text) == ("wrong", True)
    assert check(llama, Claims(optimal_tokens=16.6e12))[0].verdict == "agrees"
    assert check(llama, Claims(optimal_tokens=1e9))[0].verdict == "odd"
    assert not Claims()


# -------------------------------------------------------------------------------------------- what people type


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line says of a mistake: one line and perhaps a hint, and exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(["cost", *arguments])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) <= 2
    assert all(line.startswith("hint: ") for line in lines[1:])
    return err


SEVEN = ("--model", "llama-2-7b")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SEVEN, "--tokens", "2T", "--gpu", "h1000"), "--gpu: no GPU 'h1000' is known; did you mean"),
        (("--model", "lama-2-7b", "--tokens", "2T"), "did you mean 'llama2-7b'?"),
        ((*SEVEN,), "--tokens: how many tokens"),
        (("--tokens", "2T"), "--model: neither a model nor"),
        ((*SEVEN, "--parameters", "7B", "--tokens", "2T"), "not both"),
        ((*SEVEN, "--tokens", "0"), "--tokens: must be above zero"),
        ((*SEVEN, "--tokens", "-2T"), "--tokens: takes a count"),
        ((*SEVEN, "--tokens", "2 TB"), "--tokens: takes a count"),
        ((*SEVEN, "--tokens", "2T", "--count", "0"), "--count: must be above zero"),
        ((*SEVEN, "--tokens", "2T", "--mfu", "45"), "--mfu: takes a share"),
        ((*SEVEN, "--tokens", "2T", "--mfu", "0"), "--mfu: must be above zero"),
        ((*SEVEN, "--tokens", "2T", "--price", "2 EUR"), "--price: takes US dollars"),
        ((*SEVEN, "--tokens", "2T", "--price", "-1"), "--price: must be above zero"),
        ((*SEVEN, "--tokens", "2T", "--pue", "0.9"), "--pue: 0.9 cannot be"),
        ((*SEVEN, "--tokens", "2T", "--grid", "narnia"), "--grid: no grid 'narnia'"),
        ((*SEVEN, "--tokens", "2T", "--grid", "385000"), "is no grid"),
        ((*SEVEN, "--tokens", "2T", "--precision", "fp8", "--gpu", "a100"), "no fp8 products"),
        ((*SEVEN, "--tokens", "2T", "--unique-tokens", "3T"), "more than the 2e+12"),
        ((*SEVEN, "--tokens", "2T", "--count", "6", "--tensor-parallel", "4"), "does not divide 6"),
        ((*SEVEN, "--tokens", "2T", "--trainable", "top:3"), "names no part"),
        (("--model", "llama-2-70b", "--tokens", "2T", "--gpu", "rtx-3090", "--count", "1"), "64 x rtx-3090"),
        (("--model", "llama-2-70b", "--tokens", "2T", "--gpu", "rtx-3090", "--count", "1"), "8 x mi300x"),
        (("--model", "absent.json", "--tokens", "2T"), "absent.json: is not there"),
        ((*SEVEN, "--tokens", "2T", "--claimed-mfu", "high"), "--claimed-mfu: takes a number"),
        ((*SEVEN, "--tokens", "2T", "--claimed-flops", "9e22 FLOP/s"), "--claimed-flops: takes FLOPs"),
        ((*SEVEN, "--tokens", "2T", "--claimed-days", "-3"), "--claimed-days: must be above zero"),
        ((*SEVEN, "--tokens", "2T", "--claimed-mfu", "nan"), "--claimed-mfu: takes a number"),
        ((*SEVEN, "--tokens", "2T", "--watts", "0.4"), "--watts: 0.4 W is no GPU"),
        ((*SEVEN, "--tokens", "2T", "--grid", "0.385"), "0.385 g CO2e for a kWh is no grid"),
        (("--parameters", "7", "--tokens", "2T"), "--parameters: 7 cannot be meant: is a unit missing?"),
        ((*SEVEN, "--tokens", "2"), "--tokens: 2 cannot be meant"),
        ((*SEVEN, "--tokens", "2T", "--tensor-parallel", "3"), "cannot share the model as asked"),
        ((*SEVEN, "--tokens", "2T", "--sharding", "weights", "--count", "1"), "cannot share the model as asked"),
        ((*SEVEN, "--tokens", "2T", "--sharding", "none", "--count", "8"), "DDP + recompute needs 104 GiB"),
        ((*SEVEN, "--tokens", "2T", "--micro-batch", "1000", "--count", "8"), "1,000 rows of 4,096 tokens"),
        ((*SEVEN, "--tokens", "2T", "--micro-batch", "1000", "--count", "8", "--gpu", "a100"), "works is 32 x a100"),
    ],
)
def test_mistakes_are_one_clear_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(capsys, *arguments)


def test_the_command_prints_numbers_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["cost", *SEVEN, "--tokens", "2T", "--gpu", "a100-80gb", "--count", "1024"]
    main(asked)
    assert "6,738,415,616 (6.74B)" in capsys.readouterr().out
    main([*asked, "--claimed-gpu-hours", "184320", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["parameters"] == 6_738_415_616
    assert told["checks"][0]["verdict"] == "agrees"
    main(["cost", "--table"])
    table = capsys.readouterr().out
    assert "Llama 3.1 405B" in table
    assert "cannot be computed" in table
    main(["cost", "--models", "--json"])
    assert len(json.loads(capsys.readouterr().out)) > 150


def test_prices_are_the_user_s_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    write_prices(path)
    with pytest.raises(InputError, match="exists already"):
        write_prices(path)
    text = SHIPPED.read_text(encoding="utf-8")
    path.write_text(text.replace("usd_per_hour: [1.2, 1.8, 4.1]", "usd_per_hour: [1.2, 18, 41]", 1))
    main(["cost", *SEVEN, "--tokens", "2T", "--gpu", "a100", "--count", "64", "--prices", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["usd_per_gpu_hour"]["likely"] == 18
    path.write_text(text.replace("usd_per_hour: [1.2, 1.8, 4.1]", "usd_per_hour: [4.1, 1.8, 1.2]", 1))
    with pytest.raises(RecipeError, match="must rise from low to high"):
        market(path)
    path.write_text(text.replace("watts: 400", "wats: 400", 1))
    with pytest.raises(HeadwaterError, match="did you mean 'watts'"):
        market(path)


def test_claims_need_not_be_whole_numbers() -> None:
    said = asking.claims(days=7.5, gpu_hours="12.6", tokens_per_second="3.05M", kwh="81.1K", parameters="7B")
    assert (said.days, said.gpu_hours, said.tokens_per_second, said.kwh) == (7.5, 12.6, 3.05e6, 81_100)


def test_best_tokens_may_be_those_of_a_size() -> None:
    said = check(job(), Claims(optimal_tokens=134e9))
    assert (said[0].verdict, "for 6.74B parameters by" in said[0].text) == ("agrees", True)


def test_the_fewest_gpus_are_for_what_is_asked() -> None:
    assert Cost(Job(1e10, named("gpt2"), "h100", sharding="weights")).gpus == 2
    few, many = (Cost(Job(1e12, LLAMA, "h100", micro_batch=rows)) for rows in (1, 64))
    assert few.gpus < many.gpus
    assert many.way is not None
    assert many.way.fits


def test_tiny_models_use_little_of_any_gpu() -> None:
    for name in ("h100-80gb", "rtx-4090", "mi300x"):
        like = market().accelerator(name).like
        assert expected(like, 1e6, 256, 1, "bf16").mfu.likely < 0.15 < expected(like, 1e9, 2048, 8, "bf16").mfu.likely


def test_tpus_go_by_the_runs_on_tpus_and_few_runs_by_a_band() -> None:
    found = expected(market().accelerator("tpu-v5p").like, 5e11, 2048, 6144, "bf16", recompute=True)
    assert "PaLM" in found.source
    assert found.mfu.low >= found.mfu.likely > found.mfu.high
    known = {gpu.like for gpu in market().accelerators.values()}
    assert {row.gpu for row in measured()} <= known


def test_frozen_parts_have_neither_gradient_nor_moments() -> None:
    whole, last = (Cost(Job(1e9, LLAMA, "h100", trainable=parse_trainable(part, LLAMA))) for part in ("all", "last:1"))
    assert (whole.gpus, last.gpus) == (2, 1)
    assert last.way is not None
    assert last.way.memory.gradients == pytest.approx(4 * (LLAMA.block_matrices(0, active=False) + 2 * 4096))
    tables = LLAMA.trained_parameters(parse_trainable("embeddings", LLAMA))
    assert tables == 2 * 32_000 * 4096
    assert LLAMA.trained_parameters(parse_trainable("head", LLAMA)) == tables / 2


def test_rows_as_long_as_the_context_are_told() -> None:
    long = LLAMA.model_copy(update={"context_length": 131_072})
    assert "--sequence-length" in " ".join(warnings(Cost(Job(2e12, long, "h100", 64))))
    assert warnings(Cost(Job(2e12, long, "h100", 64, sequence_length=131_072))) == []


def test_a_loss_above_guessing_is_not_printed() -> None:
    text = statement(Cost(Job(2e6, named("llama-1m"), "h100", 1, fits_anyhow=True)))
    assert "guessing among all tokens" in text
    assert "15." not in next(line for line in text.splitlines() if "Besiroglu" in line)
    assert "guessing" not in statement(job())


def test_every_accelerator_and_grid_is_sound() -> None:
    for name, gpu in market().accelerators.items():
        assert market().accelerator(name) is gpu
        assert 0.5 < gpu.reached <= 0.96
        assert list(gpu.usd_per_hour) == sorted(gpu.usd_per_hour)
        assert gpu.flops_per_second("bf16") > 1e13
    assert market().grid("France") == 56
    assert market().grid("123") == 123


def test_shares_and_dollars() -> None:
    for wrong in ("x", "150%", ""):
        with pytest.raises(ValueError, match="expected"):
            asking.parse_share(wrong)
    assert asking.parse_usd("$1.5M") == 1.5e6
