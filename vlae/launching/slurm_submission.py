"""The submission of a queue to Slurm as job arrays. The only module that imports submitit."""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae.launching.queues import NEVER, NEVER_SUBMITTED, Queue
from vlae.launching.slurm_state import SlurmError, queued_jobs, this_cluster
from vlae.launching.slurm_task import FIRST_LINES, Task
from vlae.runs import snapshot_check


def submit(queue: Queue, options: dict[str, Any], setup: Sequence[str], at_once: int) -> None:
    """Submit a queue and record its jobs, array by array. SlurmError: Slurm refuses an array.

    options: of sbatch, as submitit names them; setup: lines of the batch script; at_once: tasks that run at a time.
    """
    jobs: dict[int, str] = {}
    arrays = arrays_of(queue)
    tasks = sum(len(array) for array in arrays)
    setup = [*FIRST_LINES, *setup, *code_setup(queue.code)]
    try:
        for array in arrays:
            parallel = max(1, at_once * len(array) // tasks)
            jobs |= _submit_array(queue, array, {**options, "setup": setup, "array_parallelism": parallel})
            queue.record_jobs(jobs)
    except Exception as error:
        with contextlib.suppress(SlurmError):  # then the next launch does it
            adopt(queue)  # what it took all the same
        text = " ".join(str(error).split()) or type(error).__name__
        raise SlurmError(f"Slurm refused the submission: {text}") from error


def _submit_array(queue: Queue, tasks: Sequence[int], options: dict[str, Any]) -> dict[int, str]:
    import submitit

    # without srun, for which cores would have to be asked twice
    python = f"vlae_run {shlex.quote(sys.executable)}"
    executor = submitit.SlurmExecutor(folder=queue.path / "slurm", python=python)
    executor.update_parameters(**options, job_name=queue.job_name, stderr_to_stdout=True, use_srun=False)
    jobs = executor.map_array(Task(str(queue.path)), tasks)
    return {task: job.job_id for task, job in zip(tasks, jobs, strict=True)}


def code_setup(code: str) -> list[str]:
    """Lines of a batch script, after `FIRST_LINES`, after which Python imports the frozen code. They verify it first.

    The text that verifies it travels in the script: days may lie between the submission and the start, in which files
    of the copy may be deleted or changed.
    """
    text = Path(snapshot_check.__file__).read_text(encoding="utf-8")
    check = shlex.join([sys.executable, "-I", "-c", text, code])
    return [
        f"vlae_run {check} || exit 1",
        "export PYTHONDONTWRITEBYTECODE=1",  # nothing is written into the copy
        f"export PYTHONPATH={shlex.quote(code)}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]


def arrays_of(queue: Queue) -> list[Sequence[int]]:
    """The tasks of a queue, in arrays that the cluster takes."""
    tasks, largest = sorted({run.task for run in queue.runs}), queue.settings["largest_array"]
    return [tasks[i : i + largest] for i in range(0, len(tasks), largest)]


def adopt(queue: Queue) -> None:
    """Find the jobs of a launch whose command was killed between the submission and its record.

    Hold the launch lock: then no command is submitting. Runs that were not submitted may be launched again.
    Nothing happens where the jobs are another cluster's. SlurmError: Slurm cannot be asked.
    """
    if queue.cluster != this_cluster().identity:
        return
    jobs = queue.jobs()
    known = {job.partition("_")[0] for job in jobs.values()}
    lost = {job.partition("_")[0] for job in queued_jobs(queue.job_name)} - known
    missing = [tasks for tasks in arrays_of(queue) if tasks[0] not in jobs]
    for array, tasks in zip(sorted(lost, key=int), missing, strict=False):
        jobs |= {task: f"{array}_{i}" if len(tasks) > 1 else array for i, task in enumerate(tasks)}
    if not jobs:
        queue.end(NEVER_SUBMITTED)
        return
    for task, job in jobs.items():
        _put_task(queue, task, job)
    queue.record_jobs({task: NEVER for tasks in missing for task in tasks} | jobs)


def _put_task(queue: Queue, task: int, job: str) -> None:
    """Write the file that the job of a task waits for, unless submitit has.

    submitit writes it after the submission, so a command that is killed in between leaves a job without one, and the
    job gives up after a minute. submitit has no public function that writes the file for a job it did not submit.
    """
    from submitit.core.utils import DelayedSubmission

    place = queue.path / "slurm" / f"{job}_submitted.pkl"
    if not place.exists():
        DelayedSubmission(Task(str(queue.path)), task).dump(place)
