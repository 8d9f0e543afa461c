"""A local queue at work: ``python -m vlae.launching.worker QUEUE``, in the directory of the frozen code.

It stays there, so that whatever is imported, by itself or by a process it starts, is the frozen code.
"""

import contextlib
import sys
import time
from pathlib import Path

from vlae.errors import UserError
from vlae.launching.display import Display, summary
from vlae.launching.pool import Job, Pool, jobs_of
from vlae.launching.queues import Queue, load
from vlae.launching.resources import slots
from vlae.runs.directory import RunDirectory
from vlae.runs.lease import Pulse, new_claim, show_life
from vlae.system.console import counted
from vlae.system.disk import DiskError, Patience, RecordError, notice, patient
from vlae.system.files import write_json
from vlae.system.interruption import Interruption
from vlae.system.streams import do_not_wait, guard
from vlae.trackers.process import upload_later


def run_queue(queue: Queue) -> int:
    """Executes the runs of a local queue; the exit status of the command that launched it."""
    patience = Patience(queue.runs_dir)
    patience.say = lambda reason: None if reason is None else print(notice(reason), file=sys.stderr)
    with patient(patience):
        write_json(queue.path / "claim.json", new_claim())  # this process works it off from now on
    began, settings = time.monotonic(), queue.settings
    jobs = jobs_of(queue)
    state, pulse = "stopped", Pulse(lambda: show_life(queue.path))
    pulse.start()
    try:
        places = slots(len(jobs), **settings["slots"])
        with Interruption() as interruption, Display(len(jobs)) as display:
            display.say(f"{counted(len(jobs), 'run')}, {counted(len(places), 'worker')}")
            Pool(jobs, places, queue, display).run(interruption)
        state = "interrupted" if interruption.requested else "ended"
    finally:
        pulse.stop()
        with contextlib.suppress(DiskError):  # a queue ends with its process too
            queue.end(state)
    for text, style in summary(jobs, settings["skipped"], queue.sweep, time.monotonic() - began):
        display.say(text, style)
    if text := next(filter(None, (_upload_later(queue, job) for job in jobs)), ""):
        display.say(text)
    if interruption.requested:
        display.say("interrupted; the same command continues from here")
        return 128 + interruption.number
    ended_well = all(job.outcome in ("done", "held") for job in jobs) and "failed" not in settings["skipped"]
    return 0 if ended_well else 1


def _upload_later(queue: Queue, job: Job) -> str:
    if job.outcome != "done":
        return ""
    with contextlib.suppress(RecordError):  # it was deleted meanwhile
        # not job.path: a forced run is in the place of the old one by now
        return upload_later(RunDirectory(queue.runs_dir / job.path.name), queue.sweep)
    return ""


def main() -> int:
    guard()
    do_not_wait()
    queue = load(Path(sys.argv[1]))
    if queue is None:
        print(f"vlae: no queue in {sys.argv[1]}", file=sys.stderr)
        return 2
    try:
        return run_queue(queue)
    except UserError as error:
        print(f"vlae: {error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
