"""A simulated Slurm in which a test puts jobs in the state that it wants; vlae asks it in place of a real one."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from simulation.commands import NoAnswer, answer
from simulation.slurm import Job, Refused, Request, Settings, Slurm
from simulation.world import World

PROGRAMS = ("squeue", "scontrol", "sacct", "scancel")
LIVE = ("PENDING", "RUNNING", "COMPLETING")


def identity(name: str = Settings().name) -> str:
    """The identity of a simulated cluster."""
    return f"{name} (controller {name}-controller, port 6817)"


class ScriptedSlurm:
    """ComposedRuns by id, ``12``, ``12_3``, or ``12_0-2,4`` for tasks that wait together."""

    def __init__(self, **settings: Any) -> None:
        """settings: of `Settings`."""
        self.world = World(0, "")
        self.slurm = Slurm(self.world, Settings(accounting=True, **settings))
        self._calls: list[str] = []
        self._failing: dict[str, str] = {}
        self._says: dict[str, str] = {}
        self._says_of_jobs: str | None = None

    def install(self, monkeypatch: Any) -> "ScriptedSlurm":
        """`vlae.launching.slurm_state` asks this one, until the test is over."""
        from vlae.launching import slurm_state

        def which(name: str, **named: Any) -> str | None:
            return f"/usr/bin/{name}" if name in PROGRAMS else shutil.which(name, **named)

        monkeypatch.setattr(
            slurm_state, "subprocess", SimpleNamespace(**{**vars(subprocess), "run": self.run})
        )
        monkeypatch.setattr(slurm_state, "shutil", SimpleNamespace(**{**vars(shutil), "which": which}))
        return self

    def run(
        self, command: Sequence[str], timeout: float | None = None, **named: Any
    ) -> subprocess.CompletedProcess[str]:
        """Answer as ``subprocess.run`` would."""
        self._calls.append(" ".join(command))
        try:
            if command[0] in self._failing:
                raise Refused(self._failing[command[0]])
            if command[0] in self._says:
                return subprocess.CompletedProcess(command, 0, self._says[command[0]], "")
            if self._says_of_jobs is not None and command[:3] == ("scontrol", "show", "job"):
                return subprocess.CompletedProcess(command, 0, self._says_of_jobs, "")
            return subprocess.CompletedProcess(command, 0, answer(self.slurm, command), "")
        except Refused as error:
            return subprocess.CompletedProcess(command, 1, "", f"{error}\n")
        except NoAnswer:
            raise subprocess.TimeoutExpired(list(command), timeout or 0.0) from None

    def waits(self, *jobs: str, reason: str = "Resources") -> None:
        for job in jobs:
            self._put(job, "PENDING", reason)

    def runs(self, *jobs: str, node: str = "n1") -> None:
        for job in jobs:
            self._put(job, "RUNNING", "None", node)

    def known(
        self, job: str, state: str, reason: str = "None", node: str = "n1", name: str = "vlae-x"
    ) -> None:
        """The controller remembers a job that has ended; or one that squeue does not show: another user's."""
        self._put(job, state, reason, "" if node == "(null)" else node, mine=False, called=name)

    def add_to_accounting(self, job: str, state: str, node: str = "n1") -> None:
        """The accounting says this of a job from now on."""
        array, _, tasks = job.partition("_")
        node = "" if node == "None assigned" else node
        self.slurm.accounts[int(array), int(tasks) if tasks else None] = (0.0, state.partition(" ")[0], node)

    def unreachable(self, yes: bool = True) -> None:
        self.slurm.away_until = 1e9 if yes else -1.0

    def silent(self) -> None:
        """No command gives an answer."""
        self.slurm.silent_until = 1e9

    def fails(self, program: str, text: str) -> None:
        """This command of Slurm alone."""
        self._failing[program] = text

    def says(self, program: str, text: str) -> None:
        """This command prints this, whatever it is asked for."""
        self._says[program] = text

    def says_of_jobs(self, text: str) -> None:
        """``scontrol show job`` prints this, whatever it is asked for."""
        self._says_of_jobs = text

    @property
    def identity(self) -> str:
        """The identity that `vlae.launching.slurm_state.this_cluster` reads."""
        return identity(self.slurm.settings.name)

    def clear(self) -> None:
        """No job waits or runs any more, and none of those is known."""
        self.slurm.jobs = [job for job in self.slurm.jobs if job.ended is not None or not job.mine]

    def forget(self, array: str) -> None:
        """The controller, as it does some minutes after the end."""
        self.slurm.jobs = [job for job in self.slurm.jobs if str(job.array or job.id) != array]

    def calls(self) -> list[str]:
        """Commands that were given since the last look."""
        found, self._calls = self._calls, []
        return found

    def _put(
        self, name: str, state: str, reason: str, node: str = "", mine: bool = True, called: str = "vlae-x"
    ) -> None:
        array, _, tasks = name.partition("_")
        tasks, _, at_once = tasks.partition("%")
        listed = list(_tasks(tasks)) if tasks else []
        self.slurm.jobs = [job for job in self.slurm.jobs if not _same(job, int(array), listed)]
        request = Request(called, at_once=int(at_once or 1000))
        job = Job(int(array), request, state=state, reason=reason, node=node, mine=mine)
        job.ended = None if state in LIVE else self.world.now
        if tasks:
            job.array = int(array)
            if len(listed) > 1:
                job.waiting = listed
            else:
                job.task, job.id = listed[0], int(array) + listed[0]
        self.slurm.jobs.append(job)


def _same(job: Job, array: int, tasks: list[int]) -> bool:
    if not tasks:
        return job.array is None and job.id == array
    return job.array == array and job.tasks() == tasks


def _tasks(text: str) -> Iterator[int]:
    for part in text.split(","):
        ends, _, step = part.partition(":")
        first, _, last = ends.partition("-")
        yield from range(int(first), int(last or first) + 1, int(step or 1))
