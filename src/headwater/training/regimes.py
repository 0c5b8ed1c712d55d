"""Named ways to train: what is most worth having for a purpose, each setting with its evidence; and published laws for sizes.

A regime fills the settings of a recipe that are left out, and nothing else, so that everything stays visible and can be
overridden. Where a setting is `auto`, or where a regime leaves the batch open, a law gives the number. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from headwater.core.units import parse_count
from headwater.model.laws import step_law_batch, step_law_rate, weight_decay_for
from headwater.model.shape import ModelConfig

if TYPE_CHECKING:  # its settings name these
    from headwater.training.config import Train

Regime = Literal["speed", "data_limited", "production"]

STEP_LAW = "Step Law (Li et al. 2025, arXiv:2503.04715)"
TIMESCALE = 0.39
"""Share of a run over which decay forgets, B / (rate x decay x D). Source: constant over sizes by Wang and Aitchison 2024
(arXiv:2405.13698); its value is that of nanochat's reference of 12 layers: 2^19 tokens, decay 0.28, a rate of 0.02 that in our
unit is 0.0036, 1.32e9 tokens."""
EMBEDDING_RATE, EMBEDDING_WIDTH = 0.008, 768
"""AdamW's rate beside Muon, for embeddings that are the head too, at a width. Source: nanochat's rate of the head, and its law
for other widths; at a width of 128 and 150 steps on books it was the best of 0.002, 0.006 and 0.015, see docs/lab-notes.md."""
LAB = "docs/lab-notes.md, 'Sample efficiency'"


class Told(NamedTuple):
    """A setting that was not written in the recipe, and where it comes from."""

    setting: str
    value: Any
    why: str

    def __str__(self) -> str:
        shown = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.setting} {shown if isinstance(shown, str) else format(shown, ',')}: {self.why}"


_MUON = (
    "Muon for matrices, AdamW for the rest: nanochat and modded-nanogpt's optimizer track (3,250 steps, AdamW 4,875)"
)
_CAUTIOUS = "Chen et al. 2025 (arXiv:2510.12402); nanochat, modded-nanogpt's record 46"
REGIMES: dict[Regime, tuple[Told, ...]] = {
    "speed": (
        Told("optimizer.use", "muon", _MUON),
        Told("optimizer.adamw_learning_rate", "auto", f"by nanochat's law; {LAB}"),
        Told("optimizer.variance_beta", 0.95, f"NorMuon, Li et al. 2025 (arXiv:2510.05491); {LAB}"),
        Told("optimizer.cautious_decay", True, _CAUTIOUS),
        Told("schedule.use", "wsd", "its end can be decided on the way (MiniCPM, arXiv:2404.06395)"),
        Told("schedule.decay_share", 0.65, "nanochat: a linear decay over the last 65 %"),
    ),
    "data_limited": (
        Told("optimizer.use", "muon", _MUON),
        Told("optimizer.adamw_learning_rate", "auto", f"by nanochat's law; {LAB}"),
        Told("optimizer.weight_decay", 0.8, "many epochs want much decay: 0.8 to 1.6 (slowrun, 100M tokens)"),
        Told("optimizer.cautious_decay", False, "here decay is what keeps from learning by heart (slowrun)"),
        Told("dropout", 0.1, "slowrun, 100M tokens; Muennighoff et al. 2023 (arXiv:2305.16264) for repeated data"),
        Told("schedule.use", "wsd", "its end can be decided on the way (MiniCPM, arXiv:2404.06395)"),
        Told("schedule.decay_share", 0.65, "nanochat: a linear decay over the last 65 %"),
        Told("average.memory_steps", 150, "modded-nanogpt's record 45; averages win here by slowrun"),
    ),
    "production": (
        Told(
            "optimizer.use", "adamw", "what published models of 1B and more are trained with (OLMo 3, SmolLM3, Marin)"
        ),
        Told("optimizer.beta1", 0.9, "OLMo 3, SmolLM3, Llama"),
        Told("optimizer.beta2", 0.95, "OLMo 3, SmolLM3, Llama"),
        Told("optimizer.weight_decay", 0.1, "OLMo 3, SmolLM3, Llama"),
        Told("optimizer.decay_embeddings", False, "OLMo 3, SmolLM3: embeddings do not decay"),
        Told("optimizer.learning_rate", "auto", "by the Step Law"),
        Told("z_loss", 1e-5, "OLMo 3; Marin takes 1e-4 in its cool-down"),
        Told("schedule.use", "wsd", "SmolLM3, Marin: can be prolonged, and annealed on the best text"),
        Told("schedule.warmup_steps", 2000, "SmolLM3, OLMo 3"),
        Told("schedule.decay_share", 0.1, "SmolLM3: a linear decay over the last 10 %"),
        Told("packing.use", "best_fit", "documents stay whole (Ding et al. 2024, arXiv:2404.10830)"),
        Told("clip_norm", 1.0, "OLMo 3, SmolLM3, Llama"),
    ),
}
"""What each regime fills in, in `train`. Sources: as each says; nanochat, modded-nanogpt and slowrun at their state of 2026."""
MODEL: dict[Regime, tuple[Told, ...]] = {
    "speed": (
        Told("residual", "zero", "projections begin at zero: nanochat, modded-nanogpt"),
        Told("model.qk_norm", True, f"0.03 bits per byte at 4M parameters; {LAB}"),
    ),
    "data_limited": (
        Told("residual", "scaled", "projections that begin at zero are worse here (slowrun)"),
        Told("model.qk_norm", True, f"0.03 bits per byte at 4M parameters; {LAB}"),
    ),
    "production": (Told("model.qk_norm", True, "OLMo 3, Qwen3: keeps attention's logits from growing"),),
}
"""What each regime fills in, in `initialize`, where weights begin at random."""
FAMILY = ("preset", "positions", "norm", "ffn", "bias", "qk_norm")
"""Settings that say which family a model is of: where one of them is given, a regime leaves the family alone."""


def fill_train(values: Any) -> Any:
    """A recipe's section `train` with what its regime says where it says nothing, and with the batch that a law gives."""
    if not isinstance(values, Mapping):
        return values
    filled = _filled(values, _of(REGIMES, values))
    if filled.get("batch_tokens", "auto" if filled.get("regime") else None) == "auto":
        filled["batch_tokens"] = batch_by_law(filled)
    return filled


def fill_initialize(values: Any) -> Any:
    """A whole recipe with what the regime of `train` says of new weights, where the recipe says nothing."""
    if not isinstance(values, Mapping):
        return values
    train, start = values.get("train"), values.get("initialize")
    if not isinstance(train, Mapping) or not isinstance(start, Mapping) or start.get("use") != "random":
        return values
    model = start.get("model")
    own_family = not isinstance(model, Mapping) or set(FAMILY) & set(model)
    told = _of(MODEL, train)
    told = tuple(one for one in told if not (one.setting.startswith("model.") and own_family))
    return {**values, "initialize": _filled(start, told)} if told else values


def _of(known: Mapping[Any, tuple[Told, ...]], train: Mapping[str, Any]) -> tuple[Told, ...]:
    """What the regime of a section `train` says, whatever may stand there."""
    regime = train.get("regime")
    return known.get(regime, ()) if isinstance(regime, str) else ()


def _filled(values: Mapping[str, Any], defaults: tuple[Told, ...]) -> dict[str, Any]:
    """Settings with defaults for those that are left out; a section that has chosen another `use` is left alone."""
    filled = dict(values)
    uses = {one.setting: one.value for one in defaults}
    for one in defaults:
        section, _, name = one.setting.rpartition(".")
        if not section:
            filled.setdefault(name, one.value)
            continue
        inner = filled.get(section, {})
        if isinstance(inner, Mapping) and (name == "use" or inner.get("use") == uses.get(f"{section}.use")):
            filled[section] = {name: one.value, **inner}
    return filled


def batch_by_law(values: Mapping[str, Any]) -> int:
    """Tokens of a batch by the Step Law, as a power of two of rows.

    Raises:
        ValueError: what the law goes by is not known.
    """
    length, tokens, steps = (values.get(name) for name in ("sequence_length", "total_tokens", "steps"))
    if length is None or (tokens is None and steps is None):
        raise ValueError(
            "batch_tokens goes by sequence_length and by total_tokens or steps, which are not given; give it"
        )
    if tokens is None:  # B = 0.58 (steps x B)^0.571
        best = (0.58 * parse_count(steps) ** 0.571) ** (1 / (1 - 0.571))
    else:
        best = step_law_batch(parse_count(tokens))
    length = max(parse_count(length), 1)
    return length * 2 ** round(math.log2(max(best, length) / length))


def resolve(train: Train, config: ModelConfig) -> tuple[Train, tuple[Told, ...]]:
    """The settings of a run with numbers in place of `auto`, and how those came about.

    Updates of Muon have the size of AdamW's here (Liu et al. 2025, arXiv:2502.16982), so that AdamW's law holds for its rate.

    Args:
        train: as in the recipe.
        config: the model.
    """
    optimizer, told = train.optimizer, []
    tokens = train.planned_tokens
    parameters = config.num_layers * config.block_matrix_parameters()
    changes: dict[str, float] = {}
    for name in optimizer.laws:
        if name == "adamw_learning_rate":
            changes[name] = _short(EMBEDDING_RATE * (EMBEDDING_WIDTH / config.hidden_size) ** 0.5)
            why = f"{EMBEDDING_RATE} x ({EMBEDDING_WIDTH} / hidden_size)^0.5 (nanochat); {LAB}"
            told.append(Told(f"optimizer.{name}", changes[name], why))
            continue
        assert tokens is not None, "settings with a budget and a law that goes by tokens"
        if name == "weight_decay":
            rate = changes.get("learning_rate", optimizer.learning_rate)
            assert not isinstance(rate, str)
            changes[name] = _short(weight_decay_for(TIMESCALE, train.batch_tokens, rate, tokens))
            why = f"B / ({TIMESCALE} x rate x D): decay forgets over a fixed share of a run (arXiv:2405.13698)"
        else:
            changes[name] = _short(step_law_rate(parameters, tokens))
            why = f"1.79 N^-0.713 D^0.307 for N = {parameters:,} outside of embeddings, D = {tokens:,}; {STEP_LAW}"
        told.append(Told(f"optimizer.{name}", changes[name], why))
    return train.model_copy(update={"optimizer": optimizer.model_copy(update=changes)}), tuple(told)


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def tell(train: Train, config: ModelConfig | None) -> Iterator[Told]:
    """What the regime of a run has settled, what the recipe settled otherwise, and what laws say.

    Args:
        train: the settings.
        config: the model, if it is known.
    """
    laws = resolve(train, config)[1] if config else ()
    by_law = {one.setting for one in laws}
    values = train.model_dump()
    for setting, wanted, why in REGIMES[train.regime] if train.regime else ():
        section, _, name = setting.rpartition(".")
        inner = values[section] if section else values
        if inner is not None and name not in inner:  # another optimizer than the regime's has no such setting
            continue
        value = None if inner is None else inner[name]
        if value == wanted and setting not in by_law:
            yield Told(setting, value, why)
        elif value != wanted:
            yield Told(
                setting, "none" if value is None else value, f"as the recipe says; the regime's {wanted} is from: {why}"
            )
    yield from laws
    steps, rising = train.planned_steps, train.schedule.warmup_steps
    if train.regime and steps is not None and rising > steps / 2:
        why = f"of {steps:,} steps in all: most of the run the rate rises; set train.schedule.warmup_steps"
        yield Told("!! schedule.warmup_steps", rising, why)
    if (train.regime or laws) and train.planned_tokens:
        best = step_law_batch(train.planned_tokens)
        why = f"the best is {best:,.0f} by 0.58 D^0.571 for D = {train.planned_tokens:,}; {STEP_LAW}"
        yield Told("batch_tokens", train.batch_tokens, why)
