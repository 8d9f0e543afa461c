"""A small Weights & Biases server on 127.0.0.1 that records what real clients send, and fails on request.

``WandbServer`` answers the GraphQL operations, the file stream and the uploads that wandb 0.31 makes for logging,
resuming, ``wandb sync``, reading runs back, reports, and agents of sweeps. It knows no users: every key is accepted
unless a fault says otherwise. What it cannot answer is an error for the client and stands in ``WandbServer.unknown``.

    with WandbServer() as server:
        subprocess.run([...], env=os.environ | server.environment(tmp_path))
        assert server.run("my-run").history[-1]["loss"] == 0.5

What the real server does with an existing run is not public in all points. Assumed here: lines of the file stream
are written at the offset that the client names; ``UpsertBucket`` replaces the fields that it carries; the id of a
deleted run is refused with status 409 (wandb/wandb#1192).
"""

import base64
import contextlib
import hashlib
import itertools
import json
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import yaml

KEY = "local-" + "0123456789" * 4
"""A key of the form that clients accept for a server of one's own."""

ENTITY = "tester"
"""The entity of a client that names none."""

Json = dict[str, Any]


class Request(NamedTuple):
    """One request as it arrived; ``operation`` is GraphQL's name of it, or else its path."""

    method: str
    operation: str
    time: float


@dataclass(frozen=True)
class Faults:
    """Failures of the server. ``only`` is a regular expression for the operations meant; all, if empty.

    ``slow`` seconds pass before any answer; ``drop`` closes the connection without one; ``status`` is answered in
    place of the answer, with ``retry_after`` seconds in its header if given. ``times`` requests fail, then no more.
    """

    slow: float = 0.0
    status: int | None = None
    drop: bool = False
    only: str = ""
    retry_after: float | None = None
    times: int | None = None


@dataclass
class RecordedRun:
    """The data of one run that have arrived."""

    entity: str
    project: str
    name: str  # the id of the run for its user
    created: int  # the rank among all runs of the server
    fields: Json = field(
        default_factory=dict
    )  # of UpsertBucket: displayName, groupName, jobType, notes, tags, ...
    raw_config: Json = field(default_factory=dict)  # {key: {"value": ...}}, with the client's own key _wandb
    lines: dict[str, dict[int, str]] = field(default_factory=dict)  # file of the stream -> offset -> line
    files: dict[str, bytes] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)  # one for each attempt that finished
    num_upserts: int = 0
    num_resumes: int = 0
    state: str = "running"

    @property
    def id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.name}:{self.project}:{self.entity}".encode()).decode()

    def stream(self, file: str) -> list[str]:
        """The lines of a file of the stream, in order of their offsets."""
        return [line for _, line in sorted(self.lines.get(file, {}).items())]

    @property
    def config(self) -> Json:
        return {key: entry["value"] for key, entry in self.raw_config.items() if key != "_wandb"}

    @property
    def history(self) -> list[Json]:
        """All lines, with the client's ``_step``, ``_timestamp`` and ``_runtime``."""
        return [json.loads(line) for line in self.stream("wandb-history.jsonl")]

    @property
    def events(self) -> list[Json]:
        """System metrics."""
        return [json.loads(line) for line in self.stream("wandb-events.jsonl")]

    @property
    def summary(self) -> Json:
        lines = self.stream("wandb-summary.json")
        return json.loads(lines[-1]) if lines else {}

    @property
    def console(self) -> list[str]:
        return self.stream("output.log")

    @property
    def exit_code(self) -> int | None:
        return self.exit_codes[-1] if self.exit_codes else None

    @property
    def display_name(self) -> str | None:
        return self.fields.get("displayName")

    @property
    def group(self) -> str | None:
        return self.fields.get("groupName")

    @property
    def job_type(self) -> str | None:
        return self.fields.get("jobType")

    @property
    def notes(self) -> str | None:
        return self.fields.get("notes")

    @property
    def tags(self) -> list[str]:
        return self.fields.get("tags") or []


@dataclass
class RecordedArtifact:
    """A version of an artifact; tables of ``run.log`` arrive as artifacts too."""

    id: str
    name: str
    type: str
    metadata: Json
    state: str = "PENDING"
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class RecordedReport:
    """A view of type ``runs`` (a report) or ``runs/draft``."""

    id: str
    entity: str
    project: str
    name: str
    title: str
    description: str
    type: str
    spec: Json
    num_saves: int = 1


@dataclass
class RecordedSweep:
    """A sweep of method ``grid``, whose points are handed to agents one after the other."""

    id: str
    entity: str
    project: str
    config: Json
    given: dict[str, Json] = field(default_factory=dict)  # the id that an agent gets for its run -> the point

    def points(self) -> list[Json]:
        parameters = self.config["parameters"]
        axes = [spec["values"] if "values" in spec else [spec["value"]] for spec in parameters.values()]
        return [dict(zip(parameters, values, strict=True)) for values in itertools.product(*axes)]


class Refused(Exception):
    """An error that GraphQL answers, with HTTP's status 200 or another one."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


class WandbServer:
    """The server; a context manager that listens from ``__enter__`` to ``__exit__``."""

    runs: dict[tuple[str, str, str], RecordedRun]
    """Runs by entity, project and id."""

    def __init__(self) -> None:
        self.runs = {}
        self.deleted: dict[tuple[str, str, str], RecordedRun] = {}  # their ids are taken for ever
        self.artifacts: list[RecordedArtifact] = []
        self.reports: list[RecordedReport] = []
        self.sweeps: list[RecordedSweep] = []
        self.projects: set[tuple[str, str]] = set()
        self.requests: list[Request] = []
        self.keys: set[str] = set()  # that clients showed
        self.unknown: list[str] = []  # operations that had no answer
        self.errors: list[str] = []  # tracebacks of answers that failed: the fault of this server
        self._faults = Faults()
        self._faults_left: int | None = None
        self._lock = threading.RLock()
        self._httpd: _Listener | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    # -- life

    def start(self) -> None:
        """Listen; after ``stop()`` again on the same port."""
        self._httpd = _Listener(self)
        threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections and cut the open ones, as a server that died."""
        if self._httpd is not None:
            self._httpd.die()
            self._httpd = None

    def __enter__(self) -> "WandbServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- for its users

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, directory: Path) -> dict[str, str]:
        """Variables for a client that talks to this server and writes below ``directory`` only."""
        places = {place: directory / place for place in ("wandb", "cache", "config", "data", "artifacts")}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": KEY,
            "WANDB_DIR": str(places["wandb"]),
            "WANDB_CACHE_DIR": str(places["cache"]),
            "WANDB_CONFIG_DIR": str(places["config"]),
            "WANDB_DATA_DIR": str(places["data"]),
            "WANDB_ARTIFACT_DIR": str(places["artifacts"]),
        }

    def fail(
        self,
        *,
        slow: float = 0.0,
        status: int | None = None,
        drop: bool = False,
        only: str = "",
        retry_after: float | None = None,
        times: int | None = None,
    ) -> None:
        """Fail from now on as ``Faults`` says; without arguments, be well again."""
        with self._lock:
            self._faults = Faults(slow, status, drop, only, retry_after, times)
            self._faults_left = times

    def run(self, name: str) -> RecordedRun:
        """The run with this id, if one project only has it."""
        found = [run for run in self.runs.values() if run.name == name]
        if len(found) != 1:
            raise KeyError(
                f"{len(found)} runs are called {name!r}; known: {[run.name for run in self.runs.values()]}"
            )
        return found[0]

    def count(self, operation: str) -> int:
        """The requests whose operation matches a regular expression in full."""
        return sum(re.fullmatch(operation, request.operation) is not None for request in self.requests)

    # -- requests

    def take_fault(self, method: str, operation: str) -> Faults:
        """Record a request, and say how it shall fail."""
        with self._lock:
            self.requests.append(Request(method, operation, time.time()))
            faults = self._faults
            if (faults.only and not re.search(faults.only, operation)) or self._faults_left == 0:
                return Faults()
            if self._faults_left is not None:
                self._faults_left -= 1
            return faults

    def graphql(self, query: str, variables: Json) -> tuple[int, Json]:
        """The status and the answer to a GraphQL operation, with the fields whose names the query contains."""
        operation = operation_of(query)
        with self._lock:
            if operation not in ANSWERS:
                self.unknown.append(operation)
                return 200, {"errors": [{"message": f"this server knows no {operation}"}]}
            try:
                answer = ANSWERS[operation](self, variables)
                return 200, {"data": _selected(answer, set(re.findall(r"\w+", query)))}
            except Refused as error:
                return error.status, {"errors": [{"message": str(error)}]}
            except Exception:  # a client would ask again and again: let the test see why
                self.errors.append(f"{operation} {json.dumps(variables)}\n{traceback.format_exc()}")
                return 400, {"errors": [{"message": self.errors[-1]}]}

    def file_stream(self, entity: str, project: str, name: str, body: Json) -> Json:
        """Take lines of history, summary, events and console at their offsets."""
        with self._lock:
            run = self.runs[entity, project, name]
            for file, chunk in body.get("files", {}).items():
                lines = run.lines.setdefault(file, {})
                lines.update(enumerate(chunk["content"], start=chunk["offset"]))
            run.state = "preempting" if body.get("preempting") else "running"
            if body.get("complete"):
                run.exit_codes.append(body["exitcode"])
                run.state = "failed" if body["exitcode"] else "finished"
            return {"exitcode": None, "limits": {}}

    def upload(self, path: str, content: bytes) -> None:
        """Take the bytes of a file of a run or an artifact."""
        kind, *rest = path.split("/", 2)
        with self._lock:
            if kind == "run":
                entity, project, name, file = rest[0], *rest[1].split("/", 2)
                self.runs[entity, project, name].files[file] = content
            else:
                self.artifacts[int(rest[0])].files[rest[1]] = content

    def upload_url(self, *path: str) -> str:
        return f"{self.url}/upload/{quote('/'.join(path))}"


# ---- the answers to GraphQL, by the name of the operation


def operation_of(query: str) -> str:
    """The name of a GraphQL request, which clients give in the text of the query."""
    found = re.search(r"\b(?:query|mutation)\s+(\w+)", query)
    return found[1] if found else query[:60]


SCALARS = {"historyKeys", "liveData", "sampledHistory"}
"""Fields whose values are JSON of their own."""


def _selected(value: Any, names: set[str]) -> Any:
    """Only the fields that are named in a query, so that a client that must ask twice does ask twice."""
    if isinstance(value, dict):
        return {
            key: inner if key in SCALARS else _selected(inner, names)
            for key, inner in value.items()
            if key in names
        }
    if isinstance(value, list):
        return [_selected(inner, names) for inner in value]
    return value


def _viewer(_: WandbServer, __: Json) -> Json:
    user = {
        "id": "VXNlcjox",
        "entity": ENTITY,
        "username": ENTITY,
        "name": ENTITY,
        "email": "",
        "flags": "{}",
    }
    none = {"edges": []}
    return {"viewer": user | {"teams": none, "apiKeys": none, "admin": False, "deletedAt": None}}


def _server_info(_: WandbServer, __: Json) -> Json:
    latest = {"outOfDate": False, "latestVersionString": "0.80.0", "versionOnThisInstanceString": "0.80.0"}
    return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": latest, "features": []}}


def _project(entity: str, project: str) -> Json:
    return {
        "__typename": "Project",
        "id": base64.b64encode(f"Project:v1:{project}:{entity}".encode()).decode(),
        "internalId": str(int(hashlib.sha256(f"{entity}/{project}".encode()).hexdigest()[:8], 16)),
        "name": project,
        "entityName": entity,
        "entity": {"id": "RW50aXR5OjE=", "name": entity},
        "createdAt": "2026-01-01T00:00:00Z",
        "isBenchmark": False,
        "readOnly": False,
        "user": None,
        "description": "",
        "access": "USER_READ",
        "views": "{}",
    }


def _bucket(run: RecordedRun) -> Json:
    """A run with the names of fields of all queries."""
    history = run.stream("wandb-history.jsonl")
    events = run.stream("wandb-events.jsonl")
    started = {"t": run.raw_config["_wandb"]["value"]["t"]} if "_wandb" in run.raw_config else {}
    keys = sorted({key for line in run.history for key in line})
    return {
        "id": run.id,
        "name": run.name,
        "displayName": run.display_name or run.name,
        "description": None,
        "notes": run.notes,
        "tags": run.tags,
        "group": run.group,
        "jobType": run.job_type,
        "sweepName": None,
        "state": run.state,
        "stopped": False,
        "commit": run.fields.get("commit"),
        "readOnly": False,
        "createdAt": _stamp(run.created),
        "heartbeatAt": _stamp(run.created),
        "user": {"name": ENTITY, "username": ENTITY},
        "project": _project(run.entity, run.project),
        "projectId": _project(run.entity, run.project)["internalId"],
        "config": json.dumps(run.raw_config),
        "wandbConfig": json.dumps(started),
        "summaryMetrics": json.dumps(run.summary),
        "systemMetrics": json.dumps(run.events[-1] if events else {}),
        "historyLineCount": len(history),
        "eventsLineCount": len(events),
        "logLineCount": len(run.console),
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "history": history,
        "historyKeys": {"keys": {key: {"typeCounts": []} for key in keys}, "lastStep": len(history) - 1},
        "fileCount": len(run.files),
    }


def _stamp(created: int) -> str:
    """Times differ by one second from run to run."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_767_225_600 + created))


def _upsert_bucket(server: WandbServer, given: Json) -> Json:
    key = next((key for key, run in server.runs.items() if run.id == given.get("id")), None)
    if key is None:
        key = (given.get("entity") or ENTITY, given.get("project") or "uncategorized", given["name"])
    if key in server.deleted:
        raise Refused(
            f"run {'/'.join(key)} was previously created and deleted; try a new run name", status=409
        )
    inserted = key not in server.runs
    server.projects.add(key[:2])
    run = server.runs.setdefault(key, RecordedRun(*key, created=len(server.runs) + len(server.deleted)))
    run.num_upserts += 1
    if given.get("config"):
        run.raw_config = json.loads(given["config"])
    if "display_name" in given:  # the public API's name of the variable
        given = given | {"displayName": given["display_name"]}
    names = {
        "displayName",
        "groupName",
        "jobType",
        "notes",
        "tags",
        "host",
        "commit",
        "program",
        "repo",
        "sweep",
    }
    run.fields |= {name: value for name, value in given.items() if name in names and value is not None}
    return {"upsertBucket": {"bucket": _bucket(run), "inserted": inserted}}


def _resume_status(server: WandbServer, given: Json) -> Json:
    entity, project = given.get("entity") or ENTITY, given.get("project") or "uncategorized"
    run = server.runs.get((entity, project, given["name"]))
    if run is not None:
        run.num_resumes += 1
    return {"model": _project(entity, project) | {"bucket": _bucket(run) if run else None}}


def _create_run_files(server: WandbServer, given: Json) -> Json:
    path = (given["entity"], given["project"], given["run"])
    files = [{"name": file, "uploadUrl": server.upload_url("run", *path, file)} for file in given["files"]]
    return {"createRunFiles": {"runID": server.runs[path].id, "uploadHeaders": [], "files": files}}


def _one_run(server: WandbServer, given: Json) -> Json:
    entity, project = (
        given.get("entity") or given.get("entityName"),
        given.get("project") or given.get("projectName"),
    )
    name = given.get("name") or given.get("run") or given.get("runId") or given.get("runName")
    run = server.runs.get((entity or ENTITY, project or "uncategorized", name or ""))
    return {
        "project": _project(entity or ENTITY, project or "uncategorized")
        | {"run": _bucket(run) if run else None}
    }


def _history_page(server: WandbServer, given: Json) -> Json:
    answer = _one_run(server, given)
    lines = answer["project"]["run"]["history"]
    wanted = range(given["minStep"], given["maxStep"])
    answer["project"]["run"]["history"] = [line for line in lines if json.loads(line)["_step"] in wanted]
    return answer


def _parquet_history(server: WandbServer, given: Json) -> Json:
    answer = _one_run(server, given)
    live = [json.loads(line) for line in answer["project"]["run"]["history"]]
    answer["project"]["run"]["parquetHistory"] = {"parquetUrls": [], "liveData": live}
    return answer


def _sampled_history(server: WandbServer, given: Json) -> Json:
    """All lines that have all the keys of a specification; nothing is sampled."""
    answer = _one_run(server, given)
    lines = [json.loads(line) for line in answer["project"]["run"]["history"]]
    pages = []
    for spec in map(json.loads, given["specs"] if "specs" in given else [given["spec"]]):
        keys = spec.get("keys", [])
        last = spec.get("maxStep", sys.maxsize - 1)  # included here, and excluded by HistoryPage
        wanted = range(spec.get("minStep", 0), last + 1)
        found = [line for line in lines if line["_step"] in wanted and line.keys() >= set(keys)]
        pages.append([{key: line[key] for key in keys} if keys else line for line in found])
    answer["project"]["run"]["sampledHistory"] = pages
    return answer


def _run_files(server: WandbServer, given: Json) -> Json:
    answer = _one_run(server, given)
    run = server.runs[given["entity"], given["project"], given["name"]]
    wanted = given.get("fileNames") or sorted(run.files)
    nodes = []
    for file in (file for file in wanted if file in run.files):
        url = f"{server.url}/download/{quote('/'.join((run.entity, run.project, run.name, file)))}"
        about = {"mimetype": "", "updatedAt": _stamp(run.created), "md5": "", "storagePath": None}
        about |= {"id": file, "name": file, "sizeBytes": len(run.files[file])}
        nodes.append(about | {"url": url, "directUrl": url})
    answer["project"]["run"]["files"] = _page(nodes, given.get("fileCursor"), given["fileLimit"])
    return answer


def _page(nodes: list[Json], cursor: str | None, size: int) -> Json:
    """A page of a list; a cursor is the rank of the last element that the client has."""
    start = int(cursor) + 1 if cursor else 0
    edges = [
        {"node": node, "cursor": str(start + rank)} for rank, node in enumerate(nodes[start : start + size])
    ]
    last = edges[-1]["cursor"] if edges else cursor
    more = start + size < len(nodes)
    return {"edges": edges, "pageInfo": {"__typename": "PageInfo", "endCursor": last, "hasNextPage": more}}


def _list_runs(server: WandbServer, given: Json) -> Json:
    place = (given["entity"], given["project"])
    if place not in server.projects:
        return {"project": None}
    order = given.get("order") or "+created_at"
    if order.lstrip("+-") != "created_at":
        raise Refused(f"this server orders runs by created_at only, not by {order}")
    wanted = json.loads(given.get("filters") or "{}")
    runs = [run for key, run in server.runs.items() if key[:2] == place and _matches(wanted, run)]
    runs.sort(key=lambda run: run.created, reverse=order.startswith("-"))
    page = _page([_bucket(run) for run in runs], given.get("cursor"), given.get("perPage") or 50)
    return {"project": _project(*place) | {"runCount": len(runs), "runs": page}}


COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, other: value == other,
    "$ne": lambda value, other: value != other,
    "$in": lambda value, others: bool(set(value if isinstance(value, list) else [value]) & set(others)),
    "$nin": lambda value, others: not set(value if isinstance(value, list) else [value]) & set(others),
    "$exists": lambda value, wanted: (value is not None) == wanted,
    "$regex": lambda value, pattern: value is not None and re.search(pattern, value) is not None,
    "$gt": lambda value, other: value is not None and value > other,
    "$gte": lambda value, other: value is not None and value >= other,
    "$lt": lambda value, other: value is not None and value < other,
    "$lte": lambda value, other: value is not None and value <= other,
}
"""The comparisons of MongoDB's filters that this server knows."""


def _matches(wanted: Json, run: RecordedRun) -> bool:
    """True if a run passes a filter in MongoDB's language."""
    return all(_passes(key, condition, run) for key, condition in wanted.items())


def _passes(key: str, condition: Any, run: RecordedRun) -> bool:
    if key == "$and":
        return all(_matches(part, run) for part in condition)
    if key == "$or":
        return any(_matches(part, run) for part in condition)
    value = _value(key, run)
    if not isinstance(condition, dict):  # of a list, such as the tags, one element may be asked for
        condition = {"$in": [condition]} if isinstance(value, list) else {"$eq": condition}
    if unknown := condition.keys() - COMPARISONS.keys():
        raise Refused(f"this server knows no {', '.join(sorted(unknown))}")
    return all(COMPARISONS[name](value, other) for name, other in condition.items())


def _value(key: str, run: RecordedRun) -> Any:
    """The value of a path such as ``group``, ``config.model.value.name`` or ``summary_metrics.loss``."""
    simple = {
        "group": run.group,
        "state": run.state,
        "name": run.name,
        "tags": run.tags,
        "jobType": run.job_type,
    }
    simple |= {"display_name": run.display_name, "displayName": run.display_name, "job_type": run.job_type}
    if key in simple:
        return simple[key]
    kind, *path = key.split(".")
    if kind == "config":
        value: Any = run.config
        path = [name for rank, name in enumerate(path) if not (rank == 1 and name == "value")]
    elif kind == "summary_metrics":
        value, path = run.summary, [".".join(path)]
    else:
        raise Refused(f"this server filters by no {key}")
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _delete_runs(server: WandbServer, given: Json) -> Json:
    ids = {given["id"]} if "id" in given else set(given.get("ids", ()))
    for key, run in list(server.runs.items()):
        if run.id in ids:
            server.deleted[key] = server.runs.pop(key)
    return {"deleteRun": {"clientMutationId": None}, "deleteRuns": {"clientMutationId": None}}


# -- projects and reports


def _list_projects(server: WandbServer, given: Json) -> Json:
    nodes = [_project(*place) for place in sorted(server.projects) if place[0] == (given["entity"] or ENTITY)]
    return {"models": _page(nodes, given.get("cursor"), given.get("perPage") or 50)}


def _get_project(server: WandbServer, given: Json) -> Json:
    entity, name = (
        given.get("entity") or given.get("entityName"),
        given.get("name") or given.get("projectName"),
    )
    place = (entity or ENTITY, name or "uncategorized")
    return {"project": _project(*place) if place in server.projects else None}


def _create_project(server: WandbServer, given: Json) -> Json:
    place = (given["input"].get("entityName") or ENTITY, given["input"]["name"])
    server.projects.add(place)
    return {"result": {"project": _project(*place), "model": _project(*place), "inserted": True}}


def _view(report: RecordedReport) -> Json:
    return {
        "id": report.id,
        "name": report.name,
        "type": report.type,
        "displayName": report.title,
        "description": report.description,
        "project": _project(report.entity, report.project),
        "user": {"username": ENTITY, "photoUrl": None, "email": ""},
        "createdAt": _stamp(0),
        "updatedAt": _stamp(report.num_saves),
        "spec": json.dumps(report.spec),
    }


def _upsert_view(server: WandbServer, given: Json) -> Json:
    """Replace the report with this id; make one if none is given."""
    content = {"title": given["displayName"], "description": given["description"], "type": given["type"]}
    if given.get("id"):
        report = _report(server, given["id"])
        report.title, report.description, report.type = (
            content["title"],
            content["description"],
            content["type"],
        )
        report.spec, report.num_saves = json.loads(given["spec"]), report.num_saves + 1
        return {"upsertView": {"view": _view(report), "inserted": False}}
    id = base64.b64encode(f"View:v1:{1000 + len(server.reports)}".encode()).decode()
    place = {"entity": given["entityName"], "project": given["projectName"], "name": given["name"]}
    report = RecordedReport(id=id, **place, **content, spec=json.loads(given["spec"]))
    server.reports.append(report)
    return {"upsertView": {"view": _view(report), "inserted": True}}


def _report(server: WandbServer, id: str) -> RecordedReport:
    for report in server.reports:
        if report.id.rstrip("=") == id.rstrip("="):
            return report
    raise Refused(f"no view {id}")


def _list_reports(server: WandbServer, given: Json) -> Json:
    """The query of ``Api.reports``: ``name`` there is the title."""
    place = (given["entity"], given["project"])
    reports = [report for report in server.reports if (report.entity, report.project) == place]
    reports = [report for report in reports if report.type == given.get("viewType", "runs")]
    reports = [report for report in reports if given.get("viewName") in (None, report.name)]
    views = _page([_view(report) for report in reports], given.get("reportCursor"), given["reportLimit"])
    return {"project": _project(*place) | {"allViews": views}}


def _specific_report(server: WandbServer, given: Json) -> Json:
    return {"view": _view(_report(server, given["reportId"]))}


def _delete_view(server: WandbServer, given: Json) -> Json:
    server.reports.remove(_report(server, given["id"]))
    return {"deleteView": {"success": True, "pendingDrafts": None, "__typename": "DeleteViewPayload"}}


def _organization(_: WandbServer, __: Json) -> Json:
    return {"entity": {"organization": None}}


# -- sweeps: agents are named by the rank of their sweep


def _upsert_sweep(server: WandbServer, given: Json) -> Json:
    place = (given["entityName"] or ENTITY, given["projectName"] or "uncategorized")
    sweep = RecordedSweep(f"sweep{len(server.sweeps):03d}", *place, yaml.safe_load(given["config"]))
    server.sweeps.append(sweep)
    server.projects.add(place)
    answer = {"name": sweep.id, "project": _project(*place)}
    return {"upsertSweep": {"sweep": answer, "configValidationWarnings": []}}


def _sweep(server: WandbServer, given: Json) -> Json:
    place = (given["entity"] or ENTITY, given["project"] or "uncategorized")
    known = [sweep for sweep in server.sweeps if sweep.id == given["sweep"]]
    if not known:
        return {"project": _project(*place) | {"sweep": None}}
    (sweep,) = known
    answer = {"id": sweep.id, "name": sweep.id, "state": "RUNNING", "config": yaml.safe_dump(sweep.config)}
    return {"project": _project(*place) | {"sweep": answer | {"runs": {"edges": []}}}}


def _create_agent(server: WandbServer, given: Json) -> Json:
    names = [sweep.id for sweep in server.sweeps]
    return {"createAgent": {"agent": {"id": str(names.index(given["sweep"]))}}}


def _heartbeat(server: WandbServer, given: Json) -> Json:
    """The next point for an agent that has nothing to do; the end, where there is none."""
    sweep, commands = server.sweeps[int(given["id"])], []
    if not json.loads(given["runState"]):
        if points := sweep.points()[len(sweep.given) :]:
            name = f"agent{len(sweep.given):03d}"
            sweep.given[name] = points[0]
            args = {key: {"value": value} for key, value in points[0].items()}
            commands = [{"type": "run", "run_id": name, "program": sweep.config["program"], "args": args}]
        else:
            commands = [{"type": "exit"}]
    return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}


# -- artifacts: uploads are recorded; using, linking and downloading them is not supported


def _artifact_type(_: WandbServer, given: Json) -> Json:
    place = (given.get("entity") or given["entityName"], given.get("project") or given["projectName"])
    return {"project": _project(*place) | {"artifact": None}}


def _create_artifact(server: WandbServer, given: Json) -> Json:
    wanted = given["input"]
    metadata = json.loads(wanted.get("metadata") or "{}")
    kind, name = wanted["artifactTypeName"], wanted["artifactCollectionName"]
    artifact = RecordedArtifact(str(len(server.artifacts)), name, kind, metadata)
    server.artifacts.append(artifact)
    sequence = {"id": name, "latestArtifact": None}
    return {
        "createArtifact": {"artifact": {"id": artifact.id, "state": "PENDING", "artifactSequence": sequence}}
    }


def _create_artifact_files(server: WandbServer, given: Json) -> Json:
    edges = []
    for file in given["input"]["artifactFiles"]:
        url = server.upload_url("artifact", file["artifactID"], file["name"])
        node = {
            "storagePath": file["name"],
            "uploadUrl": url,
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
        }
        edges.append({"node": node | {"artifact": {"id": file["artifactID"]}}})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _artifact_manifest(server: WandbServer, given: Json) -> Json:
    id = given.get("artifactID") or given["artifactManifestID"]
    file = {
        "id": id,
        "uploadUrl": server.upload_url("artifact", id, "wandb_manifest.json"),
        "uploadHeaders": [],
    }
    answer = {"artifactManifest": {"id": id, "file": file}}
    return {"createArtifactManifest": answer, "updateArtifactManifest": answer}


def _commit_artifact(server: WandbServer, given: Json) -> Json:
    artifact = server.artifacts[int(given["artifactID"])]
    artifact.state = "COMMITTED"
    return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": ""}}}


ANSWERS: Mapping[str, Callable[[WandbServer, Json], Json]] = {
    "Viewer": _viewer,
    "GetViewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerInfo": _server_info,
    "ServerFeaturesQuery": _server_info,
    "UpsertBucket": _upsert_bucket,
    "RunResumeStatus": _resume_status,
    "RunStoppedStatus": _one_run,
    "CreateRunFiles": _create_run_files,
    "Runs": _list_runs,
    "Run": _one_run,
    "RunState": _one_run,
    "RunFullHistory": _one_run,
    "RunHistoryKeys": _one_run,
    "QueryRunInfo": _one_run,
    "HistoryPage": _history_page,
    "RunParquetHistory": _parquet_history,
    "SampledHistoryPage": _sampled_history,
    "RunSampledHistory": _sampled_history,
    "RunFiles": _run_files,
    "DeleteRun": _delete_runs,
    "DeleteRuns": _delete_runs,
    "GetProjects": _list_projects,
    "GetProject": _get_project,
    "ProjectInternalId": _get_project,
    "CreateProject": _create_project,
    "upsertView": _upsert_view,
    "ProjectViews": _list_reports,
    "SpecificReport": _specific_report,
    "deleteView": _delete_view,
    "OrganizationCoreWeaveOrganizationID": _organization,
    "UpsertSweep": _upsert_sweep,
    "SweepWithRuns": _sweep,
    "CreateAgent": _create_agent,
    "Heartbeat": _heartbeat,
    "ArtifactType": _artifact_type,
    "CreateArtifact": _create_artifact,
    "CreateArtifactFiles": _create_artifact_files,
    "CreateArtifactManifest": _artifact_manifest,
    "UpdateArtifactManifest": _artifact_manifest,
    "CommitArtifact": _commit_artifact,
}


# ---- HTTP


class _Listener(ThreadingHTTPServer):
    """Listens for one life of a server, and knows its open connections."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, server: WandbServer) -> None:
        self.recorder = server
        self.dead = threading.Event()
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", server.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a client hung up or the server died."""
        if not self.dead.is_set() and not _hung_up():
            super().handle_error(request, client_address)

    def die(self) -> None:
        self.dead.set()
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            _cut(connection)


def _hung_up() -> bool:
    return isinstance(sys.exc_info()[1], ConnectionError)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, fails if ``Faults`` says so, and passes it to the recorder."""

    protocol_version = "HTTP/1.1"  # connections are kept, as clients expect

    @property
    def listener(self) -> _Listener:
        assert isinstance(self.server, _Listener)
        return self.server

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the output of tests clean."""

    def handle_one(self) -> None:
        recorder = self.listener.recorder
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._note_key()
        path = unquote(self.path).strip("/")
        query: Json = json.loads(body) if path == "graphql" else {}
        operation = operation_of(query["query"]) if query else path
        faults = recorder.take_fault(self.command, operation)
        if self.listener.dead.wait(faults.slow) or faults.drop:
            self.close_connection = True
            _cut(self.connection)
            return
        if faults.status is not None:
            wait = [] if faults.retry_after is None else [("Retry-After", str(faults.retry_after))]
            self._answer(faults.status, {"errors": [{"message": f"told to answer {faults.status}"}]}, wait)
        elif query:
            self._answer(*recorder.graphql(query["query"], query.get("variables") or {}))
        elif path.endswith("/file_stream"):
            _, entity, project, name, _ = path.split("/")
            self._answer(200, recorder.file_stream(entity, project, name, json.loads(body)))
        elif path.startswith("upload/"):
            recorder.upload(path.removeprefix("upload/"), body)
            self._answer(200, {})
        elif path.startswith("download/"):
            entity, project, name, file = path.removeprefix("download/").split("/", 3)
            self._answer(200, recorder.runs[entity, project, name].files[file])
        elif not path:
            self._answer(200, {})  # somebody asks whether anybody is here
        elif path.startswith("sdk/otel/"):
            self._answer(200, {})  # the client's telemetry about itself
        else:
            recorder.unknown.append(path)
            self._answer(404, {"errors": [{"message": f"this server knows no {path}"}]})

    do_GET = do_POST = do_PUT = handle_one

    def _note_key(self) -> None:
        """Clients show their key as the password of basic authentication."""
        kind, _, shown = self.headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            self.listener.recorder.keys.add(base64.b64decode(shown).decode().partition(":")[2])

    def _answer(self, status: int, content: Json | bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *headers,
        ]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
