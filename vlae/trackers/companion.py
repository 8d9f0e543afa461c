"""Starts the process that mirrors a run, and ends it: neither takes a run more than some seconds."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlae.code import SOURCE
from vlae.config import Tracker
from vlae.files import make_directory
from vlae.problems import Problem
from vlae.record import RecordError, RunDirectory
from vlae.trackers.story import Settings, Story, to_wandb

ENDS_WITHIN = 5.0
"""Seconds that a mirror has to complete itself after the run."""
MODES = ("online", "offline", "disabled", "dryrun", "run")
"""Of WANDB_MODE."""
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
LOGINS = ("~/.netrc", "~/_netrc")
"""Where `wandb login` keeps a key."""


def environment_problems(tracker: Mapping[str, Any]) -> list[Problem]:
    """What speaks against these settings, for the person who launches; a run takes its environment as it is."""
    if not tracker["wandb"]:
        return []
    mode = os.environ.get("WANDB_MODE", MODES[0])
    if tracker["mode"] == "auto" and mode not in MODES:
        text = f"auto takes it from WANDB_MODE: expected {', '.join(MODES[:3])}, came {mode!r}"
        return [Problem("tracker.mode", text)]
    places = [Path(place).expanduser() for place in (os.environ.get("NETRC"), *LOGINS) if place]
    if (
        tracker["mode"] == "online"
        and not any(map(os.environ.get, KEYS))
        and not any(p.exists() for p in places)
    ):
        text = "online needs a key: set WANDB_API_KEY, or run `wandb login`; auto goes on offline without one"
        return [Problem("tracker.mode", text)]
    return []


def upload_later(directory: RunDirectory, name: str | None = None) -> str:
    """What is to be said of a run that Weights & Biases does not have completely; else nothing.

    name: of what is to be uploaded, where the run stands for a sweep.
    """
    story = Story(directory)
    kept = story.kept("wandb")
    if not to_wandb(story.settings.wandb, story.settings.mode) or kept.get("complete"):
        return ""
    why = f": {kept['reason']}" if kept.get("reason") else " has not taken everything in time"
    return f"Weights & Biases{why}; `vlae sync {name or story.run_id}` uploads it later"


@contextlib.contextmanager
def mirrored(directory: RunDirectory) -> Iterator[None]:
    """Inside, the run is mirrored as its configuration asks for."""
    story = Story(directory)
    if not watched(story.settings):
        yield
        return
    process = _start(directory.path, story.place)
    try:
        yield
    finally:
        if process is not None:
            _end(process)


def watched(settings: Settings | Tracker) -> bool:
    """Whether there is a mirror at all."""
    return settings.tensorboard or to_wandb(settings.wandb, settings.mode)


def _start(run: Path, place: Path) -> subprocess.Popen[bytes] | None:
    paths = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "vlae.trackers.follow", str(run)]
    try:
        log = (make_directory(place) / "log.txt").open("ab")
        with log:
            return subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
    except (OSError, RecordError):  # a full disk, or no more processes: the run has more to say of it
        return None


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ENDS_WITHIN)
    with contextlib.suppress(OSError):  # what the client of W&B has started ends when its parent does
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
