"""The sections of a report, in the order a reader needs them: each is a function from evidence to blocks, or to nothing."""

from __future__ import annotations

from headwater.report import Report
from headwater.report.blocks import Page, Section
from headwater.report.evidence import Evidence
from headwater.report.sections import cost, documents, forecast, headline, model, origin, record, repeats


def compose(evidence: Evidence, settings: Report) -> Page:
    """Put the whole report together; a section without evidence is left out."""
    sections = [
        Section("samples", "What it writes", list(model.samples(evidence))),
        Section("learning", "How it learnt", list(model.learning(evidence))),
        Section("documents", "What became of the documents", list(documents.funnel(evidence))),
        Section("dropped", "What was dropped, and why", list(documents.dropped(evidence, settings))),
        Section("kept", "What was kept", list(documents.kept(evidence, settings))),
        Section("sources", "Sources and licences", list(documents.sources(evidence))),
        Section("tokenizer", "Tokenizer", list(documents.tokenizer(evidence))),
        Section("shape", "The model", list(model.shape(evidence))),
        Section("origin", "Where the weights come from", list(origin.origin(evidence))),
        Section("first-step", "First-step check", list(model.first_step(evidence))),
        Section("scores", "Scores", [*model.scores(evidence), *model.tasks(evidence)]),
        Section("forecast", "Forecast and measured", list(forecast.forecast(evidence))),
        Section("repeats", "What it repeats", list(repeats.repeats(evidence))),
        Section("time", "Time", list(cost.times(evidence))),
        Section("cost", "Cost and energy", list(cost.estimate(evidence))),
        Section("warnings", "Warnings", list(record.warnings(evidence))),
        Section("settings", "Settings, versions, hardware", list(record.everything(evidence))),
        Section("files", "Files and hashes", list(record.files(evidence))),
        Section("reproduce", "How to reproduce it", list(record.commands(evidence))),
    ]
    last = list(evidence.manifests.values())[-1]
    made = f"Headwater {last['versions']['headwater']}" + (f", commit {last['commit']}" if last["commit"] else "")
    return Page(
        title=settings.title or "A base model",
        about=settings.about,
        sentence=headline.sentence(evidence),
        tiles=list(headline.tiles(evidence)),
        notices=list(headline.first_warnings(evidence)),
        sections=[section for section in sections if section.blocks],
        made=f"{made}; last stage begun {last['started']}.",
    )
