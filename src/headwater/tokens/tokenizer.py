"""The stage tokenizer: train a byte-level BPE on the documents, or take an existing one, extend or trim it; check it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tokenizers
from pydantic import Field
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from headwater.core.config import Config
from headwater.core.errors import InputError, MismatchError
from headwater.core.gguf import GgufFile
from headwater.core.hardware import set_environment
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.store import write_json
from headwater.core.units import Bytes, Count, format_bytes
from headwater.documents.document import read_batches, shards_in, source_of
from headwater.tokens.codec import Codec, open_tokenizer, tricky_texts, vocabulary_size
from headwater.tokens.existing import ExistingTokenizer, named_in, separator_of
from headwater.tokens.extend import Extend
from headwater.tokens.gguf import end_of_text, read_tokenizer
from headwater.tokens.patterns import PATTERNS
from headwater.tokens.sample import Sample
from headwater.tokens.shards import DOCUMENTS, HELD_OUT, SEPARATOR, TRAINING
from headwater.tokens.trim import Trim

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


class TokenizerFolder(ExistingTokenizer):
    """Take an existing tokenizer."""

    use: Literal["folder"]
    """`folder`: a tokenizer that exists."""

    @property
    def vocab_size(self) -> int:
        """Entries of its vocabulary, those that were added included.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        return vocabulary_size(open_tokenizer(self.file()))


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


Tokenizer = Annotated[TrainBpe | TokenizerFolder | GgufTokenizer | Extend | Trim, Field(discriminator="use")]
"""The section `tokenizer` of a recipe."""


def tokenizer(settings: Tokenizer, inputs: Inputs, out: Workspace) -> Counts:
    """Make the tokenizer of a run: `tokenizer/` loads with transformers' AutoTokenizer, `facts.json` says how good it is.

    Where it was made of another one, that is in `base/`: a model's rows are those of its tokens.

    Raises:
        InputError: the vocabulary is larger than the text supports, or there is no tokenizer at the given path.
        MismatchError: the tokenizer loses text, names no separator, or cannot be extended or trimmed.
        EmptyResultError: there are no documents.
    """
    set_environment(RAYON_NUM_THREADS=str(out.machine.processor_workers))
    folder, documents = out.folder / "tokenizer", inputs["documents"]
    base, changes = None, {}
    if isinstance(settings, TrainBpe):
        _save(_train(settings, documents, out), SEPARATOR, folder)
    elif isinstance(settings, GgufTokenizer):
        opened = GgufFile(settings.file())
        given = read_tokenizer(opened)
        _save(given, separator_of(settings, given, end_of_text(opened)), folder)
    else:
        given = open_tokenizer(settings.file())
        separator = separator_of(settings, given, named_in(settings.file()))
        if not isinstance(settings, TokenizerFolder):
            _save(given, separator, out.folder / "base")
            base = Codec(out.folder / "base")
            given, changes = settings(base, documents, out)
        _save(given, separator, folder)
    codec = Codec(folder)
    if isinstance(settings, TrainBpe):
        codec.check_round_trip(tricky_texts(), str(folder))
    facts: Counts = {**_facts(codec, base, documents, out), **changes}
    if base is not None:
        _check_same_text(codec, base, settings.use)
        _tell_fertility(facts["sources"], out)
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
        made.train_from_iterator(sample.texts(bar.advance), trainer)
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


# ------------------------------------------------------------------------------------------ folders, measurements


def _save(made: tokenizers.Tokenizer, separator: str, folder: Path) -> None:
    """Write a folder that transformers' AutoTokenizer loads and that encodes the same there."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    special = {"bos_token": separator, "eos_token": separator}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", special)


def _facts(codec: Codec, base: Codec | None, documents: Path, out: Workspace) -> Counts:
    """Measure the tokenizer on held-out documents of each source, on training documents where none are held out.

    Where it was made of another one, that one is measured too.
    """
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
        seen[ids] = True
        sources[name] = {
            "measured_on": HELD_OUT if name in held_out else TRAINING,
            "bytes": sum(len(text.encode()) for text in texts),
            **_fertility(texts, len(ids)),
        }
        if base is not None:
            before = sum(map(len, base.encode(texts, out.machine.processor_workers)))
            sources[name]["before"] = _fertility(texts, before)
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


def _check_same_text(codec: Codec, base: Codec, use: str) -> None:
    """Make sure that a tokenizer made of another loses no text that that one kept; some lack single bytes.

    Raises:
        MismatchError: it does, which is a bug.
    """
    for text in tricky_texts():
        (ours,), (theirs,) = codec.encode([text]), base.encode([text])
        if codec.decode(ours) != base.decode(theirs):
            problem = f"the new tokenizer reads {text[:20]!r} otherwise than the one that it was made of"
            raise MismatchError(problem, place=f"tokenizer (use: {use})", hint="this is a bug; please report it")


def _fertility(texts: list[str], tokens: int) -> dict[str, float | int | None]:
    """How densely tokens say a text; words are what blanks divide, which Thai, Chinese and Japanese do not do."""
    words = sum(len(text.split()) for text in texts)
    characters = sum(map(len, texts))
    return {
        "tokens": tokens,
        "bytes_per_token": sum(len(text.encode()) for text in texts) / tokens if tokens else None,
        "tokens_per_word": tokens / words if words else None,
        "tokens_per_character": tokens / characters if characters else None,
    }


def _tell_fertility(sources: dict[str, dict[str, Any]], out: Workspace) -> None:
    for name, facts in sources.items():
        before, after = facts["before"], facts
        if before["tokens"]:
            out.note(
                f"source '{name}': {before['bytes_per_token']:.2f} bytes per token before, {after['bytes_per_token']:.2f} "
                f"after; {before['tokens_per_word']:.2f} tokens per word before, {after['tokens_per_word']:.2f} after"
            )


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
