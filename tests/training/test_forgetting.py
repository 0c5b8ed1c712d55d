"""Going on with a trained model: replay, curves of what it knew before, and a limit to what it may forget."""

from __future__ import annotations

import pytest

from headwater.core.errors import MismatchError
from headwater.core.log import read_metrics
from headwater.model import checkpoint
from headwater.training.forgetting import SlowWhenForgetting, StopWhenForgetting, Watch
from headwater.training.train import Run, train

from .conftest import make_settings, make_world, workspace

ONLY_UP = {"weights": {"up": 1, "down": 0}, "max_epochs": 1000}


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """Inputs whose first weights were trained on the source `down`."""
    folder = tmp_path_factory.mktemp("continued")
    world = make_world(folder)
    base = workspace(folder / "base")
    mixture = {"weights": {"up": 0, "down": 1}, "max_epochs": 1000}
    train(make_settings(mixture=mixture, steps=60), world, base)
    model, _ = checkpoint.load_model(base.folder / "checkpoint")
    notes = {"initialized": "checkpoint", "expected_initial_loss": None}
    checkpoint.save(world["checkpoint"] / "checkpoint", model, 0, notes)
    return world


def curve(out, source: str) -> list[float]:
    lines = read_metrics(out.folder / "metrics.jsonl")
    return [line["validation_loss"][source] for line in lines if "validation_loss" in line]


def test_without_replay_it_forgets_and_the_curve_shows_it(continued, settings, out, tmp_path):
    counts = train(settings(mixture=ONLY_UP, steps=60, validate_every=20), continued, out)
    assert any("nothing like what they were trained on is replayed" in warning for warning in out.warnings)
    forgotten = curve(out, "down")
    assert len(forgotten) == 4, "before the first step, after 20 and 40, and at the end"
    assert forgotten[-1] > forgotten[0] + 0.3
    assert counts["forgetting"]["loss"]["down"] == {"start": forgotten[0], "end": forgotten[-1]}
    assert counts["validation_loss"]["total"] == counts["validation_loss"]["up"], "the total is that of the mixture"

    replayed = workspace(tmp_path / "replayed")
    mixture = {"replay": {"down": 0.25}, "max_epochs": 1000}
    counts = train(settings(mixture=mixture, steps=60, validate_every=20), continued, replayed)
    assert not any("replayed" in warning for warning in replayed.warnings)
    assert counts["mixture"]["down"]["weight"] == 0.25
    assert curve(replayed, "down")[-1] < forgotten[-1] - 0.2


def test_it_stops_at_the_limit(continued, settings, out):
    plan = settings(mixture=ONLY_UP, steps=60, validate_every=5, forgetting={"use": "stop", "limit": 0.05})
    counts = train(plan, continued, out)
    assert counts["steps"] < 60
    (event,) = counts["forgetting"]["events"]
    assert event["step"] == counts["steps"]
    assert event["source"] == "down"
    assert event["loss"] > event["start"] + 0.05
    (warning,) = [line for line in out.warnings if "forgetting.limit" in line]
    assert "the validation loss of 'down' has risen by" in warning
    assert warning.endswith("training stops here")
    steps = [line["step"] for line in read_metrics(out.folder / "metrics.jsonl") if "validation_loss" in line]
    assert len(steps) == len(set(steps)), "measured once a step"


def test_it_goes_on_slower_and_remembers_it_when_resumed(continued, settings, out, tmp_path):
    change = {"forgetting": {"use": "lower_rate", "limit": 0.02, "factor": 0.25}, "mixture": ONLY_UP}
    plan = settings(steps=60, validate_every=5, **change)
    counts = train(plan, continued, out)
    events = counts["forgetting"]["events"]
    assert counts["steps"] == 60
    assert events
    assert counts["forgetting"]["rate_factor"] == 0.25 ** len(events)
    free = train(settings(mixture=ONLY_UP, steps=60), continued, workspace(tmp_path / "free"))
    assert counts["validation_loss"]["down"] < free["validation_loss"]["down"] - 0.1

    part = workspace(tmp_path / "part")
    run = Run(plan, continued, part)
    while run.steps_done < events[0]["step"] + 2:
        run.step()
    run.save()
    assert train(plan, continued, part)["forgetting"] == counts["forgetting"]
    weights = [checkpoint.load_model(place.folder / "checkpoint")[0].state_dict() for place in (out, part)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_the_rate_is_lowered_only_while_it_gets_worse(out):
    watch = Watch(SlowWhenForgetting(use="lower_rate", limit=0.1), ["web"], ["web"], {})
    factors = []
    for step, loss in enumerate([3.0, 3.05, 3.2, 3.15, 3.3, 3.0, 3.2]):
        watch(step, {"web": loss, "own": 1.0}, out)
        factors.append(watch.rate_factor)
    assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert [event["step"] for event in watch.memory["events"]] == [2, 4, 6]


def test_what_cannot_be_watched_is_refused():
    stop = StopWhenForgetting(use="stop")
    with pytest.raises(MismatchError, match="no source is watched"):
        Watch(stop, [], ["own"], {})
    with pytest.raises(MismatchError, match="'web' is to be watched but has no validation loss"):
        Watch(stop, ["web"], ["own"], {})
    with pytest.raises(MismatchError, match="'old' is to be watched"):
        Watch(stop.model_copy(update={"sources": ("old",)}), ["web"], ["web"], {})
