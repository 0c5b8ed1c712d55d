"""Where the numbers of a run go: metrics.jsonl always, and the trackers that `machine.trackers` names.

What trackers write lies in the store's folder `trackers`, beside the stages, because they go on writing there when a run
has ended (as `wandb sync` does); only TensorBoard's files are part of the stage. A run that goes on after a kill is the
same run for each of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from headwater.core import hardware
from headwater.core.errors import HeadwaterError, MissingExtraError, TrainingError
from headwater.core.log import MetricsLog
from headwater.core.stage import Workspace

Values = Mapping[str, float | Mapping[str, float]]
"""Name -> number, or name -> source -> number."""
PROJECT = "headwater"


class Tracker(Protocol):
    """A place that takes named numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers after `step` steps."""
        ...

    def close(self) -> None:
        """Write what is still in memory."""
        ...


class Trackers:
    """All places where the numbers of a run go, as one."""

    def __init__(self, out: Workspace, steps_done: int, settings: Mapping[str, Any] | None = None) -> None:
        """Go on after `steps_done` steps: what was logged beyond them, before a kill, is dropped where that can be.

        Raises:
            MissingExtraError: a tracker's package is not installed.
            TrainingError: a tracker cannot begin, for example because nobody is logged in.
        """
        self._out = out
        self._metrics = MetricsLog(out.folder / "metrics.jsonl", keep=steps_done)
        self._trackers = {name: _open(name, out, steps_done, settings or {}) for name in out.machine.trackers}

    def log(self, step: int, tokens: int, values: Values, place: Mapping[str, str] | None = None) -> None:
        """Write down numbers after `step` steps; single ones are those of training.

        `place` says more of where the run is, for metrics.jsonl alone. A tracker that fails is left out from then on, with a warning: training is worth more.
        """
        self._metrics.write({"step": step, "tokens": tokens, **(place or {}), **values})
        flat: dict[str, float] = {}
        for name, value in values.items():
            nested = isinstance(value, Mapping)
            flat |= {f"{name}/{source}": v for source, v in value.items()} if nested else {f"train/{name}": value}
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.log(step, flat))

    def close(self) -> None:
        """Write what is still in memory."""
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.close())

    def _try(self, name: str, use: Callable[[Tracker], None]) -> None:
        try:
            use(self._trackers[name])
        except Exception as error:  # whatever other people's software throws
            del self._trackers[name]
            problem = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            self._out.warn(f"the tracker {name} failed and is left out from now on: {problem}")


class _TensorBoard:
    def __init__(self, out: Workspace, steps_done: int, settings: Mapping[str, Any]) -> None:  # noqa: ARG002
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._writer = tensorboard.SummaryWriter(str(out.folder / "tensorboard"), purge_step=steps_done + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """Follows wandb's own variables: WANDB_MODE=offline keeps everything here, to be sent with `wandb sync`."""

    def __init__(self, out: Workspace, steps_done: int, settings: Mapping[str, Any]) -> None:  # noqa: ARG002
        wandb: Any = importlib.import_module("wandb")
        self._run = wandb.init(
            project=PROJECT,
            id=_run_name(out),
            name=_run_name(out),
            dir=str(_folder(out)),
            config=dict(settings),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _MlFlow:
    """Goes where MLFLOW_TRACKING_URI says, else into a database file in the store."""

    def __init__(self, out: Workspace, steps_done: int, settings: Mapping[str, Any]) -> None:  # noqa: ARG002
        file = _folder(out) / "mlflow.db"
        hardware.set_environment(MLFLOW_TRACKING_URI=f"sqlite:///{file}")
        mlflow: Any = importlib.import_module("mlflow")
        self._client = mlflow.MlflowClient()
        experiment = self._client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        name = _run_name(out)
        found = self._client.search_runs([number], f"attributes.run_name = '{name}'")
        run = found[0] if found else self._client.create_run(number, run_name=name)
        self._run = run.info.run_id
        if not found:
            for key, value in settings.items():
                self._client.log_param(self._run, key, str(value)[:500])
        self._client.update_run(self._run, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _Trackio:
    """Keeps everything in the store; `trackio show` looks at it, with TRACKIO_DIR set to the folder."""

    def __init__(self, out: Workspace, steps_done: int, settings: Mapping[str, Any]) -> None:  # noqa: ARG002
        hardware.set_environment(TRACKIO_DIR=str(_folder(out) / "trackio"))
        trackio: Any = importlib.import_module("trackio")
        self._run = trackio.init(
            PROJECT, name=_run_name(out), config=dict(settings), resume="allow", embed=False, auto_log_gpu=False
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


_KINDS: dict[str, Callable[[Workspace, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "mlflow": _MlFlow,
    "trackio": _Trackio,
}


def _open(name: str, out: Workspace, steps_done: int, settings: Mapping[str, Any]) -> Tracker:
    place = "machine.trackers"
    try:
        return _KINDS[name](out, steps_done, settings)
    except ImportError as error:
        hint = f"pip install 'headwater[{name}]'"
        raise MissingExtraError(f"{name} is not installed ({error})", place=place, hint=hint) from None
    except HeadwaterError:
        raise
    except Exception as error:  # whatever other people's software throws
        problem = f"{name} cannot begin: {(str(error).strip().splitlines() or [type(error).__name__])[0][:200]}"
        raise TrainingError(problem, place=place, hint=f"mend it, or leave {name} out") from error


def _folder(out: Workspace) -> Path:
    folder = out.folder.absolute().parent / "trackers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run_name(out: Workspace) -> str:
    """The stage's name and fingerprint: the same after a kill, another for other settings."""
    return out.folder.name.removesuffix(".partial")
