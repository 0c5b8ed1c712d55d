"""An imitation of the Hugging Face hub on this machine: the endpoints that its library asks for a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .servers import Server, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "people/stories"


class Hub:
    """One dataset with one commit.

    Attributes:
        files: name -> content.
        card: metadata of the card, as the hub hands it out.
        token: what a request must bring; None for a public dataset.
    """

    def __init__(self, files: dict[str, bytes], card: dict[str, Any] | None = None, token: str | None = None) -> None:
        self.files, self.card, self.token = files, card or {}, token
        self.branches = {"main": COMMIT, "v1": COMMIT}

    def answer(self, request: Any) -> None:
        path, query = unquote(urlsplit(request.path).path), parse_qs(urlsplit(request.path).query)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            request.give(401, b"{}", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        elif path.startswith(f"/api/datasets/{REPO}"):
            self._api(request, path.removeprefix(f"/api/datasets/{REPO}").strip("/"), query, body)
        elif path.startswith(f"/datasets/{REPO}/resolve/{COMMIT}/"):
            content = self.files.get(path.removeprefix(f"/datasets/{REPO}/resolve/{COMMIT}/"))
            if content is None:
                request.give(404, b"", X_Error_Code="EntryNotFound")
            else:
                request.give_file(content, X_Repo_Commit=COMMIT, ETag=f'"{oid(content)}"')
        else:
            request.give(404, b"{}", X_Error_Code="RepoNotFound")

    def _api(self, request: Any, path: str, query: dict[str, list[str]], body: bytes) -> None:
        kind, _, rest = path.partition("/")
        if kind == "refs":
            branches = [{"name": name, "ref": name, "targetCommit": sha} for name, sha in self.branches.items()]
            self._json(request, {"branches": branches, "tags": [], "converts": []})
            return
        revision, _, below = rest.partition("/")
        if kind and revision not in {*self.branches, COMMIT}:
            request.give(404, b"{}", X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        elif kind in ("", "revision"):
            siblings = [{"rfilename": name} for name in self.files]
            self._json(request, {"id": REPO, "sha": COMMIT, "siblings": siblings, "cardData": self.card, "tags": []})
        elif kind == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            self._json(request, self._entries(below, recursive))
        elif kind == "paths-info":
            wanted = parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get("paths", [])
            entries = {entry["path"]: entry for entry in self._entries("", recursive=True)}
            self._json(request, [entries[path] for path in wanted if path in entries])
        else:
            request.give(404, b"{}", X_Error_Code="EntryNotFound")

    def _entries(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for name, content in self.files.items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                if recursive or depth == 1:
                    inner = prefix + "/".join(parts[:depth])
                    found[inner] = {"type": "directory", "path": inner, "oid": oid(inner.encode()), "size": 0}
            if recursive or len(parts) == 1:
                found[name] = {"type": "file", "path": name, "oid": oid(content), "size": len(content)}
        return list(found.values())

    @staticmethod
    def _json(request: Any, value: Any) -> None:
        request.give(200, json.dumps(value).encode(), Content_Type="application/json", X_Repo_Commit=COMMIT)


def oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub_of(hub: Hub, monkeypatch: Any) -> Iterator[Server]:
    """Let the library take a server of this machine for the hub."""
    from huggingface_hub import HfFileSystem, constants

    from headwater.documents.sources.huggingface import _on_the_hub

    with serving(hub.answer) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        HfFileSystem.clear_instance_cache()
        _on_the_hub.cache_clear()
        yield server
    HfFileSystem.clear_instance_cache()
    _on_the_hub.cache_clear()
