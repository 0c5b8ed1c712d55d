"""The shape of a model, what it costs, where its weights come from, and the settings of `export`. No torch here.

Shapes follow the Llama family. With `qk_norm` the same model is a Qwen3. Both export without change to transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from headwater.core.config import Config
from headwater.core.errors import InputError
from headwater.model.vocabulary import Vocabulary

Folder = Annotated[Path, AfterValidator(Path.expanduser)]
"""A folder of the user's; `~` is the home folder."""


def _ffn_size(known: dict[str, Any]) -> int:
    return math.ceil(known["hidden_size"] * 8 / 3 / 64) * 64


class ModelShape(Config):
    """The shape of a Llama-family model, all but its vocabulary."""

    hidden_size: int = Field(ge=2)
    """Width of the residual stream."""
    num_layers: int = Field(ge=1)
    """Transformer blocks."""
    num_heads: int = Field(ge=1)
    """Query heads."""
    num_kv_heads: int = Field(default_factory=lambda known: known["num_heads"], ge=1)
    """Key and value heads; fewer than `num_heads` is grouped-query attention. Default: `num_heads`."""
    head_size: int = Field(default_factory=lambda known: known["hidden_size"] // known["num_heads"], ge=2)
    """Width of a head. Default: hidden_size / num_heads."""
    ffn_size: int = Field(default_factory=_ffn_size, ge=1)
    """Width inside the feed-forward layer. Default: 8/3 of hidden_size, rounded up to a multiple of 64.
    Source: Shazeer 2020 (arXiv:2002.05202): two thirds of 4 x hidden_size keep the size with a gated layer."""
    context_length: int = Field(default=1024, ge=2)
    """The most tokens that the model attends to."""
    rope_theta: float = Field(default=10_000.0, gt=1)
    """Base of the rotary position embedding. Source: Su et al. 2021 (arXiv:2104.09864)."""
    norm_epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square in RMSNorm. Source: the default of LlamaConfig and Qwen3Config."""
    tie_embeddings: bool = True
    """Use the embedding matrix as the output head too. Saves vocab_size x hidden_size parameters."""
    qk_norm: bool = False
    """RMSNorm on queries and keys, as in Qwen3. Source: Henry et al. 2020 (arXiv:2010.04245)."""
    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of random weights. Source: GPT-2; the default of LlamaConfig."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if "head_size" not in self.model_fields_set and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into {self.num_heads} heads; set head_size as well"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_size % 2:
            raise ValueError(f"head_size {self.head_size} is odd; rotary positions turn pairs of numbers")
        return self


class ModelConfig(ModelShape):
    """The whole shape of a model, and the arithmetic that follows from it.

    >>> config = ModelConfig(vocab_size=32_000, hidden_size=1024, num_layers=12, num_heads=32, num_kv_heads=8,
    ...                      ffn_size=4096, tie_embeddings=False)
    >>> config.parameters()
    248013824
    """

    vocab_size: int = Field(ge=1)
    """Rows of the embedding matrix: token types of the tokenizer."""

    def parameters(self) -> int:
        """Exact number of parameters; a tied head counts once."""
        norms = (2 * self.num_layers + 1) * self.hidden_size + 2 * self.qk_norm * self.num_layers * self.head_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return embeddings + self.num_layers * self.block_matrix_parameters() + norms

    def block_matrix_parameters(self) -> int:
        """Parameters of the matrices of one block: attention and feed-forward."""
        attention = 2 * self.hidden_size * self.head_size * (self.num_heads + self.num_kv_heads)
        return attention + 3 * self.hidden_size * self.ffn_size

    def flops_per_token(self, sequence_length: int, attention: Literal["causal", "full"] = "causal") -> int:
        """Floating-point operations to train on one token: forward and backward.

        Args:
            sequence_length: tokens of a training row.
            attention: `causal` counts the half of the attention matrix that is used; `full` counts all of it, the
                convention of PaLM, by which most published MFU figures go.

        Source: 6 N + 12 L H Q T with N the weights of all matrix products, head included (tied or not), embedding
        look-up not (Chowdhery et al. 2022, arXiv:2204.02311, appendix B); causal attention is half of the second term.
        """
        matrices = self.num_layers * self.block_matrix_parameters() + self.vocab_size * self.hidden_size
        width = self.num_heads * self.head_size
        factor = 12 if attention == "full" else 6
        return 6 * matrices + factor * self.num_layers * width * sequence_length

    def training_bytes(self) -> int:
        """Memory of weights, gradients and the two AdamW moments in fp32 [bytes]; activations come on top."""
        return 16 * self.parameters()

    def expected_initial_loss(self, residual: Literal["scaled", "zero", "plain"] = "scaled") -> float:
        """Loss before training [nats per token] of random weights.

        The logits of random weights are normal with variance s^2 = hidden_size x std^2, because the last norm gives
        vectors of length sqrt(hidden_size); so the mean loss is ln vocab_size + s^2 / 2. With a tied head one logit is
        different: that of the input token itself, which the residual stream still points to. It is
        sqrt(hidden_size) x s x (share of the embedding in the stream), negligible when the vocabulary is large and the
        model small.

        Source: facts of the log-normal; the tied term is ours, checked against measured models in the tests.
        """
        variance = self.hidden_size * self.init_std**2
        others = math.log(self.vocab_size) + variance / 2
        if not self.tie_embeddings:
            return others
        own = self.hidden_size * self.init_std * self._embedding_share(residual)
        return max(others, own) + math.log1p(math.exp(-abs(others - own)))

    def _embedding_share(self, residual: str) -> float:
        """Length of the token's embedding relative to the residual stream before the last norm, at random weights."""
        if residual == "zero":
            return 1.0
        variance = self.hidden_size * self.init_std**2
        # E[(silu(g) u)^2] for normal g, u of small variance v: silu(g) = g/2 + g^2/4, so v/4 + 3 v^2 / 16, times v.
        gated = variance * (variance / 4 + 3 * variance**2 / 16)
        out_std = self.init_std / math.sqrt(2 * self.num_layers) if residual == "scaled" else self.init_std
        added = self.num_layers * self.ffn_size * gated * out_std**2
        return self.init_std / math.sqrt(self.init_std**2 + added)


class RandomWeights(Config):
    """Begin with random weights."""

    use: Literal["random"]
    """`random`: a new model."""
    model: ModelShape
    """Its shape; the vocabulary comes from the tokenizer."""
    seed: int = 0
    """Which random numbers."""
    residual: Literal["scaled", "zero", "plain"] = "scaled"
    """The two projections of each block that write to the residual stream: `scaled` by 1/sqrt(2 num_layers), `zero`
    so that each block begins as the identity, or `plain` like all others. Source: scaled, GPT-2 (Radford et al. 2019,
    section 2.3); zero, nanochat and modded-nanogpt."""


class HuggingFaceWeights(Config):
    """Begin with the weights of a Hugging Face folder."""

    use: Literal["huggingface"]
    """`huggingface`: a folder with config.json and model.safetensors of a Llama or Qwen3 model."""
    path: Folder
    """The folder."""
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
    vocabulary: Vocabulary | None = None
    """How its rows become those of the run's tokenizer, where that is another than the model's; names the model's."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> dict[str, str]:
        """The content of its files.

        Raises:
            InputError: the folder or its files are missing.
        """
        weights = _content(self.path, ["model.json", "weights.safetensors"], hash_file)
        return weights | (self.vocabulary.fingerprint(self.path, hash_file) if self.vocabulary else {})


Trained = Annotated[HuggingFaceWeights | CheckpointWeights, Field(discriminator="use")]
"""The weights of a trained model."""


class Export(Config):
    """Write the trained model as a Hugging Face folder."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the exported weights; float32 keeps them exactly."""


def _weight_files(folder: Path) -> list[str]:
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    return files or ["model.safetensors"]


def _content(folder: Path, names: list[str], hash_file: Callable[[Path], str]) -> dict[str, str]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        problem = f"there is no {missing[0]} here" if folder.is_dir() else "is not a folder"
        raise InputError(problem, place=str(folder), hint="check initialize.path")
    return {name: hash_file(folder / name) for name in names}
