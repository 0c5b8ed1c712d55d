"""Presets: the published rule sets as lists of cleaning steps, each a YAML file in the folder `presets/` of the package.

An entry `{use: preset, name: fineweb, change: {gopher_quality: {min_words: 20}, c4: null}}` of `clean.steps` is replaced
by the steps of the file before anything is checked, so that what runs, what is printed and what is hashed are plain steps.
"""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails
from ruamel.yaml import YAML

from headwater.core.config import Config, nearest
from headwater.documents.cleaning.steps import CleaningStep

Entry = dict[str, Any]


class Preset(Config):
    """A published rule set, replaced by its steps before anything runs; `headwater list presets` names them."""

    use: Literal["preset"]
    name: str
    """Its name, such as `fineweb`."""
    change: dict[str, dict[str, Any] | None] = Field(default={})
    """Settings that differ from the published ones, for each step by its `use`; null leaves the step out."""
    sources: tuple[str, ...] | None = None
    """Names of the sources that its steps apply to; all of them by default."""
    languages: tuple[str, ...] | None = None
    """Languages of the documents that its steps apply to. `fineweb2` has thresholds for each, and must know which."""


class Expanded(NamedTuple):
    """Entries of a recipe with the steps of presets in the presets' places."""

    steps: list[Any]
    written: tuple[int, ...]
    """[steps]: the entry of the recipe that each is from."""
    presets: Mapping[int, str]
    """Entries that name presets."""

    def relocate(self, error: ValidationError) -> ValidationError:
        """The same problems, each said of the entry of the recipe that it is from."""
        problems: list[InitErrorDetails] = []
        for found in error.errors():
            place = found["loc"]
            if len(place) > 1 and place[0] == "steps" and isinstance(place[1], int) and place[1] < len(self.written):
                entry = self.written[place[1]]
                place = ("steps", entry, *(("change", *place[2:]) if entry in self.presets else place[2:]))
            kind: Any = found["type"]
            details = InitErrorDetails(type=kind, loc=place, input=found["input"], ctx=found.get("ctx", {}))
            problems.append(details)
        return ValidationError.from_exception_data(error.title, problems)


def shipped() -> dict[str, Path]:
    """The files of the presets that come with Headwater, by name."""
    folder = Path(str(importlib.resources.files("headwater") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


@functools.cache
def read(name: str) -> Mapping[str, Any]:
    """What the file of a preset says: `about`, `steps`, and `languages` where each language has settings of its own."""
    return YAML(typ="safe", pure=True).load(shipped()[name].read_text(encoding="utf-8"))


def expand(entries: Sequence[Any], kinds: Mapping[str, type[CleaningStep]]) -> Expanded:
    """Replace each preset by its steps.

    Args:
        entries: what stands in the recipe; whatever is no preset is handed on as it is.
        kinds: every kind of step, by its `use`.

    Raises:
        ValidationError: there is no such preset, or it is changed where it has nothing to change.
    """
    steps: list[Any] = []
    written: list[int] = []
    presets: dict[int, str] = {}
    problems: list[InitErrorDetails] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, Preset):
            entry = entry.model_dump(exclude_none=True)
        if not isinstance(entry, Mapping) or entry.get("use") != "preset":
            steps.append(entry)
            written.append(index)
            continue
        faults = _faults(entry, kinds)
        problems += [_problem(("steps", index, *place), entry, text) for place, text in faults]
        if not faults:
            presets[index] = entry["name"]
            parts = _steps(entry)
            steps += parts
            written += [index] * len(parts)
    if problems:
        raise ValidationError.from_exception_data("Clean", problems)
    return Expanded(steps, tuple(written), presets)


def _steps(entry: Mapping[str, Any]) -> list[Entry]:
    """The steps of a preset with an entry's changes, for its sources."""
    preset, changes = read(entry["name"]), entry.get("change") or {}
    templates: list[Entry] = [dict(step) for step in preset["steps"]]
    if "languages" in preset:
        wanted = list(entry["languages"])
        templates = [step for template in templates for step in _for_languages(template, preset["languages"], wanted)]
    elif entry.get("languages"):
        templates = [step | {"languages": list(entry["languages"])} for step in templates]
    steps = [step | (changes.get(step["use"]) or {}) for step in templates if changes.get(step["use"], {}) is not None]
    sources = {"sources": list(entry["sources"])} if entry.get("sources") is not None else {}
    return [step | sources for step in steps]


def _for_languages(template: Entry, languages: Mapping[str, Any], wanted: Sequence[str]) -> list[Entry]:
    """The steps that a step of a preset by language becomes: one for each language that has settings for it."""
    if template["use"] == "language":
        scores = {code: languages[code]["language"]["min_score"] for code in wanted}
        return [template | {"keep": list(wanted), "min_scores": scores}]
    if not template.pop("by_language", False):
        return [template]
    steps = []
    for code in wanted:
        of_language = languages[code].get(template["use"], {})
        if of_language is not None:
            steps.append(template | of_language | {"languages": [code]})
    return steps


def _faults(entry: Mapping[str, Any], kinds: Mapping[str, type[CleaningStep]]) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong with an entry that names a preset: places in it, and what is wrong there."""
    faults: list[tuple[tuple[str, ...], str]] = []
    name = entry.get("name")
    unknown = [key for key in entry if key not in Preset.model_fields]
    faults += [((key,), f"no such setting{nearest(str(key), Preset.model_fields)}") for key in unknown]
    if not isinstance(name, str) or name not in shipped():
        place = ("name",) if "name" in entry else ()
        return [*faults, (place, f"no such preset {name!r}{nearest(str(name), shipped())}")]
    for key in ("sources", "languages"):
        given = entry.get(key)
        if given is not None and not (isinstance(given, list | tuple) and all(isinstance(part, str) for part in given)):
            return [*faults, ((key,), f"expected a list of names, got {given!r}")]
    preset = read(name)
    if "languages" in preset:
        if not entry.get("languages"):
            faults.append(((), f"'{name}' has thresholds by language; name yours, as in languages: [de, fr]"))
        for code in entry.get("languages") or ():
            if code not in preset["languages"]:
                known = nearest(code, preset["languages"]) or f"; it knows {', '.join(sorted(preset['languages']))}"
                faults.append((("languages",), f"'{name}' has no thresholds for '{code}'{known}"))
    change = entry.get("change")
    return faults + _faults_of_change({} if change is None else change, name, kinds)


def _faults_of_change(
    change: Any, name: str, kinds: Mapping[str, type[CleaningStep]]
) -> list[tuple[tuple[str, ...], str]]:
    if not isinstance(change, Mapping):
        return [(("change",), f"expected settings by step, such as {{length: null}}, got {change!r}")]
    uses = [step["use"] for step in read(name)["steps"]]
    faults = []
    for use, settings in change.items():
        if use not in uses:
            faults.append((("change", use), f"'{name}' has no step '{use}'{nearest(str(use), uses)}"))
        elif settings is not None and not isinstance(settings, Mapping):
            faults.append((("change", use), f"expected settings or null, got {settings!r}"))
        else:
            known = kinds[use].model_fields.keys() - {"use"}
            unknown = [key for key in settings or () if key not in known]
            faults += [(("change", use, key), f"no such setting{nearest(str(key), known)}") for key in unknown]
    return faults


def _problem(place: tuple[str | int, ...], given: Any, text: str) -> InitErrorDetails:
    return InitErrorDetails(type="value_error", loc=place, input=given, ctx={"error": ValueError(text)})
