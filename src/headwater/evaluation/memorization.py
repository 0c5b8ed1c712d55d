"""How much of its training documents a model continues letter for letter, by how often a passage stands in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from headwater.core.errors import MismatchError
from headwater.evaluation.config import Memorization, Sampling
from headwater.evaluation.generate import generate
from headwater.evaluation.shares import share
from headwater.model.transformer import Transformer
from headwater.tokens.codec import Codec
from headwater.tokens.shards import HELD_OUT, TRAINING, TokenFolder, TokenSource
from headwater.tokens.suffixes import words_of
from headwater.tokens.text_index import TextIndex

TOGETHER = 64
"""Passages continued side by side."""
DRAWN = 16
"""Times as many passages are drawn as are continued, to find some that stand often."""
DUPLICATES = ((1, 1), (2, 4), (5, 19), (20, None))
"""Numbers of places of a passage that are taken together: the share grows with the logarithm of the number (Carlini et al.)."""
Seen = Callable[[str, int, tuple[int, int]], int]
"""How many training steps read some tokens of a document: of (source, number of the document, first and last token)."""


@dataclass
class Passage:
    """A run of tokens of a document: some are shown, the others are to be written."""

    source: str
    document: int
    """Which of its source."""
    first: int
    """Its first token, counted from the document's separator."""
    tokens: np.ndarray
    id: str = ""
    places: int | None = None
    """Places in training documents where it stands; None without an index."""
    steps: int | None = None
    """Training steps that read it here; None where that is not known."""
    matched: int = 0
    """Tokens that were continued as in the document, before the first that was not."""
    written: Sequence[int] = ()
    """What the model wrote; no longer than it takes to know."""


def measure(
    model: Transformer,
    codec: Codec,
    folder: TokenFolder,
    settings: Memorization,
    index: TextIndex | None = None,
    seen: Seen | None = None,
) -> dict[str, Any]:
    """Let a model continue passages of training and of held-out documents.

    Args:
        model: the model.
        codec: its tokenizer.
        folder: the tokens that it was trained on.
        settings: how much.
        index: of the training documents; without it duplicates are not told apart, nor held-out text that also stands in them.
        seen: says how many training steps read a passage; those that none read are counted apart.

    Returns:
        JSON: shares by number of duplicates, those of the control, and samples.

    Raises:
        MismatchError: the context is too short, or no document is long enough.
    """
    length = settings.shown_tokens + settings.continued_tokens
    if length > model.config.context_length:
        problem = f"{length:,} tokens are more than the model's context of {model.config.context_length:,}"
        raise MismatchError(problem, place="memorization", hint="set shown_tokens or continued_tokens lower")
    folder.check_tokenizer(codec.folder)
    training = draw(folder, TRAINING, length, DRAWN * settings.passages, settings.seed)
    held_out = draw(folder, HELD_OUT, length, settings.passages, settings.seed)
    if not training:
        problem = f"no training document has a passage of {length:,} tokens"
        raise MismatchError(problem, place="memorization", hint="set shown_tokens or continued_tokens lower")
    for passage in (*training, *held_out):
        passage.places = count_places(index, codec, passage.tokens) if index else None
    groups = _groups(training, settings.passages, index is not None, seen)
    chosen = list({id(passage): passage for some in groups.values() for passage in some}.values())
    continue_all(model, codec, [*chosen, *held_out], settings)
    result = _result(groups, held_out, settings, index, seen)
    return result | {"samples": _samples(codec, [*chosen, *held_out], held_out, folder, settings)}


def draw(folder: TokenFolder, split: str, length: int, count: int, seed: int) -> list[Passage]:
    """Draw passages among all places of a split where a document has so many tokens, each at most once."""
    sources = [folder.source(name, split) for name in folder.sources if folder.counts(name, split).documents]
    # places in each document where a passage can begin; not at its separator
    rooms = [np.maximum(source.lengths.astype(np.int64) - length, 0) for source in sources]
    within = [np.cumsum(room) for room in rooms]
    ends = np.cumsum([room.sum() for room in rooms], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    if not total:
        return []
    random = np.random.default_rng([seed, split == HELD_OUT])
    places = dict.fromkeys(random.integers(0, total, 2 * count).tolist())  # in the order drawn
    found = []
    for place in list(places)[:count]:
        which = int(np.searchsorted(ends, place, side="right"))
        source = sources[which]
        at = place - (int(ends[which - 1]) if which else 0)
        document = int(np.searchsorted(within[which], at, side="right"))
        first = 1 + at - int(within[which][document] - rooms[which][document])
        tokens = source.read(int(source.starts[document]) + first, length)
        found.append(Passage(source.name, document, first, tokens))
    return found


def count_places(index: TextIndex, codec: Codec, tokens: np.ndarray) -> int:
    """In how many places of the training documents a passage stands.

    The words at its edges are left out: they may be cut. A passage without whole words counts as none.
    """
    words = words_of(codec.decode(tokens))
    return index.places(words, 1, len(words) - 1, most=0)[0] if len(words) > 2 else 0


def continue_all(model: Transformer, codec: Codec, passages: Sequence[Passage], settings: Memorization) -> None:
    """Have the model continue passages greedily; sets `matched` and `written` of each.

    Raises:
        InputError: the model's predictions are not finite numbers.
    """
    sampling = Sampling(max_new_tokens=settings.continued_tokens, temperature=0)
    for begin in range(0, len(passages), TOGETHER):
        some = passages[begin : begin + TOGETHER]
        shown = [passage.tokens[: settings.shown_tokens].tolist() for passage in some]
        truth = np.array([passage.tokens[settings.shown_tokens :] for passage in some]).astype(np.int64)
        written: list[list[int]] = []
        going = np.ones(len(some), np.bool_)
        for position, tokens in enumerate(generate(model, shown, sampling, vocab_size=codec.vocab_size)):
            written.append([-1 if token is None else token for token in tokens])
            going &= np.array(written[-1]) == truth[:, position]
            for passage, goes_on in zip(some, going.tolist(), strict=True):
                passage.matched += goes_on
            if not going.any():
                break
        for number, passage in enumerate(some):
            passage.written = [tokens[number] for tokens in written]


def _groups(training: Sequence[Passage], count: int, counted: bool, seen: Seen | None) -> dict[str, list[Passage]]:
    """Passages to be continued, `count` of each kind where there are so many, in the order drawn."""
    read, unread, often = "read", "unread", _names() if counted else {}
    groups: dict[str, list[Passage]] = {name: [] for name in (read, unread, *often)}
    for passage in training:
        fitting = [name for name, (least, most) in often.items() if _within(passage.places, least, most)]
        if all(len(groups[name]) >= count for name in (read, *fitting)):
            continue
        run = passage.first, passage.first + len(passage.tokens)
        passage.steps = seen(passage.source, passage.document, run) if seen else None
        for name in (unread,) if passage.steps == 0 else (read, *fitting):
            if len(groups[name]) < count:
                groups[name].append(passage)
    return groups


def _names() -> dict[str, tuple[int, int | None]]:
    """What groups of DUPLICATES are called."""
    return {
        f"{least}" if least == most else f"{least} or more" if most is None else f"{least} to {most}": (least, most)
        for least, most in DUPLICATES
    }


def _within(places: int | None, least: int, most: int | None) -> bool:
    return places is not None and places >= least and (most is None or places <= most)


def _share(passages: Sequence[Passage], wanted: int) -> dict[str, Any]:
    matched = [passage.matched for passage in passages]
    return asdict(share(matched, [(passage.source, passage.document) for passage in passages], wanted))


def _result(
    groups: Mapping[str, Sequence[Passage]],
    held_out: Sequence[Passage],
    settings: Memorization,
    index: TextIndex | None,
    seen: Seen | None,
) -> dict[str, Any]:
    wanted = settings.continued_tokens
    clean = [passage for passage in held_out if not passage.places]
    shares = {name: _share(some, wanted) for name, some in groups.items()}
    return {
        "settings": settings.model_dump(mode="json"),
        "training": shares.pop("read"),
        "never_read": shares.pop("unread"),
        "by_duplicates": shares if index else None,
        "held_out": _share(clean, wanted),
        "held_out_in_training": len(held_out) - len(clean) if index else None,
        "not_told": list(_not_told(index, seen)),
    }


def _not_told(index: TextIndex | None, seen: Seen | None) -> Iterator[str]:
    """What cannot be told of this measurement."""
    if index is None:
        yield "how often a passage stands in the training documents: there is no index of them"
        yield "whether held-out passages stand in training documents too: there is no index of them"
    if seen is None:
        yield "whether training read a passage: it is not known which steps read what"


def _samples(
    codec: Codec, passages: Sequence[Passage], held_out: Sequence[Passage], folder: TokenFolder, settings: Memorization
) -> list[dict[str, Any]]:
    """The passages of which most was continued, as text."""
    control = set(map(id, held_out))
    best = sorted(passages, key=lambda passage: -passage.matched)[: settings.samples]
    opened: Mapping[tuple[str, str], TokenSource] = {}
    found = []
    for passage in best:
        split = HELD_OUT if id(passage) in control else TRAINING
        key = (passage.source, split)
        opened = opened if key in opened else {**opened, key: folder.source(*key)}
        shown, rest = np.split(passage.tokens, [settings.shown_tokens])
        written = [token for token in passage.written[: settings.continued_tokens] if token >= 0]
        found.append(
            {
                "split": split,
                "source": passage.source,
                "id": opened[key].document_id(passage.document),
                "first_token": passage.first,
                "places": passage.places,
                "steps": passage.steps,
                "matched_tokens": passage.matched,
                "shown": codec.decode(shown),
                "same": codec.decode(rest[: passage.matched]),
                "document": codec.decode(rest[passage.matched :]),
                "written": codec.decode(written[passage.matched :]),
            }
        )
    return found
