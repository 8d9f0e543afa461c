"""The process of a local queue: ``python -m vlae.launching.worker QUEUE``, in the directory of the frozen code.

It stays there, so that whatever is imported, by itself or by a process it starts, is the frozen code.
"""

import sys
import time
from pathlib import Path

from vlae.errors import UserError
from vlae.launching.display import Display, incomplete_mirror, summary
from vlae.launching.pool import Pool, jobs_of, number_of_chains
from vlae.launching.queues import Queue, load
from vlae.launching.resources import slots
from vlae.system.console import count_of
from vlae.system.interruption import Interruption
from vlae.system.streams import do_not_wait, guard


def run_queue(queue: Queue) -> int:
    """Execute the runs of a local queue; the exit status of the command that launched it."""
    began, jobs = time.monotonic(), jobs_of(queue)
    with queue.hold() as hold:
        places = slots(number_of_chains(jobs), **queue.settings["slots"])
        with Interruption() as interruption, Display(len(jobs)) as display:
            display.say(f"{count_of(len(jobs), 'run')}, {count_of(len(places), 'worker')}")
            Pool(jobs, places, queue, display).run(interruption)
        hold.state = "interrupted" if interruption.requested else "ended"
    skipped = queue.settings["skipped"]
    for text, style in summary(jobs, skipped, queue.sweep, time.monotonic() - began):
        display.say(text, style)
    if text := incomplete_mirror(queue, jobs):
        display.say(text)
    if interruption.requested:
        display.say("interrupted; the same command continues from here")
        return 128 + interruption.number
    ended_well = all(job.outcome in ("done", "held") for job in jobs) and "failed" not in skipped
    return 0 if ended_well else 1


def main() -> int:
    """Execute the queue that the command line names; the exit status."""
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
