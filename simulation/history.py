"""One history: a sweep is launched, everything is disturbed, and in the end the user launches until all is done."""

import itertools
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation import training
from simulation.children import Children
from simulation.commands import NoAnswer, answer
from simulation.disturbances import disturb
from simulation.laws import Laws
from simulation.slurm import Job, Refused, Request, Settings, Slurm
from simulation.world import Process, World
from vlae.config.run_id import run_id
from vlae.errors import UserError
from vlae.launching import cancel
from vlae.launching.composed_runs import ComposedRuns
from vlae.launching.launch import launch_runs
from vlae.launching.launcher import Launcher
from vlae.launching.local_launcher import LocalQueue
from vlae.launching.queues import NEVER, NEVER_SUBMITTED, load
from vlae.launching.run_state import Observer
from vlae.launching.slurm_launcher import SlurmArrays
from vlae.launching.slurm_task import FIRST_LINES, NOTED, hold_signals
from vlae.system.files import read_json

ROUNDS = 15
"""Launches after the last disturbance, at most."""
PATIENCE = 20_000.0
"""Seconds after which a quiet cluster must have nothing to do any more."""


class History:
    """Everything that is there: the clusters, the users' commands, the runs."""

    def __init__(self, seed: int, root: Path) -> None:
        self.world = world = World(seed, str(root))
        self.random = world.random
        world.history = self
        self.laws = Laws(world)
        self.laws.steps_of = self._steps_of
        self.children = Children(self)
        self.runs_dir = root / "runs"
        names = ["a", "b"] if self.random.random() < 0.25 else ["a"]
        self.clusters = {name: Slurm(world, self._settings(name)) for name in names}
        for slurm in self.clusters.values():
            slurm.on_announcement = self.laws.note_announcement
            slurm.doom = lambda: self.doom(0.08)
        self.seeds = range(self.random.randint(2, 6))
        self.launcher = self._launcher()
        self.containers = [self._container(seed) for seed in self.seeds]
        self.runs = [self.runs_dir / run_id(container) for container in self.containers]
        self._count = itertools.count(1)

    def play(self) -> None:
        """Violation: a law was broken."""
        world, random = self.world, self.random
        self.command("launch", "a", self._launch, self.doom(0.15))
        for _ in range(random.randint(1, 10)):
            world.run(world.now + random.expovariate(1 / 150))
            disturb(self)
        world.run(world.now + random.expovariate(1 / 300))
        self._finish()

    # --- the users

    def command(self, name: str, place: str, body: Callable[[], Any], doom: int | None = None) -> Process:
        """Given on the login node of a cluster."""
        name = f"{name} {next(self._count)}"
        self.world.log(f"a user gives the command {name} on login-{place}")
        process = self.world.start(name, f"login-{place}", {"HOME": "/home/user"}, body, doom)
        process.handlers[signal.SIGINT] = signal.default_int_handler
        process.doomed_by = self.random.choice([signal.SIGKILL, signal.SIGINT])
        return process

    def doom(self, part: float) -> int | None:
        """The point at which a process is killed, of this part of all processes."""
        return self.random.randint(1, 80) if self.random.random() < part else None

    def _launch(self) -> None:
        self._launch_with(self.launcher)

    def _launch_here(self) -> None:
        self._launch_with(LocalQueue())

    def _launch_with(self, launcher: Launcher) -> None:
        world = self.world
        world.acting.launched = world.now
        jobs = ComposedRuns([[f"seed={seed}"] for seed in self.seeds], self._compose)
        try:
            status = launch_runs(jobs, launcher, "sweep")
        except UserError as error:
            world.log(f"{world.current} fails: {error}".replace(world.root, ""))
            raise SystemExit(error.exit_status) from error
        raise SystemExit(status)

    def cancel(self) -> None:
        """Some runs, as `vlae cancel` does."""
        world, given = self.world, self.world.now
        chosen = [run.name for run in self.runs if self.random.random() < 0.5] or [self.runs[0].name]
        world.log(f"{world.current} cancels {', '.join(chosen)}")
        try:
            found = cancel.cancel(self.runs_dir, chosen)
        except UserError as error:
            world.log(f"{world.current} fails: {error}")
            return
        for run in found:
            self.laws.cancelled[run] = (given, world.now)
        world.log(f"{world.current} has cancelled {', '.join(found) or 'nothing'}")

    def look(self, where: str) -> None:
        """Look at all runs as `vlae status` does, at one moment, and check the laws of what it says."""
        process = self.world.start("status", f"login-{where}", {}, lambda: None)

        def look() -> None:
            self.world.looking = True
            try:
                observer = Observer(self.runs_dir)
                states = [observer.state(run) for run in self.runs if run.is_dir()]
            finally:
                self.world.looking = False
            said = ", ".join(f"{s.run_id} {s.state}" + f" ({s.reason})" * bool(s.reason) for s in states)
            self.world.log(
                f"status on login-{where} says: {said}" + f"; {observer.warning}" * bool(observer.warning)
            )
            self.laws.look(states, {run.name: self.jobs_of(run.name) for run in self.runs}, f"login-{where}")

        self.world.moment(process, look)

    def _steps_of(self, job: Job) -> int:
        task = job.request.tasks_of_queue[job.task or 0]
        return sum(training.steps(self.runs_dir / run) for run in job.request.runs[task])

    def jobs_of(self, run: str) -> list[Job]:
        """Jobs that have not ended and will execute the run: neither it nor they were given up."""
        jobs = [job for slurm in self.clusters.values() for job in slurm.jobs]
        return [job for job in jobs if job.ended is None and self._will_execute(job, run)]

    def _will_execute(self, job: Job, run: str) -> bool:
        request = job.request
        queue = load(request.folder)
        if (
            queue is None
            or run in queue.cancelled_runs()
            or (queue.ended or {}).get("state") == NEVER_SUBMITTED
        ):
            return False  # it ends when it starts
        tasks, known = {request.tasks_of_queue[task or 0] for task in job.tasks()}, queue.jobs()
        return any(run in request.runs[task] and known.get(task) != NEVER for task in tasks)

    # --- what the code of vlae asks for

    def slurm_of(self, process: Process) -> Slurm:
        name = process.host.removeprefix("login-").partition("-")[0]
        return self.clusters[name]

    def ask(
        self, process: Process, command: Sequence[str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """A command of Slurm, as ``subprocess.run`` gives it. Errors: TimeoutExpired."""
        world, slurm = self.world, self.slurm_of(process)
        world.point(" ".join(command), writes=False)
        if not world.quiet:
            world.sleep_whole(0.05 + (self.random.expovariate(1 / 20) if self.random.random() < 0.05 else 0))
        if command[:2] == ("scontrol", "requeue") and process.alive:
            self.laws.requeues(process, slurm.find(command[2]), command[2])
        try:
            text, status, said = answer(slurm, command), 0, ""
        except Refused as error:
            text, status, said = "", 1, str(error)
        except NoAnswer:
            if not world.quiet:
                world.sleep_whole(timeout)
            world.log(f"{process}: {' '.join(command[:4])}: no answer")
            raise subprocess.TimeoutExpired(list(command), timeout) from None
        if command[0] == "scancel" or command[1] == "requeue" or status:
            world.log(f"{process}: {' '.join(command)}" + f": {said}" * bool(said))
        if command[:3] == ("scontrol", "show", "job") and not status:
            process.informed = world.now
        world.point(f"learn what {command[0]} said", writes=False)
        return subprocess.CompletedProcess(command, status, text, said)

    def sbatch(
        self, process: Process, folder: Path, parameters: dict[str, Any], function: Any, tasks: Sequence[int]
    ) -> list[str]:
        """The ids of the jobs. RuntimeError: refused, or the answer is lost."""
        world, slurm = self.world, self.slurm_of(process)
        world.point("sbatch", writes=False)
        world.sleep_whole(0.2)
        if max(slurm.away_until, slurm.silent_until) > world.now:
            raise RuntimeError(
                "sbatch: error: Batch job submission failed: Unable to contact slurm controller"
            )
        request = self._request(Path(folder), parameters, function, tasks)
        number = slurm.submit(request)
        world.log(f"{process} submits {parameters['job_name']}: job {number}, {len(tasks)} tasks")
        world.point("learn what sbatch said", writes=False)
        if world.disturbed and self.random.random() < 0.03:
            raise RuntimeError(
                "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
            )
        jobs = [f"{number}_{i}" for i in range(len(tasks))] if len(tasks) > 1 else [str(number)]
        for job, task in zip(jobs, tasks, strict=True):
            self._put_task(Path(folder) / f"{job}_submitted.pkl", task)
        return jobs

    def _put_task(self, path: Path, task: int) -> None:
        from submitit.core.utils import DelayedSubmission

        DelayedSubmission(print, task).dump(path)

    def _request(
        self, folder: Path, parameters: dict[str, Any], function: Any, tasks: Sequence[int]
    ) -> Request:
        more = parameters["additional_parameters"]
        name, _, before = str(more["signal"]).removeprefix("B:").partition("@")
        request = Request(
            parameters["job_name"], len(tasks), parameters["array_parallelism"], 60.0 * parameters["time"],
            getattr(signal, f"SIG{name}"), float(before), bool(more["requeue"]), setup=tuple(parameters["setup"]),
        )  # fmt: skip
        queue = read_json(folder.parent / "queue.json") or {"runs": []}
        request.folder = folder.parent
        request.tasks_of_queue = list(tasks)
        request.runs = {
            task: [run["run_id"] for run in queue["runs"] if run["task"] == task] for task in tasks
        }
        request.body = lambda job, process: self._batch(job, folder, function)
        return request

    def _batch(self, job: Job, folder: Path, function: Any) -> None:
        """The batch script: it prepares, waits for its task as submitit does, and executes it."""
        world = self.world
        process = world.acting
        process.token = job.request.name.removeprefix("vlae-")
        if notes_signals(job.request.setup):
            process.handlers |= dict.fromkeys((signal.SIGUSR2, signal.SIGTERM), self._note)
        before, found = "", None
        while found is None:
            found = self._read_task(folder / f"{job.named}_submitted.pkl", before)
            before = process.environment.get(NOTED, "")
        hold_signals()
        function(found["task"])

    def _note(self, number: int, frame: object) -> None:
        """The batch shell notes a signal and passes it on to Python, which does not listen yet."""
        self.world.acting.environment[NOTED] = signal.Signals(number).name.removeprefix("SIG")

    def _read_task(self, path: Path, noted: str) -> dict[str, Any] | None:
        """Python starts, and waits for the file of its task. None: it died of a signal, and is started once more."""
        world, environment = self.world, self.world.acting.environment
        ready, until = world.now + self.random.uniform(1, 20), world.now + 80
        while world.now < ready or not path.exists():
            if environment.get(NOTED, "") != noted:
                return None
            if world.now > until:
                raise SystemExit(f"{path.name} is not there")
            world.sleep(ready - world.now if world.now < ready else 5.0)
        return read_json(path)

    # --- the end

    def _finish(self) -> None:
        world = self.world
        world.disturbed = False
        world.log("nothing disturbs any more")
        for slurm in self.clusters.values():
            slurm.away_until = slurm.silent_until = -1.0
            slurm.empty_until.clear()
        places = itertools.cycle(self.clusters)
        for _ in range(ROUNDS):
            self._wait()
            if all((run / "results.json").is_file() for run in self.runs):
                break
            self.command("launch", next(places), self._launch)
        else:
            world.violate(f"{ROUNDS} launches have not finished the sweep")
        self.laws.finally_done(self.runs, list(self.clusters.values()))

    def _wait(self) -> None:
        """Run until nothing happens any more."""
        world, until = self.world, self.world.now + PATIENCE
        while world.now < until:
            world.run(world.now + 300)
            if not self._busy():
                return
        world.violate(f"after {PATIENCE:.0f} quiet seconds something still waits: {self._busy()}")

    def _busy(self) -> list[str]:
        jobs = [
            f"job {job.named}" for slurm in self.clusters.values() for job in slurm.jobs if job.ended is None
        ]
        return jobs + [str(process) for process in self.world.processes.values() if process.alive]

    # --- what it begins with

    def _settings(self, name: str) -> Settings:
        random = self.random
        return Settings(
            name,
            nodes=random.randint(1, 4),
            jobs_per_node=random.randint(1, 2),
            max_array_size=random.choice([2, 3, 5, 1001]),
            min_job_age=random.choice([5.0, 60.0, 300.0]),
            kill_wait=random.choice([5.0, 30.0]),
            grace_time=random.choice([0.0, 15.0, 60.0]),
            user_signal=random.random() < 0.6,
            requeue_delay=random.choice([5.0, 120.0]),
            accounting=random.random() < 0.5,
            accounting_lag=random.choice([0.0, 30.0, 600.0]),
            first_id=random.choice([1, 100]),
            title=random.choice([name, "cluster"]),
        )

    def _launcher(self) -> SlurmArrays:
        """A launcher with limits that it accepts."""
        while True:
            launcher = self._some_launcher()
            if not launcher._problems():
                return launcher

    def _some_launcher(self) -> SlurmArrays:
        random = self.random
        return SlurmArrays(
            partition=None, account=None, qos=None, constraint=None, timeout_min=random.choice([2, 4, 6, 30]),
            mem_gb=None, cpus_per_task=None, gpus_per_node=0, array_parallelism=random.choice([1, 2, 64]),
            runs_per_job=random.choice([1, 1, 2]), signal_delay_s=random.choice([60, 120]), max_requeues=100,
            setup=[], sbatch={},
        )  # fmt: skip

    def _container(self, seed: int) -> dict[str, Any]:
        return {
            "model": {"name": "vae"}, "dataset": {"name": "digits", "root": None, "path": None},
            "output_dist": {"name": "gaussian"}, "seed": seed, "runs_dir": str(self.runs_dir), "device": "cpu",
            "num_threads": 1, "force": False, "retry": False, "dry_run": False,
            "tracker": {"group": None, "wandb": False, "mode": "auto"}, "schema_version": 2,
            "trainer": {"epochs": 1, "patience": None},
        }  # fmt: skip

    def _compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        return self.containers[int(overrides[0].partition("=")[2])]


@dataclass
class Played:
    """The course of a history."""

    seed: int
    violation: str | None
    """The law that was broken, and how."""
    journal: list[tuple[float, str]]
    """Events with their times in seconds."""


def notes_signals(setup: Sequence[str]) -> bool:
    """True if the first lines of a batch script are those that lose no signal."""
    return tuple(setup[: len(FIRST_LINES)]) == tuple(FIRST_LINES)


def play(seams: Any, seed: int, root: Path) -> Played:
    """The history of an integer in an empty directory."""
    history = History(seed, root)
    seams.world, violation = history.world, None
    try:
        history.play()
    except AssertionError as error:
        violation = str(error)
    finally:
        history.world.close()
        seams.world = None
    return Played(seed, violation, history.world.journal)


def event_lines(journal: list[tuple[float, str]]) -> Iterator[str]:
    """One line for each event."""
    return (f"{time:9.1f} s  {text}" for time, text in journal)
