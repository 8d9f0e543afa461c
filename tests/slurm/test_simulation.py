"""The simulated Slurm answers as the real one does: the same commands are given to both, and their answers compared."""

import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from simulation.commands import answer
from simulation.slurm import Job, Refused, Request, Settings, Slurm
from simulation.world import Process, World
from slurm.cluster import CONTROLLER, Cluster, wait_until

QUEUED = ("squeue", "--me", "-h", "-r", "-o", "%A|%F|%K|%i|%T|%r|%N")
FIELDS = (
    *("JobId", "ArrayJobId", "ArrayTaskId", "ArrayTaskThrottle", "JobState", "Reason", "Requeue", "Restarts"),
    *("ExitCode", "PreemptTime", "NodeList"),
)


class Real:
    """The real cluster; a job sleeps."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def submit(
        self,
        tasks: int,
        *,
        at_once: int | None = None,
        hold: bool = False,
        seconds: int = 300,
        stubborn: bool = False,
    ) -> int:
        array = f"--array=0-{tasks - 1}" + (f"%{at_once}" if at_once else "")
        options = [array] * (tasks > 1) + ["--hold"] * hold
        wrap = "--wrap=" + "trap '' USR2 TERM; " * stubborn + f"exec sleep {seconds}"
        return int(self.cluster.submit(*options, "--signal=B:USR2@60", "--output=/dev/null", wrap))

    def ask(self, *command: str) -> tuple[bool, str]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode == 0, done.stdout or done.stderr

    def preempt(self, array: int) -> None:
        self.cluster.submit(
            "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=true"
        )

    def lose_controller(self) -> None:
        self.cluster.kill_daemon(CONTROLLER)


class Simulated:
    """The simulated one, set up like the real one."""

    def __init__(self) -> None:
        self.world = World(0, "")
        settings = Settings(nodes=4, jobs_per_node=4, requeue_delay=6, grace_time=15, kill_wait=5)
        self.slurm = Slurm(self.world, settings)

    def submit(
        self,
        tasks: int,
        *,
        at_once: int | None = None,
        hold: bool = False,
        seconds: int = 300,
        stubborn: bool = False,
    ) -> int:
        request = Request("wrap", tasks, at_once or 1000, 1e6, signal=signal.SIGUSR2, hold=hold)

        def body(job: Job, process: Process | None) -> None:
            handlers = self.world.current.handlers
            handlers.update(
                dict.fromkeys((signal.SIGUSR2, signal.SIGTERM), signal.SIG_IGN) if stubborn else {}
            )
            self.world.sleep_whole(seconds)

        request.body = body
        return self.slurm.submit(request)

    def ask(self, *command: str) -> tuple[bool, str]:
        try:
            return True, answer(self.slurm, command)
        except Refused as error:
            return False, str(error)

    def preempt(self, array: int) -> None:
        for job in self.slurm.find(str(array)):
            self.slurm.preempt(job)

    def lose_controller(self) -> None:
        self.slurm.away_until = 1e9

    def settle(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)


class Both:
    """One script for both. A job is meant by its array's id, ``0`` for the first that was submitted, and the task."""

    def __init__(self, cluster: Cluster) -> None:
        self.sides = Real(cluster), Simulated()
        self.first: list[int] = []

    def submit(self, tasks: int, **how: object) -> None:
        self.first = [side.submit(tasks, **how) for side in self.sides]

    def give(self, program: str, *words: str, task: int | None = None, own: int | None = None) -> None:
        """The same command, about the array, a task of it, or a task by its own id; both succeed or both fail."""
        succeeded = []
        for side, first in zip(self.sides, self.first, strict=True):
            name = str(first) if task is None else f"{first}_{task}"
            succeeded.append(side.ask(program, *words, name if own is None else str(first + 1 + own))[0])
        assert succeeded[0] == succeeded[1], f"{program} {words}: succeeds on the real one: {succeeded[0]}"

    def preempt(self) -> None:
        """All tasks."""
        for side, first in zip(self.sides, self.first, strict=True):
            side.preempt(first)

    def compare(self, *, after: float = 5, within: float = 60) -> None:
        """The answers of squeue and scontrol, when the simulated one has settled and the real one has come so far."""
        real, simulated = self.sides
        simulated.settle(after)
        for ask in (self.queue_of, self.jobs_of):
            expected = ask(simulated, self.first[1])
            wait_until(
                lambda ask=ask, expected=expected: ask(real, self.first[0]) == expected,
                within,
                lambda ask=ask, expected=expected: f"simulated: {expected}; real: {ask(real, self.first[0])}",
            )

    def queue_of(self, side: Real | Simulated, first: int) -> list[tuple[str, ...]]:
        found = []
        for line in side.ask(*QUEUED)[1].splitlines():
            job, array, task, name, state, reason, node = line.split("|")
            if array == str(first):
                relative = name.replace(array, "array", 1)
                found.append((str(int(job) - first), task, relative, state, reason, "a node" if node else ""))
        return sorted(found)

    def jobs_of(self, side: Real | Simulated, first: int) -> list[dict[str, str]]:
        found = []
        for line in side.ask("scontrol", "show", "job", "-o", str(first))[1].splitlines():
            fields = dict(re.findall(r"(?:^| )(\w+)=(\S+)", line))
            fields = {name: fields.get(name, "") for name in FIELDS}
            fields["JobId"] = str(int(fields["JobId"]) - first)
            fields["ArrayJobId"] = "array" if fields["ArrayJobId"] else ""
            fields["NodeList"] = "a node" if fields["NodeList"] not in ("", "(null)") else ""
            fields["PreemptTime"] = "a time" if fields["PreemptTime"][:1].isdigit() else "None"
            found.append(fields)
        return sorted(found, key=lambda fields: (fields["ArrayTaskId"], fields["JobId"]))


@pytest.fixture
def both(cluster):
    return Both(cluster)


def test_a_pending_array_is_one_record(both):
    both.submit(6, at_once=2, hold=True)
    both.compare()
    both.give("scontrol", "show", "job", "-o", task=3)
    both.give("scontrol", "show", "job", "-o", task=9)
    both.give("scontrol", "requeue", task=3)
    both.give("scontrol", "requeue")
    both.give("scancel", task=1)
    both.give("scancel", task=4)
    both.compare()
    both.give("scancel")
    both.compare()


def test_commands_for_a_task_leave_other_tasks_alone(both):
    both.submit(4)
    both.compare()
    both.give("scancel", task=1)
    both.give("scontrol", "requeue", task=2)
    both.compare(after=20)
    both.give("scontrol", "requeue", own=0)
    both.compare(after=20)
    both.give(
        "scontrol", "requeue"
    )  # the last task has the id of the array: all go again, the cancelled one too
    both.compare(after=20)
    both.give("scancel")
    both.compare(after=10)


def test_ended_and_unknown_jobs_are_distinguished(both):
    both.submit(2, seconds=2)
    both.compare(after=10)
    both.give("scontrol", "requeue", task=0)
    both.compare(after=20)
    both.give("scancel")
    both.submit(1, seconds=2)
    both.compare(after=10)
    both.first = [9000, 9000]
    for command in (("scancel",), ("scontrol", "requeue"), ("scontrol", "show", "job", "-o")):
        both.give(*command)


def test_a_preempted_job_is_reported_and_requeued(both):
    both.submit(2, stubborn=True)
    both.compare()
    both.preempt()
    both.compare()  # while it runs still
    both.compare(after=60)


def test_a_preempted_job_that_exits_is_not_requeued(both):
    both.submit(2)
    both.compare()
    both.preempt()
    both.compare(after=10)


def test_an_absent_controller_is_an_error(both):
    both.submit(1)
    for side in both.sides:
        side.lose_controller()
    asked: list[Callable[[Real | Simulated], tuple[bool, str]]] = [
        lambda side: side.ask(*QUEUED),
        lambda side: side.ask("scontrol", "show", "job", "-o", "1"),
        lambda side: side.ask("scontrol", "requeue", "1"),
        lambda side: side.ask("scancel", "1"),
    ]
    for ask in asked:
        (_, real), (succeeded, simulated) = (ask(side) for side in both.sides)
        assert not succeeded
        assert simulated.strip() == real.strip()
