"""Laws of every history, judged by the events themselves and not by what vlae reports."""

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation import training
from simulation.slurm import Job, Slurm
from simulation.world import Process, World
from vlae.launching.run_state import NO_STEP, RunState
from vlae.runs.directory import RunDirectory

CANCELLED_WITHIN = 120.0
"""Seconds after which nothing starts any more that a user has cancelled."""

REQUEUES_WITHOUT_A_STEP = 4
"""After which a job has no use in starting again."""
VAGUE = ("", "missing", "killed")
"""Reasons that say less than any other."""


@dataclass
class Living:
    """An attempt that executes a run."""

    process: Process
    number: int
    token: str


class Laws:
    """Watches what happens; a law that is broken ends the history."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.launched: dict[str, float] = {}
        """The time of the command that made each queue."""
        self.cancelled: dict[str, tuple[float, float]] = {}
        """The time of the command that cancelled each run, and of its answer."""
        self.results: dict[str, int] = {}
        self._living: dict[str, Living] = {}
        self.steps_of: Callable[[Job], int] = lambda job: 0
        """All that the runs of a job have done."""
        self._progress: dict[int, tuple[int, int]] = {}

    def begins(self, directory: RunDirectory, attempt: Any, token: str) -> None:
        """An attempt has claimed the run, and is about to execute it."""
        process, run = self.world.current, directory.path.name
        assert process is not None
        other = self.living(run)
        self.world.log(f"{process} executes {run}, attempt {attempt.number}")
        if other is not None and not (other.process.unseen or process.unseen):
            self.world.violate(
                f"two living attempts of {run}: {other.number} by {other.process} and {attempt.number} by {process}"
            )
        if self.results.get(run):
            self.world.violate(f"{run} is done, and is executed again by {process}")
        given, said = self.cancelled.get(run, (-math.inf, math.inf))  # a launch given after it is a new wish
        if self.launched.get(token, 0.0) <= given and said < self.world.now - CANCELLED_WITHIN:
            self.world.violate(f"{run} was cancelled {self.world.now - said:.0f} s ago, and starts")
        self._living[run] = Living(process, attempt.number, token)

    def ends(self, directory: RunDirectory) -> None:
        self._living.pop(directory.path.name, None)

    def writes_results(self, directory: RunDirectory) -> None:
        run = directory.path.name
        self.results[run] = self.results.get(run, 0) + 1
        self.world.log(f"{self.world.current} has the results of {run}")
        if self.world.current is not None and self.world.current.unseen:
            self.results[run] = 0  # it stops when it sees its successor, and may be done before
        if self.results[run] > 1:
            self.world.violate(f"{run} has results for the second time")

    def requeues(self, process: Process, jobs: list[Job], name: str) -> None:
        """A job asks Slurm to start it again: it, and no other.

        A process on a node that Slurm has lost cannot know of a start later than the last answer it got; no
        command of Slurm names one start of a job.
        """
        known = process.informed if process.unseen else math.inf
        others = [
            job
            for job in jobs
            if process not in job.processes and job.state != "PENDING" and job.started <= known
        ]
        if others:
            other = others[0]
            self.world.violate(f"{process} requeues {name}: also job {other.named}, which is {other.state}")
        self._makes_progress(next((job for job in jobs if process in job.processes), None))

    def _makes_progress(self, job: Job | None) -> None:
        if job is None:
            return
        steps, (before, times) = self.steps_of(job), self._progress.get(id(job), (-1, 0))
        self._progress[id(job)] = steps, times + 1 if steps == before else 0
        if times + 1 > REQUEUES_WITHOUT_A_STEP and steps == before:
            self.world.violate(
                f"job {job.named} asks to start again for the {times + 2}th time without a step"
            )

    def note_announcement(self, job: Job, process: Process) -> None:
        """Note that Slurm has announced its end to a job, which continues later and does not die of that."""
        if process.status == -signal.SIGUSR2:
            self.world.violate(
                f"job {job.named} dies of the signal that announces its end, and is not queued again"
            )

    def living(self, run: str) -> Living | None:
        found = self._living.get(run)
        return found if found is not None and found.process.alive else None

    # --- what status says

    def look(self, states: list[RunState], tasks: dict[str, list[Job]], where: str) -> None:
        """states: as a user sees them now; tasks: the jobs that list each run and have not ended."""
        for state in states:
            said = f"{state.state} ({state.reason})" if state.reason else state.state
            run = state.run_id
            if (state.path / "results.json").is_file():
                if state.state != "done":
                    self.world.violate(f"status on {where} says {said} of {run}, which is done")
            elif living := self.living(run):
                if state.state != "running" and not living.process.unseen:
                    self.world.violate(
                        f"status on {where} says {said} of {run}, which is executed by {living.process}"
                    )
            elif waiting := [job for job in tasks[run] if job.state == "PENDING"]:
                if state.state not in ("queued", "running") and state.reason != NO_STEP:
                    job = waiting[0].named
                    self.world.violate(f"status on {where} says {said} of {run}, which waits in job {job}")
            elif state.state == "interrupted" and state.reason in VAGUE:
                if (known := RunDirectory(state.path).status()["reason"]) not in (*VAGUE, None):
                    self.world.violate(f"status on {where} says {said} of {run}, whose record says {known}")
            elif state.state == "failed":
                self.world.violate(f"{run} has failed: {state.reason}: {state.message}")

    # --- in the end

    def finally_done(self, runs: list[Path], clusters: list[Slurm]) -> None:
        """Every run is done once nothing disturbs any more and the user has launched until nothing is left to do."""
        for path in runs:
            run = path.name
            results = RunDirectory(path).results()
            if results is None:
                self.world.violate(f"{run} is never done: {RunDirectory(path).status()}")
            elif results["value"] != training.reference(run):
                self.world.violate(f"{run} came to {results['value']}, not to {training.reference(run)}")
        for slurm in clusters:
            if left := [job.named for job in slurm.jobs if job.ended is None]:
                self.world.violate(f"jobs wait for ever: {left}")
