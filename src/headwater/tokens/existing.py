"""A tokenizer that exists: where it is, and which of its tokens separates documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from headwater.core.config import Config, nearest
from headwater.core.errors import InputError, MismatchError
from headwater.core.store import read_json
from headwater.tokens.shards import SEPARATOR


class Separated(Protocol):
    """Settings of a tokenizer that may name its separator."""

    @property
    def path(self) -> str:
        """Where the tokenizer is."""
        ...

    @property
    def separator(self) -> str | None:
        """The token to set before each document, if it is set."""
        ...


class ExistingTokenizer(Config):
    """A tokenizer.json, and its separator."""

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


def named_in(file: Path) -> str | None:
    """The end-of-text token that the configuration beside a tokenizer.json names."""
    config = file.with_name("tokenizer_config.json")
    named = read_json(config).get("eos_token") if config.is_file() else None
    return named.get("content") if isinstance(named, dict) else named  # transformers writes either form


def separator_of(settings: Separated, given: tokenizers.Tokenizer, named: str | None) -> str:
    """The separator of an existing tokenizer: as set, as its file names it, or by a well-known name.

    Raises:
        MismatchError: it has no such token, or names none.
    """
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
