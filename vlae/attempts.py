"""Who executes a run: claims that one living process at a time can hold.

Decision record: docs/decisions/0003-attempts-are-claims.md.
"""

import contextlib
import math
import os
import secrets
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, final

import psutil

from vlae.disk import DiskError, RecordError, patient, patiently, refusal_in
from vlae.errors import out_of_memory
from vlae.files import (
    appearing,
    cannot_write,
    check_inside,
    json_bytes,
    read_json,
    remove_abandoned,
    write_atomically,
)
from vlae.interruption import Interrupted
from vlae.kinds import NUMBER, TEXT, TIME, WHOLE, Kind, check, or_null
from vlae.processes import is_owned_by, place, process_start

FORCED = ".forced"  # in runs_dir: where runs are done anew beside their old results
HEARTBEAT_EVERY = 2.0  # seconds between two writes of status.json by `Attempt.heartbeat`
PULSE_EVERY = 30.0  # seconds between signs of life while the run is in one long step, such as a download
GPUS = "VLAE_GPUS"  # environment variable: the GPUs of this process, a fraction where it shares one
QUEUE = "VLAE_QUEUE"  # environment variable: the queue whose Slurm job this process belongs to
DEAD_AFTER = 300.0  # seconds without a sign of life after which a process on another host counts as dead


RESERVE, WAITING = ".reserve", "waiting.json"
"""In an attempt's directory: why it waits. Written where nothing can be written any more, see `Reserve`."""


class Pulse:
    """Calls ``beat`` every half minute until it is stopped: a sign of life for those on other hosts."""

    def __init__(self, beat: Callable[[], object]) -> None:
        self._beat, self._over = beat, threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(PULSE_EVERY):
            with contextlib.suppress(RecordError):  # a full disk is reported by those who write what matters
                self._beat()


class RunHeld(RecordError):
    """The run is being executed by a living process, whose claim is in ``holder``."""

    def __init__(self, message: str, holder: dict[str, Any]) -> None:
        super().__init__(message)
        self.holder = holder


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def seconds_since(time_stamp: str | None) -> float:
    """By this host's clock; infinite where there is no time stamp."""
    if time_stamp is None:
        return math.inf
    return (datetime.now(timezone.utc) - datetime.fromisoformat(time_stamp)).total_seconds()


def own_uid() -> int | None:
    return os.geteuid() if hasattr(os, "geteuid") else None


def is_hidden(pid: int, uid: int | None) -> bool:
    """Whether another user's process is there although /proc, mounted with hidepid=2, does not show it."""
    if uid == own_uid() or psutil.pid_exists(pid):
        return False
    try:
        os.kill(pid, 0)  # sends nothing
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def process_lives(claim: dict[str, Any]) -> bool | None:
    """Whether the process that made ``claim`` in this `place` lives; None where we may not see it."""
    try:
        start = process_start(claim["pid"])
    except psutil.AccessDenied:  # hidepid=1
        return None
    if start is None:
        return None if is_hidden(claim["pid"], claim.get("uid")) else False
    return abs(start - claim["process_start"]) < 2  # another start: the id belongs to another process by now


def slurm_job() -> tuple[str | None, int]:
    """The id by which Slurm knows the job of this process, and how often that job was requeued.

    A task of an array is ``<array>_<task>``. SLURM_JOB_ID does not name one: that of the last task is the array's
    own id, which means all tasks to Slurm's commands.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")  # not set at the first start
    return f"{job}_{task}" if job and task else job, int(restarts) if restarts.isdigit() else 0


def new_claim() -> dict[str, Any]:
    """Who we are; ``token`` tells our claim from one of another thread."""
    job, restarts = slurm_job()
    return {
        "pid": os.getpid(),
        "uid": own_uid(),
        "process_start": process_start(os.getpid()),
        "host": socket.gethostname(),
        "place": place(),
        "slurm_job": job,
        "slurm_restarts": restarts,
        "queue": os.environ.get(QUEUE),  # another cluster may have a job of the same id
        "gpus": float(os.environ.get(GPUS) or 0),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "started": now(),
        "token": secrets.token_hex(8),
    }


_KINDS: dict[str, Kind] = {
    "pid": ("a positive whole number", lambda value: type(value) is int and value > 0),
    "process_start": NUMBER,
    **dict.fromkeys(("place", "host", "token"), TEXT),
    "slurm_job": or_null(TEXT),
    "slurm_restarts": or_null(WHOLE),  # older claims have none
    "queue": or_null(TEXT),  # nor this
    "started": TIME,
}
"""Of a claim, what others go by."""


def last_number(attempts: Path) -> int:
    """The number of the latest attempt; 0 where there is none yet."""
    try:
        return max(
            (int(name) for name in os.listdir(attempts) if name.isascii() and name.isdigit()), default=0
        )
    except (FileNotFoundError, NotADirectoryError):
        return 0


def read_claim(attempt: Path) -> dict[str, Any] | None:
    """The claim in the directory of an attempt, if there is one. RecordError: it is none that anybody has made."""
    file = attempt / "claim.json"
    if (claim := read_json(file)) is not None:
        check(str(file), claim, _KINDS, "where no process executes this any more, move it away")
    return claim


def living_claim(attempt: Path, last_sign: str | None) -> dict[str, Any] | None:
    """The claim in the directory of an attempt, unless that has ended or its process is dead.

    last_sign: when status.json was last written by this attempt, which decides for a process that we cannot see.
    """
    if attempt.joinpath("ended.json").exists() or (claim := read_claim(attempt)) is None:
        return None
    if claim["place"] == place() and (lives := process_lives(claim)) is not None:
        return claim if lives else None
    job, restarts = slurm_job()
    ours = job and job == claim["slurm_job"] and os.environ.get(QUEUE) == claim.get("queue")
    if ours and restarts > (claim.get("slurm_restarts") or 0):
        return None  # Slurm ends what is left of a job before it starts the job again
    silence = min(seconds_since(last_sign), seconds_since(claim["started"]))
    return claim if silence < DEAD_AFTER else None


def last_claim(run: Path) -> tuple[int, dict[str, Any] | None]:
    """The number of the last attempt of the run in ``run``, and its claim if that is alive."""
    number, status = last_number(run / "attempts"), read_json(run / "status.json") or {}
    last_sign = status.get("updated") if status.get("attempt") == number else None
    return number, living_claim(check_inside(run, "attempts", str(number)), last_sign)


def refuse_if_held(run: Path) -> None:
    """RunHeld where a living process executes the run in ``run``."""
    number, holder = last_claim(run)
    if holder:
        status = read_json(run / "status.json") or {}
        progress = status["progress"] if status.get("attempt") == number else {}
        raise RunHeld(held_message(run, status.get("run_id", run.name), number, holder, progress), holder)


def put_claim(attempt: Path, claim: dict[str, Any]) -> None:
    """Makes the directory of an attempt appear with the claim inside; nothing happens where another was first."""
    with appearing(attempt) as staged:
        write_atomically(staged / "claim.json", json_bytes(claim))


def remove_leftovers(run: Path, over: range) -> None:
    """Deletes what killed processes left in a run directory; call it where nobody else executes the run.

    over: the numbers of the attempts that have ended. What belongs to a living process stays, as does what belongs to
    an unknown process on another host.
    """
    whose = []
    for attempt in (run / "attempts" / str(number) for number in over):
        with contextlib.suppress(RecordError):  # damaged, or of an older version
            if claim := read_claim(attempt):
                whose.append((claim["place"], claim["pid"], claim["process_start"]))
    remove_abandoned(run, lambda name: any(is_owned_by(name, *each) for each in whose))
    rests = [*run.glob("checkpoints/.*.next"), *run.glob("checkpoints/.*.link")]
    rests += [run / "attempts" / str(number) / name for number in over for name in (RESERVE, WAITING)]
    for rest in rests:
        with contextlib.suppress(OSError):
            rest.unlink()


def describe_progress(progress: dict[str, Any]) -> str:
    """``{"epoch": 3, "epochs": 60}`` -> "epoch 3/60": a key whose plural is there too is shown as a share."""
    totals = {f"{key}s" for key in progress}
    shown = {key: value for key, value in progress.items() if key not in totals}
    return ", ".join(
        f"{key} {value}/{progress[f'{key}s']}" if f"{key}s" in progress else f"{key} {value}"
        for key, value in shown.items()
    )


def held_message(
    run: Path, run_id: str, number: int, holder: dict[str, Any], progress: dict[str, Any]
) -> str:
    since = datetime.fromisoformat(holder["started"]).astimezone()
    today = since.date() == datetime.now().astimezone().date()
    position = ", ".join(filter(None, [f"attempt {number}", describe_progress(progress)]))
    forced = run.parent.name == FORCED  # it is no run yet that its id would show
    name = f"{run_id}, forced in {run}," if forced else run_id
    return (
        f"run {name} is being executed by process {holder['pid']} on host {holder['host']} "
        f"since {since:{'%H:%M' if today else '%Y-%m-%d %H:%M'}} ({position}); "
        f"wait for it, or watch it with `vlae show {run if forced else run_id}`"
    )


class Reserve:
    """Room for the last words of an attempt, taken while there is some: a full disk takes no new file.

    What is reserved is overwritten in place and renamed, which needs no space on most file systems.
    """

    SIZE = 4096

    def __init__(self, attempt: Path) -> None:
        self._place = attempt / RESERVE

    @patiently
    def take(self) -> None:
        """Errors: as for `write_atomically`."""
        try:
            with self._place.open("wb") as file:
                file.write(b" " * self.SIZE)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self._place, error) from error

    def say(self, name: str, content: dict[str, Any]) -> bool:
        """Puts ``content`` in the file of this name; whether that was possible."""
        message = content.get("message")
        text = json_bytes({**content, "message": message and message[: self.SIZE // 8]})
        try:
            with self._place.open("rb+", buffering=0) as file:
                file.write(text.ljust(self.SIZE))
                os.fsync(file.fileno())
            said = self._place.with_name(name)
            os.replace(self._place, said)
        except OSError:
            return False
        self._place = said
        return True

    def take_back(self) -> None:
        """Nothing is said any more; the room stays."""
        free = self._place.with_name(RESERVE)
        with contextlib.suppress(OSError):
            os.replace(self._place, free)
            self._place = free

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self._place.unlink()


@final
class Attempt:
    """One execution of a run by this process, from its claim to its end.

    The end is written when the ``with`` block is left: ``done`` where there are results, ``failed`` by an
    ``Exception``, else ``interrupted`` (a signal, KeyboardInterrupt and the like, or no results yet).
    """

    def __init__(
        self, directory: Path, write_status: Callable[..., None], gpus: float = 0.0, gpu_seconds: float = 0.0
    ) -> None:
        """gpus: that it uses; gpu_seconds: that the attempts before it have used."""
        self.directory, self.number = directory, int(directory.name)
        self._write_status = write_status
        self._gpus, self._gpu_seconds, self._began = gpus, gpu_seconds, time.monotonic()
        self._progress: dict[str, Any] = {}
        self._written, self._progressed = -math.inf, now()
        self._pulse = Pulse(self._show_life)
        self._reserve, self._claim = Reserve(directory), None
        self._refusal: str | None = None

    @property
    def log(self) -> Path:
        """What this attempt tells of itself."""
        return self.directory / "log.txt"

    def __enter__(self) -> "Attempt":
        self._claim = read_json(self.directory / "claim.json")
        self._reserve.take()
        self._pulse.start()
        return self

    def waits(self, reason: str | None) -> None:
        """Records that this attempt waits for the disk, and why; with None, that it continues.

        Errors: RecordError where another process has taken the run over meanwhile, or its directory is another one.
        """
        self._refusal = reason
        if reason is not None:
            self._reserve.say(WAITING, {"reason": reason, "since": now()})
            return
        self._reserve.take_back()
        self._stop_if_succeeded()
        if read_json(self.directory / "claim.json") != self._claim:
            raise RecordError(f"{self.directory} is no longer that of this process, which stops")

    def heartbeat(self, progress: dict[str, Any]) -> None:
        """Call it as often as you like: status.json is written at most every two seconds.

        Errors: RecordError where this process was out of touch for so long that another one has taken the run over.
        """
        self._progress = progress
        self.advanced()
        if time.monotonic() - self._written >= HEARTBEAT_EVERY:
            # a disk that refuses it is no reason to stop: what has to be kept waits for it
            with patient(None), contextlib.suppress(DiskError):
                self._beat()

    def advanced(self) -> None:
        """The attempt has made progress; the next sign of life says so."""
        self._progressed = now()

    def _stop_if_succeeded(self) -> None:
        if self._succeeded():
            raise RecordError(
                f"{self.directory} gave no sign of life for {DEAD_AFTER / 60:g} minutes and was taken for dead: "
                f"attempt {self.number + 1} executes the run now, this one stops"
            )

    def _beat(self) -> None:
        self._stop_if_succeeded()
        self._written = time.monotonic()
        self._write_status(
            state="running",
            attempt=self.number,
            progress=self._progress,
            progressed=self._progressed,
            gpu_seconds=self._spent(),
        )

    def _spent(self) -> float:
        return round(self._gpu_seconds + self._gpus * (time.monotonic() - self._began), 1)

    def _show_life(self) -> None:
        if time.monotonic() - self._written >= PULSE_EVERY:
            self._beat()

    def _succeeded(self) -> bool:
        return self.directory.with_name(str(self.number + 1)).exists()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pulse.stop()
        state, reason, message = self._outcome(error)
        end = {"state": state, "reason": reason, "message": message}
        try:
            self._write_end(end, error)
        except RecordError:
            ended = self._reserve.say("ended.json", {**end, "ended": now()})
            if not ended:
                with contextlib.suppress(OSError):  # without its claim the attempt holds nothing
                    self.directory.joinpath("claim.json").unlink()
            if error is None:  # otherwise the error that ended the attempt is the one to report
                raise
        else:
            self._reserve.release()

    def _write_end(self, end: dict[str, str | None], error: BaseException | None) -> None:
        """Waits for the disk only where the attempt ended by itself."""
        with contextlib.nullcontext() if error is None else patient(None):
            if isinstance(error, Exception) and not refusal_in(error):
                text = "".join(traceback.format_exception(error))
                write_atomically(self.directory / "traceback.txt", text.encode("utf-8", "backslashreplace"))
            if not self._succeeded():
                self._write_status(
                    attempt=self.number, progress=self._progress, gpu_seconds=self._spent(), **end
                )
            # releases the run
            write_atomically(self.directory / "ended.json", json_bytes({**end, "ended": now()}))

    def _outcome(self, error: BaseException | None) -> tuple[str, str | None, str | None]:
        if self.directory.parent.parent.joinpath("results.json").is_file():
            return "done", None, None
        if self._succeeded():  # it stops for its successor: the run itself has not failed
            return "interrupted", "taken over", None
        if isinstance(error, Exception) and (refused := refusal_in(error)):
            return "interrupted", refused, None
        if isinstance(error, Exception):
            if text := out_of_memory(error):
                return "failed", "out of memory", text.removeprefix("out of memory: ")
            return "failed", "exception", f"{type(error).__name__}: {error}"
        if isinstance(error, Interrupted):
            return "interrupted", signal.Signals(error.number).name, self._refusal
        if isinstance(error, KeyboardInterrupt):  # a second Ctrl-C
            return "interrupted", "SIGINT", None
        reason = "stopped" if error is None else type(error).__name__
        return "interrupted", reason, str(error or "") or None
