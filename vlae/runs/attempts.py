"""Claims on a run, of which one living process at a time can hold the last.

Decision record: docs/decisions/0003-attempts-are-claims.md.
"""

import contextlib
import math
import os
import signal
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, final

from vlae.errors import out_of_memory
from vlae.runs.lease import DEAD_AFTER, PULSE_EVERY, last_claim, now, pulse, read_claim
from vlae.runs.rerun import run_to_replace
from vlae.runs.schema import Claim
from vlae.system import files
from vlae.system.console import position, share
from vlae.system.disk import DiskError, RecordError, patient, patiently, refusal_in
from vlae.system.interruption import Interrupted

HEARTBEAT_EVERY = 2.0  # seconds between two writes of status.json by `Attempt.heartbeat`
RESERVE, WAITING = ".reserve", "waiting.json"
"""Files of an attempt: its `Reserve`, and the reason why it waits for the disk, written into that."""


class RunHeld(RecordError):
    """The run is being executed by a living process, whose claim is in ``holder``."""

    def __init__(self, message: str, holder: Claim) -> None:
        super().__init__(message)
        self.holder = holder


def refuse_if_held(run: Path) -> None:
    """RunHeld where a living process executes the run in ``run``."""
    number, holder = last_claim(run)
    if holder:
        status = files.read_json(run / "status.json") or {}
        progress = status["progress"] if status.get("attempt") == number else {}
        raise RunHeld(_held_message(run, status.get("run_id", run.name), number, holder, progress), holder)


def remove_leftovers(run: Path, over: range) -> None:
    """Delete what killed processes left in a run directory; call it where no other process executes the run.

    over: the numbers of the attempts that have ended. What belongs to a living process stays, as does what belongs to
    an unknown process on another host.
    """
    whose = []
    for attempt in (run / "attempts" / str(number) for number in over):
        with contextlib.suppress(RecordError):  # damaged, or of an older version
            if claim := read_claim(attempt):
                whose.append((claim["place"], claim["pid"], claim["process_start"]))
    files.remove_abandoned(run, dead=whose)
    rests = [*run.glob("checkpoints/.*.next"), *run.glob("checkpoints/.*.link")]
    rests += [run / "attempts" / str(number) / name for number in over for name in (RESERVE, WAITING)]
    for rest in rests:
        with contextlib.suppress(OSError):
            rest.unlink()


def _held_message(run: Path, run_id: str, number: int, holder: Claim, progress: dict[str, Any]) -> str:
    since = datetime.fromisoformat(holder["started"]).astimezone()
    today = since.date() == datetime.now().astimezone().date()
    what, done, total = position(progress or {})
    at = f", {what} {share(done, total)}" if progress else ""
    # a rerun is no run yet that its id would show
    name, shown = (f"{run_id}, rerun in {run},", run) if run_to_replace(run) else (run_id, run_id)
    process = f"process {holder['pid']} on host {holder['host']}"
    when = f"{since:{'%H:%M' if today else '%Y-%m-%d %H:%M'}} (attempt {number}{at})"
    text = f"run {name} is being executed by {process} since {when}"
    return f"{text}; wait for it, or watch it with `vlae show {shown}`"


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
            raise files.cannot_write(self._place, error) from error

    def say(self, name: str, content: dict[str, Any]) -> bool:
        """Put ``content`` in the file of this name; True if that was possible."""
        message = content.get("message")
        text = files.json_bytes({**content, "message": message and message[: self.SIZE // 8]})
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
        """Withdraw the message; the room stays."""
        free = self._place.with_name(RESERVE)
        with contextlib.suppress(OSError):
            os.replace(self._place, free)
            self._place = free

    def release(self) -> None:
        """Give the room back."""
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
        self._pulse = contextlib.ExitStack()
        self._reserve, self._claim = Reserve(directory), None
        self._refusal: str | None = None

    @property
    def log(self) -> Path:
        """The log of this attempt."""
        return self.directory / "log.txt"

    def __enter__(self) -> "Attempt":
        self._claim = files.read_json(self.directory / "claim.json")
        self._reserve.take()
        self._pulse.enter_context(pulse(self._show_life))
        return self

    def waits(self, reason: str | None) -> None:
        """Record that this attempt waits for the disk, and why; with None, that it continues.

        Errors: RecordError where another process has taken the run over meanwhile, or its directory is another one.
        """
        self._refusal = reason
        if reason is not None:
            self._reserve.say(WAITING, {"reason": reason, "since": now()})
            return
        self._reserve.take_back()
        self._stop_if_has_successor()
        if files.read_json(self.directory / "claim.json") != self._claim:
            raise RecordError(f"{self.directory}: another process took over this run; stopping")

    def heartbeat(self, progress: dict[str, Any]) -> None:
        """Record progress. Call it at any rate: status.json is written at most every two seconds.

        Errors: RecordError where this process was out of touch for so long that another one has taken the run over.
        """
        self._progress = progress
        self.note_progress()
        if time.monotonic() - self._written >= HEARTBEAT_EVERY:
            # a disk that refuses it is no reason to stop: what has to be kept waits for it
            with patient(None), contextlib.suppress(DiskError):
                self._beat()

    def note_progress(self) -> None:
        """Note progress, which the next heartbeat reports."""
        self._progressed = now()

    def _stop_if_has_successor(self) -> None:
        if self._has_successor():
            raise RecordError(
                f"{self.directory}: no heartbeat for {DEAD_AFTER / 60:g} minutes; "
                f"attempt {self.number + 1} took over; stopping"
            )

    def _beat(self) -> None:
        self._stop_if_has_successor()
        self._written = time.monotonic()
        so_far = {"progress": self._progress, "progressed": self._progressed, "gpu_seconds": self._spent()}
        self._write_status(state="running", attempt=self.number, **so_far)

    def _spent(self) -> float:
        return round(self._gpu_seconds + self._gpus * (time.monotonic() - self._began), 1)

    def _show_life(self) -> None:
        if time.monotonic() - self._written >= PULSE_EVERY:
            self._beat()

    def _has_successor(self) -> bool:
        return self.directory.with_name(str(self.number + 1)).exists()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._pulse.close()
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
        """Record the end; wait for the disk only if the attempt ended by itself."""
        with contextlib.nullcontext() if error is None else patient(None):
            if isinstance(error, Exception) and not refusal_in(error):
                text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
                files.write_atomically(self.directory / "traceback.txt", text)
            if not self._has_successor():
                done = {"progress": self._progress, "gpu_seconds": self._spent()}
                self._write_status(attempt=self.number, **done, **end)
            # releases the run
            files.write_json(self.directory / "ended.json", {**end, "ended": now()})

    def _outcome(self, error: BaseException | None) -> tuple[str, str | None, str | None]:
        if self.directory.parent.parent.joinpath("results.json").is_file():
            return "done", None, None
        if self._has_successor():  # it stops for its successor: the run itself has not failed
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
