"""The process that mirrors a run: its start and its end, neither of which delays the run by more than seconds."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlae.config.problems import Problem
from vlae.config.schema import Tracker
from vlae.runs.directory import RunDirectory
from vlae.system.disk import RecordError
from vlae.system.files import make_directory
from vlae.system.locations import SOURCE
from vlae.trackers.run_history import OFFLINE, WANDB, RunHistory, to_wandb

ENDS_WITHIN = 5.0  # seconds that a mirror has to complete itself after the run
MODES = ("online", "offline", "disabled", "dryrun", "run")  # values of WANDB_MODE
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
LOGINS = ("~/.netrc", "~/_netrc")  # files in which `wandb login` stores a key


def environment_problems(tracker: Mapping[str, Any]) -> list[Problem]:
    """Problems of these settings with this environment, checked at a launch; a run takes its environment as it is."""
    mode = os.environ.get("WANDB_MODE") or MODES[0] if tracker["mode"] == "auto" else tracker["mode"]
    if not tracker["wandb"] or mode == "disabled":
        return []
    if mode not in MODES:
        text = f"auto takes it from WANDB_MODE: expected {', '.join(MODES[:3])}, got {mode!r}"
        return [Problem("tracker.mode", text)]
    found = []
    address, key = os.environ.get("WANDB_BASE_URL"), os.environ.get("WANDB_API_KEY", "")
    if address and not address.startswith(("https://", "http://")):
        text = f"expected an address that begins with https:// or http://, got {address!r}"
        found.append(Problem("WANDB_BASE_URL", text))
    if key != key.strip():
        found.append(Problem("WANDB_API_KEY", "expected a key, got one with spaces around it"))
    places = [Path(place).expanduser() for place in (os.environ.get("NETRC"), *LOGINS) if place]
    has_key = any(map(os.environ.get, KEYS)) or any(place.exists() for place in places)
    if tracker["mode"] == "online" and not has_key:
        text = "online needs a key: set WANDB_API_KEY, or run `wandb login`; auto continues offline"
        found.append(Problem("tracker.mode", text))
    return found


def upload_later(directory: RunDirectory, name: str | None = None) -> str:
    """A sentence about mirrors of a run that are not complete; empty if they are.

    name: the sweep to upload, if the run stands for one.
    """
    found = []
    try:
        run_history = RunHistory(directory)
        notes = run_history.notes_of(WANDB)
        if to_wandb(run_history.settings) and not notes.get("complete"):
            reason = (run_history.notes_of(OFFLINE) or notes).get("reason")
            found.append(f"Weights & Biases{f': {reason}' if reason else ' did not take everything in time'}")
        if run_history.lacks_event_files():
            found.append("TensorBoard's event files were not completed in time")
    except RecordError as error:  # in the mirrors' own files: the run is done nevertheless
        return f"mirrors of the run: {error}"
    return f"{'; '.join(found)}; `vlae sync {name or directory.run_id}` completes it later" if found else ""


@contextlib.contextmanager
def start_mirror(directory: RunDirectory) -> Iterator[None]:
    """Mirror the run as its configuration says, until the ``with`` block ends."""
    run_history = RunHistory(directory)
    with contextlib.suppress(RecordError):  # the mirror, if there is one, reports it
        run_history.take_generation()
    process = _start(directory.path, run_history.place) if has_mirror(run_history.settings) else None
    try:
        yield
    finally:
        if process is not None:
            _end(process)


def has_mirror(settings: Tracker) -> bool:
    """True if there is any mirror."""
    return settings.tensorboard or to_wandb(settings)


def _start(run: Path, place: Path) -> subprocess.Popen[bytes] | None:
    paths = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "vlae.trackers.mirror", str(run)]
    try:
        with (make_directory(place) / "log.txt").open("ab") as log:
            return subprocess.Popen(
                command,
                env=environment,
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
    except (OSError, RecordError):  # a full disk, or too many processes: the run reports it
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        with contextlib.suppress(OSError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_WITHIN)
    finally:  # also if a signal interrupts the wait
        with contextlib.suppress(OSError):  # the W&B client's own processes end with their parent
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
