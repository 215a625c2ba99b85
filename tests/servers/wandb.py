"""A W&B server: what wandb 0.31 asks for when a run is logged, resumed and read back.

`runs` has what arrived, by id, and `views` the workspaces and reports. As with W&B's own server,
lines of a run's files are put where the client says (`offset`), so that what is sent twice arrives
once.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any

from tests.servers.protocol import Reply, Request, Server

ENTITY = "lab"
INTERNAL_ID = "UHJvamVjdDo3"
"""What the server calls a project besides its name."""
CREATED = "2026-01-01T00:00:00Z"


@dataclass
class Artifact:
    """One version of an artifact: its files by path, once they are uploaded."""

    id: str
    kind: str
    name: str
    run: str
    digest: str
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """What the server knows of a run."""

    id: str
    entity: str
    project: str
    name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    state: str = "running"

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def plain_config(self) -> dict[str, Any]:
        """The config as it was given to wandb.init."""
        return {key: one["value"] for key, one in self.config.items() if key != "_wandb"}


@dataclass
class View:
    """A saved workspace (`kind` is project-view) or report (runs)."""

    id: str
    entity: str
    project: str
    kind: str
    name: str
    title: str
    description: str
    spec: str


class WandbServer(Server):
    """W&B's API, for one user with one key."""

    def __init__(self, key: str = "k" * 40) -> None:
        super().__init__()
        self.key = key
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.views: dict[str, View] = {}
        self.unknown: list[str] = []

    def environment(self, home: str) -> dict[str, str]:
        """What points wandb here and away from the user's own settings."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": self.key,
            "WANDB_CONFIG_DIR": home,
            "WANDB_CACHE_DIR": home,
            "WANDB_DATA_DIR": home,
            "WANDB_ERROR_REPORTING": "false",
        }

    def answer(self, request: Request) -> Reply:
        if request.path.startswith("/store/"):
            # An address that was given out carries its own permission.
            return self._store(request)
        sent = request.headers.get("authorization", "").removeprefix("Basic ")
        if b64decode(sent).decode() != f"api:{self.key}":
            return Reply({"errors": [{"message": "user is not logged in"}]}, 401)
        if request.path == "/graphql":
            return self._graphql(request)
        if found := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", request.path):
            return self._stream(self.runs[found[3]], request.json())
        self.unknown.append(request.label)
        return Reply({"error": f"no {request.label}"}, 404)

    def _store(self, request: Request) -> Reply:
        """A file of a run or an artifact, at the address that was given out for it."""
        _, _, kind, owner, name = request.path.split("/", 4)
        files = (self.runs if kind == "runs" else self.artifacts)[owner].files
        if request.method == "PUT":
            files[name] = request.body
            return Reply({})
        return Reply(files[name]) if name in files else Reply({"error": "no such file"}, 404)

    def _graphql(self, request: Request) -> Reply:
        asked = request.json()
        operation = request.label.rsplit(" ", 1)[-1]
        method = getattr(self, f"_on_{operation}", None)
        if method is None:
            self.unknown.append(f"{request.label}: {asked['query']}")
            return Reply({"errors": [{"message": f"unknown operation {operation}"}]}, 400)
        return Reply({"data": method(asked.get("variables") or {})})

    def _on_Viewer(self, _: dict[str, Any]) -> Any:
        return {
            "viewer": {
                **{"id": "u1", "entity": ENTITY, "username": ENTITY, "email": "a@b.c"},
                **{"name": ENTITY, "flags": "{}", "admin": False, "deletedAt": None},
                **{"teams": _edges([{"name": ENTITY}]), "apiKeys": _edges([])},
            }
        }

    def _on_GetDefaultEntity(self, _: dict[str, Any]) -> Any:
        return {"viewer": {"id": "u1", "entity": ENTITY}}

    def _on_ArtifactType(self, _: dict[str, Any]) -> Any:
        return {"project": {"artifact": None}}

    def _on_ServerFeaturesQuery(self, _: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    def _on_OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> Any:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _on_RunResumeStatus(self, asked: dict[str, Any]) -> Any:
        project = _project(asked.get("entity") or ENTITY, asked["project"])
        run = self.runs.get(asked["name"])
        return {"model": project | {"bucket": run and _resumed(run)}}

    def _on_UpsertBucket(self, asked: dict[str, Any]) -> Any:
        inserted = asked["name"] not in self.runs
        place = (asked.get("entity") or ENTITY, asked.get("project") or "uncategorized")
        run = self.runs.setdefault(asked["name"], Run(asked["name"], *place))
        given = {
            "name": asked.get("displayName"),
            "group": asked.get("groupName"),
            "job_type": asked.get("jobType"),
            "tags": asked.get("tags"),
            "config": json.loads(asked["config"]) if asked.get("config") else None,
        }
        for key, value in given.items():
            if value is not None:
                setattr(run, key, value)
        run.state = asked.get("state") or "running"
        return {"upsertBucket": {"bucket": _bucket(run), "inserted": inserted}}

    def _on_CreateRunFiles(self, asked: dict[str, Any]) -> Any:
        address = f"{self.url}/store/runs/{asked['run']}"
        files = [{"name": name, "uploadUrl": f"{address}/{name}"} for name in asked["files"]]
        made = {"runID": asked["run"], "uploadHeaders": [], "files": files}
        return {"createRunFiles": made}

    def _on_CreateArtifact(self, asked: dict[str, Any]) -> Any:
        given = asked["input"]
        same = (
            one
            for one in self.artifacts.values()
            if one.digest == given["digest"] and one.name == given["artifactCollectionName"]
        )
        artifact = next(same, None)
        if artifact is None:
            artifact = Artifact(
                id=f"artifact{len(self.artifacts)}",
                kind=given["artifactTypeName"],
                name=given["artifactCollectionName"],
                run=given["runName"],
                digest=given["digest"],
            )
            self.artifacts[artifact.id] = artifact
        latest = {"latestArtifact": None}
        made = {"id": artifact.id, "state": artifact.state, "artifactSequence": latest}
        return {"createArtifact": {"artifact": made}}

    def _on_CreateArtifactManifest(self, asked: dict[str, Any]) -> Any:
        address = f"{self.url}/store/artifacts/{asked['artifactID']}/{asked['name']}"
        file = {"id": "f", "uploadUrl": address, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}

    def _on_CreateArtifactFiles(self, asked: dict[str, Any]) -> Any:
        nodes = []
        for one in asked["input"]["artifactFiles"]:
            owner, path = one["artifactID"], one["name"]
            address = f"{self.url}/store/artifacts/{owner}/{path}"
            nodes.append(
                {
                    **{"storagePath": path, "uploadUrl": address, "uploadHeaders": []},
                    **{"uploadMultipartUrls": None, "artifact": {"id": owner}},
                }
            )
        return {"createArtifactFiles": {"files": _edges(nodes)}}

    def _on_CommitArtifact(self, asked: dict[str, Any]) -> Any:
        artifact = self.artifacts[asked["artifactID"]]
        artifact.state = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _on_Run(self, asked: dict[str, Any]) -> Any:
        run = self._found(asked, asked["name"])
        return {"project": {"run": run and {"projectId": "1", **_read_back(run)}}}

    def _on_RunHistoryKeys(self, asked: dict[str, Any]) -> Any:
        run = self._found(asked, asked["name"])
        return {"project": {"run": run and {"historyKeys": _read_back(run)["historyKeys"]}}}

    def _on_Runs(self, asked: dict[str, Any]) -> Any:
        wanted = json.loads(asked.get("filters") or "{}").get("group")
        found = [run for name in self.runs if (run := self._found(asked, name))]
        nodes = [_read_back(run) for run in found if wanted in (None, run.group)]
        edges = [{"node": {"projectId": "1", **node}, "cursor": node["name"]} for node in nodes]
        page = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        about = {"internalId": "1", "runCount": len(nodes), "readOnly": False}
        return {"project": {**about, "runs": page}}

    def _on_GetProjects(self, asked: dict[str, Any]) -> Any:
        names = {run.project for run in self.runs.values() if run.entity == asked["entity"]}
        fixed = {"__typename": "Project", "createdAt": CREATED, "isBenchmark": False, "user": None}
        nodes = [{**fixed, **_project_of(asked["entity"], name)} for name in sorted(names)]
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {**_edges(nodes), "pageInfo": page}}

    def _on_ProjectInternalId(self, asked: dict[str, Any]) -> Any:
        place = (asked["entityName"], asked["projectName"])
        there = any((run.entity, run.project) == place for run in self.runs.values())
        return {"project": {"id": "p1", "internalId": INTERNAL_ID} if there else None}

    def _on_upsertView(self, asked: dict[str, Any]) -> Any:
        key = asked.get("id") or b64encode(f"View:{len(self.views)}".encode()).decode()
        place = (asked["entityName"], asked["projectName"], asked["type"])
        named = (asked["name"], asked["displayName"], asked["description"], asked["spec"])
        inserted = key not in self.views
        self.views[key] = View(key, *place, *named)
        return {"upsertView": {"view": _view(self.views[key]), "inserted": inserted}}

    _on_UpsertView2 = _on_upsertView

    def _on_SpecificReport(self, asked: dict[str, Any]) -> Any:
        view = self.views.get(asked["reportId"])
        return {"view": view and _view(view)}

    def _on_View(self, asked: dict[str, Any]) -> Any:
        place = (asked["entityName"], asked["name"], asked["viewType"], asked["viewName"])
        found = [
            _view(one)
            for one in self.views.values()
            if (one.entity, one.project, one.kind, one.name) == place
        ]
        return {"project": {"allViews": _edges(found)}}

    def _found(self, asked: dict[str, Any], name: str) -> Run | None:
        """A run of the project that is asked for."""
        run = self.runs.get(name)
        place = (asked["entity"], asked["project"])
        return run if run and (run.entity, run.project) == place else None

    def _stream(self, run: Run, sent: dict[str, Any]) -> Reply:
        """Put the lines of files where they belong, and note the end of the run."""
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
                continue
            lines = run.lines.setdefault(name, [])
            at = part["offset"]
            lines[at : at + len(part["content"])] = part["content"]
        if sent.get("complete"):
            run.state = "failed" if sent["exitcode"] else "finished"
        return Reply({})


def _edges(nodes: list[Any]) -> dict[str, Any]:
    return {"edges": [{"node": node} for node in nodes]}


def _project(entity: str, name: str) -> dict[str, Any]:
    return {"id": "p1", "name": name, "entity": {"id": "e1", "name": entity}}


def _project_of(entity: str, name: str) -> dict[str, Any]:
    return {"id": "p1", "name": name, "entityName": entity}


def _view(view: View) -> dict[str, Any]:
    return {
        **{"id": view.id, "type": view.kind, "name": view.name, "displayName": view.title},
        **{"description": view.description, "spec": view.spec},
        **{"project": _project_of(view.entity, view.project)},
        **{"createdAt": CREATED, "updatedAt": CREATED},
    }


def _bucket(run: Run) -> dict[str, Any]:
    """A run as UpsertBucket gives it back."""
    return {
        **{"id": f"id-{run.id}", "name": run.id, "displayName": run.name, "description": None},
        **{"config": json.dumps(run.config), "sweepName": None},
        "project": _project(run.entity, run.project),
        "historyLineCount": len(run.history),
    }


def _read_back(run: Run) -> dict[str, Any]:
    """A run as the public API gives it."""
    keys: dict[str, dict[str, list[Any]]] = {
        key: {"typeCounts": []} for line in run.history for key in line
    }
    steps = [line["_step"] for line in run.history]
    return {
        **{"id": f"id-{run.id}", "name": run.id, "displayName": run.name, "state": run.state},
        **{"tags": run.tags, "group": run.group, "jobType": run.job_type, "sweepName": None},
        **dict.fromkeys(("commit", "description", "notes", "systemMetrics")),
        **{"readOnly": False, "createdAt": CREATED, "heartbeatAt": CREATED},
        "config": json.dumps(run.config),
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(steps),
        "historyKeys": {"lastStep": max(steps, default=-1), "keys": keys},
        "user": {"name": ENTITY, "username": ENTITY},
    }


def _resumed(run: Run) -> dict[str, Any]:
    """A run as RunResumeStatus gives it: how much of each file there is, and its last line."""

    def tail(name: str) -> str:
        return json.dumps(run.lines.get(name, [])[-1:])

    counts = {
        "logLineCount": len(run.lines.get("output.log", [])),
        "historyLineCount": len(run.history),
        "eventsLineCount": len(run.lines.get("wandb-events.jsonl", [])),
    }
    return {
        **{"id": f"id-{run.id}", "name": run.id, "displayName": run.name, **counts},
        "summaryMetrics": json.dumps(run.summary),
        "historyTail": tail("wandb-history.jsonl"),
        "eventsTail": tail("wandb-events.jsonl"),
        "config": json.dumps(run.config),
        **{"tags": run.tags, "notes": None, "wandbConfig": json.dumps({"t": 1})},
    }
