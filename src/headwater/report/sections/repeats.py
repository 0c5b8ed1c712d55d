"""What the model repeats of its training documents: the shares of stage memorization, and its texts traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headwater.evaluation.shares import rows
from headwater.report.blocks import Block, Details, Marked, Table, Text, decimal, plural, share, whole
from headwater.report.evidence import Evidence

_SHOWN = 0.2
"""Share of a passage from which on its continuation is worth looking at; the best is shown in any case."""


def repeats(evidence: Evidence) -> Iterator[Block]:
    """Shares of passages continued letter for letter, with samples, and where generated text stands in training documents."""
    result = evidence.file("memorization", "memorization.json")
    if not result:
        return
    settings = result["settings"]
    yield Text(
        f"The model was shown {settings['shown_tokens']} tokens of a passage and always wrote the likeliest token. A passage is "
        f"memorised when all of the next {settings['continued_tokens']} tokens are those of the document. Bands are of 95 % and take "
        "passages of one document together; held-out documents are what a model continues that has not read them."
    )
    yield Table(
        "Passages continued letter for letter",
        ["passages", "number", "documents", "memorised", "share", "95 %", "mean tokens"],
        [_row(name, of) for name, of in rows(result) if of["passages"]],
    )
    if result["held_out_in_training"]:
        yield Text(
            f"{plural(result['held_out_in_training'], 'held-out passage')} also stood in training documents and are left out."
        )
    yield from (Text(f"Not told: {line}.") for line in result["not_told"])
    if result["samples"]:
        least = settings["continued_tokens"] * _SHOWN
        samples = [one for one in result["samples"] if one["matched_tokens"] >= least] or result["samples"][:1]
        yield Details("What was continued most", [_sample(sample, settings) for sample in samples])
    if result["generations"] is not None:
        yield from _traced(result["generations"], settings["min_words"])


def _row(name: str, of: Mapping[str, Any]) -> list[str]:
    band = f"{share(of['low'], 1)} to {share(of['high'], 1)}"
    counts = (of["passages"], of["documents"], of["memorised"])
    return [name, *map(whole, counts), share(of["value"], 1), band, decimal(of["mean_tokens"], 1)]


def _sample(sample: Mapping[str, Any], settings: Mapping[str, Any]) -> Marked:
    places = "" if sample["places"] is None else f", in {plural(sample['places'], 'place')} of the training documents"
    pieces = [(sample["shown"], False), (sample["same"], True), (sample["written"], False)]
    remarks = [f"document {sample['id']} of {sample['source']}, {sample['split'].replace('_', ' ')}{places}"]
    if sample["matched_tokens"] < settings["continued_tokens"]:
        remarks.append(f"it went on: {sample['document']}")
    title = f"{plural(sample['matched_tokens'], 'token')} as in the document (marked)"
    return Marked(title, f"after {settings['shown_tokens']} tokens that were shown", pieces, remarks)


def _traced(generations: Sequence[Mapping[str, Any]], min_words: int) -> Iterator[Block]:
    found = [written for written in generations if written["matches"]]
    runs = f"runs of at least {min_words} words that stand in training documents, letter for letter"
    yield Text(
        f"Of the {plural(len(generations), 'text')} that the trained model wrote above, {whole(len(found))} "
        f"{'has' if len(found) == 1 else 'have'} {runs}" + (" (marked)." if found else ".")
    )
    for written in found:
        text = written["prompt"] + written["text"]
        remarks = [_remark(match) for match in written["matches"]]
        yield Marked("Written by the trained model", "", list(_pieces(text, written["matches"])), remarks)


def _pieces(text: str, matches: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """The text cut where matches begin and end; those that overlap are marked as one."""
    at = 0
    for match in matches:
        begin = max(match["begin"], at)
        if begin > at:
            yield text[at:begin], False
        yield text[begin : match["end"]], True
        at = match["end"]
    yield text[at:], False


def _remark(match: Mapping[str, Any]) -> str:
    """Where a match stands, in a line."""
    told = []
    for source in match["sources"]:
        facts = [source["source"], source["url"], source["licence"]]
        steps = source["steps"] or []
        read = "read by no step" if not steps else f"read by step {', '.join(map(whole, steps[:4]))}"
        told.append(", ".join(fact for fact in (*facts, read) if fact) + (", ..." if len(steps) > 4 else ""))
    words = " ".join(match["text"].split())
    short = words if len(words) <= 80 else f"{words[:40]} ... {words[-30:]}"
    return f"{match['words']} words in {plural(match['count'], 'place')}: \u201c{short}\u201d. {'; '.join(told)}"
