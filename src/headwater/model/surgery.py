"""From a trained model to another one, with proof: grown, shrunk, or with the rows of another vocabulary.

Each operation is measured on a calibration text before and after, and checked; what was found out is for the manifest.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import tokenizers
import torch
from torch import Tensor

from headwater.core.errors import HeadwaterError, InputError, MismatchError
from headwater.core.gguf import EXACT_TYPES
from headwater.core.stage import Inputs, Workspace
from headwater.core.store import read_json
from headwater.model import checkpoint, gguf, hf
from headwater.model.calibration import Calibration, Rows, rows_of
from headwater.model.config import CheckpointWeights, GgufWeights, HuggingFaceWeights, Trained
from headwater.model.fold import fold
from headwater.model.grow import regrow, widen
from headwater.model.growth import DepthUpscale, Layer, Widen
from headwater.model.moments import carried
from headwater.model.payoff import expect
from headwater.model.proof import ROUNDING, measured, prove, prove_same
from headwater.model.reduction import DropMeasured
from headwater.model.rows import with_rows
from headwater.model.shrink import least_needed, narrow
from headwater.model.start import GrownWeights, ShrunkWeights
from headwater.model.transformer import Transformer
from headwater.model.vocabulary import Spelling, Vocabulary, spell

Moments = dict[str, Tensor]
"""The optimizer state with which training begins; empty for a fresh one."""
Facts = dict[str, Any]
"""What was found out, JSON-able, for the manifest."""


def take(settings: Trained, inputs: Inputs, out: Workspace) -> tuple[Transformer, Moments, int, Facts]:
    """A trained model as it is, but for its rows; its optimizer state, the steps it has seen, and what its rows cost."""
    model, step, facts = load(settings, inputs, out)
    return model, carried(settings, None, model, out), step, facts


def load(settings: Trained, inputs: Inputs, out: Workspace) -> tuple[Transformer, int, Facts]:
    """A trained model with the rows of the run's tokenizer, the steps it has seen, and what its new rows cost.

    Raises:
        InputError: a folder cannot be read.
        MismatchError: model and tokenizer do not fit.
    """
    model, step, facts = read(settings, out)
    tokenizer = inputs["tokenizer"] / "tokenizer"
    if settings.vocabulary is None:
        own = settings.path / "tokenizer.json"
        hf.check_vocabulary(model.config.token_types, tokenizer)
        if own.is_file():
            check_same_tokens(own, tokenizer / "tokenizer.json")
        return model, step, facts
    model, facts["vocabulary"] = _revocabulary(model, settings.vocabulary, settings.path, inputs, out)
    return model, step, facts


def read(settings: Trained, out: Workspace) -> tuple[Transformer, int, Facts]:
    """A trained model as it is, the steps it has seen, and how its tensors were kept if not as plain numbers.

    Raises:
        InputError: a folder or file cannot be read.
        MismatchError: it is no model that is computed exactly here.
    """
    match settings:
        case HuggingFaceWeights():
            return hf.read_folder(settings.path, allow_pickle=settings.allow_pickle, warn=out.warn), 0, {}
        case CheckpointWeights():
            try:
                model, info = checkpoint.load_model(settings.path)
            except HeadwaterError as error:
                raise InputError(error.problem, place=error.place, hint="check the path of the checkpoint") from None
            return model, info.step, {}
        case GgufWeights():
            model, types = _load_gguf(settings, out)
            return model, 0, {"tensor_types": types}


def _plain(settings: Trained, inputs: Inputs, out: Workspace) -> tuple[Transformer, Facts]:
    """A trained model whose layers can be moved about: what `load` gives, without tricks that tie a layer to its place."""
    model, _, facts = load(settings, inputs, out)
    if model.config.tricks:
        out.note(f"{settings.path}: folded into plain weights: {', '.join(model.config.tricks.told())}")
    return fold(model), facts


def grow(settings: GrownWeights, inputs: Inputs, out: Workspace) -> tuple[Transformer, Moments, Facts]:
    """A deeper or wider model, its optimizer state, and what was found out about it."""
    source, more = _plain(settings.source, inputs, out)
    rows = _rows(settings.calibration, source, inputs)
    layers: tuple[Layer, ...] = ()
    if isinstance(settings.growth, Widen):
        model = widen(source, settings.growth)
        changes = _changes(source, model)
        out.note(f"wider: {changes}; the same result but for rounding")
    else:
        layers = settings.growth.layers(source.config.num_layers)
        upper = settings.growth.upper if isinstance(settings.growth, DepthUpscale) else None
        other = _plain(upper, inputs, out)[0] if upper is not None else None
        model = regrow(source, layers, other)
        tell_map(source.config.num_layers, layers, out)
    tokens = _first(rows)
    facts = {"layers": [layer._asdict() for layer in layers], **prove(model, tokens)}
    if isinstance(settings.growth, Widen):
        facts |= prove_same(model, source, tokens, ROUNDING)
    elif [layer.source for layer in layers if not layer.silent] == list(range(source.config.num_layers)):
        facts |= prove_same(model, source, tokens, 0.0)
    facts |= _before_and_after(source, model, rows, rows, out)
    if expected := expect(source.config.num_layers, len(layers), out):
        facts["expected"] = expected
    return model, carried(settings.source, layers or None, model, out), {"grown": facts, **more}


def shrink(settings: ShrunkWeights, inputs: Inputs, out: Workspace) -> tuple[Transformer, Moments, Facts]:
    """A shallower or narrower model, its optimizer state, and what was found out about it."""
    source, more = _plain(settings.source, inputs, out)
    rows = _rows(settings.calibration, source, inputs)
    model, facts = source, {}
    layers: tuple[Layer, ...] | None = None
    if settings.layers is not None:
        kept, facts = _kept_layers(settings, source, rows, out)
        layers = tuple(map(Layer, kept))
        model = regrow(source, layers)
        facts["layers"] = [layer._asdict() for layer in layers]
        tell_map(source.config.num_layers, layers, out)
    if settings.width is not None:
        whole = model
        model, facts["activity_kept"] = narrow(whole, settings.width, rows)
        shares = ", ".join(f"{name} {share:.1%}" for name, share in facts["activity_kept"].items())
        out.note(
            f"narrower: {_changes(whole, model)}; what stays had of all activity on the calibration text: {shares}"
        )
    facts |= prove(model, _first(rows)) | _before_and_after(source, model, rows, rows, out)
    return model, carried(settings.source, layers, model, out), {"shrunk": facts, **more}


def tell_map(count: int, layers: tuple[Layer, ...], out: Workspace) -> None:
    """Print a layer map."""
    shown = " ".join(f"{layer.source}{'*' if layer.silent else ''}{'u' if layer.other else ''}" for layer in layers)
    signs = "; * changes nothing until it is trained" if any(layer.silent for layer in layers) else ""
    signs += "; u is of the upper model" if any(layer.other for layer in layers) else ""
    out.note(f"{count} layers become {len(layers)}, copies of: {shown}{signs}")


def check_same_tokens(own: Path, run: Path) -> None:
    """Make sure that two tokenizers have the same tokens under the same ids.

    Raises:
        MismatchError: names the first token that differs.
    """
    ours, theirs = (tokenizers.Tokenizer.from_file(str(file)).get_vocab() for file in (run, own))
    for token, number in sorted(ours.items(), key=lambda item: item[1]):
        if theirs.get(token) != number:
            there = f"has id {theirs[token]:,}" if token in theirs else "is no token"
            raise MismatchError(
                f"token {token!r} has id {number:,} in the run's tokenizer and {there} in that of the model",
                place=str(own),
                hint="use the model's tokenizer, or give the model new rows with vocabulary: {use: means}",
            )


def _kept_layers(
    settings: ShrunkWeights, source: Transformer, rows: Rows, out: Workspace
) -> tuple[list[int], dict[str, Any]]:
    """Which layers stay, and how they were chosen."""
    assert settings.layers is not None
    if not isinstance(settings.layers, DropMeasured):
        return settings.layers.kept(source.config.num_layers), {}
    rounds = settings.layers.drop * sum(1 for _ in rows.batches())
    with out.progress("measuring layers", rounds, "passes") as bar:
        kept, dropped = least_needed(source, settings.layers, rows, bar.advance)
    for gone in dropped:
        best = "" if gone.next_best is None else f", the next best choice would give {gone.next_best:.3f}"
        out.note(f"without layer {gone.layer}: loss {gone.loss:.3f} nats per token{best}")
    return kept, {"dropped": [gone._asdict() for gone in dropped]}


def _revocabulary(
    source: Transformer, settings: Vocabulary, folder: Path, inputs: Inputs, out: Workspace
) -> tuple[Transformer, Facts]:
    """A model with the rows of the run's tokenizer, and what was found out about it."""
    run, own = inputs["tokenizer"] / "tokenizer", settings.file(folder, inputs["tokenizer"] / "base")
    old, new = (tokenizers.Tokenizer.from_file(str(file)) for file in (own, run / "tokenizer.json"))
    old_separator = _separator(own)
    new_separator = str(new.id_to_token(hf.separator_id(run)))
    spelling = spell(own, run / "tokenizer.json", old_separator, new_separator)
    model = with_rows(source, spelling, settings.head)
    hf.check_vocabulary(model.config.token_types, run)
    counts = spelling.counts
    out.note(
        f"vocabulary of {spelling.old_tokens:,} tokens to one of {counts['shared'] + counts['new']:,}: {counts['shared']:,} "
        f"rows copied, {counts['new']:,} made of those of their pieces, {counts['gone']:,} gone"
    )
    texts = settings.calibration.texts(inputs.get("documents"), new)
    everything = [text for given in texts.values() for text in given]
    length = min(settings.calibration.sequence_length, source.config.context_length)
    start = old.token_to_id(old_separator) if old_separator else None
    before = rows_of(everything, old, spelling.pieces[hf.separator_id(run)][0] if start is None else start, length)
    after = rows_of(everything, new, hf.separator_id(run), length)
    facts = {**counts, "fertility": _fertility(texts, old, new)}
    facts |= prove(model, _first(after)) | _prove_rows(model, source, spelling, after)
    return model, facts | _before_and_after(source, model, before, after, out)


def _prove_rows(model: Transformer, source: Transformer, spelling: Spelling, rows: Rows) -> Facts:
    """Check that tokens of both vocabularies have the same logits in both models, in a text of such tokens alone."""
    shared = torch.tensor([number for number, same in enumerate(spelling.shared) if same])
    old = torch.tensor([pieces[0] if pieces else 0 for pieces in spelling.pieces])
    both = torch.zeros(len(spelling.pieces), dtype=torch.bool)
    both[shared] = True
    tokens = torch.from_numpy(rows.tokens).flatten()
    tokens = tokens[both[tokens]][: min(256, model.config.context_length)]
    if len(tokens) < 2:
        return {"logits_apart": None}
    with torch.no_grad():
        ours, theirs = model(tokens[None])[..., shared], source(old[tokens][None])[..., old[shared]]
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    if not apart <= ROUNDING:
        problem = f"tokens of both vocabularies have logits that differ by {apart:.1e} of their size"
        raise MismatchError(f"the new model is wrong: {problem}", place="initialize", hint="this is a bug; report it")
    return {"logits_apart": apart}


def _fertility(
    texts: dict[str, list[str]], old: tokenizers.Tokenizer, new: tokenizers.Tokenizer
) -> dict[str, dict[str, float]]:
    """Bytes per token of each source's calibration text, before and after."""
    found = {}
    for name, given in texts.items():
        size = sum(len(text.encode()) for text in given)
        tokens = [
            sum(len(encoded.ids) for encoded in tokenizer.encode_batch(given, add_special_tokens=False))
            for tokenizer in (old, new)
        ]
        if all(tokens):
            found[name] = {"before": size / tokens[0], "after": size / tokens[1]}
    return found


def _before_and_after(
    source: Transformer, model: Transformer, rows_before: Rows, rows_after: Rows, out: Workspace
) -> Facts:
    """Measure both models on the calibration text, say it, and warn where the new one has lost everything."""
    before, after = measured(source, rows_before), measured(model, rows_after)
    chance = math.log(model.config.token_types)
    bits = f"{before['bits_per_byte']:.3f} bits per byte before, {after['bits_per_byte']:.3f} after"
    if rows_before is rows_after:
        bits = f"{before['loss']:.3f} nats per token before, {after['loss']:.3f} after ({bits})"
    out.note(f"loss on the calibration text ({after['tokens']:,} tokens): {bits}")
    if before["loss"] < math.log(source.config.token_types) and chance <= after["loss"]:
        out.warn(
            f"the new model is no better than chance on the calibration text ({after['loss']:.3f} nats per token, chance "
            f"{chance:.3f}, the source {before['loss']:.3f}): it will have to learn most of it again"
        )
    return {
        "loss_before": before["loss"],
        "loss_after": after["loss"],
        "bits_per_byte_before": before["bits_per_byte"],
        "bits_per_byte_after": after["bits_per_byte"],
        "calibration_tokens": after["tokens"],
        "calibration_bytes": rows_after.bytes,
        "parameters_before": source.config.parameters(),
        "parameters_after": model.config.parameters(),
    }


def _rows(calibration: Calibration, source: Transformer, inputs: Inputs) -> Rows:
    folder = inputs["tokenizer"] / "tokenizer"
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = calibration.texts(inputs.get("documents"), tokenizer)
    everything = [text for given in texts.values() for text in given]
    length = min(calibration.sequence_length, source.config.context_length)
    return rows_of(everything, tokenizer, hf.separator_id(folder), length)


def _first(rows: Rows) -> Tensor:
    return torch.from_numpy(rows.tokens[0])


def _changes(source: Transformer, model: Transformer) -> str:
    names = ("hidden_size", "ffn_size", "num_heads", "num_kv_heads")
    pairs = [(name, getattr(source.config, name), getattr(model.config, name)) for name in names]
    return ", ".join(f"{name} {old:,} to {new:,}" for name, old, new in pairs if old != new)


def _separator(file: Path) -> str | None:
    """What the folder of a tokenizer.json calls its end-of-text token."""
    config = file.with_name("tokenizer_config.json")
    named = read_json(config).get("eos_token") if config.is_file() else None
    return named.get("content") if isinstance(named, dict) else named


def _load_gguf(settings: GgufWeights, out: Workspace) -> tuple[Transformer, dict[str, int]]:
    """A model from a GGUF file; says what was rounded in it."""
    model, types = gguf.read_file(settings.path)
    if rounded := {kind: count for kind, count in types.items() if kind not in EXACT_TYPES}:
        counted = ", ".join(f"{count} as {kind}" for kind, count in rounded.items())
        out.warn(
            f"{sum(rounded.values())} of {sum(types.values())} tensors of {settings.path.name} were quantised ({counted}): "
            "these weights are rounded, and begin a little worse than the model that the file was made from"
        )
    return model, types
