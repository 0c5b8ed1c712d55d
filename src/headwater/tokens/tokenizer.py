"""The stage tokenizer: train a byte-level BPE on the documents, or take an existing tokenizer; measure and check it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import tokenizers
from pydantic import Field
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from headwater.core.config import Config, nearest
from headwater.core.errors import EmptyResultError, InputError, MismatchError
from headwater.core.gguf import GgufFile
from headwater.core.hardware import set_environment
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.store import read_json, write_json
from headwater.core.units import Bytes, Count, format_bytes
from headwater.documents.document import read_batches, shards_in, source_of, text_buffer
from headwater.tokens.codec import Codec, open_tokenizer, tricky_texts
from headwater.tokens.gguf import end_of_text, read_tokenizer
from headwater.tokens.patterns import PATTERNS
from headwater.tokens.shards import DOCUMENTS, HELD_OUT, SEPARATOR, TRAINING

FACTS_BYTES = 1 << 20
"""Text of each source on which bytes per token are measured, held-out where there is some [bytes]."""
_ROUND_TRIP_DOCUMENTS = 200  # of each source; the check decodes in Python, about 1 ms for each


class TrainBpe(Config):
    """Train a byte-level BPE: it can spell any text, and merges what is frequent in these documents."""

    use: Literal["train_bpe"]
    """`train_bpe`: a new tokenizer."""
    vocab_size: Count = Field(ge=257)
    """Entries of the vocabulary: 256 bytes, the separator, and merges."""
    min_frequency: int = Field(default=2, ge=1)
    """How often a pair must occur to be merged."""
    sample_bytes: Bytes = Field(default=10_000_000, gt=0)
    """How much text to train on. Documents are drawn by their ids, so the sample does not depend on their order."""
    weights: dict[str, float] | None = None
    """Share of each source in the sample; equal by default. What a source cannot fill goes to the others."""
    pattern: Literal["gpt2", "llama3"] = "llama3"
    """How text is cut before merging; merges never cross a cut. `llama3` keeps at most three digits together and lets a
    token hold several line ends; `gpt2` keeps all digits of a number together."""


class TokenizerFolder(Config):
    """Take an existing tokenizer."""

    use: Literal["folder"]
    """`folder`: a tokenizer that exists."""
    path: str
    """A tokenizer.json, or a folder that holds one, such as a Hugging Face model folder."""
    separator: str | None = None
    """The token to set before each document. By default the one that the folder names as end of text."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """The content of the files that are taken.

        Raises:
            InputError: there is no tokenizer at `path`, or it cannot be read.
        """
        files = [self.file(), self.file().with_name("tokenizer_config.json")]
        hashes = {}
        for file in filter(Path.is_file, files):
            try:
                hashes[file.name] = hash_file(file)
            except OSError as error:
                problem = f"cannot be read ({error.strerror or error})"
                hint = "check the file and its permissions"
                raise InputError(problem, place=str(file), hint=hint) from None
        return hashes

    def file(self) -> Path:
        """The tokenizer.json.

        Raises:
            InputError: there is none.
        """
        path = Path(self.path).expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.is_file():
            return file
        problem = "holds no tokenizer.json" if path.is_dir() else "there is no such file or folder"
        hint = "let transformers write one: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        raise InputError(problem, place=str(path), hint=hint)


class GgufTokenizer(Config):
    """Take the tokenizer inside a GGUF file."""

    use: Literal["gguf"]
    """`gguf`: the tokenizer of a model in the format of llama.cpp."""
    path: str
    """The .gguf file."""
    separator: str | None = None
    """The token to set before each document. By default the one that the file names as end of text, which for a model that
    was tuned to chat is often the end of a turn: name the one that its base model was trained with."""

    def fingerprint(self, hash_file: Callable[[Path], str]) -> Any:
        """The content of the file.

        Raises:
            InputError: there is no such file.
        """
        if not self.file().is_file():
            hint = "check tokenizer.path; 'headwater fetch' lists models that can be had"
            raise InputError("there is no such file", place=str(self.file()), hint=hint)
        return hash_file(self.file())

    def file(self) -> Path:
        """The .gguf file."""
        return Path(self.path).expanduser()


Tokenizer = Annotated[TrainBpe | TokenizerFolder | GgufTokenizer, Field(discriminator="use")]
"""The section `tokenizer` of a recipe."""


def tokenizer(settings: TrainBpe | TokenizerFolder | GgufTokenizer, inputs: Inputs, out: Workspace) -> Counts:
    """Make the tokenizer of a run: `tokenizer/` loads with transformers' AutoTokenizer, `facts.json` says how good it is.

    Raises:
        InputError: the vocabulary is larger than the text supports, or there is no tokenizer at the given path.
        MismatchError: the tokenizer loses text, or names no separator.
        EmptyResultError: there are no documents.
    """
    set_environment(RAYON_NUM_THREADS=str(out.machine.processor_workers))
    folder = out.folder / "tokenizer"
    if isinstance(settings, TrainBpe):
        _save(_train(settings, inputs["documents"], out), SEPARATOR, folder)
    elif isinstance(settings, GgufTokenizer):
        opened = GgufFile(settings.file())
        given = read_tokenizer(opened)
        _save(given, _separator(settings, given, end_of_text(opened)), folder)
    else:
        given = open_tokenizer(settings.file())
        _save(given, _separator(settings, given, _named_in(settings.file())), folder)
    codec = Codec(folder)
    if isinstance(settings, TrainBpe):
        codec.check_round_trip(tricky_texts(), str(folder))
    facts = _facts(codec, inputs["documents"], out)
    write_json(out.folder / "facts.json", facts)
    return facts


# ------------------------------------------------------------------------------------------------------- training


def _train(settings: TrainBpe, documents: Path, out: Workspace) -> tokenizers.Tokenizer:
    """Train on a sample of the documents."""
    sample = Sample(documents / DOCUMENTS, settings.sample_bytes, settings.weights)
    out.note(f"training a vocabulary of {settings.vocab_size:,} on {format_bytes(sample.bytes)} of text")
    made = tokenizers.Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(PATTERNS[settings.pattern]), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with out.progress("training the tokenizer", None, "documents") as bar:
        made.train_from_iterator(_counted(sample.texts(), bar.advance), trainer)
    reached = made.get_vocab_size()
    if reached < settings.vocab_size:
        raise InputError(
            f"a vocabulary of {settings.vocab_size:,} needs {settings.vocab_size - 257:,} merges, but "
            f"{format_bytes(sample.bytes)} of text hold only {reached - 257:,} pairs that occur {settings.min_frequency} times",
            place="tokenizer.vocab_size",
            hint=f"set vocab_size to {reached:,} or less, or raise sample_bytes (now {format_bytes(settings.sample_bytes)}) "
            "if there is more text",
        )
    return made


def _counted(texts: Iterator[str], advance: Callable[[], None]) -> Iterator[str]:
    for text in texts:
        yield text
        advance()


class Sample:
    """Some of the documents of every source, drawn by their ids: the same whatever the shards and their order.

    Attributes:
        bytes: size of the sample [UTF-8 bytes].
    """

    def __init__(self, folder: Path, sample_bytes: int, weights: Mapping[str, float] | None) -> None:
        """Draw documents.

        Args:
            folder: shards of documents.
            sample_bytes: how much text to draw in all [bytes].
            weights: share of each source; equal by default.

        Raises:
            EmptyResultError: the folder holds no text.
            MismatchError: a weight is missing or names no source.
        """
        self._shards = shards_in(folder)
        keys: dict[str, list[np.ndarray]] = {}
        sizes: dict[str, list[np.ndarray]] = {}
        for shard in self._shards:
            for batch in read_batches(shard, ["id", "text"]):
                keys.setdefault(source_of(shard), []).append(_draws(batch.column("id")))
                sizes.setdefault(source_of(shard), []).append(np.diff(text_buffer(batch.column("text"))[1]))
        totals = {name: int(sum(part.sum(dtype=np.int64) for part in parts)) for name, parts in sizes.items()}
        if not any(totals.values()):
            hint = "look at what the filters dropped"
            raise EmptyResultError("there are no documents to train a tokenizer on", place=str(folder), hint=hint)
        budgets = fill(totals, _known(weights, totals), sample_bytes)
        self.bytes = sum(budgets.values())
        self._limits = {
            name: _limit(np.concatenate(keys[name]), np.concatenate(sizes[name]), budget)
            for name, budget in budgets.items()
        }

    def texts(self) -> Iterator[str]:
        """The drawn texts, in the order of the shards; the last drawn of each source is cut to fit."""
        for shard in self._shards:
            last, rest = self._limits[source_of(shard)]
            for batch in read_batches(shard, ["id", "text"]):
                draws = _draws(batch.column("id"))
                drawn = batch.column("text").filter(pa.array(draws <= np.uint64(last)))
                for draw, text in zip(draws[draws <= np.uint64(last)].tolist(), drawn.to_pylist(), strict=True):
                    yield text if draw < last else text.encode()[:rest].decode(errors="ignore")


def _draws(ids: pa.StringArray) -> np.ndarray:
    """A number for each document from its id, a hash: the smallest are drawn first [documents] uint64."""
    return np.array([int(text[:16], 16) for text in ids.to_pylist()], np.uint64)


def _limit(draws: np.ndarray, sizes: np.ndarray, budget: int) -> tuple[int, int]:
    """The last document to draw so that the sizes reach a budget, and how many of its bytes are left in it."""
    order = np.argsort(draws, kind="stable")
    ends = np.cumsum(sizes[order], dtype=np.int64)
    index = min(int(np.searchsorted(ends, budget)), len(order) - 1)
    return int(draws[order[index]]), budget - int(ends[index] - sizes[order[index]])


def fill(sizes: Mapping[str, int], weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Share out a total by weights, no more to each than it can hold; what one cannot hold goes to the others.

    >>> fill({"prose": 10, "code": 500, "web": 500}, {"prose": 1, "code": 1, "web": 3}, 100)
    {'prose': 10, 'code': 23, 'web': 67}
    """
    shares: dict[str, int] = {}
    for name in sorted(sizes, key=lambda name: sizes[name] / weights[name] if weights[name] else float("inf")):
        left = sum(weights[other] for other in sizes if other not in shares)
        fair = int((total - sum(shares.values())) * weights[name] / left) if left else 0
        shares[name] = min(sizes[name], fair)
    return {name: shares[name] for name in sizes}


def _known(weights: Mapping[str, float] | None, sizes: Mapping[str, int]) -> Mapping[str, float]:
    if weights is None:
        return dict.fromkeys(sizes, 1.0)
    for name in weights:
        if name not in sizes:
            problem = f"there is a weight for '{name}', which is not a source{nearest(name, sizes)}"
            raise MismatchError(problem, place="tokenizer.weights", hint="use the names of the sources in the recipe")
    return {name: weights.get(name, 0.0) for name in sizes}


# ------------------------------------------------------------------------------------------ folders, measurements


def _named_in(file: Path) -> str | None:
    """The end-of-text token that the configuration beside a tokenizer.json names."""
    config = file.with_name("tokenizer_config.json")
    named = read_json(config).get("eos_token") if config.is_file() else None
    return named.get("content") if isinstance(named, dict) else named  # transformers writes either form


def _separator(settings: TokenizerFolder | GgufTokenizer, given: tokenizers.Tokenizer, named: str | None) -> str:
    """The separator of an existing tokenizer: as set, as its file names it, or by a well-known name."""
    special = [token.content for token in given.get_added_tokens_decoder().values() if token.special]
    if settings.separator is not None:
        if given.token_to_id(settings.separator) is None:
            problem = f"the tokenizer has no token {settings.separator!r}{nearest(settings.separator, special)}"
            raise MismatchError(problem, place="tokenizer.separator", hint="name one of its special tokens")
        return settings.separator
    for name in (named, SEPARATOR, "<|end_of_text|>", "</s>", "<eos>"):
        if name in special:
            return name
    listed = ", ".join(special[:10]) or "none"
    hint = f"set tokenizer.separator to one of its special tokens: {listed}"
    raise MismatchError(
        "the tokenizer names no end-of-text token to separate documents", place=settings.path, hint=hint
    )


def _save(made: tokenizers.Tokenizer, separator: str, folder: Path) -> None:
    """Write a folder that transformers' AutoTokenizer loads and that encodes the same there."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    special = {"bos_token": separator, "eos_token": separator}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)


def _facts(codec: Codec, documents: Path, out: Workspace) -> Counts:
    """Measure the tokenizer on held-out documents of each source, on training documents where none are held out."""
    seen = np.zeros(codec.vocab_size, bool)
    sources: dict[str, dict[str, Any]] = {}
    training, held_out = _by_source(documents / DOCUMENTS), _by_source(documents / HELD_OUT)
    for name in training | held_out:
        texts = _first_texts((held_out.get(name) or training[name]), FACTS_BYTES)
        changed = codec.check_round_trip(texts[:_ROUND_TRIP_DOCUMENTS], f"tokenizer, on source '{name}'")
        if changed:
            checked = min(len(texts), _ROUND_TRIP_DOCUMENTS)
            out.warn(f"the tokenizer normalises text: {changed} of {checked} documents of '{name}' come back changed")
        ids = np.concatenate(codec.encode(texts, out.machine.processor_workers))
        size = sum(len(text.encode()) for text in texts)
        seen[ids] = True
        per_token = size / len(ids) if len(ids) else None
        split = HELD_OUT if name in held_out else TRAINING
        sources[name] = {"bytes": size, "tokens": len(ids), "bytes_per_token": per_token, "measured_on": split}
    tokens = sum(source["tokens"] for source in sources.values())
    return {
        "vocab_size": codec.vocab_size,
        "separator": codec.separator,
        "separator_id": codec.separator_id,
        "tokenizer_sha256": codec.sha256,
        "bytes_per_token": sum(source["bytes"] for source in sources.values()) / tokens if tokens else None,
        "vocabulary_used": float(seen.mean()),
        "sources": sources,
        "longest_tokens": _longest_tokens(codec),
    }


def _by_source(folder: Path) -> dict[str, list[Path]]:
    shards: dict[str, list[Path]] = {}
    for shard in shards_in(folder):
        shards.setdefault(source_of(shard), []).append(shard)
    return shards


def _first_texts(shards: list[Path], max_bytes: int) -> list[str]:
    """Whole texts from the beginning of shards, until there is enough."""
    texts: list[str] = []
    size = 0
    for shard in shards:
        for batch in read_batches(shard, ["text"]):
            for text in batch.column("text").to_pylist():
                texts.append(text)
                size += len(text.encode())
                if size >= max_bytes:
                    return texts
    return texts


def _longest_tokens(codec: Codec, count: int = 12) -> list[str]:
    """The longest words that became one token: a look at what the vocabulary is made of."""
    decoded = (codec.decode([token]) for token in range(codec.vocab_size) if token != codec.separator_id)
    letters = (text for text in decoded if any(character.isalpha() for character in text))
    return sorted(letters, key=lambda text: (-len(text), text))[:count]
