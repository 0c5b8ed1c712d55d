"""Commands on documents: look at them, forget some, find where a text is from."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from headwater.cli.terminal import (
    Json,
    app,
    counted,
    plain_table,
    print_json,
    print_table,
)
from headwater.core import hardware
from headwater.core.errors import InputError


@app.command
def inspect(
    place: Annotated[
        str, Parameter(help="Name of a recipe that has run, folder of a run or stage, or folder of shards.")
    ],
    /,
    *,
    dropped: Annotated[bool, Parameter(negative="", help="Only documents that were dropped.")] = False,
    kept: Annotated[bool, Parameter(negative="", help="Only documents that were kept.")] = False,
    rule: Annotated[str | None, Parameter(help="Dropped by this rule, or by any rule of this step.")] = None,
    source: Annotated[str | None, Parameter(help="From this source.")] = None,
    text: Annotated[str | None, Parameter(help="With a text in which this regular expression is found.")] = None,
    id: Annotated[str | None, Parameter(help="With an id that begins so; prints the whole text.")] = None,  # noqa: A002
    count: Annotated[int, Parameter(help="How many to print: a fair sample of all that fit.")] = 5,
    characters: Annotated[int, Parameter(help="How much of each text to print; 0 prints all.")] = 600,
    seed: Annotated[int, Parameter(help="Another seed, another sample.")] = 0,
    as_json: Json = False,
) -> None:
    """Look at documents that were kept or dropped, with the reason and what was measured."""
    from headwater.documents.inspect import DROPPED, KEPT, Wanted
    from headwater.documents.inspect import inspect as look

    if dropped and kept:
        raise InputError("choose --dropped or --kept; without either both are looked at", place="inspect")
    fate = DROPPED if dropped or (rule and not kept) else KEPT if kept else None
    folder = Path(place) if Path(place).exists() else Path("runs") / place
    found = look(folder, Wanted(fate, rule, source, text, id, max(count, 0), seed))
    if as_json:
        print_json(found.documents)
        return
    table = plain_table("stage", "what became of them", "source", ">documents")
    for stage, reason, of, number in found.summary():
        table.add_row(stage, reason, of, f"{number:,}")
    print_table(table)
    shown = len(found.documents)
    fit = "1 document fits" if found.fitting == 1 else f"{found.fitting:,} documents fit"
    print(f"\n{fit}" + (f"; {shown} of them, drawn by seed {seed}:" if shown else "."))
    for row in found.documents:
        print_document(row, 0 if id else characters)


def print_document(row: dict[str, Any], characters: int) -> None:
    """Print a kept or dropped document: facts, then its text, cut after some characters; 0 prints all of it."""
    reason = row["fate"]
    if row.get("rule"):
        measured = "" if row["value"] is None else f", measured {row['value']:.4g}"
        limit = "" if row["threshold"] is None else f", limit {row['threshold']:.4g}"
        detail = f", {row['detail']}" if row["detail"] else ""
        reason = f"dropped by {row['stage']}: {row['rule']}{measured}{limit}{detail}"
    facts = [row["source"], row["url"], row["licence"], row["language"], row["date"], row["meta"]]
    text, size = row["text"], len(row["text"])
    more = f"\n[... {size - characters:,} more characters]" if characters and size > characters else ""
    width = shutil.get_terminal_size((100, 24)).columns
    print(f"\n{'-' * min(width, 100)}\n{row['id']}  {reason}\n{'  '.join(str(fact) for fact in facts if fact)}\n")
    print((text[:characters] if characters else text) + more)


@app.command
def forget(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    /,
    *,
    url: Annotated[str | None, Parameter(help="Documents at this address, and below it.")] = None,
    source: Annotated[str | None, Parameter(help="Documents of this source.")] = None,
    id: Annotated[str | None, Parameter(help="Documents whose id begins so.")] = None,  # noqa: A002
    meta: Annotated[tuple[str, ...], Parameter(help="Documents with this in their meta, as author=Jane.")] = (),
    add_to: Annotated[Path | None, Parameter(help="Removal list to append them to, for read.forget.")] = None,
    copies: Annotated[bool, Parameter(negative="", help="Add near-duplicates of them too.")] = False,
    as_json: Json = False,
) -> None:
    """Say which stages, shards and checkpoints hold some documents, and put them on a removal list."""
    from headwater.documents.sources.removal import Search
    from headwater.ledger import add_to_list, trace

    pairs = [pair.partition("=") for pair in meta]
    if bad := next((pair[0] for pair in pairs if not pair[1]), None):
        raise InputError(f"'{bad}' is not of the form name=value", place="--meta", hint="such as --meta author=Jane")
    search = Search(source, url, id, {name: value for name, _, value in pairs})
    ledger = trace(hardware.Machine().run_folder(recipe), search)
    if as_json:
        rows = [{**vars(holding), "path": str(holding.path)} for holding in ledger.holdings]
        print_json({"ids": sorted(ledger.ids), "copies": sorted(ledger.copies), "holdings": rows})
    else:
        table = plain_table("stage", ">documents", "how", "where")
        for holding in ledger.holdings:
            table.add_row(holding.stage, f"{holding.documents:,}", holding.how, str(holding.path))
        print_table(table)
        print(f"\n{counted(ledger.ids, 'document')}, and {counted(ledger.copies, 'near-duplicate')} dropped for them.")
    if add_to is not None:
        lines = add_to_list(add_to, search, ledger, copies)
        print(
            f"{add_to}: {lines:,} lines now. Set read.forget=[{add_to}] and run again; then remove the folders above."
        )


@app.command
def index(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    /,
    *,
    part: Annotated[
        str | None, Parameter(help="Text that is sorted at a time, such as '64 MiB': less needs less memory.")
    ] = None,
) -> None:
    """Index the training documents of a run, so that texts can be traced to them; a section 'index' does it too."""
    from headwater import tracing
    from headwater.core.config import validate

    settings = validate(tracing.Index, {"part": part} if part else {}, origin="headwater index")
    print(tracing.build_index(tracing.run_folder(recipe, hardware.Machine()), settings, hardware.Machine()))


@app.command
def trace(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    text: Annotated[tuple[str, ...], Parameter(help="Texts to trace.")] = (),
    /,
    *,
    file: Annotated[Path | None, Parameter(help="File with a text to trace; - reads standard input.")] = None,
    generate: Annotated[
        tuple[str, ...], Parameter(negative="", help="Trace what the run's model writes after this.")
    ] = (),
    absent: Annotated[
        str | None,
        Parameter(help="Prove that nothing is left of these documents: a file, a removal list, or a source's name."),
    ] = None,
    min_words: Annotated[
        int | None, Parameter(help="Words of a match at least; default: 8, and 13 with --absent.")
    ] = None,
    sources: Annotated[int, Parameter(help="Documents to show of each match.")] = 3,
    context: Annotated[int, Parameter(help="Text to show around a match in its document [bytes].")] = 120,
    max_new_tokens: Annotated[int, Parameter(help="With --generate: the most tokens to write.")] = 120,
    temperature: Annotated[float, Parameter(help="With --generate: 0 always takes the likeliest token.")] = 0.8,
    seed: Annotated[int, Parameter(help="With --generate: another seed, another text.")] = 0,
    verify: Annotated[bool, Parameter(negative="", help="Compare every file of the index with its hash.")] = False,
    as_json: Json = False,
) -> None:
    """Find where a text stands in the training documents, letter for letter, and which training steps read it."""
    from headwater import tracing
    from headwater.evaluation.absence import MIN_WORDS as MIN_ABSENT
    from headwater.evaluation.trace import MIN_WORDS, told
    from headwater.evaluation.trace import trace as find

    tracing.check_numbers(min_words=min_words, sources=sources, context=context)
    run = tracing.run_folder(recipe, hardware.Machine())
    opened = tracing.open_index(run, verify=verify)
    if absent is not None:
        found = tracing.prove_absence(run, opened, absent, MIN_ABSENT if min_words is None else min_words)
        if as_json:
            print_json({**asdict(found), "proven": found.proven})
        else:
            print("\n".join(found.told()))
        if not found.proven:
            raise SystemExit(2)
        return
    least = MIN_WORDS if min_words is None else min_words
    written = tracing.continuations(run, generate, max_new_tokens, temperature, seed)
    given = tracing.texts_to_trace(text, file, [prompt + more for prompt, more in written], least)
    steps = tracing.steps_of(run)
    found = [find(opened, one, min_words=least, sources=sources, context=context) for one in given]
    found = [steps.of_matches(opened, matches) if steps else matches for matches in found]
    for number, (prompt, _) in enumerate(written, start=len(given) - len(written)):
        found[number] = [match for match in found[number] if match.end > len(prompt)]
    if as_json:
        pairs = zip(given, found, strict=True)
        print_json([{"text": one, "matches": [asdict(match) for match in of]} for one, of in pairs])
        return
    for one, of in zip(given, found, strict=True):
        print("\n".join(told(one, of, least)))


@app.command
def memorization(
    recipe: Annotated[str, Parameter(help="Name of a recipe that has run, or folder of a run.")],
    /,
    *,
    shown_tokens: Annotated[int, Parameter(help="Tokens of a passage that the model is shown.")] = 32,
    continued_tokens: Annotated[int, Parameter(help="Tokens that it must continue as the document does.")] = 50,
    passages: Annotated[int, Parameter(help="Passages of training documents, and held-out ones.")] = 256,
    samples: Annotated[int, Parameter(help="Passages to show.")] = 3,
    seed: Annotated[int, Parameter(help="Another seed, other passages.")] = 0,
    as_json: Json = False,
) -> None:
    """Say what share of passages of its training documents a model continues letter for letter, by duplicates."""
    from headwater import tracing
    from headwater.core.config import validate
    from headwater.evaluation.shares import rows

    given = {"shown_tokens": shown_tokens, "continued_tokens": continued_tokens, "passages": passages}
    given |= {"samples": samples, "seed": seed}
    settings = validate(tracing.Memorization, given, origin="headwater memorization")
    result = tracing.memorization_of(tracing.run_folder(recipe, hardware.Machine()), settings, hardware.Machine())
    if as_json:
        print_json(result)
        return
    table = plain_table("passages", ">number", ">memorised", ">share", ">95 %", ">mean tokens")
    for name, of in rows(result):
        if of["passages"]:
            band, mean = f"{of['low']:.1%} to {of['high']:.1%}", f"{of['mean_tokens']:.1f}"
            table.add_row(name, f"{of['passages']:,}", f"{of['memorised']:,}", f"{of['value']:.1%}", band, mean)
        else:
            table.add_row(name, "0", "", "", "", "")
    print_table(table)
    for line in result["not_told"]:
        print(f"not told: {line}")
    for sample in result["samples"]:
        print(f"\n{sample['matched_tokens']} tokens continued, {sample['split']}, {sample['source']}, {sample['id']}:")
        print(f"{sample['shown']}[{sample['same']}]{sample['written']}")
