"""THE FLOW: a recipe's sections become stages, each stage a finished folder, the whole a model with its evidence.

read -> clean -> dedup -> decontaminate -> split -+-> tokenizer -+-> initialize -+-> train -> evaluate -> export -> report
                                                  +-> encode <---+---------------+            |
                                                  +-> index ----------------------------------+-> memorization
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from headwater.advice import ladder as rungs
from headwater.advice import pace
from headwater.advice.delivery import Delivery, delivery
from headwater.advice.estimate import Estimate, derived_model, estimate
from headwater.advice.outlook import Outlook, keep_activations, outlook, remember
from headwater.core import hardware
from headwater.core.bucket import bucket_of
from headwater.core.config import Config
from headwater.core.errors import HeadwaterError, InputError, MismatchError, RecipeError, StoreError
from headwater.core.hardware import Machine, free_disk_bytes, share_processor
from headwater.core.log import logger
from headwater.core.stage import Stage, Step, Store, Workspace, door, library_versions, perform, stage_named
from headwater.core.store import HashMemory, atomic_path, read_json, storage_error, write_json
from headwater.core.units import format_bytes, format_seconds
from headwater.model.config import Export, RandomWeights
from headwater.model.dial import Derivation
from headwater.model.presets import NewModel
from headwater.model.shape import ModelConfig
from headwater.recipe import Recipe
from headwater.report import Report
from headwater.training.regimes import Told, tell

DOCUMENTS = ("split", "decontaminate", "dedup", "clean", "read")
"""Who hands on documents: the last of these that is in the recipe."""

BEFORE_EXPORT = (*reversed(DOCUMENTS), "encode", "initialize", "train", "evaluate")
"""What the model card tells of."""

FLOW = (
    Stage("read", "headwater.documents.read:read", {}, version=2),
    Stage("clean", "headwater.documents.clean:clean", {"documents": ("read",)}),
    Stage("dedup", "headwater.documents.dedup:dedup", {"documents": DOCUMENTS[3:]}, version=3),
    Stage("decontaminate", "headwater.documents.decontaminate:decontaminate", {"documents": DOCUMENTS[2:]}),
    Stage("split", "headwater.documents.split:split", {"documents": DOCUMENTS[1:]}),
    Stage("tokenizer", "headwater.tokens.tokenizer:tokenizer", {"documents": DOCUMENTS}),
    Stage("encode", "headwater.tokens.encode:encode", {"documents": DOCUMENTS, "tokenizer": ("tokenizer",)}),
    Stage("index", "headwater.tokens.index:index", {"documents": DOCUMENTS}),
    Stage("initialize", "headwater.model.initialize:initialize", {"tokenizer": ("tokenizer",), "documents": DOCUMENTS}),
    Stage("train", "headwater.training.train:train", {"tokens": ("encode",), "checkpoint": ("initialize",)}),
    Stage(
        "evaluate",
        "headwater.evaluation.evaluate:evaluate",
        {"tokens": ("encode",), "tokenizer": ("tokenizer",), "start": ("initialize",), "checkpoint": ("train",)},
        version=2,
    ),
    Stage(
        "memorization",
        "headwater.tracing:memorization",
        {"tokens": ("encode",), "tokenizer": ("tokenizer",), "checkpoint": ("train",)},
        evidence=("index", "evaluate"),
    ),
    Stage(
        "export",
        "headwater.export:export",
        {"documents": DOCUMENTS, "tokenizer": ("tokenizer",), "checkpoint": ("train", "initialize")},
        version=2,
        evidence=BEFORE_EXPORT,
    ),
)
"""Every stage but the report, in the order of the flow."""

CONVERT = "headwater.export:convert"
LADDER = "headwater.training.ladder:ladder"
TRIAL, ACTIVATIONS = "headwater.training.trial:trial", "headwater.advice.activations:count"

TABLE = "headwater.training.phases:write_rows"

FOLLOW, DISMISS = "headwater.training.follow:follow", "headwater.training.distributed:dismiss"
"""What the other processes of a launch do, and how they are told that there is nothing more to do."""

REPORT = Stage("report", "headwater.report:report", {stage.name: (stage.name,) for stage in FLOW})
"""The report reads whatever has been done."""


@dataclass(frozen=True)
class Plan:
    """What a recipe will do: its stages in order, which of them must run and why, and what that takes."""

    recipe: Recipe
    steps: tuple[Step, ...]
    estimates: tuple[Estimate, ...]
    store: Path
    delivery: Delivery | None = None
    """What training will take from each source, if there is training to do."""
    model: ModelConfig | None = None
    """The model that will be made, or gone on with."""
    derived: tuple[Derivation, ...] = ()
    """What of its shape follows from the dial."""
    training: tuple[Told, ...] = ()
    """What the regime of the training and published laws have settled."""
    left_behind: tuple[Path, str] | None = None
    """A training that was begun and has changed since: its unfinished folder, and what changed."""
    outlook: Outlook | None = None
    """What training is expected to take and to reach, while it has not run."""

    @property
    def waiting(self) -> tuple[Step, ...]:
        """The stages that must run."""
        return tuple(step for step in self.steps if not step.finished)

    def rows(self) -> list[dict[str, Any]]:
        """One row per stage, for a table or as JSON."""
        return [
            {
                "stage": step.name,
                "state": "done" if step.finished else "run",
                "reason": step.reason,
                "seconds": cost.seconds,
                "disk_bytes": cost.disk_bytes,
                "basis": cost.basis,
                "folder": str(step.folder),
            }
            for step, cost in zip(self.steps, self.estimates, strict=True)
        ]

    def __str__(self) -> str:
        """The plan as a table with its sums."""
        table = [("stage", "state", "time", "disk", "basis", "why")]
        for row in self.rows():
            time, disk = format_seconds(row["seconds"]), format_bytes(row["disk_bytes"])
            why = row["folder"] if row["state"] == "done" else row["reason"]
            table.append((row["stage"], row["state"], time, disk, row["basis"], why))
        widths = [max(len(row[column]) for row in table) for column in range(5)]
        right = (False, False, True, True, False)
        lines = [
            "  ".join(
                [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=False)]
                + [row[5]]
            )
            for row in table
        ]
        mixture = [str(self.delivery), ""] if self.delivery else []
        model = (
            [f"model: {self.model.describe()}", *(f"  {number}" for number in self.derived), ""] if self.model else []
        )
        regime = getattr(self.recipe.train, "regime", None)
        title = f"training: regime {regime}" if regime else "training"
        training = [title, *(f"  {one}" for one in self.training), ""] if self.training else []
        expected = [str(self.outlook), ""] if self.outlook else []
        return "\n".join([*lines, "", *mixture, *model, *training, *expected, *self.notes(), self.summary()])

    def notes(self) -> list[str]:
        """Libraries that have another version now than when finished stages were made; nothing runs anew for that."""
        now, stages = library_versions(), {}
        for step in self.steps:
            before = step.manifest()["versions"] if step.finished else {}
            for name, version in before.items():
                if now.get(name, version) != version:
                    stages.setdefault(f"{name} {version} (now {now[name]})", []).append(step.name)
        return [f"note: {', '.join(names)}: made with {library}" for library, names in stages.items()]

    def summary(self) -> str:
        """The plan in a sentence."""
        if not self.waiting:
            return f"{self.recipe.name}: every stage is done; nothing runs."
        to_do = [cost for step, cost in zip(self.steps, self.estimates, strict=True) if not step.finished]
        seconds, disk = sum(cost.seconds for cost in to_do), sum(cost.disk_bytes for cost in to_do)
        return (
            f"{self.recipe.name}: {len(to_do)} of {len(self.steps)} stages run, about {format_seconds(seconds)} and "
            f"{format_bytes(disk)} of disk ({format_bytes(free_disk_bytes(self.store))} free)."
        )


@dataclass(frozen=True)
class Results:
    """Where a run's results are."""

    name: str
    folder: Path
    """Folder of links: report, summary, model, and the folder of each stage."""
    stages: Mapping[str, Path]
    ran: tuple[str, ...]
    """Names of the stages that had to run."""

    @property
    def report(self) -> Path | None:
        """The HTML report, if the recipe asks for one."""
        return self._existing("report.html")

    @property
    def model(self) -> Path | None:
        """The Hugging Face folder of the model, if the recipe asks for one."""
        return self._existing("model")

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers of summary.json; empty without a report."""
        path = self._existing("summary.json")
        return read_json(path) if path else {}

    def _existing(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).exists() else None


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that a recipe asks for, in order.

    Raises:
        RecipeError: a stage lacks another that it needs.
    """
    present = tuple(stage for stage in (*FLOW, REPORT) if getattr(recipe, stage.name) is not None)
    names = {stage.name for stage in present}
    problems = [
        f"{recipe.name}: {stage.name}: needs {' or '.join(sources)}; add a section '{sources[0]}:'"
        for stage in present
        if stage is not REPORT
        for sources in stage.inputs.values()
        if not names.intersection(sources)
    ]
    if problems:
        raise RecipeError(
            "sections are missing", place=recipe.name, hint="an absent section is an absent stage", problems=problems
        )
    return present


def settings_of(recipe: Recipe, stage: Stage) -> Config:
    """A stage's settings; the title of report and model card is the recipe's name unless they have one of their own."""
    settings = getattr(recipe, stage.name) or Report()
    if not isinstance(settings, Report | Export):
        return settings
    return settings.model_copy(update={"title": settings.title or recipe.name, "about": settings.about or recipe.about})


def plan(recipe: Recipe, until: str | None = None) -> Plan:
    """Say which stages of a recipe must run, why, how long they take and how much disk; nothing is changed.

    Args:
        recipe: what to do.
        until: name of the last stage to consider.

    Raises:
        HeadwaterError: a section or an input is missing, or a finished result was changed by hand.
    """
    stages = stages_of(recipe)
    if until is not None:
        stages = stages[: stages.index(stage_named(stages, until)) + 1]
    folder = recipe.machine.store_folder
    store = Store(folder, _last_run(recipe), _last_run(recipe, BEGUN), bucket_of(recipe.machine))
    hashes = HashMemory(folder / ".hashes.json")
    steps: dict[str, Step] = {}
    for stage in stages:
        inputs = {role: steps[name] for role, name in _sources(stage, steps).items()}
        steps[stage.name] = store.plan(stage, settings_of(recipe, stage), inputs, hashes)
    if folder.is_dir():
        hashes.save()
    planned = list(steps.values())
    training = steps.get("train")
    left_behind = store.left_behind(training) if training and not training.partial.is_dir() else None
    costs = tuple(estimate(planned, folder, recipe.machine))
    taken = delivery(planned, folder, recipe.machine)
    model, derived = derived_model(planned)
    settled = tuple(tell(recipe.train, model)) if recipe.train and training else ()
    waits = training is not None and not training.finished
    expected = outlook(planned, taken, recipe.machine, folder) if waits else None
    return Plan(recipe, tuple(planned), costs, folder, taken, model, derived, settled, left_behind, expected)


def run(recipe: Recipe, until: str | None = None, anew: bool = False) -> Results:
    """Run what a recipe still needs, and link its results in `runs/<name>/`.

    Args:
        recipe: what to run.
        until: name of the last stage to run.
        anew: begin training anew although one with other settings was begun and is not finished.

    Under `torchrun` the first process does all this, and the others train with it.

    Raises:
        HeadwaterError: what the user can solve; finished stages stay finished, and the next run goes on from there.
    """
    launched = hardware.launch()
    if launched is None:
        return _run(recipe, until, anew)
    if recipe.machine.store_is_url and launched.ranks > launched.local_ranks:
        hint = "give a folder that all machines see, and copy what is finished there"
        raise MismatchError("training on several machines needs a folder", place="machine.store", hint=hint)
    if launched.rank:
        door(FOLLOW)()
        return Results(recipe.name, Path(recipe.machine.runs) / recipe.name, {}, ())
    try:
        return _run(recipe, until, anew)
    finally:
        door(DISMISS)()


def _run(recipe: Recipe, until: str | None, anew: bool, remembering: bool = True) -> Results:
    planned = plan(recipe, until)
    if planned.left_behind and not anew:
        _refuse_change(*planned.left_behind)
    check_disk(planned)
    share_processor()
    logger.info("%s", planned.summary())
    if remembering:
        remember(planned.steps, planned.estimates, planned.outlook, planned.store)
    ran = []
    if planned.waiting and (bucket := bucket_of(recipe.machine)):
        bucket.check()
    _settle(recipe, planned.steps)
    for step in planned.steps:
        if not step.finished:
            logger.info("%s: %s", step.name, step.reason)
            _remember(recipe, step, BEGUN)
            try:
                manifest = perform(step, recipe.machine)
            except HeadwaterError:
                link(recipe, planned.steps)  # what is finished can be looked at
                raise
            logger.info("  done in %s", format_seconds(manifest["seconds"]))
            ran.append(step.name)
        _remember(recipe, step)
    return Results(
        recipe.name,
        link(recipe, plan(recipe).steps if until else planned.steps),
        {step.name: step.folder for step in planned.steps},
        tuple(ran),
    )


def report_so_far(recipe: Recipe) -> Results:
    """Make a report of the stages that are finished, even when later ones are not.

    Raises:
        StoreError: nothing is finished yet.
    """
    finished = [step for step in plan(recipe).steps if step.finished and step.name != REPORT.name]
    if not finished:
        raise StoreError("no stage is finished yet", place=recipe.name, hint="headwater run first")
    store = Store(recipe.machine.store_folder, _last_run(recipe))
    _settle(recipe, finished)
    hashes = HashMemory(store.folder / ".hashes.json")
    step = store.plan(REPORT, settings_of(recipe, REPORT), {step.name: step for step in finished}, hashes)
    perform(step, recipe.machine, anew=True)  # with today's prices and page
    steps = (*finished, step)
    return Results(recipe.name, link(recipe, steps), {step.name: step.folder for step in steps}, (REPORT.name,))


def export_to(recipe: Recipe, folder: Path | None = None, step: int | None = None) -> Path:
    """Write a model of a recipe that has been trained elsewhere, as its section export says; returns the folder.

    Args:
        recipe: whose model.
        folder: where; must not exist. By default a folder of the recipe's name and the format in the current one.
        step: training step of the checkpoint; by default the final one.

    Raises:
        StoreError: the model is not trained yet, or the folder exists.
        InputError: there is no checkpoint of this step; names those there are.
        MismatchError: the written files do not compute what the model computes.
    """
    steps = {planned.name: planned for planned in plan(recipe).steps}
    _settle(recipe, tuple(steps.values()))
    trained = steps.get("train")
    if trained is None or not trained.finished:
        raise StoreError("the model is not trained yet", place=recipe.name, hint=f"headwater run {recipe.name}")
    source = trained.folder / "checkpoint"
    if step is not None:
        found = {int(path.name.partition("-")[2]): path for path in (trained.folder / "checkpoints").glob("step-*")}
        found[trained.manifest()["counts"]["steps"]] = source
        if step not in found:
            known = ", ".join(map(str, sorted(found)))
            raise InputError(f"has no checkpoint of step {step}", place=recipe.name, hint=f"there are: {known}")
        source = found[step]
    stage = stage_named(FLOW, "export")
    settings = recipe.export or Export()
    folder = folder or Path(f"{recipe.name}-{settings.format}")
    inputs = {role: steps[name].folder for role, name in _sources(stage, steps).items() if steps[name].finished}
    door(CONVERT)(
        settings_of(recipe.model_copy(update={"export": settings}), stage), inputs, source, folder, recipe.machine
    )
    return folder


def speed(recipe: Recipe | None) -> tuple[str, list[dict[str, Any]]]:
    """Train a few steps with one improvement after another: what was trained, and a row for each.

    Args:
        recipe: whose model and micro-batch to take; None for a model that suits the machine.

    Raises:
        RecipeError: the recipe does not tell the shape of its model, or does not train.
        MismatchError: the recipe is to use CUDA, and there is none.
    """
    if recipe is None:
        return door(LADDER)(None, None, Machine())
    config, _ = derived_model(plan(recipe).steps)
    if config is None or recipe.train is None:
        problem = "does not tell the shape of a model to train"
        raise RecipeError(problem, place=recipe.name, hint="take one with the sections initialize and train")
    return door(LADDER)(config, recipe.train, recipe.machine)


def measure(recipe: Recipe) -> Plan:
    """Train some real steps of a recipe and count its activations; the plan with what they told.

    The stages before training run first where they have not yet: only their rows and weights are the real ones.

    Raises:
        RecipeError: the recipe does not train.
        HeadwaterError: what those stages or the steps would raise.
    """
    if recipe.train is None or recipe.initialize is None:
        raise RecipeError("does not train", place=recipe.name, hint="add the sections initialize and train")
    ready = _ready_to_train(recipe)
    steps = {step.name: step for step in ready.steps}
    store = ready.store
    folder = store / "trial"
    try:
        share_processor()
        out = Workspace(folder, recipe.machine)
        inputs = {role: source.folder for role, source in steps["train"].inputs.items()}
        found = door(TRIAL)(recipe.train, inputs, out)
    finally:
        for path in store.glob("trial-*.partial"):
            shutil.rmtree(path, ignore_errors=True)
    pace.keep(store, recipe.train, recipe.machine, found)
    config = ModelConfig.model_validate(found["model"])
    keep_activations(store, config, door(ACTIVATIONS)(config, found["precision"]).bytes_per_token(config.num_layers))
    return plan(recipe)


def elsewhere(planned: Plan, gpu: str | None, gpus: int | None, prices: Path | None) -> Plan:
    """A plan whose training is priced on other hardware, or by other prices.

    Raises:
        RecipeError: the recipe trains nothing, or its model is not known before earlier stages have run.
        InputError: there is no such GPU, or no such file.
        MismatchError: the model does not fit on it.
    """
    if gpu is None and gpus is not None:
        raise InputError("needs a kind of GPU", place="--count", hint="such as --gpu h100-80gb")
    priced = outlook(
        planned.steps, planned.delivery, planned.recipe.machine, planned.store, gpu=gpu, gpus=gpus, prices=prices
    )
    if priced is None:
        hint = f"headwater run {planned.recipe.name} --until initialize"
        raise RecipeError("no model is known to price", place=planned.recipe.name, hint=hint)
    return replace(planned, outlook=priced)


def ladder(recipe: Recipe) -> tuple[Path, rungs.Law, Outlook | None]:
    """Train small models of a recipe's own text, and fit the law that tells how good the planned one will be.

    Returns the file of the law, the law, and what is now expected of the recipe.

    Raises:
        RecipeError: the recipe's model is not a new one, or nothing is held out to measure on.
    """
    if recipe.train is None or not isinstance(recipe.initialize, RandomWeights):
        hint = "a ladder trains smaller ones from random weights"
        raise RecipeError("does not train a new model", place=recipe.name, hint=hint)
    ready = _ready_to_train(recipe)
    encode = next(step for step in ready.steps if step.name == "encode")
    expected = outlook(ready.steps, ready.delivery, recipe.machine, ready.store)
    assert expected is not None, "a new model with a known tokenizer has a shape"
    found = []
    runs = rungs.rungs_of(expected.model, expected.tokens, recipe.train.batch_tokens)
    for number, (config, tokens) in enumerate(runs, 1):
        logger.info(
            "ladder: run %d of %d, %s parameters, %s tokens",
            number,
            len(runs),
            f"{config.parameters():,}",
            f"{tokens:,}",
        )
        counts = _run_rung(recipe, ready.store, config, tokens)
        total = counts.get("validation_bits_per_byte", {}).get("total")
        if total is None:
            raise RecipeError("nothing is held out", place=recipe.name, hint="add the section split: {}")
        found.append(rungs.Rung(counts["parameters"], counts["tokens"], total))
    steps = expected.tokens / recipe.train.batch_tokens
    law = rungs.fit(found, expected.model.parameters(), expected.tokens, steps)
    path = rungs.keep_law(ready.store, encode, recipe.train, law)
    return path, law, plan(recipe).outlook


def _ready_to_train(recipe: Recipe) -> Plan:
    """The plan of a recipe whose stages before training have run."""
    ready = plan(recipe, "train")
    if any(not step.finished for step in ready.steps if step.name != "train"):
        run(recipe, until="initialize")
        ready = plan(recipe, "train")
    return ready


def _run_rung(recipe: Recipe, store: Path, config: ModelConfig, tokens: int) -> dict[str, Any]:
    """Train one small model as the recipe would; returns what was counted. Its stages stay, like all others."""
    assert recipe.train is not None
    assert isinstance(recipe.initialize, RandomWeights)
    shape = NewModel.model_validate(config.model_dump(include=set(NewModel.model_fields) - {"preset"}))
    start = recipe.initialize.model_copy(update={"model": shape, "dial": None})
    how = {"steps": None, "total_tokens": tokens, "budget": None, "phases": (), "validate_every": 0}
    how |= {"checkpoint_every": 0, "checkpoint_interval": 0.0}
    machine = recipe.machine.model_copy(update={"runs": str(store / rungs.FOLDER / "runs")})
    small = recipe.model_copy(
        update={
            "initialize": start, "train": recipe.train.model_copy(update=how), "machine": machine,
            "evaluate": None, "export": None, "report": None,
        }
    )  # fmt: skip
    results = _run(small, "train", anew=True, remembering=False)
    return read_json(results.stages["train"] / "manifest.json")["counts"]


def tokens_to(recipe: Recipe, path: Path, steps: int | None = None) -> int:
    """Write the rows that training reads, in its order, as a parquet file; returns how many rows there are.

    Args:
        recipe: whose tokens; its documents are encoded already.
        path: the file, which must not exist.
        steps: of how many training steps; by default of all, or of one epoch where a budget decides how many there are.

    Raises:
        StoreError: the documents are not encoded yet.
        RecipeError: the recipe does not train.
        InputError: less than one step.
        MismatchError: the mixture cannot deliver so many steps.
    """
    if steps is not None and steps < 1:
        raise InputError(f"{steps} training steps have no rows", place="steps", hint="give 1 or more, or leave it out")
    found = {planned.name: planned for planned in plan(recipe).steps}
    if recipe.train is None or "encode" not in found:
        problem = "no training rows without the sections encode and train"
        raise RecipeError(problem, place=recipe.name, hint="add them; train says how long a row is")
    if not found["encode"].finished:
        hint = f"headwater run {recipe.name} --until encode"
        raise StoreError("the documents are not encoded yet", place=recipe.name, hint=hint)
    _settle(recipe, [found["encode"]])
    return door(TABLE)(recipe.train, found["encode"].folder, path, steps)


def check_disk(planned: Plan) -> None:
    """Refuse to begin what cannot fit on the disk.

    Raises:
        StoreError: the estimate exceeds the free space.
    """
    needed = sum(
        cost.disk_bytes for step, cost in zip(planned.steps, planned.estimates, strict=True) if not step.finished
    )
    free = free_disk_bytes(planned.store)
    if needed > free:
        problem = f"the disk is too full: about {format_bytes(needed)} are needed and {format_bytes(free)} are free"
        raise StoreError(
            problem, place=str(planned.store), hint="free some space, or set machine.store to another disk"
        )


def _settle(recipe: Recipe, steps: Sequence[Step]) -> None:
    """Where the store is a bucket: bring what is finished there, and put there what is finished here."""
    if bucket := bucket_of(recipe.machine):
        for step in steps:
            if step.finished:
                bucket.settle(step.folder)


def link(recipe: Recipe, steps: Sequence[Step]) -> Path:
    """Make `runs/<name>/` point at the finished stages of `steps`, and at nothing older."""
    folder = Path(recipe.machine.runs) / recipe.name
    finished = {step.name: step.folder for step in steps if (step.folder / "manifest.json").is_file()}
    links = {f"stages/{name}": target for name, target in finished.items()}
    for stage, names in (
        ("report", ("report.html", "report.md", "data-card.md", "summary.json")),
        ("export", ("model",)),
    ):
        links |= {
            name: finished[stage] / name for name in names if stage in finished and (finished[stage] / name).exists()
        }
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        for old in [*folder.iterdir(), *(folder / "stages").iterdir()]:
            if old.is_symlink() and str(old.relative_to(folder)) not in links:
                old.unlink()
        for name, target in links.items():
            _link(folder / name, target)
    except OSError as error:
        raise storage_error(error, folder) from error
    return folder


def _link(path: Path, target: Path) -> None:
    relative = os.path.relpath(target, path.parent)
    if path.is_symlink() and str(path.readlink()) == relative:
        return
    if path.is_dir() and not path.is_symlink():
        raise StoreError("is a folder, not a link of Headwater's", place=str(path), hint="move it away")
    with atomic_path(path) as temporary:
        try:
            temporary.symlink_to(relative, target_is_directory=target.is_dir())
        except OSError:  # a file system without symbolic links
            shutil.copytree(target, temporary) if target.is_dir() else shutil.copy2(target, temporary)


def _sources(stage: Stage, steps: Mapping[str, Step]) -> dict[str, str]:
    """Role -> the stage that fills it: the first candidate that is in the recipe."""
    wanted = {**stage.inputs, **{name: (name,) for name in stage.evidence}}
    found = {role: [name for name in names if name in steps] for role, names in wanted.items()}
    return {role: names[0] for role, names in found.items() if names}


def _refuse_change(partial: Path, changes: str) -> NoReturn:
    """Do not silently begin anew what somebody believes to go on."""
    saved = sorted((partial / "checkpoints").glob("step-*"))
    done = f"after {saved[-1].name.replace('-', ' ')}" if saved else "before its first checkpoint"
    raise MismatchError(
        f"training was begun with other settings and stopped {done}: {changes}",
        place=str(partial),
        hint="set them back to go on from there, or say --anew to train from the start",
    )


LAST, BEGUN = "stages.json", "begun.json"
"""Files of a run's folder: the folders of its finished stages, and of those that it began."""


def _last_run(recipe: Recipe, file: str = LAST) -> dict[str, str]:
    path = Path(recipe.machine.runs) / recipe.name / file
    try:
        return read_json(path) if path.is_file() else {}
    except HeadwaterError:
        return {}  # only used to say what changed


def _remember(recipe: Recipe, step: Step, file: str = LAST) -> None:
    path = Path(recipe.machine.runs) / recipe.name / file
    last = _last_run(recipe, file)
    if last.get(step.name) != step.folder.name:
        write_json(path, {**last, step.name: step.folder.name})
