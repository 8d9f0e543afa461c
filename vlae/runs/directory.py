"""The run directory: the only truth about a run, for people and programs alike.

    config.yaml     frozen at creation        metrics.jsonl   one object a line, append-only
    status.json     state and heartbeat       results.json    written last: the only proof of success
    attempts/<n>/   claim.json (who executes), ended.json (how it ended), traceback.txt

Nothing here imports torch or hydra: the states of thousands of runs are read in a second.
"""

import difflib
import errno
import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import yaml

from vlae.config.problems import format_value
from vlae.config.run_id import (
    OF_A_COMMAND,
    exact_text,
    newer_schema,
    settings,
    training_id,
    with_operational_keys_of,
)
from vlae.config.run_id import run_id as run_id_of
from vlae.runs.attempts import WAITING, Attempt, refuse_if_held, remove_leftovers
from vlae.runs.lease import last_claim, last_number, new_claim, now, put_claim, read_claim
from vlae.runs.rerun import RERUNS, out_of_place, recover, recover_all, run_to_replace
from vlae.runs.schema import STATUS, Claim, StateName, Status, check_record
from vlae.system import files
from vlae.system.disk import DiskError, RecordError, patiently

STATES: tuple[StateName, ...] = get_args(StateName)
STATUS_KEYS = tuple(Status.__annotations__)
EMPTY_STATUS = {**dict.fromkeys(STATUS_KEYS), "state": "new", "gpu_seconds": 0.0}
HEADER = """\
# The settings of this run, frozen when it was created by launch.py. Do not edit: the run's id is a hash of them,
# and an edited file is refused. For other settings start another run.
"""


class RunDirectory:
    """One run on disk. Holds nothing in memory that matters: any number of processes may look at the same one."""

    def __init__(self, path: files.StrPath) -> None:
        self.path = Path(path).absolute()
        self._name = str(self.path)  # a Path for each file of 10,000 runs would take as long as to read it
        self._lock = threading.RLock()  # the loop and the pulse of an attempt both write status.json

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @classmethod
    def create(cls, runs_dir: files.StrPath, run_id: str, config: dict[str, Any]) -> "RunDirectory":
        """The directory of ``run_id`` with ``config`` frozen in it; one that exists is returned as it is.

        It appears whole or not at all, even if another process creates it at the same moment.
        """
        if Path(run_id).name != run_id or run_id.startswith("."):
            raise ValueError(f"a run id is one visible directory name, not {run_id!r}")
        run = cls(Path(runs_dir) / run_id)
        if is_run(run.path):
            return run
        content = _yaml_bytes(config)
        with files.appearing(run.path) as staged:
            staged.joinpath("attempts").mkdir()
            files.write_atomically(staged / "config.yaml", content)
            cls(staged).write_status(run_id=run_id, training=training_id(config))
        return run

    @property
    def run_id(self) -> str:
        """The id recorded at creation, which a renamed or copied directory keeps."""
        return str(read_status(self._name)["run_id"])

    @property
    def attempts(self) -> int:
        """The number of attempts so far."""
        return last_number(self.path / "attempts")

    def attempt(self, number: int) -> Path:
        """The directory of an attempt. RecordError: a link on the way leads out of the run."""
        return files.check_inside(self.path, "attempts", str(number))

    def config(self) -> dict[str, Any]:
        """The frozen config. RecordError where it is not the one that the run's id was made from."""
        path = self.path / "config.yaml"
        if (content := files.read_bytes(path, files.LARGEST_CONFIG)) is None:
            raise RecordError(f"{self.path} is not a run: it has no config.yaml")
        try:
            config = yaml.safe_load(content)
            files.check_bounded(config)
            if reason := newer_schema(config):
                raise RecordError(f"{path} was {reason}")
            given = run_id_of(config)
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            reason = f"not a valid run configuration ({' '.join(str(error).split())})"
            raise RecordError(f"{path} was edited by hand: {reason}") from error
        # a run of an earlier scheme has another id than its settings have in this one
        if "schema_version" in config and given != self.run_id:
            text = f"its settings are those of run {given}, but it was frozen for run {self.run_id}"
            advice = "Undo the edit, or start the changed settings as a run of their own"
            raise RecordError(f"{path} was edited by hand: {text}. {advice}")
        if "schema_version" not in config and given == self.run_id:
            raise RecordError(f"{path} was edited by hand: it lacks the key schema_version. Undo the edit")
        self._check_training(training_id(config))
        return config

    def training(self) -> str:
        """What this run shares with runs that train longer or are scored otherwise, see `vlae.runs.trainings`."""
        return training_id(self.config())

    def _check_training(self, own: str) -> None:
        """RecordError: status.json claims the training of another run."""
        if (claimed := read_status(self._name)["training"]) not in (None, own):
            raise RecordError(
                f"{self.path / 'status.json'}: training: expected {own}, which follows from config.yaml, got "
                f"{claimed}. Move it away and rerun the same command to continue the run"
            )

    def carry_out_as(self, config: dict[str, Any]) -> None:
        """Freeze the operational keys of ``config``: device, place of the data, ..."""
        frozen = self.config()
        if (wanted := with_operational_keys_of(config, frozen)) != frozen:
            files.write_atomically(self.path / "config.yaml", _yaml_bytes(wanted))

    def results(self) -> dict[str, Any] | None:
        """The results; None: none yet. RecordError: results.json holds no metrics and so proves nothing.

        The section ``test`` is empty if the run was not scored; then the epoch of its model is the proof.
        """
        results = files.read_json(f"{self._name}/results.json")
        test = {} if results is None else results.get("test")
        if results is not None and not (isinstance(test, dict) and (test or "best_epoch" in results)):
            raise RecordError(
                f"{self.path / 'results.json'} holds no metrics of a run: expected them under the key test, got "
                f"{format_value(results)}. Delete it and rerun the command"
            )
        return results

    def write_results(self, results: dict[str, Any]) -> None:
        """Write the results, last of all: from this moment the run is done."""
        files.write_json(self.path / "results.json", results)

    # --- state

    def status(self, recorded: Status | None = None) -> Status:
        """status.json, put right: done only with results, running only while the process that holds it lives.

        recorded: what it holds, where that was read a moment ago.
        RecordError: it, or results.json, is none.
        """
        status = recorded or read_status(self._name)

        def with_state(state: StateName, reason: str | None = None, message: str | None = None) -> Status:
            return {**status, "state": state, "reason": reason, "message": message}

        if self.results() is not None:
            return with_state("done")
        if status["state"] == "done":
            return with_state("interrupted", "no results", "results.json is missing")
        if status["state"] != "running":
            return status
        attempt = self.attempt(status["attempt"] or 0)
        if self.holder() is not None:
            return {**status, "reason": (files.read_json(attempt / WAITING) or {}).get("reason")}
        if (end := files.read_json(attempt / "ended.json")) and end.get("state") in ("failed", "interrupted"):
            return with_state(end["state"], end.get("reason"), end.get("message"))
        claim = read_claim(attempt)
        process = f"process {claim['pid']} on host {claim['host']}" if claim else "its process"
        return with_state("interrupted", "killed", f"{process} ended without a word")

    def settle(self) -> None:
        """Correct what a killed attempt left of a run that is done; for writers, while no process executes it."""
        if self.results() is None or read_status(self._name)["state"] == "done" or self.holder() is not None:
            return
        with suppress(DiskError):  # it can wait
            self.write_status(state="done", reason=None, message=None)
            remove_leftovers(self.path, range(1, self.attempts + 1))

    def state(self) -> str:
        """``new`` (never started), ``running``, ``interrupted``, ``failed`` or ``done``: the present state."""
        return str(self.status()["state"])

    @patiently
    def write_status(self, **fields: Any) -> None:
        """Merge ``fields`` into status.json."""
        if not fields.keys() <= set(STATUS_KEYS) or fields.get("state", "new") not in STATES:
            raise ValueError(f"status.json has the keys {STATUS_KEYS} and the states {STATES}; got {fields}")
        with self._lock:
            status = read_status(self._name) | {"updated": now()} | fields
            files.write_json(self.path / "status.json", status)

    # --- metrics

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Add one line, on disk when this returns. A line torn by a kill is dropped first; NaN and inf become null."""
        self._append(files.json_bytes(values, indent=None), [])

    @patiently
    def _append(self, line: bytes, sizes: list[int]) -> None:
        """sizes: filled by the first try, so that a second one replaces a line that may have arrived after all."""
        path = self.path / "metrics.jsonl"
        try:
            with open(path, "ab+", buffering=0, opener=files.opener) as file:
                if not sizes:
                    sizes.append(files.whole_lines_end(file))
                file.truncate(sizes[0])
                try:
                    if file.write(line) != len(line):  # the disk is full
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(sizes[0])
                    raise
        except OSError as error:
            raise files.cannot_write(path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All whole lines of metrics.jsonl."""
        return metrics_of(self.path / "metrics.jsonl", self.metrics_bytes().splitlines())

    def metrics_size(self) -> int:
        """Bytes of the whole lines: what a checkpoint remembers for `truncate_metrics`."""
        return files.read_by(files.whole_lines_end, self.path / "metrics.jsonl") or 0

    def truncate_metrics(self, size: int) -> None:
        """Cut the metrics back to the lines of the time when `metrics_size` gave ``size``."""
        path, lines = self.path / "metrics.jsonl", self.metrics_bytes()
        if size > len(lines) or (size and lines[size - 1 : size] != b"\n"):
            raise RecordError(f"{path}: no line ends at byte {size}; its whole lines are {len(lines)} bytes")
        if path.exists():
            files.write_atomically(path, lines[:size])

    def replace_metrics(self, lines: bytes) -> None:
        """Write other whole lines in the place of all metrics."""
        files.write_atomically(self.path / "metrics.jsonl", lines)

    def metrics_bytes(self) -> bytes:
        """The whole lines of metrics.jsonl."""
        content = files.read_bytes(self.path / "metrics.jsonl") or b""
        return content[: content.rfind(b"\n") + 1]

    def check_links(self) -> None:
        """RecordError where a link in this directory leads out of it: nothing must be written or sent through it."""
        # the client of W&B itself links to a log in its cache, which is never read, written or sent again
        files.check_links(self.path, but="tracking/wandb/*/logs")

    # --- who executes it

    def claim(self) -> Attempt:
        """The right to execute this run, for one process at a time; use it as a context manager.

        Look at `results` again once you hold it: another process may have finished in between.
        Errors: RunHeld where a living process has it.
        """
        # a run that cannot be continued is refused before anything is claimed
        progress = read_status(self._name)["progress"]
        self.check_links()
        claim = {**new_claim(), "progress": progress or {}}
        while True:
            number, holder = last_claim(self.path)
            if holder and holder["token"] == claim["token"]:
                break
            refuse_if_held(self.path)
            put_claim(self.attempt(number + 1), claim)  # who was first, we read from disk
        remove_leftovers(self.path, range(1, number))
        where = " ".join(filter(None, [claim["slurm_job"] and f"job {claim['slurm_job']}", claim["host"]]))
        spent = read_status(self._name)["gpu_seconds"]
        try:
            fresh = {"reason": None, "message": None, "progressed": now(), "trains": False}
            self.write_status(state="running", attempt=number, where=where, **fresh)
        except RecordError:
            shutil.rmtree(self.attempt(number), ignore_errors=True)  # one that never began holds nothing
            raise
        return Attempt(self.attempt(number), self.write_status, claim["gpus"], spent)

    def end_attempt(self, reason: str) -> None:
        """End the last attempt, whose process can no longer do so: its Slurm job has ended.

        Where it lives nevertheless (its node is cut off), it stops itself when it sees its successor.
        """
        number, end = self.attempts, {"state": "interrupted", "reason": reason}
        self.write_status(attempt=number, message=None, **end)
        files.write_json(self.attempt(number) / "ended.json", {**end, "message": None, "ended": now()})

    def holder(self) -> Claim | None:
        """The claim of the living process that executes this run, if there is one."""
        return last_claim(self.path)[1]


def metrics_of(path: files.StrPath, lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Lines of ``path``, parsed. RecordError: one is no JSON object."""
    try:
        found = [json.loads(line) for line in lines]
    except ValueError as error:
        raise RecordError(f"{path} has a line that is no JSON ({error})") from error
    if not all(isinstance(line, dict) for line in found):
        raise RecordError(f"{path} has a line that is no JSON object")
    return found


# --- what status.json holds ------------------------------------------------------------------------------------


def read_status(run: str) -> Status:
    """status.json of the directory ``run``; a key that it lacks, as records of older versions do, is as of a new run.

    RecordError: it cannot be read, or a key of it has a value that no run writes.
    """
    file = f"{run}/status.json"
    status = {**EMPTY_STATUS, "run_id": os.path.basename(run), "progress": {}} | (files.read_json(file) or {})
    return check_record(STATUS, file, status, "Move it away and rerun the same command to continue the run")


# --- many runs -------------------------------------------------------------------------------------------------


def all_runs(runs_dir: files.StrPath) -> list[RunDirectory]:
    """Every run in ``runs_dir``, by name."""
    return [RunDirectory(Path(runs_dir) / name) for name in run_names(runs_dir)]


def find(runs_dir: files.StrPath, name: str, *, to_write: bool = False) -> RunDirectory:
    """The run that ``name`` means: its directory, its id, or a prefix of either that no other run shares.

    It is found where it is whole, even if a rerun was killed while it took its place. Nothing is written, unless
    ``to_write``: then that is completed first.
    Errors: RecordError that lists the candidates, or where it looked and which names are near.
    """
    try:
        given, runs_dir = Path(files.expand_path(name) if "/" in name else name), files.expand_path(runs_dir)
    except ValueError as error:
        raise RecordError(str(error)) from error
    folder, prefix = (given.parent, given.name) if len(given.parts) > 1 else (Path(runs_dir), name)
    if to_write:
        recover_all(folder, prefix)
    moved = out_of_place(folder)
    exact = [folder / prefix, given, moved.get(prefix, given)] if name else []
    if runs := [path for path in exact if is_run(path)]:
        return RunDirectory(runs[0])
    names = sorted({*run_names(folder), *moved})
    found = [candidate for candidate in names if candidate.startswith(prefix)]
    if len(found) == 1:
        return RunDirectory(moved.get(found[0], folder / found[0]))
    if found:
        listed = "".join(f"\n  {each}" for each in (found if len(found) <= 10 else [*found[:10], "..."]))
        raise RecordError(f"{name!r} could be any of {len(found)} runs in {folder}; give more of it:{listed}")
    if found := [path for path in exact if os.path.isdir(path)]:
        raise RecordError(f"{found[0]} is not a run: it has no config.yaml (looked in {folder} for others)")
    if not os.path.isdir(folder):
        raise RecordError(f"no run {name!r}: no directory {folder}")
    near = [each for each in names if prefix in each][:5] or difflib.get_close_matches(prefix, names, 5, 0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "" if names else ", which has no runs yet"
    raise RecordError(f"no run {name!r} in {folder}{hint}")


def is_run(path: files.StrPath) -> bool:
    """True if this is the directory of a run."""
    return os.path.isfile(os.path.join(path, "config.yaml"))


def run_names(runs_dir: files.StrPath, prefix: str = "") -> list[str]:
    """Names of the runs in ``runs_dir`` that begin so; hidden directories are none."""
    folder = os.fspath(runs_dir)  # a Path for each of 10,000 runs takes longer than to look at it
    try:
        names = [name for name in os.listdir(folder) if name[0] != "." and name.startswith(prefix)]
        return sorted(name for name in names if is_run(f"{folder}/{name}"))
    except OSError:
        return []


def note_on_earlier(runs_dir: files.StrPath, containers: Mapping[str, dict[str, Any]]) -> str:
    """A note for a command whose runs exist under an earlier scheme of ids; empty if there are none.

    containers: the configurations, by run id; only those without a directory are looked for.
    """
    wanted: dict[str, set[str]] = {}
    for run_id, container in containers.items():
        if not is_run(os.path.join(runs_dir, run_id)):
            wanted.setdefault(run_id.rpartition("-")[0], set()).add(exact_text(settings(container)))
    found = {}
    for name in run_names(runs_dir) if wanted else ():
        if not (known := wanted.get(name.rpartition("-")[0])):
            continue
        content = files.read_bytes(f"{os.fspath(runs_dir)}/{name}/config.yaml", files.LARGEST_CONFIG)
        if content and b"\nschema_version: " not in content:
            with suppress(yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError):
                own = exact_text(settings(yaml.load(content, yaml.CSafeLoader)))
                found |= {own: name} if own in known else {}
    if not found:
        return ""
    name, several = next(iter(found.values())), len(found) > 1
    what = f"{len(found)} runs, such as {name}, have" if several else f"{name} has"
    which = "runs of this sweep" if several else "this run"
    return f"{what} the settings of {which} under an earlier scheme of ids: readable as before, and made again here"


def _yaml_bytes(config: dict[str, Any]) -> bytes:
    config = {**config, **{key: False for key in OF_A_COMMAND if key in config}}
    text = HEADER + yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110)
    if yaml.safe_load(text) != config:
        raise ValueError("a config that does not survive YAML: plain values only")
    return text.encode()


def directory_of(container: dict[str, Any]) -> RunDirectory:
    """The directory of a composed configuration, there or not. What a killed rerun has left is completed."""
    runs_dir, run_id = Path(container["runs_dir"]), run_id_of(container)
    recover(runs_dir, run_id)
    return RunDirectory(runs_dir / run_id)


def check_directory(container: dict[str, Any]) -> str:
    """A note if the run of a composed configuration exists under an earlier scheme of ids, else empty.

    RecordError: ``runs_dir`` cannot be written; RunHeld: another process executes the run. Both come before the
    seconds that importing torch takes, and a download.
    """
    runs_dir, run_id = Path(container["runs_dir"]), run_id_of(container)
    files.check_writable(runs_dir)
    refuse_if_held(runs_dir / run_id)
    return note_on_earlier(runs_dir, {run_id: container})


def rerun_directory(runs_dir: files.StrPath, run_id: str, config: dict[str, Any]) -> RunDirectory:
    """The directory in which ``run_id`` is executed again, beside its old results; `vlae.runs.rerun` says how.

    Errors: RunHeld where a living process executes the old one.
    """
    refuse_if_held(Path(runs_dir) / run_id)
    return RunDirectory.create(Path(runs_dir) / RERUNS, run_id, config)


def promote(rerun: RunDirectory) -> RunDirectory:
    """The rerun, which is done and whose attempt has ended, in the place of the old run.

    Errors: RecordError where it has no results; RunHeld where a living process executes one of the two.
    """
    run = run_to_replace(rerun.path)
    assert run is not None
    if not os.path.isfile(rerun.path / "results.json"):
        raise RecordError(f"{rerun.path} has no results.json: it does not replace {run}")
    refuse_if_held(rerun.path)
    refuse_if_held(run)
    recover(run.parent, run.name)
    return RunDirectory(run)
