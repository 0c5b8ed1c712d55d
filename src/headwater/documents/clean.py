"""Stage clean: mend and drop documents by the chosen steps, one after the other; what is dropped is kept beside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, ValidationError, model_validator

from headwater.core import pool
from headwater.core.config import Config, members, tag
from headwater.core.errors import EmptyResultError
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.documents.cleaning.boilerplate import Boilerplate
from headwater.documents.cleaning.c4 import C4
from headwater.documents.cleaning.classifier import Classifier
from headwater.documents.cleaning.classify import Language
from headwater.documents.cleaning.custom import PythonStep
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.filters import (
    Code,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    Length,
    ParagraphLength,
    ParagraphRepetition,
)
from headwater.documents.cleaning.normalise import Normalise
from headwater.documents.cleaning.perplexity import Perplexity
from headwater.documents.cleaning.policy import Licence, Url
from headwater.documents.cleaning.presets import Preset, expand
from headwater.documents.cleaning.quality import Quality
from headwater.documents.cleaning.redact import PersonalData
from headwater.documents.cleaning.steps import CleaningStep, Rule, Verdict, judge, sensitivity
from headwater.documents.cleaning.toxicity import Toxicity
from headwater.documents.document import (
    DROPPED_SCHEMA,
    ShardFile,
    Tally,
    add_counts,
    drop,
    read_batches,
    shards_in,
    source_of,
)

Step = Annotated[
    Preset
    | Normalise
    | Boilerplate
    | Length
    | Url
    | Licence
    | Language
    | ParagraphLength
    | ParagraphRepetition
    | GopherRepetition
    | GopherQuality
    | C4
    | FineWebQuality
    | Code
    | Quality
    | Perplexity
    | Classifier
    | Toxicity
    | PersonalData
    | PythonStep,
    Field(discriminator="use"),
]
STEPS = {tag(kind) or "": kind for kind in members(Step) if issubclass(kind, CleaningStep)}
"""Every kind of step by its `use`."""


class Clean(Config):
    """Which documents are kept, and how their text is mended."""

    steps: tuple[Step, ...] = Field(min_length=1)
    """What is done, in order. Each document is dropped by the first rule that it fails. Empty documents always are."""
    _written: tuple[int, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _expand_presets(cls, values: Any, validate: ModelWrapValidatorHandler[Clean]) -> Clean:
        """Put the steps of each preset in its place; what is wrong with them is said of the entry that names it."""
        if not isinstance(values, Mapping) or not isinstance(values.get("steps"), list | tuple):
            return validate(values)
        expanded = expand(values["steps"], STEPS)
        try:
            settings = validate({**values, "steps": expanded.steps})
        except ValidationError as error:
            raise expanded.relocate(error) from None
        settings._written = expanded.written
        return settings

    @property
    def chosen(self) -> tuple[CleaningStep, ...]:
        """The steps; of presets nothing is left."""
        return tuple(step for step in self.steps if isinstance(step, CleaningStep))

    def written(self, index: int) -> int:
        """Which entry of the recipe a step is from: presets are one entry there."""
        return self._written[index] if self._written else index

    def place(self, index: int) -> str:
        """Where in the recipe a step is written, and what it is called."""
        return f"clean.steps.{self.written(index)} ({self.chosen[index].name})"

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, str]:
        """What the settings do not tell: the contents of the user's functions' files, of lists and of models.

        Raises:
            InputError: there is no such module or file.
            MissingExtraError: there is no language model.
        """
        files = {name: file for step in self.chosen for name, file in step.files().items()}
        return {name: hash_file(file) for name, file in files.items()}


def clean(settings: Clean, inputs: Inputs, out: Workspace) -> Counts:
    """Clean every shard of documents.

    Raises:
        EmptyResultError: there are no documents, or nothing is left of a source; names the rule that dropped most of it.
        InputError: a function of the user's fails.
    """
    shards = shards_in(inputs["documents"] / "documents")
    if not shards:
        raise EmptyResultError("there are no documents", place="clean", hint="look at what the stage before dropped")
    steps, prepared = [], {}
    for index, step in enumerate(settings.chosen):
        for caution in step.cautions:
            out.warn(f"{settings.place(index)}: {caution}")
        ready, told = step.prepare(f"{step.name}-{index}", shards, out)
        steps.append(ready)
        if told:
            prepared[str(index)] = told
    work = functools.partial(_clean_shard, steps, out.folder)
    counts = add_counts(pool.map(work, shards, out, label="clean", name=lambda shard: shard.stem))
    if gone := [source for source, of_source in counts["sources"].items() if not of_source["documents_out"]]:
        raise _everything_dropped(gone, counts["sources"], out.folder / "dropped")
    _tell_idle_steps(settings, counts, out)
    return counts | ({"prepared": prepared} if prepared else {})


def _clean_shard(steps: Sequence[CleaningStep], folder: Path, shard: Path) -> Counts:
    """Clean one shard into a shard of kept and one of dropped documents, batch by batch."""
    source = source_of(shard)
    chosen = {index: step for index, step in enumerate(steps) if step.sources is None or source in step.sources}
    tally = Tally(source)
    by_step: Counts = {"changed_by_step": dict.fromkeys(map(str, range(len(steps))), 0), "sensitivity": {}, "found": {}}
    kept_path, dropped_path = folder / "documents" / shard.name, folder / "dropped" / shard.name
    with ShardFile(kept_path) as kept, ShardFile(dropped_path, DROPPED_SCHEMA) as dropped:
        for rows in read_batches(shard):
            tally.take(rows)
            left, gone = _clean_batch(chosen, rows, tally, by_step)
            tally.keep(left)
            kept.write(left)
            for batch in gone:
                tally.drop(batch)
                dropped.write(batch)
    return tally.counts() | by_step


def _clean_batch(
    steps: Mapping[int, CleaningStep], rows: pa.RecordBatch, tally: Tally, by_step: Counts
) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
    """Take a batch through the steps: what is left of it, and what each step dropped.

    `by_step` counts for each step, by its index: the documents that it edited or dropped, how sensitive its rules are to
    their thresholds, and what it found.
    """
    batch, gone = _apply("", _not_empty(Features(rows)), Features(rows))
    for index, step in steps.items():
        if not batch.wanted.any():
            break
        judged, verdict = _judge(step, batch)
        if verdict is None:
            continue
        affected = ~verdict.keep
        if verdict.edited is not None:
            tally.edit(step.name, int((verdict.edited & judged).sum()))
            affected = affected | verdict.edited
        key = str(index)
        by_step["changed_by_step"][key] += int((affected & judged).sum())
        for counted, told in (
            ("sensitivity", sensitivity(verdict.measured, judged)),
            ("found", {kind: int(number[judged].sum()) for kind, number in verdict.found.items()}),
        ):
            if told:
                by_step[counted][key] = add_counts([by_step[counted].get(key, {}), told])
        batch, dropped = _apply(f"{step.name}.", verdict, batch)
        gone += dropped
        if "text" in verdict.columns:
            batch, dropped = _apply("", _not_empty(batch), batch)
            gone += dropped
    return batch.rows.filter(pa.array(batch.wanted)), gone


def _judge(step: CleaningStep, batch: Features) -> tuple[np.ndarray, Verdict | None]:
    """Ask a step for its verdict on the documents that are its business: which they are, and what it says of them."""
    if step.languages is None:
        return batch.wanted, step(batch)
    options = pc.SetLookupOptions(pa.array(step.languages, pa.string()))
    ours = pc.call_function("is_in", [batch.rows.column("language")], options).to_numpy(zero_copy_only=False)
    judged = batch.wanted & ours
    if not judged.any():
        return judged, None
    verdict = step(batch.narrowed(judged))
    mask = pa.array(judged)
    columns = {
        name: pc.call_function("if_else", [mask, column, batch.rows.column(name)])
        for name, column in verdict.columns.items()
    }
    edited = None if verdict.edited is None else verdict.edited & judged
    failed = np.where(judged, verdict.failed, -1)
    return judged, dataclasses.replace(verdict, failed=failed, columns=columns, edited=edited)


def _apply(prefix: str, verdict: Verdict, batch: Features) -> tuple[Features, list[pa.RecordBatch]]:
    """Carry a verdict out: the batch as it goes on, and the documents that it drops."""
    batch = batch.with_columns(verdict.columns)
    dropped = np.flatnonzero(batch.wanted & ~verdict.keep)
    if not len(dropped):
        return batch, []
    batch.wanted = batch.wanted & verdict.keep
    places = pa.array(dropped)
    names = pa.array([prefix + rule for rule in verdict.rules], pa.string())
    rules = names.take(pa.array(verdict.failed[dropped]))
    value = pa.array(verdict.values[dropped], from_pandas=True)
    threshold = pa.array(verdict.thresholds[dropped], from_pandas=True)
    detail = None if verdict.details is None else verdict.details.take(places)
    return batch, [drop(batch.rows.take(places), "clean", rules, value, threshold, detail)]


def _not_empty(batch: Features) -> Verdict:
    """The rule that is always on: there is something in a document that is not white space."""
    blank = pc.call_function("utf8_is_space", [batch.texts]).to_numpy(zero_copy_only=False)
    blank |= pc.call_function("binary_length", [batch.texts]).to_numpy(zero_copy_only=False) == 0
    return judge(len(blank), Rule("empty", np.zeros(len(blank)), blank, 1.0))


def _everything_dropped(gone: Sequence[str], of_sources: Mapping[str, Any], folder: Path) -> EmptyResultError:
    """Say which rule dropped most of the first source of which nothing is left, by how far, and which others are like it."""
    source, counts = gone[0], of_sources[gone[0]]
    rule, documents = max(counts["dropped"].items(), key=lambda item: item[1])
    values, thresholds = [], set()
    for shard in shards_in(folder):
        if source_of(shard) == source:
            for batch in read_batches(shard, ["rule", "value", "threshold"]):
                of_rule = batch.filter(pc.call_function("equal", [batch.column("rule"), pa.scalar(rule)]))
                values += [value for value in of_rule.column("value").to_pylist() if value is not None]
                thresholds |= set(of_rule.column("threshold").to_pylist()) - {None}
    problem = (
        f"all {counts['documents_in']:,} documents of source '{source}' were dropped, {documents:,} of them by {rule}"
    )
    if values and thresholds:
        allowed = " or ".join(f"{threshold:g}" for threshold in sorted(thresholds))
        problem += f", which allows {allowed} where their median is {np.median(values):.3g}"
    if gone[1:]:
        drops = ((other, of_sources[other]["dropped"]) for other in gone[1:])
        more = (f"'{other}' (most by {max(rules, key=lambda rule: rules[rule])})" for other, rules in drops)
        problem += f"; nothing is left either of {', '.join(more)}"
    hint = f"change or remove that rule, or name in its `sources` the sources that it is for, without '{source}'"
    return EmptyResultError(problem, place="clean.steps", hint=hint)


def _tell_idle_steps(settings: Clean, counts: Counts, out: Workspace) -> None:
    """Say which steps changed nothing: a threshold may be mistyped, or the step not be needed."""
    for index, step in enumerate(settings.chosen):
        if not counts["changed_by_step"][str(index)] and not step.only_tells:
            out.note(f"{settings.place(index)} dropped and edited nothing")
        unknown = set(step.sources or ()) - counts["sources"].keys()
        if unknown:
            out.warn(f"{settings.place(index)} is for sources without documents: {', '.join(sorted(unknown))}")
