"""Blind votes: two models drawn at random on sides drawn at random, whose names nobody sees before the vote."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any, Literal

from pydantic import Field

from headwater.core.config import Config
from headwater.core.errors import InputError
from headwater.evaluation.arena import Side, Vote, Votes, ranking
from headwater.serve.models import Asked, Models
from headwater.serve.worker import Event

MOST_OPEN = 100
"""Ballots that are kept open; of more, the oldest are forgotten."""


class Choice(Config):
    """A vote, as the page sends it."""

    ballot: str = Field(max_length=64)
    choice: Literal["left", "right", "tie"]


@dataclass
class Ballot:
    """Two texts to choose from."""

    asked: Asked
    models: tuple[int, int]
    """Left and right."""
    texts: tuple[str, str] | None = None
    """None while they are being written."""


class Ballots:
    """What can be voted on, and the votes."""

    def __init__(self, models: Models, votes: Votes) -> None:
        """Let people choose between models, and keep their votes."""
        self._models = models
        self._votes = votes
        self._open: dict[str, Ballot] = {}
        self._lock = threading.Lock()  # votes and the ranking are asked for in threads

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Models that can meet: those whose weights differ."""
        weights = self._models.weights
        return [(a, b) for a, b in combinations(range(len(weights)), 2) if weights[a] != weights[b]]

    def draw(self, asked: Asked) -> tuple[str, Ballot]:
        """Draw two models and their sides; returns the ballot and its secret number.

        Raises:
            InputError: there are no two models that differ.
        """
        if not self.pairs:
            hint = "start headwater serve with more, such as: headwater serve demo@0 demo"
            raise InputError("a blind vote needs two models whose weights differ", hint=hint)
        pair = list(secrets.choice(self.pairs))
        if secrets.randbits(1):
            pair.reverse()
        number = secrets.token_urlsafe(16)
        self._open[number] = ballot = Ballot(asked, (pair[0], pair[1]))
        while len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]
        return number, ballot

    def write(self, number: str, ballot: Ballot) -> Iterator[Event]:
        """Let the two models write; says nothing of which they are."""

        def finished(texts: list[str]) -> None:
            ballot.texts = (texts[0], texts[1])

        yield {"ballot": number}
        for event in self._models.write(ballot.asked, ballot.models, ("left", "right"), finished):
            event.pop("tokens", None)  # how many tokens a text has tells one vocabulary from another
            yield event

    def vote(self, choice: Choice) -> dict[str, Any]:
        """Take a vote, once; returns who had written what.

        Raises:
            InputError: the ballot is unknown, was used, or its texts are not complete.
            StoreError: the vote cannot be written.
        """
        with self._lock:
            return self._take(choice)

    def _take(self, choice: Choice) -> dict[str, Any]:
        ballot = self._open.get(choice.ballot)
        if ballot is None or ballot.texts is None:
            what = "this ballot was used or forgotten" if ballot is None else "the texts are not complete yet"
            raise InputError(what, hint="let the models write again")
        left, right = (self._side(n, text) for n, text in zip(ballot.models, ballot.texts, strict=True))
        vote = Vote(
            time=datetime.now(UTC),
            prompt=ballot.asked.prompt,
            sampling=ballot.asked.sampling.model_dump(mode="json"),
            left=left,
            right=right,
            choice=choice.choice,
        )
        self._votes.add(vote)
        self._open.pop(choice.ballot, None)
        return {"models": list(ballot.models), "labels": [left.label, right.label], "votes": len(self._votes.votes)}

    def standings(self) -> dict[str, Any]:
        """How models do by all votes of the file, also models that are not open now."""
        with self._lock:
            votes = list(self._votes.refresh())
        present = dict(zip(self._models.weights, self._models.labels, strict=True))
        rows = [
            one._asdict() | {"label": present.get(one.weights, one.label), "here": one.weights in present}
            for one in ranking(votes)
        ]
        return {"votes": len(votes), "file": str(self._votes.path), "rows": rows}

    def _side(self, number: int, text: str) -> Side:
        models = self._models
        return Side(
            label=models.labels[number], weights=models.weights[number], step=models.opened[number].step, text=text
        )
