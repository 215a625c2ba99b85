"""A model hub: what huggingface_hub 2, transformers 5 and datasets 5 ask of one over plain HTTP.

Its clients read where the hub is when they are imported: give `environment` to a process of its
own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs

from tests.servers.protocol import Reply, Request, Server

Kind = Literal["models", "datasets"]
_FILE = re.compile(
    r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)"
)
_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|paths-info|refs)(?:/(?P<rev>[^/]+)(?:/(?P<at>.+))?)?)?"
)


@dataclass
class Repository:
    """One repository: the files of every commit, and what its branches point to.

    Attributes:
        refusal: The status and X-Error-Code that everything is answered with.
        renamed: The name that everything is redirected to.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    renamed: str | None = None

    def commit(self, revision: str) -> str | None:
        sha = self.branches.get(revision, revision)
        return sha if sha in self.commits else None


class HubServer(Server):
    """A hub with the repositories it was given, and raw files by their path."""

    def __init__(self) -> None:
        super().__init__()
        self.repositories: dict[tuple[Kind, str], Repository] = {}
        self.raw: dict[str, bytes] = {}
        self.unknown: list[str] = []

    def add(
        self, name: str, files: Mapping[str, bytes], kind: Kind = "models", branch: str = "main"
    ) -> str:
        """Commit files, all that there are, to a branch of a repository; gives the commit."""
        with self.lock:
            repository = self.repositories.setdefault((kind, name), Repository())
            text = repr([kind, name, sorted(files.items()), len(repository.commits)])
            sha = hashlib.sha1(text.encode()).hexdigest()
            repository.commits[sha] = dict(files)
            repository.branches[branch] = sha
            return sha

    def environment(self, home: str) -> dict[str, str]:
        """What points the clients here, with a cache of their own."""
        return {
            "HF_ENDPOINT": self.url,
            "KN_SWEEPS_GITHUB": self.url,
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def answer(self, request: Request) -> Reply:
        if request.path == "/":
            return Reply()
        if request.path in self.raw:
            return Reply(self.raw[request.path])
        if found := _FILE.fullmatch(request.path):
            kind: Kind = "datasets" if found["kind"] else "models"
            return self._of_repository(request, kind, found["name"], found["rev"], found["file"])
        if found := _API.fullmatch(request.path):
            kind = "models" if found["kind"] == "models" else "datasets"
            return self._of_repository(request, kind, found["name"], found["rev"] or "main", None)
        self.unknown.append(request.label)
        return _error(404, "RepoNotFound", f"no {request.label}")

    def _of_repository(
        self, request: Request, kind: Kind, name: str, revision: str, file: str | None
    ) -> Reply:
        repository = self.repositories.get((kind, name))
        if repository is None:
            # The hub does not tell a stranger's private repositories from what is not there.
            return _error(401, "RepoNotFound", "Invalid username or password.")
        if repository.renamed is not None:
            place = request.path.replace(name, repository.renamed, 1)
            return Reply(status=307, headers={"Location": place})
        if repository.refusal is not None:
            status, code = repository.refusal
            return _error(status, code, f"Access to {kind[:-1]} {name} is restricted.")
        sha = repository.commit(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[sha]
        if file is None:
            return _about(request, name, sha, files, repository)
        if file not in files:
            return _error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        return _content(request, sha, files[file])


def _about(
    request: Request, name: str, sha: str, files: dict[str, bytes], repository: Repository
) -> Reply:
    """What the API says of a repository at a commit."""
    found = _API.fullmatch(request.path)
    assert found is not None
    if found["what"] == "refs":
        branches = [
            {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
            for branch, commit in repository.branches.items()
        ]
        return Reply({"branches": branches, "tags": [], "converts": []})
    if found["what"] == "tree":
        return _tree(files, found["at"] or "", "recursive" in request.query)
    if found["what"] == "paths-info":
        wanted = parse_qs(request.body.decode())["paths"]
        entries = [_entry(path, files[path]) for path in wanted if path in files]
        folders = [p for p in wanted if any(file.startswith(f"{p}/") for file in files)]
        return Reply([*entries, *({"type": "directory", "path": p, "oid": sha} for p in folders)])
    return Reply(
        {
            **{"id": name, "modelId": name, "sha": sha, "private": False, "gated": False},
            **{"disabled": False, "downloads": 0, "likes": 0, "tags": [], "cardData": {}},
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }
    )


def _tree(files: dict[str, bytes], folder: str, recursive: bool) -> Reply:
    inside = f"{folder}/" if folder else ""
    below = {path: content for path, content in files.items() if path.startswith(inside)}
    if folder and not below:
        return _error(404, "EntryNotFound", f"{folder} does not exist")
    entries: dict[str, Any] = {}
    for path, content in sorted(below.items()):
        head, _, rest = path[len(inside) :].partition("/")
        if rest:
            at = inside + head
            entries.setdefault(at, {"type": "directory", "path": at, "oid": _oid(b"")})
        if not rest or recursive:
            entries[path] = _entry(path, content)
    return Reply(list(entries.values()))


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}


def _content(request: Request, sha: str, content: bytes) -> Reply:
    """A file, or the range of it that is asked for."""
    headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
    if request.method == "HEAD":
        return Reply(headers={**headers, "Content-Length": str(len(content))})
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if asked is None:
        return Reply(content, headers=headers)
    first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if first >= len(content):
        return Reply(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Reply(content[first : last + 1], 206, headers)


def _error(status: int, code: str, text: str, more: Mapping[str, str] | None = None) -> Reply:
    headers = {"X-Error-Code": code, "X-Error-Message": text, **(more or {})}
    return Reply({"error": text}, status, headers)


def _oid(content: bytes) -> str:
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
