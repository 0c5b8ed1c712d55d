"""Look at documents: those that a stage kept and those that it dropped, by rule, source or text."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from headwater.core.config import nearest
from headwater.core.errors import InputError
from headwater.documents.document import read_batches, shards_in

KEPT, DROPPED = "kept", "dropped"


@dataclass(frozen=True)
class Wanted:
    """Which documents to look at.

    Attributes:
        fate: `kept`, `dropped` or None for both.
        rule: the rule that dropped them, such as `gopher_quality.min_words`, or the step's name for all of its rules.
        source: name of the source.
        text: a regular expression that is found in their text.
        id: their id, or its beginning.
        count: how many at most: a fair sample of all that fit.
        seed: which sample.
    """

    fate: str | None = None
    rule: str | None = None
    source: str | None = None
    text: str | None = None
    id: str | None = None
    count: int = 20
    seed: int = 0


@dataclass
class Found:
    """What was looked at.

    Attributes:
        stages: names and folders of the stages, in the order of the flow.
        fates: (stage, fate or rule, source) -> documents, of all that lie there.
        fitting: how many documents fit.
        documents: a sample of them; each is a row with `fate` and `stage`.
    """

    stages: Mapping[str, Path]
    fates: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    fitting: int = 0
    documents: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> list[tuple[str, str, str, int]]:
        """Stage, fate or rule, source, documents: stage by stage, most documents first."""
        order = list(self.stages)
        rows = sorted(self.fates.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0]))
        return [(*key, count) for key, count in rows]


def inspect(place: Path, wanted: Wanted) -> Found:
    """Count the documents of a place and draw a sample of those wanted.

    Args:
        place: the folder of a stage, of a run with its stages, or of shards.
        wanted: which documents.

    Raises:
        InputError: there are no documents, or no such rule or source; names the nearest.
    """
    stages = stages_at(place)
    found = Found(stages)
    pattern = _pattern(wanted.text)
    sample: list[tuple[int, int, dict[str, Any]]] = []
    last = list(stages)[-1]
    for stage, folder in stages.items():
        for fate, shards in _shards(folder).items():
            if fate == KEPT and stage != last:
                continue  # what an earlier stage kept comes again
            for batch in _batches(shards, wanted, pattern, found, stage, fate):
                for row in batch.to_pylist():
                    found.fitting += 1
                    chance = xxhash.xxh3_64_intdigest(row["id"].encode(), wanted.seed)
                    item = (-chance, found.fitting, row | {"fate": fate, "stage": stage})
                    if len(sample) < wanted.count:
                        heapq.heappush(sample, item)
                    elif wanted.count:
                        heapq.heappushpop(sample, item)
    found.documents = [row for _, _, row in sorted(sample, key=lambda item: -item[0])]
    _check_names(found, wanted)
    return found


def stages_at(place: Path) -> dict[str, Path]:
    """The stages with documents of a run, or the one that a folder is.

    Raises:
        InputError: there are none.
    """
    run = place / "stages"
    if run.is_dir():
        folders = {path.name: path for path in run.iterdir() if _shards(path)}
        order = ("read", "clean", "dedup", "decontaminate", "split")
        stages = {name: folders[name] for name in order if name in folders}
    else:
        stages = {place.resolve().name.partition("-")[0]: place} if _shards(place) else {}
    if not stages:
        what = "holds no documents" if place.is_dir() else "there is no such folder or run"
        hint = "give runs/<recipe>, the folder of a stage, or a folder of shards"
        raise InputError(what, place=str(place), hint=hint)
    return stages


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Fate -> the shards of a stage's folder, or of a folder of bare shards."""
    found = {
        KEPT: shards_in(folder / "documents") + shards_in(folder / "held_out"),
        DROPPED: shards_in(folder / "dropped"),
    }
    found = {fate: shards for fate, shards in found.items() if shards}
    return found or ({KEPT: bare} if (bare := shards_in(folder)) else {})


def _pattern(text: str | None) -> str | None:
    """A regular expression that Arrow's engine understands.

    Raises:
        InputError: it does not.
    """
    if text is not None:
        try:
            pc.call_function("match_substring_regex", [pa.array([""])], pc.MatchSubstringOptions(text))
        except pa.ArrowInvalid as error:
            hint = "put a backslash before . * + ? ( ) [ ] { } | to look for the character itself"
            raise InputError(f"is no regular expression: {error}", place=f"--text {text}", hint=hint) from None
    return text


def _batches(
    shards: Sequence[Path], wanted: Wanted, pattern: str | None, found: Found, stage: str, fate: str
) -> Iterator[pa.RecordBatch]:
    """The documents of some shards that fit; all of them are counted."""
    for shard in shards:
        for batch in read_batches(shard):
            sources = batch.column("source")
            rules = batch.column("rule") if fate == DROPPED else pa.repeat(pa.scalar(KEPT), batch.num_rows)
            for key, count in Counter(zip(rules.to_pylist(), sources.to_pylist(), strict=True)).items():
                found.fates[stage, *key] += count
            if wanted.fate not in (None, fate):
                continue
            fits = pc.call_function("equal", [sources, pa.scalar(wanted.source or "")]) if wanted.source else None
            if wanted.rule:
                named = rf"\A{re.escape(wanted.rule)}(\.|\z)"
                fits = _both(
                    fits,
                    pc.call_function(
                        "match_substring_regex",
                        [
                            rules,
                        ],
                        pc.MatchSubstringOptions(named),
                    ),
                )
            if wanted.id:
                fits = _both(
                    fits, pc.call_function("starts_with", [batch.column("id")], pc.MatchSubstringOptions(wanted.id))
                )
            if pattern:
                options = pc.MatchSubstringOptions(pattern)
                fits = _both(fits, pc.call_function("match_substring_regex", [batch.column("text")], options))
            yield batch if fits is None else batch.filter(fits)


def _both(left: pa.Array | None, right: pa.Array) -> pa.Array:
    return right if left is None else pc.call_function("and", [left, right])


def _check_names(found: Found, wanted: Wanted) -> None:
    """Say when a rule or source that was asked for is not there at all."""
    rules = {rule for _, rule, _ in found.fates} - {KEPT}
    known = {
        "rule": rules | {rule.partition(".")[0] for rule in rules},
        "source": {source for *_, source in found.fates},
    }
    for what, names in known.items():
        name = getattr(wanted, what)
        if name and name not in names:
            hint = "without --rule and --source, headwater inspect lists what there is"
            raise InputError(f"no document has the {what} '{name}'{nearest(name, names)}", place=f"--{what}", hint=hint)
