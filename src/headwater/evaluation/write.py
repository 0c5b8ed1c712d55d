"""From text to text: prompts in, what a model writes after them out, piece by piece as it becomes certain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from headwater.evaluation.config import Sampling
from headwater.evaluation.generate import generate
from headwater.evaluation.opening import first_token
from headwater.model.transformer import Transformer
from headwater.tokens.codec import Codec

_WINDOW = 8  # tokens decoded again, so that a new one is spelled as it is after those before


class TextStream:
    """Tokens to text as they come: hands out only what later tokens cannot change, and ends at a stop string.

    Attributes:
        stopped: a stop string was written; what comes after it is not handed out.
    """

    def __init__(self, codec: Codec, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        """Begin after a prompt.

        Args:
            codec: the tokenizer.
            prompt: its tokens, after which the text goes on.
            stops: strings that end the text; they are not part of it.
        """
        self.stopped = False
        self._codec = codec
        self._stops = [stop for stop in stops if stop]
        self._told = list(prompt)[-_WINDOW:]  # spelled already
        self._new: list[int] = []
        self._pending = ""  # may be the beginning of a stop string

    def add(self, token: int) -> str:
        """Take a token; returns the text that is certain now, which may be empty."""
        self._new.append(token)
        text = self._spelled()
        if text.endswith("\ufffd"):  # a character of which bytes are still to come
            return ""
        self._told = (self._told + self._new)[-_WINDOW:]
        self._new = []
        return self._cut(text)

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        text = "" if self.stopped else self._cut(self._spelled()) + self._pending
        self._new, self._pending = [], ""
        return text

    def _spelled(self) -> str:
        before = self._codec.decode(self._told)
        return self._codec.decode([*self._told, *self._new])[len(before) :]

    def _cut(self, text: str) -> str:
        """The text up to a stop string; holds back an end that could become one."""
        if self.stopped:
            return ""
        text = self._pending + text
        self._pending = ""
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        held = max(
            (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        if held:
            text, self._pending = text[:-held], text[-held:]
        return text


def write(
    model: Transformer, codec: Codec, prompts: Sequence[str], settings: Sampling, warn: Callable[[str], None]
) -> Iterator[tuple[int, str, int]]:
    """Continue prompts together: yields (number of the prompt, next piece of its text, tokens of the piece).

    Of a prompt that is longer than the context, the model sees the end: as much as leaves room for what it writes, but
    at least half a context.

    Args:
        model: the model.
        codec: its tokenizer.
        prompts: texts to continue, each from the beginning of a document.
        settings: how tokens are drawn; prompt number n draws with `seed` + n.
        warn: told which prompts are too long.

    Raises:
        InputError: the model's predictions are not finite numbers.
    """
    encoded = [ids.tolist() for ids in codec.encode(prompts)]
    first = first_token(codec)
    seen = [_that_fit(n, [first, *ids], model, settings, warn) for n, ids in enumerate(encoded)]
    streams = [TextStream(codec, ids, settings.stop) for ids in encoded]
    writing = generate(model, seen, settings, stop=codec.separator_id, vocab_size=codec.vocab_size)
    for drawn in writing:
        for number, (stream, token) in enumerate(zip(streams, drawn, strict=True)):
            if token is not None and not stream.stopped:
                yield number, stream.add(token), 1
        if all(stream.stopped or token is None for stream, token in zip(streams, drawn, strict=True)):
            break
    for number, stream in enumerate(streams):
        if rest := stream.finish():
            yield number, rest, 0


def _that_fit(
    number: int, tokens: list[int], model: Transformer, settings: Sampling, warn: Callable[[str], None]
) -> list[int]:
    """The tokens of a prompt that the model is shown."""
    context = model.config.context_length
    if len(tokens) < context:
        return tokens
    kept = max(context - settings.max_new_tokens, context // 2)
    warn(
        f"prompt {number + 1} has {len(tokens):,} tokens, too many for a context of {context:,}: "
        f"the models see its last {kept:,}"
    )
    return tokens[-kept:]
