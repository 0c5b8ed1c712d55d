"""The step that finds personal data and secrets, and redacts them, drops the document, or writes down how many there are.

What counts as which kind stands in identifiers.py and national_ids.py. Before anything is looked for in a text, cheap gates tell over the whole
batch which texts can hold it at all.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from headwater.core.config import nearest
from headwater.documents.cleaning.features import Features
from headwater.documents.cleaning.identifiers import DETECTORS, Found
from headwater.documents.cleaning.meta import add_meta, replaced
from headwater.documents.cleaning.national_ids import NATIONAL_IDS
from headwater.documents.cleaning.steps import CleaningStep, Rule, Verdict, judge

Action = Literal["redact", "drop", "tag", "leave"]


class PersonalData(CleaningStep):
    """Find personal data and secrets, and say for each kind what happens: redact, drop the document, tag it, or leave it.

    Identifiers that have a check digit are checked by it. Names and postal addresses are not looked for.
    """

    use: Literal["personal_data"]
    email: Action = "redact"
    """E-mail addresses; those of example.com and the like are nobody's."""
    ip: Action = "redact"
    """Public IP addresses, version 4 and 6; private and reserved ones are nobody's."""
    phone: Action = "redact"
    """Telephone numbers: international ones, ones in the form of `phone_regions`, and any after a word such as Tel."""
    credit_card: Action = "redact"
    """Card numbers of the known issuers, by their check digit (Luhn)."""
    iban: Action = "redact"
    """Bank account numbers (IBAN), by length of the country and check digits (ISO 7064, mod 97)."""
    national_id: Action = "redact"
    """Numbers of people's identity, tax and social insurance, by the rules of `countries`."""
    secret: Action = "redact"
    """Keys and passwords: private keys, tokens of well-known services, and quoted passwords in assignments."""
    countries: tuple[str, ...] = tuple(NATIONAL_IDS)
    """ISO 3166 codes of the countries whose national ids are looked for, in small letters."""
    phone_regions: tuple[str, ...] = ("US", "GB", "DE", "FR", "KR", "JP", "TH")
    """ISO 3166 codes of the countries in whose own way of writing telephone numbers are recognised."""
    placeholders: dict[str, str] = Field(default={})
    """What stands in the place of redacted data, for each kind; `<email>`, `<phone>` and so on by default. The same
    placeholder everywhere teaches a model one word; FineWeb writes `email@example.com`."""

    @field_validator("countries")
    @classmethod
    def _known(cls, countries: tuple[str, ...]) -> tuple[str, ...]:
        for country in countries:
            if country not in NATIONAL_IDS:
                raise ValueError(f"no rule for national ids of '{country}'{nearest(country, NATIONAL_IDS)}")
        return countries

    @model_validator(mode="after")
    def _has_effect(self) -> PersonalData:
        if not self._actions:
            raise ValueError(f"does nothing; redact, drop or tag one of {', '.join(DETECTORS)}")
        for kind in self.placeholders:
            if kind not in DETECTORS:
                raise ValueError(f"placeholders: no such kind '{kind}'{nearest(kind, DETECTORS)}")
        return self

    @property
    def only_tells(self) -> bool:
        """Whether the step neither drops nor edits."""
        return set(self._actions.values()) == {"tag"}

    @property
    def _actions(self) -> Mapping[str, Action]:
        actions: dict[str, Action] = {kind: getattr(self, kind) for kind in DETECTORS}
        return {kind: action for kind, action in actions.items() if action != "leave"}

    def __call__(self, batch: Features) -> Verdict:
        """Edit and judge a batch of documents."""
        actions, documents = self._actions, batch.rows.num_rows
        found = {kind: np.zeros(documents, np.int64) for kind in actions}
        texts: dict[int, str] = {}
        meta: dict[int, str] = {}
        for index, kinds in self._candidates(batch):
            text = batch.texts[index].as_py()
            spans = list(self.find(text, kinds))
            for span in spans:
                found[span.kind][index] += 1
            redacted = self._redacted(text, [span for span in spans if actions[span.kind] == "redact"])
            if redacted != text:
                texts[index] = redacted
            tags = {kind: int(found[kind][index]) for kind in kinds if actions[kind] == "tag" and found[kind][index]}
            if tags:
                meta[index] = add_meta(batch.rows.column("meta")[index].as_py(), "personal_data", tags)
        edited = np.zeros(documents, np.bool_)
        edited[list(texts)] = True
        drops = [kind for kind, action in actions.items() if action == "drop"]
        return judge(
            documents,
            *(Rule(kind, found[kind].astype(np.float64), found[kind] > 0, 0.0) for kind in drops),
            columns=replaced(batch.rows, "text", texts) | replaced(batch.rows, "meta", meta),
            edited=edited,
            found=found,
        )

    def find(self, text: str, kinds: Mapping[str, object] | None = None) -> Iterator[Found]:
        """Find what is in one text, from front to back, no two things overlapping.

        >>> step = PersonalData(use="personal_data")
        >>> [(found.kind, found.text) for found in step.find("Write to jo@mail.net or call +44 20 7946 0958.")]
        [('email', 'jo@mail.net'), ('phone', '+44 20 7946 0958')]
        """
        taken: list[Found] = []  # from front to back, so that only neighbours can overlap
        for kind in self._actions if kinds is None else kinds:
            for found in DETECTORS[kind].find(text, self.countries, self.phone_regions):
                place = bisect.bisect(taken, found.start, key=_start)
                before, after = taken[max(0, place - 1) : place], taken[place : place + 1]
                if all(found.end <= other.start or found.start >= other.end for other in (*before, *after)):
                    taken.insert(place, found)
        return iter(taken)

    def _redacted(self, text: str, spans: list[Found]) -> str:
        parts, end = [], 0
        for span in spans:
            parts += [text[end : span.start], self.placeholders.get(span.kind, f"<{span.kind}>")]
            end = span.end
        return "".join([*parts, text[end:]])

    def _candidates(self, batch: Features) -> Iterator[tuple[int, dict[str, object]]]:
        """Texts that may hold something, and of which kinds, most telling first."""
        gates = {}
        for kind in self._actions:
            options = pc.MatchSubstringOptions(DETECTORS[kind].gate)
            gates[kind] = pc.call_function("match_substring_regex", [batch.texts], options).to_numpy(
                zero_copy_only=False
            )
        any_open = np.logical_or.reduce(list(gates.values())) & batch.wanted
        for index in np.flatnonzero(any_open).tolist():
            yield index, {kind: None for kind, open_ in gates.items() if open_[index]}


_start = operator.attrgetter("start")
