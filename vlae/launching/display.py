"""The progress of a pool for a person: a live table on a terminal, plain lines elsewhere, and a summary at the end."""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vlae.launching.pool import Job, Log
from vlae.launching.queues import Queue
from vlae.runs.directory import RunDirectory, read_status
from vlae.runs.lease import last_number
from vlae.system.console import Console, duration, elbo_of, position, share, standard_error, time_left
from vlae.system.disk import RecordError
from vlae.system.files import check_inside, read_json
from vlae.trackers.process import upload_later

STYLES = {"done": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}
PLAIN_EVERY = 60.0  # seconds between two lines about the running runs, if there is no terminal


class Display(Log):
    """The progress of a pool as a person sees it: it is shown while the ``with`` block lasts."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or standard_error()
        self._total, self._began = total, time.monotonic()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._first: dict[Path, tuple[float, float]] = {}
        self._printed = self._began
        self._ended = 0

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.update(Text(""), refresh=True)
            self._live.stop()

    def report_start(self, job: Job) -> None:
        """Show that a run has started; the live table does so by itself."""
        if not self._live:
            self.say(f"started: {job.name}")

    def report_end(self, job: Job) -> None:
        """Show how a run has ended, and why."""
        self._ended += 1
        text = f"{job.outcome} {self._ended}/{self._total}: {job.name}  {duration(job.seconds)}"
        if job.outcome == "failed":
            text += f"  {job.detail or reason_of(job.path)}"
        elif job.detail:
            text += f"  ({job.detail})"
        self.say(text, STYLES.get(job.outcome or ""))

    def refresh(self, jobs: Sequence[Job]) -> None:
        """Show the present progress: the live table, or one line per running run each minute."""
        running = [job for job in jobs if job.pid is not None]
        if self._live:
            self._live.update(self._table(jobs, running), refresh=True)
        elif running and time.monotonic() - self._printed >= PLAIN_EVERY:
            self._printed = time.monotonic()
            for job in running:
                what, done, figures, left = self._progress(job)
                where = f"{what} {done}".rstrip()
                self.say("  ".join(filter(None, [job.name, where, figures, left])))

    def _table(self, jobs: Sequence[Job], running: Sequence[Job]) -> Group:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        # where the terminal is narrow the last one gives way, then the longer of the first two, never a number
        for no_wrap, ratio in ((False, None), (False, None), (True, None), (True, None), (False, 1)):
            table.add_column(no_wrap=no_wrap, ratio=ratio)
        room = max(3, self.console.height - 5)
        for job in running[:room]:
            what, done, figures, left = self._progress(job)
            cells = (job.name, what, done, left, figures)
            table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells))
        counts = Counter(job.outcome or ("waiting" if job.pid is None else "running") for job in jobs)
        line = ", ".join(f"{number} {state}" for state, number in counts.items())
        done = sum(job.outcome == "done" for job in jobs)
        left = time_left(self._began, 0, done, done + sum(job.outcome is None for job in jobs))
        elapsed = duration(time.monotonic() - self._began) + (f", about {left}" if left else "")
        return Group(table, Text(f"{line}  {elapsed}", style="bold", no_wrap=False))

    def _progress(self, job: Job) -> tuple[str, str, str, str]:
        """Its activity, the part that is done, its metrics, the time left of this activity."""
        status: Mapping[str, Any] = {}
        with contextlib.suppress(RecordError):
            status = read_status(str(job.path))
        progress = status.get("progress") or {}
        if status.get("state") != "running" or not progress:
            return "starting", "", "", ""
        what, done, total = position(progress)
        began, first = self._first.setdefault(job.path / what, (time.monotonic(), done))
        return what, share(done, total), elbo_of(progress), time_left(began, first, done, total)

    def say(self, text: str, style: str | None = None) -> None:
        """Print one line above the table."""
        self.console.print(text, style=style, markup=False)


def reason_of(run: Path) -> str:
    """Why the last attempt failed, and where to read on."""
    attempt = run / "attempts" / str(last_number(run / "attempts"))
    with contextlib.suppress(RecordError):
        check_inside(run, "attempts", attempt.name)
        if message := (read_json(attempt / "ended.json") or {}).get("message"):
            first = " ".join(str(message).split())
            return f"{first if len(first) <= 200 else first[:197] + '...'}  (log: {attempt / 'log.txt'})"
    return f"(log: {attempt / 'log.txt'})"


def summary(
    jobs: Sequence[Job], skipped: dict[str, int], sweep: str, seconds: float
) -> list[tuple[str, str | None]]:
    """The last lines of a launch, each with its style."""
    parts = [f"{number} {state}" for state, number in Counter(job.outcome for job in jobs).items()]
    parts += [f"{number} skipped ({state})" for state, number in skipped.items()]
    lines: list[tuple[str, str | None]] = [(f"{sweep}: {', '.join(parts)}  {duration(seconds)}", "bold")]
    for job in jobs:
        if job.outcome == "interrupted" and job.detail and not job.signals_sent:
            lines.append((f"  interrupted: {job.name}: {job.detail}", "yellow"))
        if job.outcome in ("failed", "killed"):
            text = f"by {job.detail}" if job.outcome == "killed" else job.detail or reason_of(job.path)
            lines.append((f"  {job.outcome}: {job.name}: {text}", "red"))
    return lines


def incomplete_mirror(queue: Queue, jobs: Sequence[Job]) -> str:
    """A sentence about the first run whose mirrors are not complete; empty if they all are."""
    # not job.path: a rerun is in the place of the old run by now
    done = (RunDirectory(queue.runs_dir / job.path.name) for job in jobs if job.outcome == "done")
    return next(filter(None, (upload_later(run, queue.sweep) for run in done)), "")
