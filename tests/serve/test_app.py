"""What the app answers, and what it refuses, without a browser."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from headwater.cli import main
from headwater.core.errors import InputError
from headwater.core.hardware import Machine
from headwater.evaluation.arena import Votes
from headwater.evaluation.opening import model_digest
from headwater.evaluation.prompting import prompting
from headwater.serve.app import app_of
from headwater.serve.ballots import MOST_OPEN, Ballots, Choice
from headwater.serve.browse import Shelf
from headwater.serve.fence import MOST_BODY_BYTES
from headwater.serve.models import Asked, Models, open_models
from headwater.serve.worker import MOST_WAITING, BusyError, EventStream, Worker

from .conftest import BASE

SAMPLING = {"max_new_tokens": 8, "seed": 3, "temperature": 0.9}


def events(client: TestClient, name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = client.post(f"/api/{name}", json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def texts(told: list[dict[str, Any]]) -> list[str]:
    assert told[-1]["done"]
    return ["".join(event["text"] for event in told if event.get("place") == place) for place in (0, 1)]


# ------------------------------------------------------------------------------------------------------------ writing


def test_models_write_side_by_side_what_they_write_alone(client: TestClient, place: Path) -> None:
    told = events(client, "write", {"models": [0, 1], "prompt": "The value of ", "sampling": SAMPLING})
    machine = Machine(runs=str(place / "runs"), threads=1, device="cpu")
    alone = [prompting("tiny", ["The value of"], SAMPLING, machine, step=step).all()[0] for step in (0, None)]
    assert texts(told) == [one.text for one in alone]
    assert told[-1]["tokens"] == [one.tokens for one in alone]
    places = [event["place"] for event in told if "text" in event]
    assert places != sorted(places), "they take turns"


def test_the_state_names_models_and_limits(client: TestClient) -> None:
    told = client.get("/api/state").json()
    assert [(one["label"], one["step"], one["trace"]) for one in told["models"]] == [
        ("before", 0, {"run": "tiny"}),
        ("tiny", 4, {"run": "tiny"}),
    ]
    assert told["limits"]["tokens"] == told["sampling"]["max_new_tokens"] == 64
    assert told["blind"]


def test_a_prompt_that_is_longer_than_the_context_is_told_of(client: TestClient) -> None:
    told = events(client, "write", {"models": [1], "prompt": "many words " * 200, "sampling": SAMPLING})
    assert any("too many for a context of 64" in event.get("remark", "") for event in told)
    assert told[-1]["done"]


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("write", {"models": [0], "prompt": "  \n"}, "the prompt is empty"),
        ("write", {"models": [0], "prompt": "a" * 8_001}, "prompt: String should have at most 8000 characters"),
        ("write", {"models": [0], "prompt": "a", "sampling": {"max_new_tokens": 65}}, "is more than 64"),
        ("write", {"models": [2], "prompt": "a", "sampling": SAMPLING}, "there is no model 2"),
        ("write", {"models": [-1], "prompt": "a", "sampling": SAMPLING}, "there is no model -1"),
        ("write", {"models": [0, 0], "prompt": "a", "sampling": SAMPLING}, "named twice"),
        ("write", {"models": [], "prompt": "a"}, "models: Tuple should have at least 1 item"),
        ("write", {"prompt": "a"}, "models: Field required"),
        ("write", {"models": [0], "prompt": 7}, "prompt: Input should be a valid string"),
        ("write", {"models": [0], "prompt": "a", "sampling": {"temperature": 1e-200}}, "temperature is 0, or"),
        ("write", {"models": [0], "prompt": "a", "sampling": {"repetition_penalty": 1e-9}}, "repetition_penalty"),
        ("write", {"models": [0], "prompt": "a", "sampling": {"seed": 2**60}}, "seed is 0 to"),
        ("write", {"models": [0], "prompt": "a", "sampling": {"stop": [""]}}, "stop is at most"),
        ("write", {"models": [0], "prompt": "a", "place": "/etc"}, "place: Extra inputs are not permitted"),
        ("battle", {"prompt": "a", "sampling": {"top_p": 0}}, "sampling.top_p"),
        ("vote", {"ballot": "x", "choice": "left"}, "this ballot was used or forgotten"),
        ("vote", {"ballot": "x", "choice": "both"}, "choice: Input should be 'left', 'right' or 'tie'"),
        ("trace", {"model": 9, "text": "a"}, "there is no model 9"),
        ("trace", {"model": 0, "text": "a" * 30_001}, "text: String should have at most"),
        ("documents", {"run": "../tiny"}, "there is no run '../tiny'"),
        ("documents", {"run": "tiny", "rule": "lenght"}, "did you mean 'length"),
        ("documents", {"run": "tiny", "text": "("}, "is no regular expression"),
        ("documents", {"run": "tiny", "count": 51}, "count: Input should be less than or equal to 50"),
    ],
)
def test_bad_requests_are_named(client: TestClient, name: str, body: dict[str, Any], said: str) -> None:
    answer = client.post(f"/api/{name}", json=body)
    assert answer.status_code == 400
    assert said in answer.json()["problem"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prompt": NaN}', b'{"prompt": "\\ud800"}', b"\xff", b""])
def test_what_is_no_json_object_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/write", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert "JSON" in answer.json()["problem"]


# --------------------------------------------------------------------------------------------------------- the worker


async def stream(worker: Worker, work: Any, version: str) -> list[bytes]:
    """Answer as a server would, to a browser that goes away after the first event."""
    job = worker.submit(work)
    gone, bodies = asyncio.Event(), []

    async def receive() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if gone.is_set() and version == "2.4":
            raise OSError("gone")
        if message.get("body"):
            bodies.append(message["body"])
            gone.set()

    scope = {"type": "http", "asgi": {"spec_version": version}, "method": "GET", "path": "/", "headers": []}
    try:
        await EventStream(job)(scope, receive, send)
    except Exception as error:  # how a server hears of it differs
        assert version == "2.4", error  # noqa: PT017
    assert job.stopped.is_set()
    return bodies


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_writing_ends_when_the_browser_goes_away(version: str) -> None:
    written = []

    def work() -> Iterator[dict[str, Any]]:
        while True:  # ends only by being stopped
            written.append(1)
            yield {"place": 0, "text": "x"}

    async def use() -> None:
        worker = Worker()
        assert (await stream(worker, work, version))[0] == b'{"place":0,"text":"x"}\n'
        await asyncio.to_thread(worker.close)  # waits for the thread

    asyncio.run(use())
    assert written


def test_a_job_that_waits_is_told_and_too_many_are_refused() -> None:
    async def use() -> None:
        worker = Worker()
        held = asyncio.Event()
        loop = asyncio.get_running_loop()

        def work() -> Iterator[dict[str, Any]]:
            asyncio.run_coroutine_threadsafe(held.wait(), loop).result()
            yield {"done": True}

        jobs = [worker.submit(work) for _ in range(MOST_WAITING)]
        with pytest.raises(BusyError):
            worker.submit(work)
        held.set()
        told = [[event async for event in job.events()] for job in jobs]
        assert told == [[{"done": True}], *[[{"waiting": True}, {"done": True}]] * (MOST_WAITING - 1)]
        await asyncio.to_thread(worker.close)

    asyncio.run(use())


def test_a_bug_while_writing_is_said_and_the_next_request_works(caplog: pytest.LogCaptureFixture) -> None:
    async def use() -> None:
        worker = Worker()

        def broken() -> Iterator[dict[str, Any]]:
            yield {"place": 0}
            raise ZeroDivisionError

        told = [event async for event in worker.submit(broken).events()]
        assert told[0] == {"place": 0}
        assert "a bug of Headwater" in told[1]["problem"]
        assert [event async for event in worker.submit(lambda: iter([{"x": 1}])).events()][-1] == {"x": 1}
        await asyncio.to_thread(worker.close)

    with caplog.at_level(logging.CRITICAL):
        asyncio.run(use())


@pytest.mark.parametrize(
    ("limit", "name", "body"),
    [
        ("worker.MOST_WAITING", "write", {"models": [0], "prompt": "a", "sampling": SAMPLING}),
        ("worker.MOST_WAITING", "battle", {"prompt": "a", "sampling": SAMPLING}),
        ("app.MOST_LOOKING", "trace", {"model": 0, "text": "a"}),
        ("app.MOST_LOOKING", "documents", {"run": "tiny"}),
    ],
)
def test_one_request_too_many_is_told_to_come_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, limit: str, name: str, body: dict[str, Any]
) -> None:
    monkeypatch.setattr(f"headwater.serve.{limit}", 0)
    answer = client.post(f"/api/{name}", json=body)
    assert answer.status_code == 429
    assert "busy" in answer.json()["problem"]
    monkeypatch.undo()
    assert client.post(f"/api/{name}", json=body).status_code == 200


def test_without_models_there_is_still_something_to_look_at(place: Path, votes: Votes) -> None:
    none = Models([], [], [], [], 64)
    with TestClient(app_of(none, votes, Shelf(place / "runs"), "127.0.0.1"), base_url=BASE) as client:
        state = client.get("/api/state").json()
        assert (state["models"], state["blind"]) == ([], False)
        assert [run["name"] for run in client.get("/api/runs").json()] == ["tiny"]
        answer = client.post("/api/write", json={"models": [0], "prompt": "a", "sampling": SAMPLING})
        assert "there is no model 0" in answer.json()["problem"]


def test_a_model_is_looked_up_in_its_run_or_where_it_was_said(place: Path) -> None:
    run = place / "runs" / "tiny"
    machine = Machine(runs=str(place / "runs"), threads=1, device="cpu")

    def runs_of(name: str, origin: Path | None) -> list[Path | None]:
        return open_models([name], machine, dtype=torch.float32, most_tokens=8, origin=origin).runs

    assert runs_of("x=tiny@0", None) == runs_of(str(run), None) == [run]
    assert runs_of("tiny", Path("other")) == [Path("other")]
    exported = place / "exported"
    if not exported.exists():
        shutil.copytree(run / "stages" / "train" / "checkpoint", exported)
        for file in (run / "stages" / "tokenizer" / "tokenizer").iterdir():
            shutil.copy(file, exported)
    assert runs_of(str(exported), None) == [None], "a checkpoint alone does not say of which run it is"
    assert runs_of(str(exported), run) == [run]


# -------------------------------------------------------------------------------------------------------- blind votes


def test_names_are_hidden_until_the_vote_and_the_vote_counts_once(client: TestClient, votes: Votes) -> None:
    told = events(client, "battle", {"prompt": "The value of", "sampling": SAMPLING})
    assert set().union(*told) == {"ballot", "place", "text", "done", "seconds"}
    assert not {"before", "tiny"} & set(json.dumps(told).replace('"', " ").split())
    ballot = {"ballot": told[0]["ballot"], "choice": "right"}
    answer = client.post("/api/vote", json=ballot).json()
    assert sorted(answer["labels"]) == ["before", "tiny"]
    assert client.post("/api/vote", json=ballot).status_code == 400
    (vote,) = Votes(votes.path).votes
    assert [vote.left.label, vote.right.label] == answer["labels"]
    assert [vote.left.text, vote.right.text] == texts(told)
    assert vote.sampling["seed"] == 3
    won, lost = client.get("/api/ranking").json()["rows"]
    assert (won["label"], won["won"], lost["label"], lost["lost"]) == (answer["labels"][1], 1, answer["labels"][0], 1)


def test_sides_and_pairs_are_drawn_at_random(models: Models, votes: Votes) -> None:
    three = Models(["a", "b", "c"], [*models.opened, models.opened[0]], ["x", "y", "x"], [None] * 3, 64)
    ballots = Ballots(three, votes)
    drawn = {ballots.draw(Asked(prompt="p"))[1].models for _ in range(200)}
    assert drawn == {(0, 1), (1, 0), (1, 2), (2, 1)}, "a and c are one model, which does not meet itself"
    assert len(ballots._open) == MOST_OPEN


def test_votes_and_ranking_are_there_after_a_restart(
    client: TestClient, votes: Votes, models: Models, place: Path
) -> None:
    for choice in ("left", "tie"):
        told = events(client, "battle", {"prompt": "The value of", "sampling": SAMPLING})
        assert client.post("/api/vote", json={"ballot": told[0]["ballot"], "choice": choice}).status_code == 200
    before = client.get("/api/ranking").json()
    alone = Models(models.labels[1:], models.opened[1:], models.weights[1:], models.runs[1:], 64)
    with TestClient(app_of(alone, Votes(votes.path), Shelf(place / "runs"), "127.0.0.1"), base_url=BASE) as again:
        after = again.get("/api/ranking").json()
        assert not again.get("/api/state").json()["blind"]
        answer = again.post("/api/battle", json={"prompt": "p", "sampling": SAMPLING})
    assert "needs two models whose weights differ" in answer.json()["problem"]
    assert after["votes"] == before["votes"] == 2
    assert {row["label"]: row["here"] for row in after["rows"]} == {"before": False, "tiny": True}
    assert [row["rating"] for row in after["rows"]] == [row["rating"] for row in before["rows"]]


def test_a_ballot_whose_texts_are_not_complete_takes_no_vote(models: Models, votes: Votes) -> None:
    ballots = Ballots(models, votes)
    number, ballot = ballots.draw(Asked.model_validate({"prompt": "The", "sampling": SAMPLING}))
    writing = ballots.write(number, ballot)
    next(writing)
    with pytest.raises(InputError, match="the texts are not complete yet"):
        ballots.vote(Choice(ballot=number, choice="tie"))


def test_weights_are_told_apart(models: Models, place: Path) -> None:
    assert models.weights[0] != models.weights[1]
    machine = Machine(runs=str(place / "runs"), threads=1, device="cpu")
    again = open_models(["tiny"], machine, dtype=torch.float32, most_tokens=8, origin=None)
    assert again.weights == models.weights[1:]
    weight = next(again.opened[0].model.parameters())
    with torch.no_grad():
        weight.view(-1)[0] += 1
    assert model_digest(again.opened[0].model) != models.weights[1]


# ------------------------------------------------------------------------------------------------------------- traces


def test_a_text_is_cut_where_it_stands_in_documents(client: TestClient, document: dict[str, str]) -> None:
    words = " ".join(document["text"].split(" ")[5:18])
    text = f"𝔘nseen 𝔴ords {words} <b>unseen words"
    found = client.post("/api/trace", json={"model": 1, "text": text}).json()
    assert "".join(piece["text"] for piece in found["pieces"]) == text
    marked = [piece for piece in found["pieces"] if piece["matches"]]
    assert "".join(piece["text"] for piece in marked) == words
    match = found["matches"][marked[0]["matches"][0]]
    source = next(one for one in match["sources"] if one["id"] == document["id"])
    assert (source["url"], source["licence"]) == (document["url"], "PSF-2.0")
    assert source["steps"] is not None


def test_without_an_index_the_app_says_so(
    client: TestClient, models: Models, votes: Votes, place: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    (bare / "stages").mkdir(parents=True)
    without = Models(["a", "b"], models.opened, models.weights, [None, bare], 64)
    with TestClient(app_of(without, votes, Shelf(tmp_path), "127.0.0.1"), base_url=BASE) as other:
        whys = [one["trace"]["why"] for one in other.get("/api/state").json()["models"]]
        assert "is not the model of a run" in whys[0]
        assert "the run bare has no index" in whys[1]
        for number in (0, 1):
            answer = other.post("/api/trace", json={"model": number, "text": "some words"})
            assert answer.status_code == 400
            assert whys[number] in answer.json()["problem"]


# ----------------------------------------------------------------------------------------------------------- browsing


def test_runs_are_listed_and_their_pages_kept_apart(client: TestClient) -> None:
    (run,) = client.get("/api/runs").json()
    assert (run["name"], run["index"], run["documents"], run["pages"]) == ("tiny", True, True, ["report"])
    assert "train" in run["stages"]
    page = client.get("/runs/tiny/report")
    assert page.text.startswith("<!doctype html><title>report")
    assert "sandbox allow-scripts" in page.headers["content-security-policy"]
    assert "allow-same-origin" not in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/runs/tiny/summary",
        "/runs/tiny/../../prose.jsonl",
        "/runs/..%2f..%2f/report",
        "/runs/%2e%2e/report",
        "/runs/tiny%2fstages/report",
        "/runs//etc/passwd",
        "/runs/tiny/%2e%2e%2fprose.jsonl",
        "/runs/nowhere/report",
        "/runs/tiny/trajectory",
        "/serve.py",
        "/../app.py",
        "/api",
        "/api/votes",
    ],
)
def test_nothing_else_is_reached(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"


def test_scores_are_shown_and_a_damaged_file_is_named(
    client: TestClient, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    of = {"value": 1.25, "standard_error": 0.125}
    (tmp_path / "evaluations" / "mine").mkdir(parents=True)
    (tmp_path / "evaluations" / "mine" / "scores.json").write_text(
        json.dumps({"bits_per_byte": {"model": {"prose": of}, "gzip": {"prose": {"value": 3.0}}}})
    )
    (tmp_path / "evaluations" / "broken").mkdir()
    (tmp_path / "evaluations" / "broken" / "scores.json").write_text("{")
    (tmp_path / "evaluations" / "other").mkdir()
    (tmp_path / "evaluations" / "other" / "tasks.json").write_text('{"tasks": {"x": {}}}')
    broken, mine, other = client.get("/api/scores").json()
    assert mine["tables"][0]["header"] == ["source", "model", "gzip"]
    assert mine["tables"][0]["rows"] == [["prose", "1.250 ± 0.125", "3.000"]]
    assert "scores.json: cannot be read" in broken["problem"]
    assert "is not as Headwater writes it" in other["problem"]


def test_documents_kept_and_dropped_are_found(client: TestClient, document: dict[str, str]) -> None:
    dropped = client.post("/api/documents", json={"run": "tiny", "fate": "dropped", "count": 3}).json()
    assert dropped["fitting"] == sum(row[3] for row in dropped["summary"] if row[1] != "kept")
    assert {one["fate"] for one in dropped["documents"]} <= {"dropped"}
    found = client.post("/api/documents", json={"run": "tiny", "id": document["id"]}).json()
    assert [one["text"] for one in found["documents"]] == [document["text"]]
    assert found["documents"][0]["licence"] == "PSF-2.0"


# ---------------------------------------------------------------------------------------------------------- the fence


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:7878"}, 403),
        ({"Host": "192.168.0.7:7878"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1234"}, 200),
        ({"Host": "[::1]:7878"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": ""}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": BASE}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
    ],
)
def test_other_sites_and_names_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/api/state", headers=headers).status_code == status


def test_a_link_elsewhere_may_open_the_page(client: TestClient) -> None:
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_of_another_site_could_send_is_refused(client: TestClient, kind: str) -> None:
    body = json.dumps({"models": [0], "prompt": "a"})
    assert client.post("/api/write", content=body, headers={"Content-Type": kind}).status_code == 415


def test_large_bodies_are_refused_whether_they_say_so_or_not(client: TestClient) -> None:
    large = b'{"prompt": "' + b"a" * MOST_BODY_BYTES + b'"}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/api/write", content=large, headers=headers).status_code == 413
    pieces = (large[at : at + 10_000] for at in range(0, len(large), 10_000))
    assert client.post("/api/write", content=pieces, headers=headers).status_code == 413


def test_every_answer_carries_the_policy_and_the_page_needs_nothing_else(client: TestClient) -> None:
    page = client.get("/")
    answers = [page, client.get("/serve.js"), client.get("/page.css"), client.get("/nowhere"), client.get("/api/state")]
    for answer in (*answers, client.get("/", headers={"Host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert not re.search(r"<[^>]*\s(on\w+|style)=", page.text), "no inline handlers or styles"
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in client.get("/serve.js").text
    assert client.post("/api/state", json={}).status_code == 405


# -------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "is neither a run nor a folder of a model"),
        (["tiny@99"], "has no checkpoint of step 99"),
        (["--trace", "nowhere"], "there is no such run"),
        (["--max-tokens", "0"], "is less than 1"),
        (["--port", "70000"], "is no port"),
        (["--host", "192.0.2.1"], "cannot listen here"),
        (["--votes", "prose.jsonl"], "prose.jsonl:1: is no vote"),
    ],
)
def test_bad_arguments(
    arguments: list[str], said: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--device", "cpu", *([] if "--port" in arguments else ["--port", "0"]), *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_port_in_use_is_said_before_models_are_opened(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as caught:
        main(["serve", "nowhere", "--port", str(taken.getsockname()[1])])
    assert caught.value.code == 2
    assert "is in use" in capsys.readouterr().err


def test_a_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as caught:
        main(["serve"])
    assert caught.value.code == 2
    assert "pip install 'headwater[serve]'" in capsys.readouterr().err
