"""A task of an array ends on a real Slurm: that task alone starts again, and no other one is touched."""

import sys
from dataclasses import dataclass
from pathlib import Path

from slurm.cluster import Cluster, wait_until

SCRIPT = """\
#!/bin/sh
echo "$SLURM_ARRAY_TASK_ID ${{SLURM_RESTART_COUNT:-0}}" >> {record}
test "${{SLURM_RESTART_COUNT:-0}}" = 0 || exit 0
case $SLURM_ARRAY_TASK_ID in
{target}) exec {python} {stops} ;;
{completed}) exit 0 ;;
*) exec sleep 600 ;;
esac
"""
HERE, ELSEWHERE = "n1", "n[2-4]"
"""Nodes of the tasks that meet their end, and of all others."""


@dataclass
class Array:
    """Tasks of one array: the target meets its end, the others are completed, running or pending meanwhile."""

    place: Path
    size: int
    target: int
    pending: int | None = None
    job: str = ""

    @property
    def name(self) -> str:
        return f"{self.size}-{self.target}-{self.pending}"

    @property
    def task(self) -> str:
        return f"{self.job}_{self.target}"

    @property
    def completed(self) -> int | None:
        """One of the others, where there are three or more tasks, or the target is the first of two."""
        others = [i for i in range(self.size) if i not in (self.target, self.pending)]
        return others[0] if len(others) > 1 or self.target == 0 else None

    def start(self, cluster: Cluster, minutes: int) -> None:
        """The target starts last: the id of its job is then the array's own where none is pending."""
        script = self.place / f"{self.name}.sh"
        script.write_text(
            SCRIPT.format(
                record=self.place / self.name, target=self.target, python=sys.executable,
                stops=Path(__file__).with_name("stops.py"), completed=self.completed,
            )
        )  # fmt: skip
        self.job = cluster.submit(
            "--hold", f"--array=0-{self.size - 1}", "--signal=B:USR2@50", "--time=60", "--mem=10",
            f"--nodelist={HERE}", f"--output={self.place / self.name}.%a", script,
        )  # fmt: skip
        others = [f"{self.job}_{i}" for i in range(self.size) if i not in (self.target, self.pending)]
        for other in others:
            cluster.command("scontrol", "update", f"JobId={other}", "ReqNodeList=", f"ExcNodeList={HERE}")
        cluster.command("scontrol", "update", f"JobId={self.task}", f"TimeLimit={minutes}")
        cluster.command("scontrol", "release", ",".join(others))

    def starts(self) -> list[list[str]]:
        """Task and number of restarts, of every start."""
        record = self.place / self.name
        return [line.split() for line in record.read_text().splitlines()] if record.is_file() else []

    def others_started(self) -> bool:
        return len(self.starts()) == self.size - 1 - (self.pending is not None)

    def waits(self) -> bool:
        log = self.place / f"{self.name}.{self.target}"
        return log.is_file() and "waits" in log.read_text()


def arrays(place: Path) -> list[Array]:
    """Arrays of two to five tasks, each task in turn the target; and of four tasks with one that stays pending."""
    found = [Array(place, size, target) for size in range(2, 6) for target in range(size)]
    return found + [Array(place, 4, target, pending=(target + 2) % 4) for target in range(4)]


def running(cluster: Cluster, place: Path, minutes: int = 60) -> list[Array]:
    """All of these arrays, each with its target waiting for its end."""
    found = arrays(place)
    for array in found:
        array.start(cluster, minutes)
    wait_until(lambda: all(array.others_started() for array in found), 120, "others that do not start")
    for array in found:
        cluster.command("scontrol", "release", array.task)
    return found


def judge(cluster: Cluster, found: list[Array], state: str, restarts: int) -> None:
    for array in found:
        assert cluster.wait_for(array.task, state, seconds=120) == state, array
        expected = [["0"] * (i not in (array.pending,)) for i in range(array.size)]
        expected[array.target] += ["1"] * restarts
        starts = [[count for task, count in array.starts() if task == str(i)] for i in range(array.size)]
        assert starts == expected, array
        for i in set(range(array.size)) - {array.target}:
            state_of = {array.completed: "COMPLETED", array.pending: "PENDING"}.get(i, "RUNNING")
            assert cluster.state(f"{array.job}_{i}") == state_of, (array, i)


def test_a_task_at_its_time_limit_restarts_alone(cluster, tmp_path):
    found = running(cluster, tmp_path, minutes=1)
    judge(cluster, found, "COMPLETED", restarts=1)


def test_a_cancelled_task_ends_alone(cluster, tmp_path):
    found = running(cluster, tmp_path)
    wait_until(lambda: all(array.waits() for array in found), 120, "targets that do not start")
    cluster.command("scancel", *(array.task for array in found))
    judge(cluster, found, "CANCELLED", restarts=0)


def preempt(cluster: Cluster, found: list[Array]) -> None:
    wait_until(lambda: all(array.waits() for array in found), 120, "targets that do not start")
    cluster.submit(
        "-p", "urgent", f"--nodelist={HERE}", "--exclusive", "-t", "1", "-o", "/dev/null", "--wrap=true"
    )
    judge(cluster, found, "COMPLETED", restarts=1)


def test_a_preempted_task_restarts_alone(cluster, tmp_path):
    preempt(cluster, running(cluster, tmp_path))


def test_a_task_preempted_without_a_signal_restarts_alone(alone, tmp_path_factory, tmp_path):
    """It gets SIGTERM, and asks Slurm whether it is preempted or cancelled."""
    with Cluster(tmp_path_factory.mktemp("term"), user_signal=False) as plain:
        preempt(plain, running(plain, tmp_path))
