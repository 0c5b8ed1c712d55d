"""What the stages of a run left behind: manifests, metrics, scores, generations, dropped documents; and summary.json."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from headwater.advice.outlook import remembered
from headwater.core.hardware import Machine
from headwater.core.log import read_metrics
from headwater.core.store import read_json
from headwater.documents.document import read_batches, shards_in, source_of

Json = dict[str, Any]
Document = dict[str, Any]
"""A row of SCHEMA or of DROPPED_SCHEMA."""
MOST_SEARCHED = 2_000_000
"""Documents among which the kept one of duplicates is looked for: reading the ids of so many takes about a second."""


class Evidence:
    """The finished folders of a run, read when asked; whatever a recipe left out is empty or None."""

    def __init__(self, folders: Mapping[str, Path], machine: Machine) -> None:
        """Take stage name -> finished folder, in the order of the flow, and the machine that costs are estimated for."""
        self.folders = folders
        self.machine = machine
        self.manifests: dict[str, Json] = {name: read_json(path / "manifest.json") for name, path in folders.items()}

    def counts(self, stage: str) -> Json:
        """What a stage counted; empty when it is not part of the run."""
        return self.manifests[stage]["counts"] if stage in self.manifests else {}

    def settings(self, stage: str) -> Json:
        """The settings that a stage ran with; empty when it is not part of the run."""
        return self.manifests[stage]["settings"] if stage in self.manifests else {}

    def file(self, stage: str, name: str) -> Any:
        """The content of a JSON file that a stage wrote; None without the stage or the file."""
        path = self.folders[stage] / name if stage in self.folders else None
        return read_json(path) if path is not None and path.is_file() else None

    @property
    def seconds(self) -> dict[str, float]:
        """Time that each stage took when it ran [s]."""
        return {name: manifest["seconds"] for name, manifest in self.manifests.items()}

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """Stage and text of every warning."""
        return [(name, text) for name, manifest in self.manifests.items() for text in manifest["warnings"]]

    # ---------------------------------------------------------------------------------------------- documents

    @property
    def document_stages(self) -> list[str]:
        """Stages that take documents in and keep or drop each."""
        return [name for name in self.manifests if "dropped" in self.counts(name)]

    @property
    def curated(self) -> str:
        """The stage whose documents go on to the tokenizer: the last that can drop, before some are held out."""
        return ([name for name in self.document_stages if name != "split"] or self.document_stages)[-1]

    @property
    def sources(self) -> list[str]:
        """Names of the sources, in the order of the recipe."""
        return list(self.counts(self.document_stages[0])["sources"]) if self.document_stages else []

    @property
    def dropped(self) -> dict[tuple[str, str], dict[str, int]]:
        """(stage, rule) -> documents and bytes dropped: stage by stage, the rule that dropped most first."""
        found = {}
        for stage in self.document_stages:
            rules = self.counts(stage)["dropped"]
            for rule in sorted(rules, key=lambda name: -rules[name]["documents"]):
                if rules[rule]["documents"]:
                    found[stage, rule] = rules[rule]
        return found

    def sample_of_kept(self, per_source: int) -> dict[str, list[Document]]:
        """Some documents of each source that went on to the tokenizer; a fair sample, the same on every run.

        As many as are asked for with the smallest ids, looked for in the first shards of a source: enough of them to
        hold a hundred times as many.
        """
        found: dict[str, list[Document]] = {}
        looked: dict[str, int] = {}
        for shard in shards_in(self.folders[self.document_stages[-1]] / "documents"):
            source = source_of(shard)
            if looked.get(source, 0) >= 100 * per_source:
                continue
            for batch in read_batches(shard):
                looked[source] = looked.get(source, 0) + batch.num_rows
                first = np.argsort(batch.column("id").to_numpy(zero_copy_only=False))[:per_source]
                rows = found.get(source, []) + batch.take(pa.array(first)).to_pylist()
                found[source] = sorted(rows, key=lambda row: row["id"])[:per_source]
        return found

    def dropped_documents(self, stage: str, per_rule: int) -> dict[str, list[Document]]:
        """Some of the documents that a stage dropped, for each rule.

        Ids are hashes of texts, so the smallest ids are a fair sample, the same on every run, and no text comes twice.
        """
        smallest: dict[str, dict[str, Document]] = {}
        for shard in shards_in(self.folders[stage] / "dropped") if per_rule else ():
            for batch in read_batches(shard):
                rules = batch.column("rule").to_numpy(zero_copy_only=False)
                ids = batch.column("id").to_numpy(zero_copy_only=False)
                for rule in np.unique(rules):
                    at = np.flatnonzero(rules == rule)
                    _, first = np.unique(ids[at], return_index=True)
                    known = smallest.setdefault(rule, {})
                    known |= {row["id"]: row for row in batch.take(pa.array(at[first[:per_rule]])).to_pylist()}
                    smallest[rule] = dict(sorted(known.items())[:per_rule])
        return {rule: list(rows.values()) for rule, rows in smallest.items()}

    def kept_documents(self, stage: str, ids: set[str]) -> dict[str, Document]:
        """Documents that a stage kept, by id; nothing when there are so many that looking for them would take long."""
        found: dict[str, Document] = {}
        if not ids or self.counts(stage)["documents_out"] > MOST_SEARCHED:
            return found
        for shard in shards_in(self.folders[stage] / "documents"):
            hits = [[key in ids for key in batch.to_pydict()["id"]] for batch in read_batches(shard, ["id"])]
            if any(map(any, hits)):  # only then are texts read
                for hit, batch in zip(hits, read_batches(shard), strict=True):
                    found |= {row["id"]: row for row in batch.filter(pa.array(hit)).to_pylist()}
        return found

    # --------------------------------------------------------------------------------------- training, scores

    @cached_property
    def metrics(self) -> list[Json]:
        """The lines of the training's metrics.jsonl."""
        return read_metrics(self.folders["train"] / "metrics.jsonl") if "train" in self.folders else []

    @property
    def training_steps(self) -> list[Json]:
        """The logged training steps."""
        return [line for line in self.metrics if "loss" in line]

    @property
    def validations(self) -> list[Json]:
        """The validations during training; none without held-out documents."""
        return [line for line in self.metrics if line.get("validation_bits_per_byte")]

    @cached_property
    def forecast(self) -> Json | None:
        """What was expected before training began; None where nothing was written down."""
        found = remembered(self.folders["train"]) if "train" in self.folders else None
        return dict(found) if found else None

    @cached_property
    def bits_per_byte(self) -> dict[str, Json]:
        """Model or baseline -> source -> value, standard error and sizes; from the stage evaluate."""
        scores = self.file("evaluate", "scores.json") or {}
        return scores.get("bits_per_byte", {})

    @cached_property
    def tasks(self) -> Json:
        """What tasks.json of the stage evaluate says; empty without tasks."""
        return self.file("evaluate", "tasks.json") or {}

    @cached_property
    def generations(self) -> list[Json]:
        """What the models wrote after each prompt; from the stage evaluate."""
        return self.file("evaluate", "generations.json") or []

    @cached_property
    def tokens(self) -> Json:
        """The token shards' tokens.json."""
        return self.file("encode", "tokens.json") or {}

    # ------------------------------------------------------------------------------------------------ summary

    def summary(self) -> Json:
        """The numbers of the run that programs ask for; those of absent stages are None.

        `final_validation_bits_per_byte` is of the last validation of the training. Its `total` is all bits over all
        bytes of the documents measured, as in the scores of the stage evaluate: each source weighs by its bytes.
        """
        train = self.counts("train")
        documents = bool(self.document_stages)
        dropped: dict[str, int] = {}
        for (_, rule), counts in self.dropped.items():
            dropped[rule] = dropped.get(rule, 0) + counts["documents"]
        return {
            "initial_loss": train.get("initial_loss"),
            "expected_initial_loss": train.get("expected_initial_loss"),
            "final_validation_bits_per_byte": self.validations[-1]["validation_bits_per_byte"]
            if self.validations
            else None,
            "documents_in": self.counts(self.document_stages[0])["documents_in"] if documents else None,
            "documents_out": self.counts(self.curated)["documents_out"] if documents else None,
            "dropped": dropped if documents else None,
            "tokens": train.get("tokens"),
            "steps": train.get("steps"),
            "tokens_per_second": train.get("tokens_per_second"),
            "mfu": train.get("mfu"),
            "seconds": self.seconds,
            "parameters": train.get("parameters", self.counts("initialize").get("parameters")),
            "forecast": self.forecast
            and {key: self.forecast.get(key) for key in ("tokens", "bits_per_byte", "basis", "stages")},
        }
