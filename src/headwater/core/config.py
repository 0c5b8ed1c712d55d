"""Settings: one frozen class per thing, read from YAML, every problem explained with its place.

`load` turns a recipe file into an object of a settings class in four moves: read the file and the files that
it includes, lay the `key=value` overrides on top, validate, and explain. A problem reads
`bad.yaml:6: clean.steps.0.min_wrods: no such setting; did you mean 'min_words'?`.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from headwater.core.errors import InputError, RecipeError

KeyPath = tuple[str | int, ...]
Places = dict[KeyPath, str]


class Config(BaseModel):
    """Base of every settings class: frozen, unknown settings refused, attribute docstrings are the documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


C = TypeVar("C", bound=Config)
SEE = "every setting is described in docs/reference/settings.md"


Check = typing.Callable[[C], Iterable[tuple[KeyPath, str]]]
"""Finds what is wrong between settings that are each valid: pairs of a key path and what is wrong there."""


def load(kind: type[C], path: Path, overrides: Sequence[str] = (), check: Check[C] | None = None) -> C:
    """Read the settings file at `path`, with its includes and `key=value` overrides, as an object of class `kind`.

    Args:
        kind: the settings class.
        path: a YAML file (version 1.2).
        overrides: `key=value` with a dotted key, such as `train.steps=100` or `clean.steps.0.min_words=20`.
        check: finds problems between settings; its findings are reported like the others.

    Raises:
        InputError: the file or an included file cannot be read.
        RecipeError: one line per problem, each with its place and, where there is one, the nearest valid name.
    """
    values, places = _read(path, seen=())
    for override in overrides:
        _apply(values, places, override)
    settings = validate(kind, values, places, str(path))
    found = [(_place(key, places, str(path)), key, problem) for key, problem in (check(settings) if check else ())]
    if found:
        problems = [f"{place}: {'.'.join(map(str, key))}: {problem}" for place, key, problem in found]
        raise RecipeError("settings that do not fit", place=str(path), hint=SEE, problems=problems)
    return settings


def validate(kind: type[C], values: Mapping[str, Any], places: Places | None = None, origin: str = "settings") -> C:
    """Turn plain values into an object of class `kind`; `places` says where each value was written.

    Raises:
        RecipeError: one line per problem.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        told = error.errors()
        inside = {tuple(problem["loc"][:size]) for problem in told for size in range(len(problem["loc"]))}
        told = [problem for problem in told if problem["type"] != "too_short" or tuple(problem["loc"]) not in inside]
        # a default that follows from a wrong setting is no second problem
        told = [problem for problem in told if problem["type"] != "default_factory_not_called"]
        found = [_explain(kind, values, problem, places or {}, origin) for problem in told]
        problems = tuple(dict.fromkeys(found))
        raise RecipeError("settings that are not valid", place=origin, hint=SEE, problems=problems) from None


def difference(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Name each setting that differs between two plain values, as in `min_words 5 -> 6`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            inner = f"{path}.{key}" if path else str(key)
            if key not in after:
                yield f"{inner} removed"
            elif key not in before:
                yield f"{inner} added"
            else:
                yield from difference(before[key], after[key], inner)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from difference(old, new, f"{path}.{index}" if path else str(index))
    elif isinstance(before, list) and isinstance(after, list):
        yield f"{path}: {len(before)} -> {len(after)} entries"
    elif before != after:
        yield f"{path} {_short(before)} -> {_short(after)}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """Suggest the closest of `choices`, or list them: a clause that starts with '; ', or nothing."""
    known = sorted(choices)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; choose from {', '.join(known)}" if 0 < len(known) <= 30 else ""


def _read(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], Places]:
    """Read one YAML file (version 1.2) and the files that it includes; later files win over earlier ones."""
    if path.resolve() in seen:
        raise RecipeError("includes itself", place=str(path), hint="remove the circular include")
    try:
        tree = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", place=str(path), hint="check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 (byte {error.start})", place=str(path), hint="save it as UTF-8") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML").splitlines()[0]
        raise RecipeError(
            problem, place=place, hint="this is not valid YAML", problems=(f"{place}: {problem}",)
        ) from None
    if not isinstance(tree, CommentedMap):
        raise RecipeError("holds no settings", place=str(path), hint="start with 'headwater new my.yaml'")
    places: Places = {}
    values = _plain(tree, (), str(path), places)
    merged: dict[str, Any] = {}
    merged_places: Places = {}
    includes = values.pop("include", [])
    includes = [includes] if isinstance(includes, str) else includes
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        place = places[("include",)]
        problem = "include: expected a file name or a list of them"
        raise RecipeError(problem, place=place, hint="for example include: [base.yaml]")
    for included in includes:
        inner, inner_places = _read(path.parent / str(included), (*seen, path.resolve()))
        _merge(merged, inner)
        merged_places |= inner_places
    _merge(merged, values)
    return merged, merged_places | places


def _plain(node: Any, path: KeyPath, file: str, places: Places) -> Any:
    """Turn ruamel's nodes into plain values and note the line of each key."""
    if isinstance(node, CommentedMap):
        for key in node:
            line = node.lc.data.get(key, (node.lc.line,))[0]  # a key that `<<` brings in has no line of its own
            places[*path, key] = f"{file}:{line + 1}"
        return {key: _plain(value, (*path, key), file, places) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            places[*path, index] = f"{file}:{node.lc.item(index)[0] + 1}"
        return [_plain(value, (*path, index), file, places) for index, value in enumerate(node)]
    if isinstance(node, bool) or node is None:
        return node
    for plain in (int, float, str):  # ruamel keeps the spelling of a scalar in subclasses
        if isinstance(node, plain):
            return plain(node)
    return node


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay `over` on `base`: mappings merge key by key unless they choose another `use`; all else is replaced."""
    for key, value in over.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping) and old.get("use") == value.get("use", old.get("use")):
            _merge(old, value)
        else:
            base[key] = value


def _apply(values: dict[str, Any], places: Places, override: str) -> None:
    """Apply one `key=value` of the command line; the value is read as YAML."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise RecipeError("is not key=value", place=override, hint="for example train.steps=100")
    try:
        value = _plain(YAML(typ="rt").load(text), (), "", {})
    except YAMLError:
        value = text
    path: list[str | int] = []
    node: Any = values
    keys = dotted.split(".")
    for position, key in enumerate(keys):
        index: Any = int(key) if isinstance(node, list) and key.isdigit() else key
        path.append(index)
        if isinstance(node, list) and (not isinstance(index, int) or index >= len(node)):
            problem = f"{dotted}: there is no entry {key}; the list has {len(node)} entries"
            raise RecipeError(problem, place=override, hint="entries count from 0")
        if position == len(keys) - 1:
            node[index] = value
        elif isinstance(node, list):
            node = node[index]
        else:
            if not isinstance(node.get(index), dict | list):
                node[index] = {}
            node = node[index]
    for known in [known for known in places if known[: len(path)] == tuple(path)]:
        del places[known]
    places[tuple(path)] = override


def _explain(kind: type[Config], values: Any, problem: Any, places: Places, origin: str) -> str:
    """One line for one of pydantic's errors: place, dotted path, what is wrong, the nearest valid name."""
    path = _without_tags(problem["loc"], values)
    place = _place(path, places, origin)
    dotted = ".".join(str(part) for part in path)
    given, context, name = problem.get("input"), problem.get("ctx", {}), str(path[-1]) if path else ""
    match problem["type"]:
        case "extra_forbidden":
            message = "no such setting" + nearest(name, _names_at(kind, path[:-1], values))
        case "missing":
            message = "this setting is required"
        case "union_tag_not_found":
            expected = _tags(kind, path, values)
            message = f"say which one with 'use:'; choose from {', '.join(expected)}"
        case "union_tag_invalid":
            choice = str(context.get("tag", ""))
            dotted = f"{dotted}.use" if dotted else "use"
            place = places.get((*path, "use"), place)
            message = f"no such choice '{choice}'" + nearest(choice, _tags(kind, path, values))
        case "literal_error":
            choices = [str(choice) for choice in _literals(kind, path, values)]
            message = f"{given!r} is not one of the choices" + nearest(str(given), choices)
        case "value_error":
            message = str(context.get("error", problem["msg"]))
        case _:
            message = problem["msg"][:1].lower() + problem["msg"][1:]
            message += f", got {_short(given)}" if not isinstance(given, Mapping | list) else ""
    return f"{place}: {dotted}: {message}" if dotted else f"{place}: {message}"


def _place(path: KeyPath, places: Places, origin: str) -> str:
    """Where the setting at `path` was written, or else the nearest setting around it."""
    while path and path not in places:
        path = path[:-1]
    return places.get(path, origin)


def _short(value: Any, width: int = 60) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _without_tags(location: Sequence[str | int], values: Any) -> KeyPath:
    """Drop the names of union members that pydantic puts in a location: keep what stands in the file."""
    path: list[str | int] = []
    node: Any = values
    entered = True  # a member's name can only stand right after the mapping was entered
    for part in location:
        chosen = entered and isinstance(node, Mapping) and node.get("use") == part
        if chosen and (part not in node or len(location) > len(path) + 1):
            entered = False
            continue
        if isinstance(part, str) and ("[" in part or "function-" in part):
            continue
        path.append(part)
        entered = True
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
    return tuple(path)


def members(annotation: Any) -> Iterator[type[Config]]:
    """Every settings class inside an annotation such as `tuple[Step, ...] | None`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Config):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from members(argument)


def tag(kind: type[Config]) -> str | None:
    """The name by which `use:` chooses this class, if it is one of several choices."""
    field = kind.model_fields.get("use")
    return str(typing.get_args(field.annotation)[0]) if field and typing.get_args(field.annotation) else None


def _annotation_at(kind: type[Config], path: KeyPath, values: Any) -> Any:
    """The annotation of the setting at `path`; indexes and free names of mappings are passed over."""
    annotation: Any = kind
    node: Any = values
    for part in path:
        candidates = list(members(annotation))
        chosen = [c for c in candidates if isinstance(node, Mapping) and tag(c) in (None, node.get("use"))]
        for candidate in chosen or candidates:
            if isinstance(part, str) and part in candidate.model_fields:
                annotation = candidate.model_fields[part].rebuild_annotation()
                break
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            node = None
    return annotation


def _names_at(kind: type[Config], path: KeyPath, values: Any) -> list[str]:
    annotation = _annotation_at(kind, path, values)
    node = values
    for part in path:
        node = node[part]
    candidates = list(members(annotation))
    chosen = [c for c in candidates if isinstance(node, Mapping) and tag(c) == node.get("use")] or candidates
    return [name for candidate in chosen for name in candidate.model_fields]


def _tags(kind: type[Config], path: KeyPath, values: Any) -> list[str]:
    return sorted(filter(None, (tag(member) for member in members(_annotation_at(kind, path, values)))))


def _literals(kind: type[Config], path: KeyPath, values: Any) -> list[Any]:
    def inside(annotation: Any) -> Iterator[Any]:
        if typing.get_origin(annotation) is typing.Literal:
            yield from typing.get_args(annotation)
        else:
            for argument in typing.get_args(annotation):
                yield from inside(argument)

    return list(inside(_annotation_at(kind, path, values)))
