"""Faults that were mended, brought back: the laws must find each of them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from simulation import history
from vlae.launching import (
    pool,
    run_state,
    slurm_launcher,
    slurm_requeue,
    slurm_state,
    slurm_submission,
    slurm_task,
)
from vlae.runs.directory import RunDirectory


@contextlib.contextmanager
def array_requeued() -> Iterator[None]:
    """The id of an array is taken for that of its last task, which requeues all of them."""

    def slurm_job() -> tuple[str | None, int]:
        return os.environ.get("SLURM_JOB_ID"), int(os.environ.get("SLURM_RESTART_COUNT") or 0)

    with (
        mock.patch.object(slurm_task, "slurm_job", slurm_job),
        mock.patch.object(slurm_requeue, "slurm_job", slurm_job),
    ):
        yield


@contextlib.contextmanager
def other_cluster_believed() -> Iterator[None]:
    """Whatever cluster a queue belongs to, the one that answers here is taken for it."""
    real = slurm_state.this_cluster

    def this_cluster() -> slurm_state.Cluster:
        return slurm_state.Cluster("the cluster", real().largest_array)

    with contextlib.ExitStack() as patches:
        for module in (slurm_state, slurm_launcher, slurm_submission, run_state):
            patches.enter_context(mock.patch.object(module, "this_cluster", this_cluster))
        yield


@contextlib.contextmanager
def looking_writes() -> Iterator[None]:
    """A look ends the queues whose jobs it does not find."""
    real = run_state.Observer.__init__

    def look(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        self.record_ends()

    with mock.patch.object(run_state.Observer, "__init__", look):
        yield


@contextlib.contextmanager
def first_seconds_deadly() -> Iterator[None]:
    """The batch script begins without the lines that note signals."""
    with mock.patch.object(history, "notes_signals", return_value=False):
        yield


@contextlib.contextmanager
def requeued_without_progress() -> Iterator[None]:
    """Any limit is accepted, and a job asks to start again whether or not its runs have made a step."""
    with (
        mock.patch.object(slurm_launcher.SlurmArrays, "_problems", return_value=[]),
        mock.patch.object(slurm_requeue, "_makes_progress", return_value=True),
    ):
        yield


@contextlib.contextmanager
def cancelled_starts() -> Iterator[None]:
    """A job does not look whether its runs were cancelled, and no job is cancelled."""
    with (
        mock.patch.object(pool.Pool, "_drop_cancelled"),
        mock.patch.object(slurm_state, "cancel"),
    ):
        yield


@contextlib.contextmanager
def submission_lost() -> Iterator[None]:
    """The jobs of a command that was killed while it submitted are not looked for."""
    with mock.patch("vlae.launching.cleanup.adopt_lost_submissions"):
        yield


@contextlib.contextmanager
def results_taken_for_nothing() -> Iterator[None]:
    """A run is executed although another process has finished it."""
    with mock.patch.object(RunDirectory, "results", return_value=None):
        yield


FAULTS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "array-requeued": array_requeued,
    "other-cluster-believed": other_cluster_believed,
    "looking-writes": looking_writes,
    "first-seconds-deadly": first_seconds_deadly,
    "requeued-without-progress": requeued_without_progress,
    "cancelled-starts": cancelled_starts,
    "submission-lost": submission_lost,
    "results-taken-for-nothing": results_taken_for_nothing,
}
