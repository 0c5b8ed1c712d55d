"""GGUF files, the format of llama.cpp: metadata by key and tensors by name, read and checked with the package gguf.

Only the container is here. What the keys mean for a model is in `model.gguf`, for a tokenizer in `tokens.gguf`.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headwater.core.errors import InputError, MismatchError

if TYPE_CHECKING:
    from gguf import ReaderTensor

MAGIC = b"GGUF"
EXACT_TYPES = ("F32", "F64", "F16", "BF16")
"""Tensor types that hold numbers one by one; all others are blocks of rounded numbers that share a scale."""
_BROKEN = (ValueError, IndexError, KeyError, OverflowError, TypeError, MemoryError, OSError)
"""What the package raises for files that are cut off or no GGUF."""


class GgufFile:
    """An opened GGUF file.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """Open a file and make sure that all of its tensors are in it.

        Raises:
            InputError: it is missing, no GGUF, cut off, or one part of several.
        """
        from gguf import GGUFReader

        self.path = path
        try:
            with path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as error:
            problem = f"cannot be read ({error.strerror or error})"
            raise InputError(problem, place=str(path), hint="give the path of a .gguf file") from None
        if magic != MAGIC:
            raise InputError("is not a GGUF file", place=str(path), hint="give the path of a .gguf file")
        try:
            self._reader = GGUFReader(path)
        except _BROKEN as error:
            problem = f"is damaged or cut off ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            raise InputError(problem, place=str(path), hint="download it again") from None
        if (parts := self.get("split.count", 1)) > 1:
            hint = "join the parts first: llama-gguf-split --merge"
            raise InputError(f"is one of {parts} parts", place=str(path), hint=hint)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key of the metadata: a number, a text, or a list of either."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    def need(self, key: str) -> Any:
        """The value of a key that must be there.

        Raises:
            MismatchError: it is not.
        """
        value = self.get(key)
        if value is None:
            problem = f"there is no {key} in its metadata"
            raise MismatchError(problem, place=str(self.path), hint="convert the model again with today's llama.cpp")
        return value

    @cached_property
    def _tensors(self) -> dict[str, ReaderTensor]:
        return {tensor.name: tensor for tensor in self._reader.tensors}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape, rows first."""
        return {name: tuple(int(size) for size in reversed(t.shape)) for name, t in self._tensors.items()}

    @property
    def types(self) -> dict[str, int]:
        """Tensor type -> how many tensors are kept in it."""
        return dict(Counter(tensor.tensor_type.name for tensor in self._tensors.values()).most_common())

    @property
    def quantised(self) -> dict[str, int]:
        """Tensor type -> how many tensors, of the types that round numbers in blocks."""
        return {name: count for name, count in self.types.items() if name not in EXACT_TYPES}

    def tensor(self, name: str) -> np.ndarray:
        """A tensor as numbers, rows first, fp32.

        Raises:
            MismatchError: it is in a type that the package gguf cannot turn into numbers.
        """
        from gguf.quants import dequantize

        tensor = self._tensors[name]
        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            problem = f"tensor {name} is of type {tensor.tensor_type.name}, which cannot be turned into numbers"
            raise MismatchError(
                problem, place=str(self.path), hint="take a file in another type, such as Q8_0"
            ) from None
        return np.array(values, np.float32).reshape(self.shapes[name])
