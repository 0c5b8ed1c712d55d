"""Everything a run did, on one page: manifests, metrics and scores in; report.html, report.md, data-card.md, summary.json out.

    evidence.py  what the stages left behind, and summary.json
    sections/    evidence -> sections made of blocks (blocks.py), the same for both pages
    figures.py   the charts: Vega-Altair, drawn to SVG here so that the page needs no network and no library
    card.py      the data card
    page.py      blocks -> HTML and its markdown twin, through page.html.j2 and page.md.j2

Settings are here, so this module imports none of the above before a report is asked for.
"""

from __future__ import annotations

from pydantic import Field

from headwater.core.config import Config
from headwater.core.stage import Counts, Inputs, Workspace
from headwater.core.store import atomic_path, write_json


class Report(Config):
    """The report of a run: one self-contained HTML file, the same as markdown, and summary.json."""

    title: str = ""
    """Heading of the report. Default: the recipe's name."""
    about: str = ""
    """What the run is for, in a sentence under the heading. Default: the recipe's `about`."""
    samples_per_reason: int = Field(default=20, ge=0, le=100)
    """Dropped documents to show for each reason."""
    samples_per_source: int = Field(default=3, ge=0, le=100)
    """Kept documents to show of each source."""
    sample_characters: int = Field(default=600, ge=20, le=100_000)
    """Length at which the text of a document is cut [characters]."""


def report(settings: Report, inputs: Inputs, out: Workspace) -> Counts:
    """Write the report of the stages in `inputs`, whichever they are (the door of stage report).

    Args:
        settings: what to show.
        inputs: stage name -> its finished folder.
        out: where the files go; its machine gives the assumptions of the cost estimate.

    Raises:
        StoreError: a stage's file is missing or damaged.
    """
    from headwater.report.card import data_card
    from headwater.report.evidence import Evidence
    from headwater.report.page import html, markdown
    from headwater.report.sections import compose

    evidence = Evidence(inputs, out.machine)
    page = compose(evidence, settings)
    texts = {"report.html": html(page), "report.md": markdown(page)}
    if card := data_card(evidence, settings.title or "Documents", settings.about):
        texts["data-card.md"] = card
    for name, text in texts.items():
        with atomic_path(out.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(out.folder / "summary.json", evidence.summary())
    return {"sections": len(page.sections), "bytes": {name: len(text.encode()) for name, text in texts.items()}}
