"""Sections on documents and tokens: what came in, what was dropped and why, licences, the tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from headwater.core.units import format_bytes
from headwater.report import Report, figures
from headwater.report.blocks import (
    ABSENT,
    Block,
    Code,
    Details,
    Excerpt,
    Notice,
    Table,
    Text,
    decimal,
    plural,
    share,
    significant,
    whole,
    words,
)
from headwater.report.evidence import Document, Evidence

FERTILITY = ("bytes_per_token", "tokens_per_word", "tokens_per_character")
"""How densely a tokenizer writes; a word is what blanks divide."""


def funnel(evidence: Evidence) -> Iterator[Block]:
    """The funnel: how many documents and bytes came in, what each reason took, what is left, for each source."""
    if not evidence.document_stages:
        return
    drops, names = evidence.dropped, evidence.sources
    documents_in = evidence.counts(evidence.document_stages[0])["documents_in"]
    yield figures.funnel(
        documents_in, [(f"{stage}: {rule}", drop["documents"]) for (stage, rule), drop in drops.items()]
    )
    rows = []
    for stage in evidence.document_stages:
        counts = evidence.counts(stage)
        if stage == "split" and not counts["dropped"]:
            continue
        before = [whole(counts["sources"].get(name, {}).get("documents_in")) for name in names]
        rows.append(
            [f"{stage}: documents in", whole(counts["documents_in"]), "", format_bytes(counts["bytes_in"]), *before]
        )
        for (of, rule), drop in drops.items():
            if of == stage:
                per = [whole(counts["sources"].get(name, {}).get("dropped", {}).get(rule, 0)) for name in names]
                size, part = format_bytes(drop["bytes"]), share(drop["documents"], documents_in)
                rows.append([f"{stage}: {rule}", whole(drop["documents"]), part, size, *per])
    rows += _outcome(evidence, documents_in)
    header = ["", "documents", "of all", "text", *names]
    yield Table(
        "What came into each stage and what each rule dropped; the last columns count documents of each source",
        header,
        rows,
        1,
        True,
    )
    yield from _left_out(evidence)
    clusters = evidence.counts("dedup").get("clusters", {})
    if clusters.keys() - {"1"}:  # else nothing is a copy of another
        rows = [[size, whole(number)] for size, number in clusters.items()]
        yield Details(
            "Sizes of clusters of duplicates", [Table("Clusters by size", ["documents in it", "clusters"], rows)]
        )
    yield from _benchmarks(evidence)
    yield from _sensitivity(evidence)
    yield from _found(evidence)
    yield from _quality_models(evidence)
    edited = [
        [stage, rule, whole(count)]
        for stage in evidence.document_stages
        for rule, count in evidence.counts(stage).get("edited", {}).items()
    ]
    if edited:
        yield Table(
            "Documents whose text was changed, also those that were dropped later",
            ["stage", "rule", "documents"],
            edited,
            2,
        )


def _left_out(evidence: Evidence) -> Iterator[Block]:
    """Records of sources that are no documents by their nature, such as redirects and pictures of a web archive."""
    rows = [
        [source, words(reason), whole(count)]
        for source, counts in evidence.counts("read").get("sources", {}).items()
        for reason, count in sorted(counts.get("skipped", {}).items(), key=lambda item: (-item[1], item[0]))
    ]
    if rows:
        caption = "Records that were read and are no documents by their nature"
        yield Details("What sources hold besides documents", [Table(caption, ["source", "reason", "records"], rows, 2)])


def _benchmarks(evidence: Evidence) -> Iterator[Block]:
    """How much of each benchmark was found in the documents."""
    found = evidence.counts("decontaminate").get("benchmarks", {})
    if found:
        rows = [
            [
                name,
                *(
                    whole(counts[key])
                    for key in ("items", "items_too_short", "grams", "items_contaminated", "documents")
                ),
            ]
            for name, counts in found.items()
        ]
        header = ["benchmark", "items", "too short to look for", "n-grams", "items found", "documents with them"]
        yield Table("Benchmarks that were looked for in the documents", header, rows)


def _sensitivity(evidence: Evidence) -> Iterator[Block]:
    """How much hangs on the threshold of each cleaning rule."""
    steps = evidence.settings("clean").get("steps", [])
    rows = []
    for index, rules in evidence.counts("clean").get("sensitivity", {}).items():
        for rule, counts in rules.items():
            more, fewer = counts["stricter"] - counts["dropped"], counts["dropped"] - counts["looser"]
            if not (counts["dropped"] or more):
                continue
            step = steps[int(index)]
            named = f"{step['use']}.{rule}" + (f" ({', '.join(step['sources'])})" if step.get("sources") else "")
            limit = significant(step.get(rule), 4) if isinstance(step.get(rule), int | float) else ABSENT
            rows.append(
                [named, limit, *(whole(number) for number in (counts["judged"], counts["dropped"], more, fewer))]
            )
    if rows:
        header = ["rule", "threshold", "documents judged", "dropped", "more if 10 % stricter", "fewer if 10 % looser"]
        caption = "How many more or fewer documents each rule alone would drop if its threshold were moved"
        yield Details("How much hangs on each threshold", [Table(caption, header, rows)])


def _found(evidence: Evidence) -> Iterator[Block]:
    """What cleaning steps found inside of texts, such as personal data."""
    steps = evidence.settings("clean").get("steps", [])
    rows = [
        [steps[int(index)]["use"], words(kind), whole(count)]
        for index, kinds in evidence.counts("clean").get("found", {}).items()
        for kind, count in kinds.items()
        if count
    ]
    if rows:
        yield Table("What cleaning steps found inside of texts", ["step", "what", "times"], rows, 2)


def _quality_models(evidence: Evidence) -> Iterator[Block]:
    """What each quality model that was trained can do, and what each threshold of its scores would keep."""
    steps = evidence.settings("clean").get("steps", [])
    for index, told in evidence.counts("clean").get("prepared", {}).items():
        if "held_out" not in told:
            continue
        step, found = steps[int(index)], told["held_out"]
        rows = [
            [decimal(row["threshold"], 2), *(share(row[key], 1) for key in ("precision", "recall", "kept"))]
            for row in found["thresholds"]
        ]
        caption = (
            f"Scores of {plural(found['positive'], 'good sample')} and {plural(found['negative'], 'bad one')} that the model had "
            f"not seen: area under the curve {decimal(found['auc'], 3)}, accuracy {decimal(found['accuracy'], 3)}, calibration "
            f"error {decimal(found['calibration_error'], 3)}; the recipe keeps scores from {significant(step['min_score'])} on"
        )
        header = ["min_score", "of those kept are good", "of the good are kept", "of all are kept"]
        yield Details(f"What the model of {step['use']} can do", [Table(caption, header, rows)])


def _outcome(evidence: Evidence, documents_in: int) -> Iterator[list[str]]:
    """Rows of what is left: for training, held out, and both together."""

    def row(name: str, documents: int, size: int, per_source: Sequence[int | None]) -> list[str]:
        return [name, whole(documents), share(documents, documents_in), format_bytes(size), *map(whole, per_source)]

    final, split = evidence.counts(evidence.curated), evidence.counts("split")
    if split:
        each = [split["sources"].get(name, {}) for name in evidence.sources]
        training = [counts.get("documents_out") for counts in each]
        yield row("kept for training", split["documents_out"], split["bytes_out"], training)
        held = [counts.get("held_out", {}).get("documents") for counts in each]
        yield row("kept, but held out from training", split["held_out"]["documents"], split["held_out"]["bytes"], held)
    kept = [final["sources"].get(name, {}).get("documents_out") for name in evidence.sources]
    yield row("kept", final["documents_out"], final["bytes_out"], kept)


def dropped(evidence: Evidence, settings: Report) -> Iterator[Block]:
    """Some dropped documents for each reason, with what was measured and what is allowed."""
    found = {
        stage: evidence.dropped_documents(stage, settings.samples_per_reason) for stage in evidence.document_stages
    }
    if not any(found.values()):
        return
    yield Text(
        f"Every dropped document is kept in the folder dropped/ of its stage. Here are up to {settings.samples_per_reason} for "
        f"each reason, a fair sample, cut after {settings.sample_characters} characters."
    )
    most = max(evidence.dropped, key=lambda reason: evidence.dropped[reason]["documents"])
    for (stage, rule), counts in evidence.dropped.items():
        rows = found[stage].get(rule, [])
        originals = evidence.kept_documents(stage, {row["detail"] for row in rows if _is_id(row["detail"])})
        summary = f"{stage}: {rule} ({plural(counts['documents'], 'document')}, {format_bytes(counts['bytes'])})"
        if rows:
            excerpts = [_excerpt(row, originals.get(row["detail"]), settings.sample_characters) for row in rows]
            yield Details(summary, excerpts, unfolded=(stage, rule) == most and len(rows) <= 5)


def kept(evidence: Evidence, settings: Report) -> Iterator[Block]:
    """Some documents that were kept, of each source."""
    if not evidence.document_stages or not settings.samples_per_source:
        return
    found = evidence.sample_of_kept(settings.samples_per_source)
    yield Text(f"A fair sample of what the model learns from, cut after {settings.sample_characters} characters.")
    for source, rows in found.items():
        excerpts = []
        for row in rows:
            facts = [("from", row["url"]), ("licence", row["licence"]), ("language", row["language"])]
            facts.append(("scores", _scores(row)))
            texts = [("kept", _cut(row["text"], settings.sample_characters))]
            excerpts.append(Excerpt([(name, value) for name, value in facts if value], texts))
        yield Details(f"{source} ({plural(len(rows), 'document')})", excerpts)


def _scores(row: Document) -> str:
    """The numbers that stages have written to a document's `meta`, such as a score of quality.

    >>> _scores({"meta": '{"title": "Rivers", "quality": 0.91234, "cluster_size": 3}'})
    'quality 0.9123, cluster size 3'
    """
    meta = json.loads(row["meta"]) if row.get("meta") else {}
    numbers = {
        name: value for name, value in meta.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return ", ".join(f"{words(name)} {significant(float(value), 4)}" for name, value in numbers.items())


def _excerpt(row: Document, original: Document | None, characters: int) -> Excerpt:
    """A dropped document and why it was dropped; beside it the one that was kept in its place, if there is one."""
    facts = [
        ("source", row["source"]),
        ("from", row["url"]),
        ("licence", row["licence"]),
        ("measured", significant(row["value"], 4)),
        ("limit", significant(row["threshold"], 4)),
        ("scores", _scores(row)),
        ("copy of", original["url"] or original["id"]) if original else ("detail", row["detail"]),
    ]
    texts = [("dropped", _cut(row["text"], characters))]
    if original and original["text"] != row["text"]:
        texts.append(("kept in its place", _cut(original["text"], characters)))
    return Excerpt([(name, value) for name, value in facts if value and value != ABSENT], texts)


def _cut(text: str, characters: int) -> str:
    more = f"\n[… {whole(len(text) - characters)} more characters]" if len(text) > characters else ""
    return text[:characters] + more or "[no text]"


def _is_id(detail: str | None) -> bool:
    return detail is not None and re.fullmatch("[0-9a-f]{32}", detail) is not None


def sources(evidence: Evidence) -> Iterator[Block]:
    """Where the kept documents are from and under which licences, and how many have none on record."""
    if not evidence.document_stages:
        return
    final = evidence.counts(evidence.curated)["sources"]
    rows, unknown, total = [], 0, 0
    for name, counts in final.items():
        licences = counts["licences"]
        unknown += licences.get("unknown", 0)
        total += counts["documents_out"]
        for licence, number in sorted(licences.items(), key=lambda item: -item[1]):
            rows.append([name, licence, whole(number), share(number, counts["documents_out"])])
    line = f"{plural(unknown, 'document')} of {whole(total)} ({share(unknown, total)}) have no licence on record."
    yield Notice("Unknown licences", [line]) if unknown else Text("Every kept document has a licence on record.")
    sizes = [
        [
            name,
            whole(counts["documents_out"]),
            format_bytes(counts["bytes_out"]),
            share(counts["licences"].get("unknown", 0), counts["documents_out"]),
        ]
        for name, counts in final.items()
    ]
    yield Table("Kept documents by source", ["source", "documents", "text", "licence unknown"], sizes)
    table = Table("Kept documents by source and licence", ["source", "licence", "documents", "of the source"], rows, 2)
    yield table if len(rows) <= 12 else Details(f"All {len(rows)} licences by source", [table])
    languages = [
        [name, language, whole(number), share(number, counts["documents_out"])]
        for name, counts in final.items()
        for language, number in sorted(counts.get("languages", {}).items(), key=lambda item: -item[1])
    ]
    if any(language != "unknown" for _, language, _, _ in languages):
        table = Table(
            "Kept documents by source and language", ["source", "language", "documents", "of the source"], languages, 2
        )
        yield table if len(languages) <= 12 else Details("Languages by source", [table])


def tokenizer(evidence: Evidence) -> Iterator[Block]:
    """The vocabulary, and how many tokens the text of each source became."""
    tokens, facts = evidence.tokens, evidence.file("tokenizer", "facts.json") or {}
    if facts:
        used = f"{share(facts['vocabulary_used'], 1)} of them occur in the text that this was measured on."
        yield Text(f"{whole(facts['vocab_size'])} entries; {used} The separator of documents is {facts['separator']}.")
        changed = [
            (name, found, found["before"]) for name, found in facts.get("sources", {}).items() if "before" in found
        ]
        if changed:
            yield Table(
                "The tokenizer before and after it was changed",
                ["source", "bytes per token", "after", "tokens per word", "after", "tokens per character", "after"],
                [
                    [name, *(decimal(of[key]) for key in FERTILITY for of in (before, after))]
                    for name, after, before in changed
                ],
            )
        longest = "   ".join(json.dumps(text, ensure_ascii=False) for text in facts["longest_tokens"])
        yield Details("The longest entries of the vocabulary", [Code(longest)])
    if not tokens:
        return
    yield Text("More bytes for each token mean shorter sequences for the same text.")
    rows = []
    for name, parts in tokens["sources"].items():
        for part, counts in parts.items():
            per_token = counts["bytes"] / counts["tokens"] if counts["tokens"] else None
            sizes = [
                whole(counts["documents"]),
                whole(counts["tokens"]),
                format_bytes(counts["bytes"]),
                decimal(per_token),
            ]
            rows.append([name, words(part), *sizes])
    yield Table("Tokens by source", ["source", "use", "documents", "tokens", "text", "bytes per token"], rows, 2)
