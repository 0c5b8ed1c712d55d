"""A recipe: one section per stage, in the order that data passes through them. An absent section is an absent stage."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from headwater.core import config
from headwater.core.config import Config, KeyPath, nearest
from headwater.core.errors import InputError, MismatchError
from headwater.core.hardware import Machine
from headwater.documents.clean import Clean
from headwater.documents.cleaning.classify import LANGUAGES
from headwater.documents.decontaminate import Decontaminate
from headwater.documents.dedup import Dedup
from headwater.documents.read import Read
from headwater.documents.split import Split
from headwater.evaluation.config import Evaluate, Memorization
from headwater.model.config import Export, GgufWeights, HuggingFaceWeights, RandomWeights
from headwater.model.start import GrownWeights, Initialize, ShrunkWeights
from headwater.report import Report
from headwater.tokens.encode import Encode
from headwater.tokens.extend import Extend
from headwater.tokens.index import Index
from headwater.tokens.mixture import Mixture
from headwater.tokens.tokenizer import Tokenizer, TrainBpe
from headwater.tokens.trim import Trim
from headwater.training.config import Train
from headwater.training.regimes import fill_initialize, tell


class Recipe(Config):
    """Everything that decides a base model, from raw text to report."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Name of the run: its results are linked in `runs/<name>/`."""
    about: str = ""
    """What this recipe is for, in a sentence; shown in the report."""
    read: Read
    """Where documents come from."""
    clean: Clean | None = None
    """Which documents are kept, and how their text is mended."""
    dedup: Dedup | None = None
    """What is the same, or nearly, and which copy stays."""
    decontaminate: Decontaminate | None = None
    """Overlap with benchmarks, taken out of the documents."""
    split: Split | None = None
    """Which documents are held out from training."""
    tokenizer: Tokenizer | None = None
    """The tokenizer: trained here, or an existing one."""
    encode: Encode | None = None
    """Documents to token shards."""
    index: Index | None = None
    """The training documents' words, sorted, to find where a text comes from."""
    initialize: Initialize | None = None
    """The model and how its weights begin."""
    train: Train | None = None
    """How the weights are trained."""
    evaluate: Evaluate | None = None
    """Scores on held-out documents, and generations before and after training."""
    memorization: Memorization | None = None
    """What the model gives back of its training documents, letter for letter."""
    export: Export | None = None
    """The Hugging Face folder of the trained model."""
    report: Report | None = Report()
    """The report of the whole run."""
    machine: Machine = Machine()
    """Where and how the recipe runs; never part of a result's identity."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        return fill_initialize(values)


def load(recipe: str | Path, *overrides: str) -> Recipe:
    """Load a recipe by its path or by the name of a shipped one, with `key=value` overrides.

    Raises:
        InputError: there is no such recipe.
        RecipeError: one line per problem, each with its place and the nearest valid name.
    """
    path = find(recipe)
    named = any(override.startswith("name=") for override in overrides) or _names_itself(path)
    return config.load(Recipe, path, overrides if named else (f"name={_name_from(path)}", *overrides), check=_misfits)


def model_of(recipe: Recipe) -> Iterator[str]:
    """What the recipe's new model will be, line by line, and how its numbers follow from the dial.

    Nothing where weights come from elsewhere, or where the vocabulary is that of a tokenizer not yet looked at.
    """
    config = None
    if isinstance(recipe.initialize, RandomWeights) and isinstance(recipe.tokenizer, TrainBpe):
        config, derived = recipe.initialize.derive(recipe.tokenizer.vocab_size)
        yield f"model: {config.describe()}"
        yield from (f"  {number}" for number in derived)
    if recipe.train and (settled := list(tell(recipe.train, config))):
        yield f"training: regime {recipe.train.regime}" if recipe.train.regime else "training"
        yield from (f"  {one}" for one in settled)


def shipped() -> dict[str, Path]:
    """The recipes that come with Headwater, by name."""
    folder = Path(str(importlib.resources.files("headwater") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(recipe: str | Path) -> Path:
    """The file of a recipe that is given by its path or by the name of a shipped one.

    Raises:
        InputError: there is neither; names the nearest shipped recipe.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    name = str(recipe)
    if name in shipped():
        return shipped()[name]
    if path.is_dir():
        raise InputError("is a folder, not a recipe file", place=name, hint="give the path of a .yaml file")
    hint = "give the path of a .yaml file or the name of a shipped recipe (see 'headwater list recipes')"
    raise InputError(f"no such recipe{nearest(name, shipped())}", place=name, hint=hint)


def _names_itself(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    return re.search(r"^name\s*:", text, re.MULTILINE) is not None


def _name_from(path: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._") or "recipe"


def _misfits(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Find what does not fit between sections that are each valid."""
    sources = list(recipe.read.sources)
    for path, names in _source_names(recipe):
        for name in names:
            if name not in sources:
                place = (*path, name) if isinstance(names, Mapping) else path
                yield place, f"no source '{name}' in read.sources{nearest(name, sources)}"
    for place, mixture in _mixtures(recipe):
        if weights := mixture.known_weights:
            for name in sources:
                if name not in weights and name not in mixture.replay:
                    yield (*place, "weights"), f"source '{name}' has no weight; give it one (0 leaves it out)"
    yield from _unknown_languages(recipe)
    yield from _rows_without_tokens(recipe)
    if isinstance(recipe.initialize, RandomWeights):
        context = recipe.initialize.context_length
        for path, asked in (
            (("train", "sequence_length"), recipe.train and recipe.train.sequence_length),
            (("evaluate", "context_length"), recipe.evaluate and recipe.evaluate.context_length),
        ):
            if asked and asked > context:
                yield path, f"{asked} tokens are more than the model's context_length {context}"
        for index, phase in enumerate(recipe.train.phases if recipe.train else ()):
            if phase.rope_theta:
                context = max(context, phase.sequence_length or 0)
            if phase.sequence_length and phase.sequence_length > context:
                problem = f"{phase.sequence_length} tokens are more than the model's context_length {context}"
                yield ("train", "phases", index, "sequence_length"), f"{problem}; a rope_theta would extend it"
        if isinstance(recipe.tokenizer, TrainBpe):
            try:
                recipe.initialize.derive(recipe.tokenizer.vocab_size)
            except MismatchError as error:
                yield ("initialize", "dial"), error.problem


def _unknown_languages(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Find steps for languages that no document can be of: the model knows no such code, and no source brings it."""
    sources = recipe.read.sources.values()
    fields = [getattr(source, name, None) for source in sources for name in ("fields", "columns")]
    if recipe.clean is None or any(getattr(one, "language", None) for one in fields):
        return
    known = LANGUAGES | {getattr(source, "language", None) or "" for source in sources}
    steps = [(recipe.clean.written(index), step.languages or ()) for index, step in enumerate(recipe.clean.chosen)]
    for index, codes in dict.fromkeys(steps):
        for code in codes:
            if code not in known:
                yield ("clean", "steps", index, "languages"), f"no language '{code}'{nearest(code, known)}"


def _mixtures(recipe: Recipe) -> Iterator[tuple[KeyPath, Mixture]]:
    """The mixtures of a recipe, that of the run and those of its phases, and where they stand."""
    if recipe.train:
        yield ("train", "mixture"), recipe.train.mixture
        for index, phase in enumerate(recipe.train.phases):
            if phase.mixture:
                yield ("train", "phases", index, "mixture"), phase.mixture


def _rows_without_tokens(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """Find a tokenizer that is changed while the model that it is from stays as it is."""
    if isinstance(recipe.tokenizer, Extend | Trim):
        start = recipe.initialize
        source = start.source if isinstance(start, GrownWeights | ShrunkWeights) else start
        path = Path(recipe.tokenizer.path).expanduser()
        if isinstance(source, HuggingFaceWeights | GgufWeights) and source.path == path and source.vocabulary is None:
            yield ("initialize",), "the model has no rows for the changed tokenizer; set vocabulary: {use: means}"


def _source_names(recipe: Recipe) -> Iterator[tuple[KeyPath, Collection[str]]]:
    """Where a recipe names sources again, and which."""
    if recipe.clean:
        steps = [(recipe.clean.written(index), step.sources or ()) for index, step in enumerate(recipe.clean.steps)]
        for index, names in dict.fromkeys(steps):  # the steps of a preset name its sources each
            yield ("clean", "steps", index, "sources"), names
    if recipe.dedup:
        yield ("dedup", "sources"), recipe.dedup.sources
    if isinstance(recipe.tokenizer, TrainBpe | Extend):
        yield ("tokenizer", "weights"), recipe.tokenizer.weights or ()
    for place, mixture in _mixtures(recipe):
        yield (*place, "weights"), mixture.known_weights or ()
        yield (*place, "upsample"), mixture.upsample
        yield (*place, "replay"), mixture.replay
        yield (*place, "copies"), mixture.copies
        yield (*place, "max_epochs"), mixture.max_epochs if isinstance(mixture.max_epochs, dict) else ()
    if recipe.train and recipe.train.forgetting:
        yield ("train", "forgetting", "sources"), recipe.train.forgetting.sources
    if recipe.evaluate:
        yield ("evaluate", "prompts_from"), recipe.evaluate.prompts_from
