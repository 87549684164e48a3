"""A hub on the loopback interface: the part of its HTTP API that huggingface_hub and datasets use, faults included.

Large files travel by the LFS protocol (the client runs with its Xet protocol off): uploads are asked for in a batch,
which names those that the hub does not have yet. A repository has one branch a name, and its files by path.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_" + "writerwriterwriter0123"
READ_TOKEN = "hf_" + "readerreaderreader0123"
_LARGE = (".safetensors", ".bin", ".parquet", ".npy")


@dataclass
class Repository:
    """Files of each branch by path, and the messages of the commits."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)

    def commit_id(self, branch: str) -> str:
        text = repr((branch, sorted((path, _sha1(content)) for path, content in self.branches[branch].items())))
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """What the hub holds, what it was asked for, and how it fails.

    Attributes
    ----------
    repositories : dict
        ``models/ORGANISATION/NAME`` or ``datasets/...`` -> repository.
    objects : dict
        Large files that were sent, by SHA-256, whether or not a commit names them.
    asked : list of str
        Method and path of every request.
    bodies : int
        Bytes of answers to GET.
    breaks : str
        Requests whose method and path it fits get no answer once `allowed` of them have.
    """

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: int = 0
    breaks: str | None = None
    allowed: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[name].branches[branch]

    def add(self, name: str, files: dict[str, bytes]) -> None:
        """Put files into a repository, which is made where it does not exist."""
        self.repositories.setdefault(name, Repository()).branches["main"].update(files)

    def is_broken(self, request: str) -> bool:
        with self.lock:
            self.asked.append(request)
            if self.breaks is None or not re.search(self.breaks, request):
                return False
            self.allowed -= 1
            return self.allowed < 0


def _sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _sha1(content)}
    if path.endswith(_LARGE):
        oid = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, code: int, value: Any = None, **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", headers.pop("size", None) or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
            if self.command == "GET":
                self.hub.bodies += len(content)

    def _refuse(self, code: int, kind: str) -> None:
        self._answer(code, {"error": kind}, X_Error_Code=kind, X_Error_Message=kind)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        if self.hub.is_broken(f"{self.command} {path}"):
            self.close_connection = True
            return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (TOKEN, READ_TOKEN):
            self._refuse(401, "Invalid credentials")
        elif self.command == "PUT":
            self.hub.objects[path.rpartition("/")[2]] = body
            self._answer(200, {})
        elif self.command == "POST":
            self._post(path, body, token == TOKEN)
        else:
            self._get(path)

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _post(self, path: str, body: bytes, may_write: bool) -> None:
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/(models/.+|datasets/.+)/paths-info/([^/]+)", path):
            files = self.hub.files(match[1], match[2])
            wanted = json.loads(body)["paths"]
            return self._answer(200, [_entry(name, files[name]) for name in wanted if name in files])
        if not may_write:
            return self._refuse(403, "Forbidden: you must use a token with write access")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/api/(models/.+)/preupload/([^/]+)", path):
            return self._modes(match[1], match[2], json.loads(body)["files"])
        if match := re.fullmatch(r"/api/(models/.+)/branch/([^/]+)", path):
            branches = self.hub.repositories[match[1]].branches
            if match[2] in branches:
                return self._refuse(409, "Reference already exists")
            branches[match[2]] = dict(branches["main"])
            return self._answer(200, {})
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body)["objects"])
        if match := re.fullmatch(r"/api/(models/.+)/commit/([^/]+)", path):
            return self._commit(match[1], match[2], [json.loads(line) for line in body.splitlines()])
        return self._refuse(404, "NotFound")

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or 'ann'}/{wanted['name']}"
        answer = {"url": f"{self.hub.endpoint}/{name}", "id": name}
        if f"models/{name}" in self.hub.repositories:
            return self._answer(409, {**answer, "error": "You already created this model repo"})
        self.hub.repositories[f"models/{name}"] = Repository(wanted.get("visibility") == "private")
        return self._answer(200, answer)

    def _modes(self, name: str, branch: str, files: list[dict[str, Any]]) -> None:
        there = self.hub.files(name, branch)
        modes = []
        for file in files:
            path = file["path"]
            large = path.endswith(_LARGE)
            oid = _entry(path, there[path]).get("lfs", {}).get("oid") or _sha1(there[path]) if path in there else None
            modes.append({
                "path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid,
            })  # fmt: skip
        self._answer(200, {"files": modes})

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        answers = []
        for one in objects:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.endpoint}/objects/{one['oid']}"}}
            answers.append(answer)
        self._answer(200, {"transfer": "basic", "objects": answers})

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> None:
        repository = self.hub.repositories[name]
        files = repository.branches[branch]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit_id(branch)
        self._answer(200, {"commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def _get(self, path: str) -> None:
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(f"{match[1] or 'models/'}{match[2]}", match[3], match[4])
        match = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.+))?)?", path)
        repository = self.hub.repositories.get(match[1]) if match else None
        if match is None or repository is None:
            return self._refuse(404, "RepoNotFound")
        branch = self._branch(repository, match[3] or "main")
        if branch is None:
            return self._refuse(404, "RevisionNotFound")
        files = repository.branches[branch]
        if match[2] == "tree":
            return self._tree(files, match[4])
        siblings = [{"rfilename": name} for name in files]
        name = match[1].partition("/")[2]
        return self._answer(200, {
            "id": name, "modelId": name, "sha": repository.commit_id(branch), "private": repository.private,
            "siblings": siblings, "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False,
        })  # fmt: skip

    def _branch(self, repository: Repository, revision: str) -> str | None:
        by_commit = {repository.commit_id(branch): branch for branch in repository.branches}
        return revision if revision in repository.branches else by_commit.get(revision)

    def _tree(self, files: dict[str, bytes], folder: str | None) -> None:
        start = f"{folder}/" if folder else ""
        inside = {name: content for name, content in files.items() if name.startswith(start)}
        if folder and not inside:
            return self._refuse(404, "EntryNotFound")
        entries = [_entry(name, content) for name, content in inside.items()]
        above = {name[: place.start()] for name in inside for place in re.finditer("/", name)}
        folders = [
            {"type": "directory", "path": name, "size": 0, "oid": _sha1(name.encode())} for name in sorted(above)
        ]
        if "recursive=true" not in urlsplit(self.path).query.lower():
            depth = start.count("/")
            entries = [one for one in entries if one["path"].count("/") == depth]
            folders = [one for one in folders if one["path"].count("/") == depth and one["path"].startswith(start)]
        return self._answer(200, entries + [one for one in folders if one["path"].startswith(start)])

    def _file(self, name: str, revision: str, path: str) -> None:
        repository = self.hub.repositories.get(name)
        branch = self._branch(repository, revision) if repository else None
        if repository is None or branch is None:
            return self._refuse(404, "RepoNotFound")
        if path not in repository.branches[branch]:
            return self._refuse(404, "EntryNotFound")
        content = repository.branches[branch][path]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": repository.commit_id(branch),
            "Accept_Ranges": "bytes",
        }  # fmt: skip
        if self.command == "HEAD":
            return self._answer(200, b"", size=str(len(content)), **headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self._answer(200, content, **headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        where = f"bytes {first}-{last}/{len(content)}"
        return self._answer(206, content[first : last + 1], Content_Range=where, **headers)


@contextlib.contextmanager
def hub_on_loopback() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def clients_of(hub: Hub, patch: pytest.MonkeyPatch, cache: str, token: str | None = TOKEN) -> Iterator[None]:
    """A block in which huggingface_hub, its file system and datasets talk to `hub` and try again without waiting."""
    import time
    from types import SimpleNamespace

    import datasets.config
    from huggingface_hub import HfFileSystem, constants
    from huggingface_hub.utils import _http

    patch.setattr(constants, "ENDPOINT", hub.endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_CACHE", cache)
    patch.setattr(constants, "HF_TOKEN_PATH", f"{cache}/token")
    patch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    patch.setattr(datasets.config, "STREAMING_READ_RETRY_INTERVAL", 0)
    patch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None, time=time.time))
    patch.setenv("HF_TOKEN", token) if token else patch.delenv("HF_TOKEN", raising=False)
    HfFileSystem.clear_instance_cache()
    yield
    HfFileSystem.clear_instance_cache()
