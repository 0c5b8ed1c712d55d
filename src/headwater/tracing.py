"""Where a run's text comes from: its index, its documents and its training steps together.

Behind `headwater trace`, `headwater memorization`, `headwater index`, and the stage memorization.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from headwater.core.config import Config, nearest
from headwater.core.errors import InputError, MismatchError, StoreError
from headwater.core.hardware import Machine
from headwater.core.stage import Counts, Inputs, Step, Store, Workspace, door, perform, stage_named
from headwater.core.store import HashMemory, atomic_path, read_json, write_json
from headwater.documents.document import read_batches, shards_in
from headwater.documents.sources.removal import Removal
from headwater.evaluation.absence import Absence, Removed, absence
from headwater.evaluation.config import Memorization
from headwater.evaluation.trace import Match, Source, trace
from headwater.ledger import DOCUMENT_STAGES, PARTS
from headwater.tokens.codec import Codec
from headwater.tokens.index import Index
from headwater.tokens.shards import TokenFolder
from headwater.tokens.suffixes import words_of
from headwater.tokens.text_index import TextIndex
from headwater.training.config import Train
from headwater.training.phases import PhasedBatches

_EDGE_TOKENS = 2
"""Tokens by which a match's place in its document's tokens may be off: a text that is cut is tokenized otherwise at the cut."""


# ------------------------------------------------------------------------------------------------------- runs, index


def run_folder(place: str, machine: Machine) -> Path:
    """The folder `runs/<recipe>` of a run, given as a folder, or as the name or file of a recipe.

    Raises:
        InputError: there is none; names the nearest.
    """
    folder, runs = machine.run_folder(place), Path(machine.runs)
    if not (folder / "stages").is_dir():
        known = sorted(path.name for path in runs.iterdir()) if runs.is_dir() else []
        hint = "name a recipe that has run, or a folder with its stages"
        raise InputError(f"there is no such run{nearest(place, known)}", place=place, hint=hint)
    return folder


def open_index(run: Path, *, verify: bool = False) -> TextIndex:
    """Open the index of a run's training documents.

    Raises:
        StoreError: there is none, it is unfinished, or a file of it was changed.
        MismatchError: it is of other documents than those that the run's tokens were made from.
    """
    folder = run / "stages" / "index"
    build = f"headwater index {run}"
    if not (folder / "manifest.json").is_file():
        problem = "this run has no index of its training documents"
        raise StoreError(problem, place=str(run), hint=f"{build}, or a section 'index: {{}}' in the recipe")
    index = TextIndex(folder.resolve(), verify=verify)
    encoded = run / "stages" / "encode" / "manifest.json"
    if encoded.is_file():
        now, then = read_json(encoded)["inputs"]["documents"], index.manifest["inputs"]["documents"]
        if now["fingerprint"] != then["fingerprint"]:
            problem = f"the index is of the documents in {then['folder']}, the tokens are of {now['folder']}"
            raise MismatchError(problem, place=str(folder), hint=f"build it again: {build}")
    return index


def build_index(run: Path, settings: Index, machine: Machine) -> Path:
    """Build the index of a run's training documents, as its recipe's section index would; returns its folder.

    Raises:
        StoreError: the run's documents are not encoded, or are gone.
    """
    from headwater.flow import FLOW  # above this module: only its table of stages

    encoded = run / "stages" / "encode" / "manifest.json"
    if not encoded.is_file():
        hint = "run the recipe until encode first"
        raise StoreError("the documents of this run are not encoded yet", place=str(run), hint=hint)
    store = encoded.resolve().parents[1]
    made_from = read_json(encoded)["inputs"]["documents"]
    folder = store / made_from["folder"]
    if not (folder / "manifest.json").is_file():
        problem = "the documents that the tokens were made from are gone"
        raise StoreError(problem, place=str(folder), hint="run the recipe again")
    origin = read_json(folder / "manifest.json")
    before = stage_named(FLOW, origin["stage"])
    documents = Step(before, Config(), None, {}, made_from["fingerprint"], folder, True, "done")
    hashes = HashMemory(store / ".hashes.json")
    step = Store(store).plan(stage_named(FLOW, "index"), settings, {"documents": documents}, hashes)
    if not step.finished:
        perform(step, machine)
    with atomic_path(run / "stages" / "index") as temporary:
        temporary.symlink_to(os.path.relpath(step.folder, run / "stages"), target_is_directory=True)
    return step.folder


# ------------------------------------------------------------------------------------------------------------- steps


class Steps:
    """Which steps of a run's training read what."""

    def __init__(self, tokens: Path, train: Path, tokenizer: Path) -> None:
        """Take the folders of the finished stages encode and train, and that of the tokenizer.

        Raises:
            MismatchError: the training was on other tokens.
        """
        manifest = read_json(train / "manifest.json")
        encoded = read_json(tokens / "manifest.json")
        if manifest["inputs"]["tokens"]["fingerprint"] != encoded["fingerprint"]:
            problem = f"was not trained on the tokens in {tokens}"
            raise MismatchError(problem, place=str(train), hint="run the recipe again")
        self.steps: int = manifest["counts"]["steps"]
        self._batches = PhasedBatches(tokens, Train.model_validate(manifest["settings"]))
        self._folder = TokenFolder(tokens)
        self._tokenizer = tokenizer
        self._codec: Codec | None = None

    def of_tokens(self, source: str, document: int, tokens: tuple[int, int]) -> list[int]:
        """Steps, counted from 1, that read tokens of a document, from the first of these up to the second."""
        return [step + 1 for step in self._batches.steps_with(source, document, self.steps, tokens)]

    def of_matches(self, index: TextIndex, matches: Sequence[Match]) -> list[Match]:
        """The same matches, with the steps that read them in each document that is told of."""
        return [
            replace(match, sources=tuple(replace(s, steps=self._of_source(index, match, s)) for s in match.sources))
            for match in matches
        ]

    def _of_source(self, index: TextIndex, match: Match, source: Source) -> tuple[int, ...]:
        self._codec = self._codec or Codec(self._tokenizer)
        before, _ = index.text(source.place, source.place.byte, 0)
        first, inside = (len(ids) for ids in self._codec.encode([before, match.text]))
        begin = max(1 + first - _EDGE_TOKENS, 0)
        return tuple(self.of_tokens(source.source, source.number, (begin, 1 + first + inside + _EDGE_TOKENS)))


def steps_of(run: Path) -> Steps | None:
    """The training steps of a run; None when it has not trained."""
    stages = run / "stages"
    if not (stages / "train" / "manifest.json").is_file():
        return None
    return Steps(stages / "encode", stages / "train", stages / "tokenizer" / "tokenizer")


# ------------------------------------------------------------------------------------------------------- the command


def check_numbers(**given: int | None) -> None:
    """Refuse numbers of a command that mean nothing.

    Raises:
        InputError: one is below what it may be.
    """
    for name, value in given.items():
        least = 1 if name == "min_words" else 0
        if value is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"is less than {least}", place=option, hint="headwater trace --help")


def texts_to_trace(given: Sequence[str], file: Path | None, written: Sequence[str], min_words: int) -> list[str]:
    """The texts that a command is to trace, those that a model has written last; `-` as a file is standard input.

    Raises:
        InputError: there is none, or one has fewer words than a match.
    """
    texts = list(given)
    if file is not None:
        try:
            texts.append(sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            problem = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
            raise InputError(str(problem), place=str(file), hint="give a text file, or - for standard input") from None
    if not any(text.strip() for text in (*texts, *written)):
        raise InputError("there is no text", place="trace", hint='such as: headwater trace demo "Return the number of"')
    for text in texts:
        words = len(words_of(text))
        if words < min_words:
            problem = f"{text[:40]!r} has {words} words, a match has at least {min_words}"
            raise InputError(problem, place="trace", hint=f"give more text, or --min-words {max(words, 1)}")
    return [*texts, *written]


def continuations(
    run: Path, prompts: Sequence[str], max_new_tokens: int, temperature: float, seed: int
) -> list[tuple[str, str]]:
    """What the model of a run writes after prompts: each prompt and its continuation."""
    if not prompts:
        return []
    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    written = door("headwater.evaluation.prompting:prompting")(str(run), prompts, sampling, Machine())
    return [(one.prompt, one.text) for one in written.all()]


def memorization_of(run: Path, settings: Memorization, machine: Machine) -> dict[str, Any]:
    """What the trained model of a run continues letter for letter; without an index where the run has none.

    Raises:
        InputError: the run has not trained.
        MismatchError: tokens, tokenizer, model and index do not belong together.
    """
    stages = run / "stages"
    opened = door("headwater.evaluation.opening:open_model")(str(run), machine)
    index = open_index(run) if (stages / "index").exists() else None
    return _measured(opened, stages / "encode", steps_of(run), settings, index)


# ----------------------------------------------------------------------------------------------------------- absence


def prove_absence(run: Path, index: TextIndex, what: str, min_words: int) -> Absence:
    """Look for what is left of removed documents in a run's training documents.

    Args:
        run: the run's folder.
        index: of its training documents.
        what: a file of documents (.txt, .md, .jsonl with `text`, .parquet), a folder of shards, a removal list of `headwater
            forget`, or the name of a source; the documents of the last two are looked for in the run's store.
        min_words: words of a run that counts.

    Raises:
        InputError: there is nothing of this name, or no text of it to look for.
    """
    removed = list(_removed(run, what))
    if not any(words_of(document.text).begins.size for document in removed):
        hint = "give a file with their text: what is no longer there cannot be compared"
        raise InputError("no text of these documents was found", place=what, hint=hint)
    return absence(index, removed, min_words)


def _removed(run: Path, what: str) -> Iterator[Removed]:
    path = Path(what).expanduser()
    if path.is_dir() or path.suffix == ".parquet":
        for shard in shards_in(path) if path.is_dir() else [path]:
            yield from _of_shard(shard)
    elif path.suffix == ".jsonl" and path.is_file():
        rows = list(_lines(path))
        if all(isinstance(row.get("text"), str) for row in rows):
            for number, row in enumerate(rows, start=1):
                yield Removed(row.get("id"), row.get("url") or f"{path}:{number}", row["text"])
        else:
            removal = Removal([str(path)])
            yield from _in_store(run, lambda batch: removal.fits(batch).tolist())
    elif path.is_file():
        try:
            yield Removed(None, str(path), path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            hint = "give text, .jsonl with a field text, or .parquet"
            raise InputError("is not UTF-8 text", place=what, hint=hint) from None
    else:
        yield from _in_store(run, lambda batch: [name == what for name in batch.column("source").to_pylist()])


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    import orjson

    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                row = orjson.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                hint = "each line is one JSON object with a field text, or a line of a removal list"
                raise InputError("is no JSON object", place=f"{path}:{number}", hint=hint)
            yield row


def _of_shard(shard: Path) -> Iterator[Removed]:
    for batch in read_batches(shard, ["id", "text", "url"]):
        for row in batch.to_pylist():
            yield Removed(row["id"], row["url"] or row["id"], row["text"])


def _in_store(run: Path, fits: Any) -> Iterator[Removed]:
    """Documents of every finished stage in a run's store that fit, kept or dropped, each text once."""
    stores = {path.resolve().parent for path in (run / "stages").iterdir()}
    seen: set[str] = set()
    for store in sorted(stores):
        folders = [path for path in sorted(store.iterdir()) if path.name.partition("-")[0] in DOCUMENT_STAGES]
        for folder in folders:
            for shard in (shard for part in PARTS for shard in shards_in(folder / part)):
                for batch in read_batches(shard, ["id", "text", "source", "url", "meta"]):
                    for row, wanted in zip(batch.to_pylist(), fits(batch), strict=True):
                        if wanted and row["text"] and row["text"] not in seen:
                            seen.add(row["text"])
                            yield Removed(row["id"], row["url"] or row["id"], row["text"])


# --------------------------------------------------------------------------------------------- the stage memorization


def memorization(settings: Memorization, inputs: Inputs, out: Workspace) -> Counts:
    """Measure what the trained model continues letter for letter, and trace what the stage evaluate had it write.

    Raises:
        MismatchError: tokens, tokenizer, model and index do not belong together.
    """
    tokenizer = inputs["tokenizer"] / "tokenizer"
    open_model = door("headwater.evaluation.opening:open_model")
    opened = open_model(str(inputs["checkpoint"] / "checkpoint"), out.machine, tokenizer=tokenizer)
    steps = Steps(inputs["tokens"], inputs["checkpoint"], tokenizer)
    index = TextIndex(inputs["index"]) if "index" in inputs else None
    result = _measured(opened, inputs["tokens"], steps, settings, index)
    for line in result["not_told"]:
        out.warn(f"it cannot be told {line}")
    traced = _traced(index, steps, inputs, settings) if index else None
    write_json(out.folder / "memorization.json", {**result, "generations": traced})
    return {key: result[key] for key in ("training", "held_out", "by_duplicates")}


def _measured(
    opened: Any, tokens: Path, steps: Steps | None, settings: Memorization, index: TextIndex | None
) -> dict[str, Any]:
    """The measurement of an opened model."""
    measure = door("headwater.evaluation.memorization:measure")

    def seen(source: str, document: int, run: tuple[int, int]) -> int:
        return len(steps.of_tokens(source, document, run)) if steps else 0

    return measure(opened.model, opened.codec, TokenFolder(tokens), settings, index, seen if steps else None)


def _traced(index: TextIndex, steps: Steps, inputs: Inputs, settings: Memorization) -> list[dict[str, Any]] | None:
    """What the trained model wrote after the prompts of the stage evaluate, with its matches."""
    path = inputs["evaluate"] / "generations.json" if "evaluate" in inputs else None
    if path is None or not path.is_file():
        return None
    found = []
    for written in read_json(path):
        prompt, text = written["prompt"], written["trained"]
        matches = trace(index, prompt + text, min_words=settings.min_words)
        own = [match for match in matches if match.end > len(prompt)]
        found.append(
            {"prompt": prompt, "text": text, "matches": [asdict(match) for match in steps.of_matches(index, own)]}
        )
    return found
