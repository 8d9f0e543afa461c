"""The launcher ``local``: a queue of processes on this machine."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlae.config.schema import Count, Minutes
from vlae.launching.launcher import Launcher
from vlae.launching.plan import Plan
from vlae.launching.queues import Queue
from vlae.launching.resources import slots
from vlae.launching.schedule import Order, Schedule, chains_of
from vlae.system.interruption import signals_to_handle

START = """
import signal, sys
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(130))
from vlae.launching.worker import main
sys.exit(main())
"""
"""Source of the process that executes a queue: a Ctrl-C ends it until the pool listens, which takes a second."""


@dataclass
class LocalQueue(Launcher):
    """The launcher ``local``; conf/hydra/launcher/local.yaml explains its keys."""

    here, kind = True, "local"
    workers: Count | None = None
    runs_per_gpu: Count = 1
    run_timeout_min: Minutes | None = None
    order: Order = "seeds"

    def check_plan(self, plan: Plan) -> None:
        """ConfigError: something is wrong with the runs, or more workers are asked for than fit on the GPUs."""
        super().check_plan(plan)
        self.at_once(plan)

    def at_once(self, plan: Plan) -> int:
        """As many as there are slots."""
        return len(slots(len(chains_of(plan.starting)), **self._slot_settings(plan)))

    def prepare(self, schedule: Schedule, frozen: Path) -> Queue:
        """A queue that this process holds until the process of its own takes it over."""
        settings = {"slots": self._slot_settings(schedule.plan), "run_timeout_min": self.run_timeout_min}
        return self.create_queue(schedule, frozen, settings)

    def _slot_settings(self, plan: Plan) -> dict[str, Any]:
        use_gpus = any(run.container["device"] != "cpu" for run in plan.starting)
        return {"workers": self.workers, "runs_per_gpu": self.runs_per_gpu, "use_gpus": use_gpus}

    def execute(self, queue: Queue) -> int:
        """Execute the queue in a process of its own, which gets every signal and outlives this one."""
        command = [sys.executable, "-c", START, str(queue.path)]
        paths = os.pathsep.join(filter(None, [queue.code, os.environ.get("PYTHONPATH")]))
        # nothing is written into the frozen code
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
        # in a session of its own: a Ctrl-C in the terminal reaches this process alone, which passes it on once
        process = subprocess.Popen(command, cwd=queue.code, env=environment, start_new_session=True)

        def pass_on(number: int, frame: object) -> None:
            process.send_signal(number)

        kept = {number: signal.signal(number, pass_on) for number in signals_to_handle()}
        try:
            status = process.wait()
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
        return status if status >= 0 else 128 - status
