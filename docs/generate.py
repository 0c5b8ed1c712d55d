"""Write the pages that are generated from code: the settings reference, the command reference, the JSON schema.

`python docs/generate.py` writes them; `--check` exits with 1 when one of them is not what the code says.
"""

from __future__ import annotations

import io
import json
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from headwater.cli import app
from headwater.core.config import Config, members, tag
from headwater.flow import FLOW, REPORT
from headwater.recipe import Recipe

REFERENCE = Path(__file__).parent / "reference"
GENERATED = "<!-- Generated from the code by `make generate`. Do not edit. -->\n"


def settings_page() -> str:
    """Every setting of a recipe: its type, default and meaning."""
    lines = [
        GENERATED,
        "# Settings",
        "",
        "A recipe has one section per stage. An absent section is an absent stage.",
        "",
    ]
    lines += _table(Recipe)
    for name, field in Recipe.model_fields.items():
        kinds = list(members(field.rebuild_annotation()))
        if not kinds:
            continue
        lines += [f"## {name}", "", _text(field.description), ""]
        for kind in kinds:
            lines += _described(kind, name, level=3 if tag(kind) else 0)
    return "\n".join(lines).rstrip() + "\n"


def _described(kind: type[Config], path: str, level: int) -> Iterator[str]:
    """A settings class and the classes inside it; `level` is the depth of its heading, 0 for none."""
    if level:
        choice = f" `use: {tag(kind)}`" if tag(kind) else ""
        yield from (f"{'#' * level} {path}{choice}", "", _text(kind.__doc__), "")
    yield from _table(kind)
    for name, field in kind.model_fields.items():
        for inner in members(field.rebuild_annotation()):
            yield from _described(inner, f"{path}.{name}", level=4 if level > 2 else 3)


def _table(kind: type[Config]) -> Iterator[str]:
    yield from ("| setting | type | default | meaning |", "|---|---|---|---|")
    for name, field in kind.model_fields.items():
        kind_text = _type_text(field.rebuild_annotation()).replace("|", "\\|")
        yield f"| `{name}` | {kind_text} | {_default_text(field)} | {_text(field.description)} |"
    yield ""


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _default_text(field: Any) -> str:
    if field.is_required():
        return "name of the file" if field is Recipe.model_fields["name"] else "required"
    if field.default_factory_takes_validated_data:
        return "follows from others"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, Config):
        return "see below"
    shown = json.dumps(value, default=lambda other: getattr(other, "model_dump", lambda **_: str(other))(mode="json"))
    return f"`{shown}`".replace("|", "\\|") if len(shown) < 80 else "see the code"


def _type_text(annotation: Any) -> str:
    """A type as a reader of YAML understands it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        examples = [
            m.json_schema["examples"][0] for m in arguments if "examples" in (getattr(m, "json_schema", None) or {})
        ]
        return f'{_type_text(arguments[0])} or "{examples[0]}"' if examples else _type_text(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        classes = [argument for argument in arguments if list(members(argument))]
        rest = [_type_text(argument) for argument in arguments if not list(members(argument))]
        return " or ".join([*(["settings below"] if classes else []), *rest])
    if origin in (tuple, list):
        return f"list of {_type_text(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {_type_text(arguments[1])}"
    plain = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "`true`, `false`",
        type(None): "`null`",
        Path: "path",
    }
    if annotation in plain:
        return plain[annotation]
    return "settings below" if isinstance(annotation, type) and issubclass(annotation, Config) else str(annotation)


def commands_page() -> str:
    """The help text of every command."""
    lines = [GENERATED, "# Commands", ""]
    for name in sorted(name for name in app if not name.startswith("-")):
        with redirect_stdout(io.StringIO()) as text:
            app([name, "--help"], exit_on_error=False, console=_plain_console(text))
        lines += [
            f"## headwater {name}",
            "",
            "```text",
            *[line.rstrip() for line in text.getvalue().strip().splitlines()],
        ]
        lines += ["```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _plain_console(file: io.StringIO) -> Any:
    from rich.console import Console

    return Console(file=file, width=100, no_color=True, highlight=False)


def stages_page() -> str:
    """The stages, what feeds them, and the function behind each."""
    lines = [GENERATED, "# Stages", "", "| stage | what for | fed by | function |", "|---|---|---|---|"]
    for stage in (*FLOW, REPORT):
        fed = "; ".join(f"{role}: {' or '.join(names)}" for role, names in stage.inputs.items())
        fed = "every stage that has run" if stage is REPORT else fed or "-"
        about = _text(Recipe.model_fields[stage.name].description)
        lines.append(f"| `{stage.name}` | {about} | {fed} | `{stage.door}` |")
    return "\n".join(lines) + "\n"


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file: what may stand in it, with what only files have."""
    schema = Recipe.model_json_schema()
    schema["required"].remove("name")  # the name of the file, unless it is written
    texts = {"type": "array", "items": {"type": "string"}}
    schema["properties"]["include"] = {"anyOf": [{"type": "string"}, texts], "description": "Files to begin with."}
    return schema


def pages() -> dict[Path, str]:
    """Every generated page by its path."""
    schema = json.dumps(recipe_schema(), indent=1) + "\n"
    return {
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "commands.md": commands_page(),
        REFERENCE / "stages.md": stages_page(),
        REFERENCE / "recipe.schema.json": schema,
    }


def main() -> int:
    """Write the pages, or with --check say which are stale."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.name} is not what the code says; run: make generate", file=sys.stderr)
        return 1 if stale else 0
    REFERENCE.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(REFERENCE.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
