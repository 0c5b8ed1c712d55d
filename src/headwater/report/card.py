"""The data card: what the training documents are, in the form that the Hugging Face hub reads."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML

from headwater.core.units import format_bytes
from headwater.report.blocks import plural, share, whole
from headwater.report.evidence import Evidence

SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
"""Names of sizes on the hub, each ten times the one before. Source: Hugging Face's specification of data cards."""
LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "mpl-2.0",
    "gpl-3.0", "lgpl-3.0", "odc-by", "isc", "unlicense", "zlib",
}  # fmt: skip
"""Licences that the hub knows by the same name in small letters, as far as they are common; any other is `other`."""
_FAVOUR = (
    "Filters by form and language favour some kinds of text over others; the table above shows what each of them took."
)
_LANGUAGES_NAMED = 0.001  # share of the documents that a language must have to stand in the head of the card


def data_card(evidence: Evidence, title: str, about: str) -> str:
    """Describe the documents that a run trains on; empty when it read none.

    Args:
        evidence: what the stages left behind.
        title: name of the data.
        about: what it is for, in a sentence.
    """
    if not evidence.document_stages:
        return ""
    sources = evidence.counts(evidence.curated)["sources"]
    total = sum(counts["documents_out"] for counts in sources.values())
    parts = [
        "---\n" + _head(title, sources, total) + "---",
        f"# {title}",
        about,
        _summary(evidence, total),
        "## Sources and licences",
        source_table(sources),
        "## How it was made",
        "\n".join(_processing(evidence)),
        "## What was dropped",
        _dropped(evidence),
        "## Personal data",
        personal_data(evidence),
        "## Known limits",
        "\n".join(f"- {limit}" for limit in (*limits(evidence, sources, total), _FAVOUR)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(title: str, sources: dict[str, Any], total: int) -> str:
    """The YAML head that the hub indexes."""
    languages, licences = sum_of(sources, "languages"), sum_of(sources, "licences")
    codes = [code for code, count in languages.most_common() if code != "unknown" and count >= _LANGUAGES_NAMED * total]
    known = sorted({name.lower() for name in licences if name.lower() in LICENCES})
    all_known = all(name.lower() in LICENCES for name in licences)
    size = next((name for power, name in enumerate(SIZES, start=3) if total < 10**power), "10B<n<100B")
    head: dict[str, Any] = {
        "pretty_name": title,
        "language": codes or ["und"],
        "license": known if all_known and known else ["other"],
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["pre-training", "headwater"],
    }
    stream = io.StringIO()
    YAML().dump(head, stream)
    return stream.getvalue()


def _summary(evidence: Evidence, total: int) -> str:
    counts = evidence.counts(evidence.curated)
    text = f"{plural(total, 'document')}, {format_bytes(counts['bytes_out'])} of text"
    if tokens := evidence.counts("encode").get("tokens"):
        text += f", {whole(tokens)} training tokens"
    held = evidence.counts("split").get("held_out", {}).get("documents")
    text += f"; {plural(held, 'document')} of them held out from training." if held else "."
    first = evidence.counts(evidence.document_stages[0])
    return f"{text} They are what was kept of {plural(first['documents_in'], 'document')} that were read."


def source_table(sources: dict[str, Any]) -> str:
    """The sources with their sizes and licences, as a table."""
    lines = ["| source | documents | text | licences |", "|---|---:|---:|---|"]
    for name, counts in sources.items():
        licences = Counter(counts["licences"]).most_common()
        shown = [f"{cell(licence)} {share(count, counts['documents_out'])}" for licence, count in licences[:8]]
        if len(licences) > 8:
            shown.append(f"and {len(licences) - 8} more")
        size = format_bytes(counts["bytes_out"])
        lines.append(f"| {cell(name)} | {whole(counts['documents_out'])} | {size} | {', '.join(shown)} |")
    return "\n".join(lines)


def _processing(evidence: Evidence) -> Iterator[str]:
    """One line for each stage and each cleaning step, with the settings that it ran with."""
    yield "Made by Headwater; every stage, in order, with the settings that differ from off:\n"
    for name, source in evidence.settings("read").get("sources", {}).items():
        yield f"- read `{name}`: {_settings(source)}"
    for step in evidence.settings("clean").get("steps", []):
        yield f"- clean: {_settings(step)}"
    for stage in ("dedup", "decontaminate", "split"):
        if stage in evidence.manifests:
            yield f"- {stage}: {_settings(evidence.settings(stage))}"


def _settings(values: dict[str, Any]) -> str:
    shown = {name: value for name, value in values.items() if value not in (None, False, [], {}, "") and name != "use"}
    text = ", ".join(f"{name} {_brief(value)}" for name, value in shown.items())
    return " ".join(filter(None, [f"`{values['use']}`" if "use" in values else "", text]))


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(_told(value), ensure_ascii=False).replace('"', "")
    text = " ".join(text.split())
    return cell(text if len(text) <= 120 else f"{text[:117]}...")


def _told(value: Any) -> Any:
    """What a value says: of an object, without what is switched off."""
    if isinstance(value, dict):
        return {name: _told(inner) for name, inner in value.items() if inner not in (None, False, [], {}, "")}
    return [_told(inner) for inner in value] if isinstance(value, list) else value


def _dropped(evidence: Evidence) -> str:
    lines = ["| stage | rule | documents | text |", "|---|---|---:|---:|"]
    for (stage, rule), counts in evidence.dropped.items():
        lines.append(f"| {stage} | {cell(rule)} | {whole(counts['documents'])} | {format_bytes(counts['bytes'])} |")
    return "\n".join(lines) if len(lines) > 2 else "Nothing was dropped."


def personal_data(evidence: Evidence) -> str:
    """What was done about personal data, and what was not."""
    steps = [step for step in evidence.settings("clean").get("steps", []) if step["use"] == "personal_data"]
    if not steps:
        return (
            "Nothing was done about personal data: names, addresses, e-mail addresses and the like may be in the text."
        )
    every = evidence.settings("clean").get("steps", [])
    counts = evidence.counts("clean")
    found: Counter[str] = Counter()
    for index, step in enumerate(every):
        if step["use"] == "personal_data":
            found.update(counts.get("found", {}).get(str(index), {}))
    edited = counts.get("edited", {}).get("personal_data", 0)
    lines = [f"The cleaning step `personal_data` ran; it changed {plural(edited, 'document')}:"]
    lines += [f"- {_settings(step)}" for step in steps]
    lines += ["", *(f"- {kind}: {whole(count)} found" for kind, count in found.items() if count)]
    covered = {name for step in steps for name in (step.get("sources") or evidence.sources)}
    if left := [name for name in evidence.sources if name not in covered]:
        lines += ["", f"Nothing was done about personal data in {', '.join(f'`{name}`' for name in left)}."]
    return "\n".join([*lines, "", "It finds what has a form, such as numbers and addresses; names of people stay."])


def limits(evidence: Evidence, sources: dict[str, Any], total: int) -> Iterator[str]:
    """What a user must know, as far as the counts tell."""
    unknown = sum_of(sources, "licences")["unknown"]
    if unknown:
        yield f"{plural(unknown, 'document')} ({share(unknown, total)}) have no licence on record."
    languages = sum_of(sources, "languages")
    if languages["unknown"]:
        yield f"The language of {plural(languages['unknown'], 'document')} ({share(languages['unknown'], total)}) was not determined."
    if "decontaminate" not in evidence.manifests:
        yield "It was not compared with benchmarks: scores of a model trained on it may be inflated by overlap."
    if "dedup" not in evidence.manifests:
        yield "Duplicates were not looked for."
    for stage, text in evidence.warnings:
        if stage in evidence.document_stages:
            yield f"{stage}: {text}"


def sum_of(sources: dict[str, Any], what: str) -> Counter[str]:
    """Counts by language, licence or the like over all sources."""
    return sum((Counter(counts.get(what, {})) for counts in sources.values()), Counter())


def cell(text: str) -> str:
    """Text that cannot end the cell or line of a table that it stands in."""
    return re.sub(r"[|`<>\n]", " ", text)
