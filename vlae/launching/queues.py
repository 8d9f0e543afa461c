"""Launches on disk: runs_dir/.queues/<token>/, one directory per launch.

    queue.json    which runs, of which sweep, by which code; written before anything is started
    claim.json    the process that executes or submits it                ended.json    how that ended
    status.json   of a local queue: its last sign of life                jobs.json     of a Slurm queue: its job ids
    cancelled.json  runs that are not to be executed any more

A queue is what a launcher leaves behind; nothing about it is kept in memory.
"""

import contextlib
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from vlae.runs.lease import holder_of, new_claim, now, pulse, show_life
from vlae.runs.rerun import RERUNS
from vlae.runs.schema import Claim, Time, check_record
from vlae.system.disk import DiskError, Patience, RecordError, notice, patient
from vlae.system.files import StrPath, appearing, read_json, write_json

QUEUES = ".queues"  # in runs_dir
NEVER = ""  # the id of a job that was never submitted, because the command was killed or Slurm refused it
NEVER_SUBMITTED = "never submitted"  # the end of a queue of which Slurm took no job


@dataclass(frozen=True)
class Waiting:
    """A run in a queue."""

    run_id: str
    attempts: int  # number of attempts when the launch was planned; with one more, this queue has executed it
    is_rerun: bool = False
    task: int = 0  # the task of the Slurm array that executes it
    chain: str = ""  # the training that it shares with others of the queue: one of them runs at a time


@dataclass
class Hold:
    """The execution of a local queue by this process."""

    state: str = "stopped"  # the outcome of the execution


@dataclass(frozen=True)
class Queue:
    """One launch, as it is on disk."""

    path: Path
    kind: str  # local or slurm
    sweep: str
    code: str  # the directory of the frozen code
    created: Time
    runs: tuple[Waiting, ...]
    settings: dict[str, Any] = field(default_factory=dict)  # settings of the launcher

    @property
    def token(self) -> str:
        """The name of its directory."""
        return self.path.name

    @property
    def runs_dir(self) -> Path:
        """The directory of its runs."""
        return self.path.parent.parent

    def place_of(self, run: Waiting) -> Path:
        """The directory in which a run of this queue is executed."""
        return self.runs_dir / (RERUNS if run.is_rerun else "") / run.run_id

    def is_done(self, run: Waiting) -> bool:
        """True if the run has its results. A rerun then takes the place of the old run."""
        place = self.place_of(run)
        return not place.is_dir() if run.is_rerun else (place / "results.json").is_file()

    @property
    def cluster(self) -> str | None:
        """The cluster that its jobs were submitted to."""
        return self.settings.get("cluster")

    @property
    def ended(self) -> dict[str, Any] | None:
        """How and when it ended; None: not yet."""
        return read_json(self.path / "ended.json")

    def end(self, state: str, reasons: dict[str, str] | None = None) -> None:
        """Record the end of the queue. reasons: why runs have no results, as far as Slurm reports."""
        write_json(self.path / "ended.json", {"state": state, "reasons": reasons or {}, "ended": now()})

    @property
    def job_name(self) -> str:
        """The name of its Slurm jobs, by which they are found if the command is killed before it records their ids."""
        return f"vlae-{self.token}"

    def cancelled_runs(self) -> set[str]:
        """Ids of runs that are not to be executed any more."""
        return set((read_json(self.path / "cancelled.json") or {}).get("runs", ()))

    def cancel(self, run_ids: Iterable[str]) -> None:
        """Cancel runs; the process that executes the queue sees it within seconds."""
        write_json(self.path / "cancelled.json", {"runs": sorted(self.cancelled_runs() | set(run_ids))})

    @contextlib.contextmanager
    def hold(self) -> Iterator[Hold]:
        """Take a local queue over from the process that created it. It ends when the ``with`` block does."""
        patience = Patience(self.runs_dir)
        patience.say = lambda reason: None if reason is None else print(notice(reason), file=sys.stderr)
        with patient(patience):
            write_json(self.path / "claim.json", new_claim())
        hold = Hold()
        try:
            with pulse(lambda: show_life(self.path)):
                yield hold
        finally:
            with contextlib.suppress(DiskError):  # a queue ends with its process too
                self.end(hold.state)

    def holder(self) -> Claim | None:
        """The claim of the living process that executes a local queue, or submits one to Slurm."""
        return holder_of(self.path)

    def jobs(self) -> dict[int, str]:
        """The Slurm job of each task; NEVER, or nothing as long as it is being submitted."""
        found = read_json(self.path / "jobs.json") or {}
        return {int(task): job for task, job in found.items()}

    @property
    def is_being_submitted(self) -> bool:
        """True while a command submits the queue, or if that command was killed."""
        return len(self.jobs()) < len({run.task for run in self.runs})

    def record_jobs(self, jobs: dict[int, str]) -> None:
        """Record the Slurm job of each task."""
        write_json(self.path / "jobs.json", jobs)


_QUEUE = TypeAdapter(Queue)


def create(
    runs_dir: StrPath, *, kind: str, sweep: str, code: Path, runs: Sequence[Waiting], settings: dict[str, Any]
) -> Queue:
    """A queue that this process holds, whole from its first moment."""
    place = Path(runs_dir).absolute() / QUEUES
    queue = Queue(place / secrets.token_hex(6), kind, sweep, str(code), now(), tuple(runs), settings)
    content = {**vars(queue), "runs": [vars(run) for run in queue.runs]}
    del content["path"]
    with appearing(queue.path) as staged:
        write_json(staged / "queue.json", content)
        write_json(staged / "claim.json", new_claim())
    return queue


def load(path: Path) -> Queue | None:
    """The queue in ``path``; None: there is none, or no longer. RecordError: its record is damaged."""
    file = path / "queue.json"
    if (content := read_json(file)) is None:
        return None
    todo = "Move the directory away and launch again"
    return check_record(_QUEUE, str(file), {**content, "path": path}, todo)


def all_queues(runs_dir: StrPath) -> list[Queue]:
    """Every launch that was recorded, the oldest first."""
    place = Path(runs_dir).absolute() / QUEUES
    found = []
    for path in place.glob("[!.]*"):
        # one that is damaged says nothing of its runs any more; their own claims still keep them from running twice
        with contextlib.suppress(RecordError):
            found.append(load(path))
    return sorted((queue for queue in found if queue), key=lambda queue: (queue.created, queue.token))
