"""The step that keeps documents which look like your good examples rather than like your bad ones."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from headwater.core.bucket import here
from headwater.core.config import Config
from headwater.core.errors import InputError
from headwater.core.stage import Counts, Workspace
from headwater.core.store import read_json, write_json
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.linear import LinearModel, fit, isotonic, platt, report
from headwater.documents.cleaning.meta import add_meta, replaced
from headwater.documents.cleaning.steps import CleaningStep, Verdict, at_least, judge
from headwater.documents.sources.files import Paths
from headwater.documents.sources.formats import JsonLines, Text
from headwater.documents.sources.tables import Parquet

MIN_SAMPLES = 20
"""Documents of each kind: with fewer there is no part to hold out that would tell anything."""
_KINDS: tuple[type[Text | JsonLines | Parquet], ...] = (Text, JsonLines, Parquet)


class TrainedQuality(Config):
    """How a quality model is trained."""

    positive: Paths = Field(min_length=1)
    """Files or folders of good documents: text (one a file), jsonl (field `text`) or Parquet (column `text`)."""
    negative: Paths = Field(min_length=1)
    """Files or folders of documents to tell them from, such as a sample of what is cleaned."""
    n_grams: int = Field(default=2, ge=1, le=5)
    """The longest run of words that the model looks at."""
    max_words: int = Field(default=400, ge=10)
    """Words that it reads of each document."""
    max_samples: int = Field(default=30_000, ge=MIN_SAMPLES)
    """Documents of each kind that it learns from, the first ones."""
    epochs: int = Field(default=5, ge=1)
    """Times that it sees each document."""
    learning_rate: float = Field(default=0.5, gt=0)
    """Of AdaGrad."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of the samples that it does not learn from: half of it calibrates the scores, half is for the report."""
    calibration: Literal["platt", "isotonic"] = "platt"
    """A logistic curve, or rising steps, which need some thousand samples."""
    seed: int = 0
    """Of the order of samples."""

    def sample_files(self) -> list[Path]:
        """Every file of samples."""
        return [Path(file) for paths in (self.positive, self.negative) for file, _ in _files(paths)]


class Quality(CleaningStep):
    """Keep documents that a linear model over word n-grams scores high: it is trained on your samples, or loaded.

    Source: the classifier of GPT-3 (Brown et al., arXiv 2005.14165, appendix A) and DCLM (Li et al., arXiv 2406.11794) in
    the form of Joulin et al., arXiv 1607.01759. Scores are calibrated: of documents with 0.8, four of five are good ones,
    where good and bad are as frequent as among the samples.
    """

    use: Literal["quality"]
    model: Path | TrainedQuality
    """A model file that such a step has trained, or the samples to train one from."""
    min_score: float | None = Field(default=0.5, ge=0, le=1)
    """Score that a document has at least; the threshold report in the manifest tells what each would keep."""
    tag: bool = False
    """Write the score in `meta` as `quality`."""

    @property
    def only_tells(self) -> bool:
        """Whether the step neither drops nor edits."""
        return not self.min_score

    def files(self) -> dict[str, Path]:
        """The model, or the samples that it is trained from."""
        files = [self.model] if isinstance(self.model, Path) else self.model.sample_files()
        for file in files:
            if not file.is_file():
                raise InputError("there is no such file", place=str(file), hint="check the path in `use: quality`")
        return {f"quality: {file}": file for file in files}

    def prepare(self, name: str, shards: Sequence[Path], out: Workspace) -> tuple[CleaningStep, Counts]:  # noqa: ARG002
        """Train the model, unless it is at hand; it is kept with what it can do in the stage's folder."""
        if isinstance(self.model, Path):
            LinearModel.load(self.model)
            return self, {"model_hash": xxhash.xxh3_128_hexdigest(self.model.read_bytes())}
        path, told = out.folder / f"{name}.model", out.folder / f"{name}.json"
        if not told.is_file():
            out.note(f"training the model of {name}")
            model, found = train(self.model)
            model.save(path)
            write_json(told, found | {"model_hash": xxhash.xxh3_128_hexdigest(path.read_bytes())})
        return self.model_copy(update={"model": path}), read_json(told)

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        assert isinstance(self.model, Path), "prepare comes first"
        scores = _loaded(here(self.model), self.model.stat().st_mtime_ns).probabilities(
            batch.words.offsets, batch.words.hashes
        )
        meta = {}
        if self.tag:
            column = batch.rows.column("meta")
            for index in np.flatnonzero(batch.wanted).tolist():
                meta[index] = add_meta(column[index].as_py(), "quality", round(float(scores[index]), 4))
        return judge(
            len(scores), at_least("min_score", scores, self.min_score), columns=replaced(batch.rows, "meta", meta)
        )


def train(settings: TrainedQuality) -> tuple[LinearModel, dict[str, Any]]:
    """Train and calibrate a model, and say what it can do on samples that it has not seen.

    Raises:
        InputError: a file cannot be read, or there are too few samples.
    """
    offsets, hashes, good, draws = _samples(settings)
    learn = draws >= settings.held_out
    calibrate = draws < settings.held_out / 2
    judged = ~learn & ~calibrate
    for part, name in ((learn, "to learn from"), (calibrate, "to calibrate by"), (judged, "to judge by")):
        if len(set(good[part].tolist())) < 2:
            problem = (
                f"there are no good and bad samples {name}: {int(good.sum())} good, {int((~good).sum())} bad in all"
            )
            raise InputError(problem, place="use: quality", hint="give more samples, or set held_out")
    model = fit(
        *_taken(offsets, hashes, learn),
        good[learn],
        n_grams=settings.n_grams,
        max_words=settings.max_words,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )
    raw = model.raw_scores(*_taken(offsets, hashes, calibrate))
    points = (platt if settings.calibration == "platt" else isotonic)(raw, good[calibrate])
    model = LinearModel(model.weights, model.n_grams, model.max_words, points)
    found = report(model.probabilities(*_taken(offsets, hashes, judged)), good[judged])
    return model, {"learned_from": int(learn.sum()), "calibrated_by": int(calibrate.sum()), "held_out": found}


def _samples(settings: TrainedQuality) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Word hashes of all samples with their offsets, which are good, and a number in [0, 1) that parts them.

    The number is made of the text, so that copies of one text are all learned from, or none.
    """
    from headwater.documents.text.words import words

    pieces, lengths, good, draws = [np.zeros(0, np.uint64)], [], [], []
    for paths, label in ((settings.positive, True), (settings.negative, False)):
        count = 0
        for texts in _texts(paths):
            texts = texts[: settings.max_samples - count]
            count += len(texts)
            table = words(pa.array(texts, pa.string()), np.ones(len(texts), np.bool_))
            kept = np.minimum(np.diff(table.offsets), settings.max_words)
            pieces += [table.hashes[at : at + size] for at, size in zip(table.offsets[:-1], kept, strict=True)]
            lengths += kept.tolist()
            good += [label] * len(texts)
            draws += [xxhash.xxh3_64_intdigest(text.encode(), settings.seed) / 2**64 for text in texts]
            if count >= settings.max_samples:
                break
        if count < MIN_SAMPLES:
            problem = f"{count} documents are too few to learn from"
            raise InputError(problem, place=", ".join(paths), hint=f"give at least {MIN_SAMPLES}, better 1,000")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return offsets, np.concatenate(pieces), np.array(good), np.array(draws)


def _taken(offsets: np.ndarray, hashes: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The table of some of the samples."""
    sizes = np.diff(offsets)
    return np.concatenate([[0], np.cumsum(sizes[chosen])]).astype(np.int64), hashes[np.repeat(chosen, sizes)]


def _files(paths: Sequence[str]) -> Iterator[tuple[str, type[Text | JsonLines | Parquet]]]:
    """The files that paths stand for, and how each is read."""
    for path in paths:
        found = False
        for kind in _KINDS:
            named = str(path).removesuffix(".gz").removesuffix(".zst")
            if Path(path).is_dir() or named.endswith(kind.suffixes()) or (kind is Text and not Path(path).exists()):
                try:
                    files = kind.model_validate({"use": _USES[kind], "paths": path}).files()
                except InputError:
                    if not Path(path).is_dir():
                        raise
                    continue
                found = True
                yield from ((file, kind) for file in files)
        if not found:
            endings = ", ".join(suffix for kind in _KINDS for suffix in kind.suffixes())
            raise InputError("holds no file of samples", place=path, hint=f"samples are files ending in {endings}")


_USES = {Text: "text", JsonLines: "jsonl", Parquet: "parquet"}


def _texts(paths: Sequence[str]) -> Iterator[list[str]]:
    """The texts of samples, in blocks."""
    for file, kind in _files(paths):
        source = kind.model_validate({"use": _USES[kind], "paths": file})
        for part in source.parts(1 << 24):
            intake = _Gathered()
            source.read(part, intake)  # pyright: ignore[reportArgumentType]
            yield intake.texts


class _Gathered:
    """Takes what a source yields, for samples."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fields: set[str] = set()
        self.seen = 0

    def add(self, texts: Sequence[str] | pa.StringArray, **_: Any) -> None:
        plain: Sequence[str] = list(texts) if isinstance(texts, Sequence) else texts.to_pylist()
        self.texts += [text for text in plain if text.strip()]

    def reject(self, rule: str, text: str, *, place: str, problem: str, **_: Any) -> None:  # noqa: ARG002
        raise InputError(problem, place=place, hint="mend the samples: each must be readable")

    def damage(self, error: InputError, *_: Any) -> None:
        raise error


@functools.lru_cache(8)
def _loaded(path: Path, changed: int) -> LinearModel:  # noqa: ARG001  (a newer file is another model)
    return LinearModel.load(path)
