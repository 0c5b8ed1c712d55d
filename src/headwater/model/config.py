"""Where the weights of a model come from, and the settings of the stage `export`. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from headwater.core.config import Config
from headwater.core.errors import InputError, MismatchError
from headwater.model.dial import Derivation, Dial
from headwater.model.presets import NewModel
from headwater.model.shape import ModelConfig, Residual
from headwater.model.vocabulary import Vocabulary

Folder = Annotated[Path, AfterValidator(Path.expanduser)]
"""A folder of the user's; `~` is the home folder."""


class RandomWeights(Config):
    """Begin with random weights."""

    use: Literal["random"]
    """`random`: a new model."""
    model: NewModel | None = None
    """Its shape; the vocabulary comes from the tokenizer. Set this or `dial`."""
    dial: Dial | None = None
    """How large it is to be, in a word or two; the shape is derived from that, and `headwater plan` says how."""
    vocabulary_multiple: int = Field(default=1, ge=1)
    """Rows of the embedding matrix are rounded up to a multiple of this, which makes products faster on a GPU: 50,257
    tokens and 128 are 50,304 rows. The rows that stand for no token are masked out of every softmax, in training as in
    evaluation and sampling, and are not exported. Source: nanoGPT (Karpathy 2023), which trains them as if they were
    tokens."""
    seed: int = 0
    """Which random numbers."""
    residual: Residual = "scaled"
    """The two projections of each block that write to the residual stream: `scaled` by 1/sqrt(2 num_layers), `zero`
    so that each block begins as the identity, or `plain` like all others. Source: scaled, GPT-2 (Radford et al. 2019,
    section 2.3); zero, nanochat and modded-nanogpt."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.model is None) == (self.dial is None):
            raise ValueError(f"set exactly one of model and dial; got {'none' if self.model is None else 'both'}")
        return self

    @property
    def context_length(self) -> int:
        """The most tokens that the model will attend to."""
        kind = self.model or self.dial
        assert kind is not None
        return kind.context_length

    def derive(self, tokens: int) -> tuple[ModelConfig, tuple[Derivation, ...]]:
        """The whole shape for a tokenizer of so many tokens, and how its numbers follow from the dial, if there is one.

        Raises:
            MismatchError: no shape is what the dial asks for.
        """
        rows = -(-tokens // self.vocabulary_multiple) * self.vocabulary_multiple
        if self.dial is None:
            assert self.model is not None
            shape, told = self.model.model_dump(exclude={"preset"}), ()
        else:
            try:
                config, told = self.dial.derive(rows)
            except ValidationError as error:
                problem = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise MismatchError(problem, place="initialize.dial", hint="change the dial") from None
            except ValueError as error:
                raise MismatchError(str(error), place="initialize.dial", hint="change the dial") from None
            shape = config.model_dump(exclude={"vocab_size", "padding_rows"})
        return ModelConfig(vocab_size=rows, padding_rows=rows - tokens, **shape), told


class HuggingFaceWeights(Config):
    """Begin with the weights of a Hugging Face folder."""

    use: Literal["huggingface"]
    """`huggingface`: a folder with config.json and model.safetensors of a Llama, Mistral, Qwen3, Arcee or GPT-2 model."""
    path: Folder
    """The folder."""
    allow_pickle: bool = False
    """Read .bin files where there is no .safetensors file. They are Python pickles: one that was made to harm can run
    code on this machine when it is read. torch's restricted reader is used, which refuses known ways to do so."""
    vocabulary: Vocabulary | None = None
    """How its rows become those of the run's tokenizer, where that is another than the model's."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, str]:
        """The content of its files.

        Raises:
            InputError: the folder or its files are missing.
        """
        weights = _content(self.path, ["config.json", *_weight_files(self.path)], hash_file)
        return weights | (self.vocabulary.fingerprint(self.path, hash_file) if self.vocabulary else {})


class CheckpointWeights(Config):
    """Begin with the weights of a Headwater checkpoint."""

    use: Literal["checkpoint"]
    """`checkpoint`: a checkpoint folder of another run."""
    path: Folder
    """The folder: the one that holds model.json."""
    optimizer_state: Literal["auto", "keep", "fresh"] = "auto"
    """The optimizer's moments, with which training wrote the checkpoint: training goes on from them (`auto`, with a
    warning where there are none; `keep`, refused where there are none), or begins with `fresh` ones."""
    vocabulary: Vocabulary | None = None
    """How its rows become those of the run's tokenizer, where that is another than the model's; names the model's."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, str]:
        """The content of its files.

        Raises:
            InputError: the folder or its files are missing.
        """
        weights = _content(self.path, ["model.json", "weights.safetensors"], hash_file)
        return weights | (self.vocabulary.fingerprint(self.path, hash_file) if self.vocabulary else {})


class GgufWeights(Config):
    """Begin with the weights of a GGUF file."""

    use: Literal["gguf"]
    """`gguf`: a model in the format of llama.cpp, Llama or Qwen3. Quantised weights are turned back into numbers; what was
    rounded away is lost, and the report says how many tensors were rounded."""
    path: Folder
    """The .gguf file."""
    vocabulary: Vocabulary | None = None
    """How its rows become those of the run's tokenizer, where that is another than the model's."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, str]:
        """The content of the file.

        Raises:
            InputError: there is no such file.
        """
        if not self.path.is_file():
            hint = "check initialize.path; 'headwater fetch' lists models that can be had"
            raise InputError("there is no such file", place=str(self.path), hint=hint)
        weights = {"gguf": hash_file(self.path)}
        return weights | (self.vocabulary.fingerprint(self.path, hash_file) if self.vocabulary else {})


Trained = Annotated[HuggingFaceWeights | CheckpointWeights | GgufWeights, Field(discriminator="use")]
"""The weights of a trained model."""


class Export(Config):
    """Write the trained model for other software, prove that it computes the same there, and describe it in a model card."""

    format: Literal["huggingface", "gguf", "safetensors"] = "huggingface"
    """`huggingface`: a folder for transformers and what reads its folders. `gguf`: a file for llama.cpp, tokenizer included.
    `safetensors`: plain weights and JSON, which `initialize: {use: checkpoint}` reads."""
    dtype: Literal["float32", "bfloat16", "float16", "q8_0"] = "float32"
    """Number format of the exported weights; float32 keeps them exactly. `q8_0`, of gguf alone, takes 8.5 bits a weight."""
    title: str = ""
    """Heading of the model card. Default: the recipe's name."""
    about: str = ""
    """What the model is, in a sentence under the heading. Default: the recipe's `about`."""
    licence: str = ""
    """Licence of the weights, by its name on the Hugging Face hub, such as apache-2.0. It is yours to choose: the licences of
    the training documents, which the card lists, and of a model that this one grew from bind you."""
    base_model: str = ""
    """Name on the hub of the model that this one was continued or grown from, such as HuggingFaceTB/SmolLM2-135M."""
    intended_use: str = ""
    """What the model is for and what it is not for. Default: what holds for any base model."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.dtype == "q8_0" and self.format != "gguf":
            raise ValueError(f"q8_0 is a number format of gguf, not of {self.format}")
        return self


def _weight_files(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors")) or sorted(p.name for p in folder.glob("*.bin"))
    return files or ["model.safetensors"]


def _content(folder: Path, names: list[str], hash_file: Callable[[Path], str]) -> dict[str, str]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        problem = f"there is no {missing[0]} here" if folder.is_dir() else "is not a folder"
        raise InputError(problem, place=str(folder), hint="check initialize.path")
    return {name: hash_file(folder / name) for name in names}
