"""The lease of a process on a run, a queue or the launch lock: claims, signs of life, and whether a process lives."""

import contextlib
import math
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from vlae.runs.schema import CLAIM, Claim, check_record
from vlae.system.disk import RecordError
from vlae.system.files import appearing, check_inside, read_json, write_json
from vlae.system.processes import place, process_lives, process_start

PULSE_EVERY = 30.0  # seconds between signs of life while the run is in one long step, such as a download
GPUS = "VLAE_GPUS"  # environment variable: the GPUs of this process, a fraction where it shares one
QUEUE = "VLAE_QUEUE"  # environment variable: the queue whose Slurm job this process belongs to
DEAD_AFTER = 300.0  # seconds without a sign of life after which a process on another host counts as dead


@contextlib.contextmanager
def pulse(beat: Callable[[], object]) -> Iterator[None]:
    """Call ``beat`` every half minute while the ``with`` block lasts: a sign of life for those on other hosts."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(PULSE_EVERY):
            with contextlib.suppress(RecordError):  # a full disk is reported by those who write what matters
                beat()

    thread = threading.Thread(target=repeat, name="pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def now() -> str:
    """ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def seconds_since(time_stamp: str | None) -> float:
    """Seconds since a time stamp by the clock of this host; infinite without a time stamp."""
    if time_stamp is None:
        return math.inf
    return (datetime.now(timezone.utc) - datetime.fromisoformat(time_stamp)).total_seconds()


def slurm_job() -> tuple[str | None, int]:
    """Slurm's id of the job of this process, and how often that job was requeued.

    A task of an array is ``<array>_<task>``. SLURM_JOB_ID does not name one: that of the last task is the array's
    own id, which means all tasks to Slurm's commands.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "")  # not set at the first start
    return f"{job}_{task}" if job and task else job, int(restarts) if restarts.isdigit() else 0


def new_claim() -> dict[str, Any]:
    """A claim of this process; ``token`` distinguishes it from a claim of another thread."""
    job, restarts = slurm_job()
    return {
        "pid": os.getpid(),
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


def last_number(attempts: Path) -> int:
    """The number of the latest attempt; 0 where there is none yet."""
    try:
        numbers = [int(name) for name in os.listdir(attempts) if name.isascii() and name.isdigit()]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return max(numbers, default=0)


def read_claim(attempt: Path) -> Claim | None:
    """The claim in the directory of an attempt, if there is one. RecordError: it is invalid."""
    file = attempt / "claim.json"
    if (claim := read_json(file)) is None:
        return None
    claim = {**dict.fromkeys(Claim.__annotations__), **claim}  # older ones lack keys
    return check_record(CLAIM, str(file), claim, "If no process executes this any more, move it away")


def living_claim(attempt: Path, last_sign: str | None) -> Claim | None:
    """The claim in the directory of an attempt, unless that has ended or its process is dead.

    last_sign: when status.json was last written by this attempt, which decides for a process that we cannot see.
    """
    if attempt.joinpath("ended.json").exists() or (claim := read_claim(attempt)) is None:
        return None
    if claim["place"] == place():
        lives = process_lives(claim["pid"], claim["process_start"])
        if lives is not None:
            return claim if lives else None
    job, restarts = slurm_job()
    ours = job and job == claim["slurm_job"] and os.environ.get(QUEUE) == claim["queue"]
    if ours and restarts > (claim["slurm_restarts"] or 0):
        return None  # Slurm ends what is left of a job before it starts the job again
    silence = min(seconds_since(last_sign), seconds_since(claim["started"]))
    return claim if silence < DEAD_AFTER else None


def last_claim(run: Path) -> tuple[int, Claim | None]:
    """The number of the last attempt of the run in ``run``, and its claim if that is alive."""
    number, status = last_number(run / "attempts"), read_json(run / "status.json") or {}
    last_sign = status.get("updated") if status.get("attempt") == number else None
    return number, living_claim(check_inside(run, "attempts", str(number)), last_sign)


def holder_of(place: Path) -> Claim | None:
    """The claim of the living process that holds a queue or the launch lock, and calls `show_life`."""
    return living_claim(place, (read_json(place / "status.json") or {}).get("updated"))


def show_life(place: Path) -> None:
    """Record that this process lives, in the directory of a queue or of the launch lock."""
    write_json(place / "status.json", {"updated": now()})


def put_claim(attempt: Path, claim: Mapping[str, Any]) -> None:
    """Make the directory of an attempt appear with the claim inside; nothing happens where another was first."""
    with appearing(attempt) as staged:
        write_json(staged / "claim.json", claim)
