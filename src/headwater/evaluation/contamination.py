"""Which items of tasks are in the documents that a model was trained on: the same search as in the stage decontaminate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from headwater.core.errors import EmptyResultError, InputError
from headwater.documents.decontaminate import Decontaminate, Matches
from headwater.documents.document import read_batches, shards_in
from headwater.documents.overlap.benchmarks import Loaded, load, texts_in
from headwater.evaluation.items import Item


class Found(NamedTuple):
    """What of a task's item is in the training documents."""

    coverage: float
    """Share of its words, at most, in one document."""
    longest: int
    """Words (or characters, of scripts without spaces) of the longest match."""
    document: str
    """Id of the document with the longest match."""


class _Texts:
    """Items that are at hand, in the place of a benchmark's files."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def items(self, name: str) -> Iterator[list[str]]:  # noqa: ARG002  (as of files, which have something to complain about)
        for item in self._items:
            right = [item.prompt + item.choices[gold] for gold in item.gold if gold < len(item.choices)]
            yield list(dict.fromkeys([*texts_in(list(item.record.values())), item.prompt, *right]))


def training_documents(run: Path) -> Path:
    """The folder of the documents that a run was trained on.

    Raises:
        InputError: there is none.
    """
    for stage in ("split", "decontaminate", "dedup", "clean", "read"):
        if (folder := run / "stages" / stage / "documents").is_dir():
            return folder
    hint = "name a run of a recipe that reads documents"
    raise InputError("holds no documents of a training", place=str(run), hint=hint)


def contaminated(
    documents: Path,
    tasks: Mapping[str, Sequence[Item]],
    ngram: int = 13,
    advance: Callable[[float], None] | None = None,
) -> dict[str, dict[int, Found]]:
    """For each task the numbers of its items of which an n-gram is in some document, with the most that is in one.

    Args:
        documents: folder of shards.
        tasks: items by task; few-shot examples, which stand before every question, are not of the item: leave them out.
        ngram: words of an n-gram. Source: Brown et al. 2020 (arXiv:2005.14165), appendix C: 13.
        advance: called with the number of documents after each batch.

    Raises:
        EmptyResultError: nothing could be looked for, which is not a clean bill.
        InputError: there are no documents.
    """
    settings = Decontaminate.model_construct(ngram=ngram, min_words=min(8, ngram))
    loaded = _load(tasks, settings)
    shards = shards_in(documents)
    if not shards:
        raise InputError("holds no documents", place=str(documents), hint="name a run that has read some")
    found: dict[str, dict[int, Found]] = {task: {} for task in tasks}
    for shard in shards:
        for rows in read_batches(shard):
            matches = Matches(settings, loaded, rows.column("text"))
            for row in matches.documents:
                for overlap in matches.overlaps(row):
                    item = loaded.items[overlap.item]
                    known = found[item.benchmark].get(item.number - 1)
                    if known is None or overlap.longest > known.longest:
                        identifier = rows.column("id")[row].as_py()
                        found[item.benchmark][item.number - 1] = Found(overlap.coverage, overlap.longest, identifier)
            if advance is not None:
                advance(rows.num_rows)
    return found


def _load(tasks: Mapping[str, Sequence[Item]], settings: Decontaminate) -> Loaded:
    try:
        return load({task: _Texts(items) for task, items in tasks.items()}, settings.words, settings.characters)
    except EmptyResultError as error:
        task = (error.place or "").rpartition(".")[2]
        hint = "its items are too short to be found by n-grams: leave --training out for it"
        raise EmptyResultError(error.problem, place=task, hint=hint) from None
