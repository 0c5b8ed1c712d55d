"""The command `cost`: what a training would take, without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from headwater.cli.terminal import (
    Json,
    app,
    print_json,
    print_rows,
)


@app.command
def cost(
    *,
    model: Annotated[str | None, Parameter(help="A model with a name, or a config.json of transformers.")] = None,
    parameters: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Parameters of a model without a shape, as 7B.")
    ] = None,
    tokens: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Tokens to train on, as 2T; repetitions count.")
    ] = None,
    unique_tokens: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="How many of them are different.")
    ] = None,
    gpu: Annotated[str, Parameter(help="Kind of GPU.")] = "h100-80gb",
    count: Annotated[
        int | None, Parameter(allow_leading_hyphen=True, help="GPUs; default: the fewest on which the model fits.")
    ] = None,
    sequence_length: Annotated[
        int | None, Parameter(allow_leading_hyphen=True, help="Tokens of a row; default: the model's context.")
    ] = None,
    micro_batch: Annotated[int, Parameter(allow_leading_hyphen=True, help="Rows at a time on a GPU.")] = 1,
    sharding: Annotated[
        Literal["none", "optimizer", "gradients", "weights"] | None,
        Parameter(help="What is spread: nothing (DDP), ZeRO 1, 2, or 3 (FSDP); default: the simplest that fits."),
    ] = None,
    tensor_parallel: Annotated[int, Parameter(allow_leading_hyphen=True, help="GPUs that share each matrix.")] = 1,
    recompute: Annotated[
        bool | None,
        Parameter(help="Compute activations again in the backward pass; default: where memory asks for it."),
    ] = None,
    precision: Annotated[Literal["fp32", "tf32", "bf16", "fp8"], Parameter(help="Format of products.")] = "bf16",
    software: Annotated[
        Literal["eager", "compiled", "hand-written"], Parameter(help="How the model is computed.")
    ] = "compiled",
    trainable: Annotated[str, Parameter(help="What learns: all, embeddings, head, last:N or every:N blocks.")] = "all",
    mfu: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Share of the peak over the whole run, as 0.4 or 40%.")
    ] = None,
    goodput: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Share of the time that makes progress.")
    ] = None,
    price: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="USD of a GPU's hour.")] = None,
    watts: Annotated[float | None, Parameter(allow_leading_hyphen=True, help="Power of a GPU [W].")] = None,
    pue: Annotated[
        float | None, Parameter(allow_leading_hyphen=True, help="Energy of the data centre over that of its computers.")
    ] = None,
    grid: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Where the electricity is from, or g CO2e for a kWh.")
    ] = "world",
    claimed_gpu_hours: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="What somebody says it takes, to be checked.")
    ] = None,
    claimed_days: Annotated[float | None, Parameter(allow_leading_hyphen=True, help="The same in days.")] = None,
    claimed_mfu: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its share of the peak.")] = None,
    claimed_flops: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its FLOPs.")] = None,
    claimed_tokens_per_second: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its speed.")] = None,
    claimed_parameters: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its parameters.")] = None,
    claimed_usd: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its price.")] = None,
    claimed_co2: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its carbon [t].")] = None,
    claimed_kwh: Annotated[str | None, Parameter(allow_leading_hyphen=True, help="Its energy.")] = None,
    claimed_optimal_tokens: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="What it takes for the best tokens.")
    ] = None,
    prices: Annotated[Path | None, Parameter(help="Your copy of prices, hardware and grids.")] = None,
    write_prices: Annotated[Path | None, Parameter(help="Write a copy of them to edit, and stop.")] = None,
    table: Annotated[bool, Parameter(negative="", help="Compute every published run anew.")] = False,
    models: Annotated[bool, Parameter(negative="", help="List the models with a name.")] = False,
    as_json: Json = False,
) -> None:
    """What training takes: parameters, FLOPs, memory, GPU-hours, days, money, carbon; and whether a claim can be."""
    from headwater.advice import architecture, asking, runs, statement
    from headwater.advice.claims import check
    from headwater.advice.market import market
    from headwater.advice.market import write_prices as write

    if write_prices:
        write(write_prices)
        print(f"{write_prices}: edit it, then: headwater cost --prices {write_prices} ...")
        return
    if models:
        rows = [
            (name, architecture.summary(known), known.describe()) for name, known in architecture.published().items()
        ]
        print_rows(("model", "parameters", "shape"), rows, as_json)
        return
    known = market(prices)
    if table:
        found = runs.table(known)
        if as_json:
            print_json([row.to_json() for row in found])
        else:
            print_rows(statement.RUN_HEADER, list(statement.run_rows(found)), as_json=False)
        return
    job = asking.job(
        known, model=model, parameters=parameters, tokens=tokens, unique_tokens=unique_tokens, gpu=gpu, gpus=count,
        sequence_length=sequence_length, micro_batch=micro_batch, sharding=sharding, tensor_parallel=tensor_parallel,
        recompute=recompute, precision=precision, software=software, trainable=trainable, mfu=mfu, goodput=goodput,
        price=price, watts=watts, pue=pue, grid=grid,
    )  # fmt: skip
    claims = asking.claims(
        gpu_hours=claimed_gpu_hours, days=claimed_days, mfu=claimed_mfu, flops=claimed_flops,
        tokens_per_second=claimed_tokens_per_second, parameters=claimed_parameters, usd=claimed_usd,
        co2_tonnes=claimed_co2, kwh=claimed_kwh, optimal_tokens=claimed_optimal_tokens,
    )  # fmt: skip
    found = check(job, claims)
    if as_json:
        print_json(job.to_json() | {"checks": [vars(finding) for finding in found]})
    else:
        print(statement.statement(job, found))
