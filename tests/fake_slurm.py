"""A Slurm of four shell scripts, which print what Slurm 22.05 prints of the jobs that a test has made up."""

import os
import stat
from pathlib import Path

SCRIPTS = {
    "squeue": """
test -e {0}/unreachable && echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2 && exit 1
cat {0}/squeue 2>/dev/null || true
""",
    "scontrol": """
test -e {0}/job-$4 && exec cat {0}/job-$4
echo 'slurm_load_jobs error: Invalid job id specified' >&2
exit 1
""",
    "sacct": """
test -e {0}/sacct-$5 && exec cat {0}/sacct-$5
echo 'Slurm accounting storage is disabled' >&2
exit 1
""",
    "scancel": "",
}


class FakeSlurm:
    """Jobs by id, ``12`` or ``12_3``; put first on PATH."""

    def __init__(self, place: Path, path: str | None = None) -> None:
        self.place = place
        (place / "bin").mkdir(parents=True)
        for name, text in SCRIPTS.items():
            script = place / "bin" / name
            script.write_text(f"#!/bin/sh\necho {name} $* >> {place}/calls\n{text.format(place)}")
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.path = f"{place / 'bin'}{os.pathsep}{path or os.environ['PATH']}"

    def waits(self, *jobs: str, reason: str = "Resources") -> None:
        for job in jobs:
            array, _, task = job.partition("_")
            self._line("squeue", f"{array}|{array}|{task or 'N/A'}|PENDING|{reason}|")

    def runs(self, *jobs: str, node: str = "n1") -> None:
        for job in jobs:
            array, _, task = job.partition("_")
            self._line("squeue", f"{int(array) + int(task or 0)}|{array}|{task or 'N/A'}|RUNNING|None|{node}")

    def known(self, job: str, state: str, reason: str = "None", node: str = "n1") -> None:
        """What the controller says of a job for some minutes after its end."""
        array, _, task = job.partition("_")
        first = int(array) + (int(task) if task.isdigit() else 0)
        of_array = f"ArrayJobId={array} ArrayTaskId={task} " if task else ""
        self._line(
            f"job-{array}",
            f"JobId={first} {of_array}JobName=vlae-x UserId=root(0) GroupId=root(0) "
            f"MCS_label=N/A Account=(null) QOS=(null) JobState={state} Reason={reason} Dependency=(null) "
            f"Requeue=1 Restarts=0 Partition=gpu ReqNodeList=(null) ExcNodeList=(null) NodeList={node} "
            "NumNodes=1 WorkDir=/shared",
        )

    def accounted(self, job: str, state: str, node: str = "n1") -> None:
        """What the accounting says of it, ever after."""
        self._line(f"sacct-{job.partition('_')[0]}", f"{job}|{state}|{node}")

    def unreachable(self) -> None:
        self.place.joinpath("unreachable").touch()

    def clear(self) -> None:
        """No job is in the queue any more."""
        self.place.joinpath("squeue").unlink(missing_ok=True)

    def calls(self) -> list[str]:
        """Commands that were given since the last look."""
        place = self.place / "calls"
        found = place.read_text().splitlines() if place.exists() else []
        place.unlink(missing_ok=True)
        return found

    def _line(self, name: str, text: str) -> None:
        with self.place.joinpath(name).open("a") as file:
            print(text, file=file)
