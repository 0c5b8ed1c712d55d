"""The app's addresses: what is asked at each, and what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from headwater import __version__
from headwater.core.config import Config
from headwater.core.errors import HeadwaterError, StoreError
from headwater.core.log import logger
from headwater.evaluation.arena import Votes
from headwater.evaluation.config import Sampling
from headwater.serve import models as asking
from headwater.serve.ballots import Ballots, Choice
from headwater.serve.browse import Search, Shelf
from headwater.serve.fence import MOST_BODY_BYTES, REPORT_POLICY, Fence, TooLargeError
from headwater.serve.models import Asked, Models, Write
from headwater.serve.origins import Look, Origins
from headwater.serve.worker import BusyError, EventStream, Worker

MOST_LOOKING = 4
"""Requests that read documents or an index at a time; of more, each is told to come again."""

_HERE = Path(__file__).parent
_FILES = {
    "/": (_HERE / "page.html", "text/html"),
    "/page.css": (_HERE.parent / "report" / "page.css", "text/css"),
    "/serve.css": (_HERE / "serve.css", "text/css"),
    "/serve.js": (_HERE / "serve.js", "text/javascript"),
}
"""Address -> what of Headwater's own is sent. Nothing else is ever read by its address."""
C = TypeVar("C", bound=Config)


class Answer(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Plain values as JSON, numbers of numpy among them."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


class Arena:
    """What the app knows, and its answers."""

    def __init__(self, models: Models, votes: Votes, shelf: Shelf) -> None:
        """Serve these models, votes and folders."""
        self.models = models
        self.shelf = shelf
        self.ballots = Ballots(models, votes)
        self.origins = Origins(models)
        self.worker = Worker()
        self._looking = 0

    async def state(self, _: Request) -> Response:
        """What the page shows when it is opened."""
        facts = [fact | {"trace": where} for fact, where in zip(self.models.facts(), self.origins.facts(), strict=True)]
        limits = {"characters": asking.MOST_CHARACTERS, "tokens": self.models.most_tokens, "models": asking.MOST_MODELS}
        sampling = Sampling(max_new_tokens=min(Sampling().max_new_tokens, self.models.most_tokens))
        blind = bool(self.ballots.pairs)
        told = {"version": __version__, "models": facts, "limits": limits, "blind": blind}
        return Answer(told | {"sampling": sampling.model_dump(mode="json")})

    async def write(self, request: Request) -> Response:
        """Chosen models write, side by side."""
        asked = await _body(request, Write)
        self.models.check(asked)
        names = [self.models.labels[number] for number in asked.models]
        return EventStream(self.worker.submit(lambda: self.models.write(asked, asked.models, names)))

    async def battle(self, request: Request) -> Response:
        """Two models write, and nobody knows which."""
        asked = await _body(request, Asked)
        self.models.check(asked)
        self.worker.check()  # before a ballot is drawn
        number, ballot = self.ballots.draw(asked)
        return EventStream(self.worker.submit(lambda: self.ballots.write(number, ballot)))

    async def vote(self, request: Request) -> Response:
        """Take a vote, and say who wrote what."""
        choice = await _body(request, Choice)
        return Answer(await run_in_threadpool(self.ballots.vote, choice))

    async def ranking(self, _: Request) -> Response:
        """How the models do by all votes."""
        return Answer(await self._look(self.ballots.standings))

    async def trace(self, request: Request) -> Response:
        """Where a text stands in training documents."""
        asked = await _body(request, Look)
        return Answer(await self._look(lambda: self.origins.look(asked)))

    async def runs(self, _: Request) -> Response:
        """Every run."""
        return Answer(await self._look(self.shelf.runs))

    async def scores(self, _: Request) -> Response:
        """What models scored."""
        return Answer(await self._look(self.shelf.scores))

    async def documents(self, request: Request) -> Response:
        """Documents that were kept or dropped."""
        search = await _body(request, Search)
        return Answer(await self._look(lambda: self.shelf.documents(search)))

    async def page(self, request: Request) -> Response:
        """A report, or the page of a run's checkpoints; kept apart from the app."""
        path = self.shelf.page(request.path_params["run"], request.path_params["which"])
        return HTMLResponse(path.read_bytes(), headers={"Content-Security-Policy": REPORT_POLICY})

    async def _look(self, work: Callable[[], Any]) -> Any:
        """Do something that reads much, in a thread."""
        if self._looking >= MOST_LOOKING:
            raise BusyError
        self._looking += 1
        future = asyncio.get_running_loop().run_in_executor(None, work)
        future.add_done_callback(self._looked)  # it works to its end, also when nobody waits any more
        return await asyncio.shield(future)

    def _looked(self, _: object) -> None:
        self._looking -= 1


def app_of(models: Models, votes: Votes, shelf: Shelf, host: str) -> Starlette:
    """The app.

    Args:
        models: who writes.
        votes: where votes go.
        shelf: runs and evaluations to look at.
        host: at what the app listens; requests by other names are refused.
    """
    arena = Arena(models, votes, shelf)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(arena.worker.close)

    def own(place: str) -> Route:
        path, kind = _FILES[place]

        async def send(_: Request) -> Response:
            return Response(path.read_bytes(), media_type=kind)

        return Route(place, send, methods=["GET"])

    gets = {"state": arena.state, "ranking": arena.ranking, "runs": arena.runs, "scores": arena.scores}
    posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "write": arena.write,
        "battle": arena.battle,
        "vote": arena.vote,
        "trace": arena.trace,
        "documents": arena.documents,
    }
    routes = [
        *(own(place) for place in _FILES),
        *(Route(f"/api/{name}", of, methods=["GET"]) for name, of in gets.items()),
        *(Route(f"/api/{name}", of, methods=["POST"]) for name, of in posts.items()),
        Route("/runs/{run}/{which}", arena.page, methods=["GET"]),
    ]
    handlers: dict[Any, Any] = {
        HeadwaterError: _problem,
        ValidationError: _problem,
        BusyError: _problem,
        TooLargeError: _problem,
        HTTPException: _problem,
        Exception: _bug,
    }
    return Starlette(
        routes=routes, middleware=[Middleware(Fence, host)], exception_handlers=handlers, lifespan=lifespan
    )


async def _body(request: Request, kind: type[C]) -> C:
    """The settings that a request holds.

    Raises:
        HTTPException: it is no JSON object.
        ValidationError: the settings are not valid.
    """
    try:
        values = orjson.loads(await request.body())  # refuses NaN and halves of characters
    except orjson.JSONDecodeError:
        raise HTTPException(400, "the request is not JSON") from None
    except ClientDisconnect:
        raise HTTPException(400, "the request was not sent to its end") from None
    if not isinstance(values, dict):
        raise HTTPException(400, "the request is not a JSON object")
    return kind.model_validate(values)


async def _problem(request: Request, error: Exception) -> Response:
    """What the user or the page did wrong, as JSON."""
    match error:
        case BusyError():
            return Answer({"problem": "busy with other requests: try again when they are done"}, 429)
        case TooLargeError():
            return Answer({"problem": f"more than {MOST_BODY_BYTES:,} bytes"}, 413)
        case HTTPException():
            return Answer({"problem": error.detail}, error.status_code)
        case ValidationError():
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = first["msg"].removeprefix("Value error, ")
            return Answer({"problem": f"{where}: {problem}" if where else problem}, 400)
    assert isinstance(error, HeadwaterError)
    line = f"{error.place}: {error.problem}" if error.place else error.problem
    missing = request.method == "GET"
    status = 500 if isinstance(error, StoreError) else 404 if missing else 400
    return Answer({"problem": line, "hint": error.hint}, status)


async def _bug(request: Request, error: Exception) -> Response:
    logger.error("a bug of Headwater, at %s", request.url.path, exc_info=error)
    return Answer({"problem": "a bug of Headwater: its traceback is in the terminal of headwater serve"}, 500)
