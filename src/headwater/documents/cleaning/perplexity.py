"""The step that asks an existing model how well it foresees a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveFloat, PrivateAttr, model_validator

from headwater.core.errors import InputError
from headwater.core.stage import Counts, Workspace, door
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.meta import add_meta, replaced
from headwater.documents.cleaning.steps import CleaningStep, Verdict, at_least, at_most, judge

SCORER = "headwater.evaluation.perplexity:open_scorer"
"""What loads the model; torch is imported only when the step begins to work."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class Perplexity(CleaningStep):
    """Keep documents that a model foresees neither too well nor too badly, in bits per byte of their text.

    What a model of good text finds very hard is often noise, or another language; what it finds very easy repeats itself.
    Source: CCNet (Wenzek et al., arXiv 1911.00359, section 3.3) keeps the part of a language that is likeliest under a
    model of Wikipedia; here a Llama or Qwen3 takes the place of its 5-gram model, and bits per byte that of perplexity per
    token, so that thresholds do not hang on the tokenizer.
    """

    use: Literal["perplexity"]
    model: Path
    """Folder of the model: of Hugging Face (Llama or Qwen3), or a checkpoint of Headwater's."""
    tokenizer: Path | None = None
    """Folder of its tokenizer.json; by default the model's folder. A checkpoint of Headwater's has none in it: it lies in
    `runs/<name>/stages/tokenizer/tokenizer`."""
    min_bits_per_byte: PositiveFloat | None = None
    """Bits per byte that a document has at least."""
    max_bits_per_byte: PositiveFloat | None = None
    """Bits per byte that a document has at most."""
    max_characters: int | None = Field(default=2000, ge=1)
    """Characters to judge by, from the beginning: the time taken grows with them; null for all."""
    _scorer: Callable[[Sequence[str]], np.ndarray] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _leaves_a_range(self) -> Perplexity:
        low, high = self.min_bits_per_byte, self.max_bits_per_byte
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_bits_per_byte {low} is above max_bits_per_byte {high}: nothing would be left")
        return self

    @property
    def only_tells(self) -> bool:
        """Whether the step drops nothing."""
        return self.min_bits_per_byte is None and self.max_bits_per_byte is None

    def files(self) -> dict[str, Path]:
        """The model's files and the tokenizer's.

        Raises:
            InputError: something that makes a model is not there.
        """
        if not self.model.is_dir():
            hint = "give the folder of a model in `use: perplexity`"
            raise InputError("there is no such folder", place=str(self.model), hint=hint)
        shape = next((name for name in ("model.json", "config.json") if (self.model / name).is_file()), None)
        weights = sorted(path for path in self.model.glob("*.safetensors") if path.name != "training.safetensors")
        if shape is None or not weights:
            problem = f"holds no {'.safetensors' if shape else 'config.json or model.json'}, so it is no model"
            raise InputError(problem, place=str(self.model), hint="give a Hugging Face folder or a checkpoint folder")
        folder = self.tokenizer or self.model
        for name in _TOKENIZER_FILES:
            if not (folder / name).is_file():
                hint = (
                    "set `tokenizer` to the folder of the model's own, such as runs/<name>/stages/tokenizer/tokenizer"
                )
                raise InputError(f"there is no {name} here", place=str(folder), hint=hint)
        files = [self.model / shape, *weights, *(folder / name for name in _TOKENIZER_FILES)]
        return {f"perplexity: {file}": file for file in files}

    def prepare(self, name: str, shards: Sequence[Path], out: Workspace) -> tuple[CleaningStep, Counts]:  # noqa: ARG002
        """Load the model; all shards share it, and take turns."""
        scorer = door(SCORER)(self.model, self.tokenizer or self.model, out.machine)
        ready = self.model_copy()
        ready._scorer = scorer
        return ready, scorer.facts()

    def __call__(self, batch: Features) -> Verdict:
        """Judge a batch of documents."""
        assert self._scorer is not None, "prepare comes first"
        wanted = np.flatnonzero(batch.wanted)
        texts = batch.texts.take(pa.array(wanted))
        if self.max_characters is not None:
            texts = pc.call_function("utf8_slice_codeunits", [texts], pc.SliceOptions(0, self.max_characters))
        values = np.full(batch.rows.num_rows, np.nan)
        values[wanted] = self._scorer(texts.to_pylist()).round(4)  # what is written is what decides
        column = batch.rows.column("meta")
        meta = {at: add_meta(column[at].as_py(), "bits_per_byte", float(values[at])) for at in wanted.tolist()}
        return judge(
            len(values),
            at_least("min_bits_per_byte", values, self.min_bits_per_byte),
            at_most("max_bits_per_byte", values, self.max_bits_per_byte),
            columns=replaced(batch.rows, "meta", meta),
        )
