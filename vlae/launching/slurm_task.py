"""A job on its node: the shell part of the batch script, and the task that executes its share of a queue.

Slurm signals the batch shell (``--signal=B:``), perhaps while the lines of ``hydra.launcher.setup`` run, or while
Python starts, which would die of it, and Slurm would not start the job again. So the shell notes the signal and passes
it on. Where Python dies of it, the shell starts Python once more, which finds the name of the signal in NOTED.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlae.launching.pool import Job, Log, Pool, jobs_of, number_of_chains
from vlae.launching.queues import NEVER_SUBMITTED, Queue, load
from vlae.launching.resources import slots
from vlae.launching.run_state import NO_STEP
from vlae.launching.slurm_requeue import gave_up, requeue_unfinished
from vlae.runs.lease import QUEUE, slurm_job
from vlae.system.interruption import SIGNALS, Interruption
from vlae.system.streams import guard

NOTED = "VLAE_SIGNAL"  # environment variable: the last signal that the shell got, such as USR2
FIRST_LINES = """\
VLAE_SIGNAL= vlae_child= vlae_woken=
vlae_note() {
    export VLAE_SIGNAL=$1
    vlae_woken=1
    if [ -n "$vlae_child" ]; then kill -s "$1" "$vlae_child" 2>/dev/null || :; fi
}
trap 'vlae_note USR2' USR2
trap 'vlae_note TERM' TERM
vlae_run() {
    local status code before again=1
    while [ "$again" = 1 ]; do
        before=$VLAE_SIGNAL
        "$@" &
        vlae_child=$! status=
        if [ "$VLAE_SIGNAL" != "$before" ]; then kill -s "$VLAE_SIGNAL" "$vlae_child" 2>/dev/null || :; fi
        while :; do
            vlae_woken=
            code=0
            wait "$vlae_child" || code=$?
            if [ "$code" = 127 ] && [ -n "$status" ]; then break; fi  # its status is known already
            status=$code
            if [ -z "$vlae_woken" ]; then break; fi  # else a signal has ended the wait
        done
        vlae_child= again=0
        if [ "$status" -gt 128 ] && [ "$(kill -l "$status" 2>/dev/null)" = "${VLAE_SIGNAL:-none}" ]; then again=1; fi
    done
    return "$status"
}""".splitlines()
"""Lines of a batch script in bash, before everything that takes time. ``vlae_run COMMAND`` then executes Python."""


class Task:
    """The function of a job, which executes its share of the runs of a queue."""

    def __init__(self, queue: str) -> None:
        self.queue = queue

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Block signals in the job that has unpickled this and executes it in a moment."""
        vars(self).update(state)
        if slurm_job()[0] is not None:
            hold_signals()

    def __call__(self, task: int) -> None:
        """Execute the runs. SystemExit, with which the job fails for Slurm too: a run is not done."""
        guard()  # its log may be on a disk that is full
        try:
            with Interruption(SIGNALS) as interruption:  # also those that the batch script ignores
                listen(interruption)
                jobs = self._execute(task, interruption)
        finally:
            if slurm_job()[0] is not None:
                for number in (signal.SIGUSR2, signal.SIGTERM):
                    # the shell would take one that ends Python for one sent before it listened
                    signal.signal(number, signal.SIG_IGN)
        if bad := [job for job in jobs if job.outcome not in ("done", "held", "cancelled")]:
            raise SystemExit(f"{len(bad)} of {len(jobs)} runs did not end well")

    def _execute(self, task: int, interruption: Interruption) -> list[Job]:
        queue = load(Path(self.queue))
        if queue is None or (queue.ended or {}).get("state") == NEVER_SUBMITTED:
            raise SystemExit("this job was recorded as never submitted; its runs were relaunched")
        os.environ[QUEUE] = queue.token  # for the claims of its runs
        jobs = jobs_of(queue, task)
        _execute_jobs(queue, jobs, interruption)
        requeue_unfinished(queue, jobs, interruption)
        return jobs


def _execute_jobs(queue: Queue, jobs: Sequence[Job], interruption: Interruption) -> None:
    for job in jobs:
        if gave_up(job, queue):
            job.outcome, job.detail = "given up", NO_STEP
            Log().report_end(job)
        elif interruption.requested:  # before anything began
            job.outcome = "not started"
    if left := [job for job in jobs if job.outcome is None]:
        number = number_of_chains(jobs)
        places = slots(number, workers=number, runs_per_gpu=number, use_gpus=queue.settings["use_gpus"])
        Pool(left, places, queue, Log(), patience=queue.settings["patience"]).run(interruption)


def hold_signals() -> None:
    """Block signals until `listen`: submitit would take them for its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def listen(interruption: Interruption) -> None:
    """Receive the signal that the shell noted, and those that were blocked."""
    if noted := os.environ.pop(NOTED, ""):
        interruption.number = signal.Signals[f"SIG{noted}"]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
