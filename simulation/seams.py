"""The seams between vlae and the machine: clock, processes, signals, file system, Slurm's commands.

Inside `simulate` these are the world's, for simulated processes. All else that runs is the real code of vlae.
"""

import builtins
import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import yaml

import vlae.experiment.frozen_run
import vlae.experiment.run
import vlae.experiment.session
import vlae.launching.cancel
import vlae.launching.display
import vlae.launching.launch
import vlae.launching.launch_lock
import vlae.launching.launcher
import vlae.launching.local_launcher
import vlae.launching.pool
import vlae.launching.queues
import vlae.launching.resources
import vlae.launching.run_process
import vlae.launching.run_state
import vlae.launching.slurm_launcher
import vlae.launching.slurm_requeue
import vlae.launching.slurm_state
import vlae.launching.slurm_task
import vlae.launching.worker
import vlae.system.console
import vlae.system.files
import vlae.system.interruption
import vlae.system.processes
from simulation import training
from simulation.world import EPOCH, Process, World
from vlae.launching.plan import Plan, Planned
from vlae.launching.schedule import Schedule
from vlae.runs import attempts as run_attempts
from vlae.runs import directory as run_directory
from vlae.runs import lease as run_lease

LOOK_EVERY = 45.0
"""Seconds between two looks of a pool, in place of half a second: what it waits for wakes it."""
PULSE_EVERY = 90.0

_real = SimpleNamespace(
    time=time.time, monotonic=time.monotonic, sleep=time.sleep, getpid=os.getpid, kill=os.kill, signal=signal.signal,
    getsignal=signal.getsignal, sigmask=signal.pthread_sigmask, gethostname=socket.gethostname, fsync=os.fsync,
    token_hex=secrets.token_hex, print=builtins.print,
)  # fmt: skip


def _in_chains(plan: Plan, order: str) -> Schedule:
    """Runs in chains of their seeds: simulated configurations say nothing of training. Seeds 0 and 1 are one chain."""
    chains: dict[int, list[Planned]] = {}
    for run in plan.starting:
        chains.setdefault(max(1, run.container["seed"]), []).append(run)
    return Schedule(plan, list(chains.values()), {}, {})


class Seams:
    """The patches, made once for many histories; ``world`` is the one that is simulated now."""

    def __init__(self) -> None:
        self.world: World | None = None
        self._kept: list[tuple[Any, str, Any]] = []

    # --- patching

    def put(self, owner: Any, name: str, value: Any) -> None:
        self._kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def replace(self, function: Any, value: Any) -> None:
        """Patch a function in every module of vlae that has imported it."""
        for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "vlae"]:
            for name, found in list(vars(module).items()):
                if found is function:
                    self.put(module, name, value)

    def undo(self) -> None:
        for owner, name, value in reversed(self._kept):
            setattr(owner, name, value)
        self._kept.clear()

    @property
    def process(self) -> Process | None:
        return self.world.current if self.world is not None else None

    @property
    def here(self) -> World:
        assert self.world is not None
        return self.world

    def install(self) -> None:
        self._clock()
        self._identity()
        self._signals()
        self._files()
        self._slurm()
        self._pool()
        self._work()
        self._commands()

    def _clock(self) -> None:
        def sleep(seconds: float) -> None:
            self.here.sleep_whole(seconds) if self.process else _real.sleep(seconds)

        self.put(time, "time", lambda: EPOCH + self.here.now if self.process else _real.time())
        self.put(time, "monotonic", lambda: 1e6 + self.here.now if self.process else _real.monotonic())
        self.put(time, "sleep", sleep)
        start = datetime.fromtimestamp(EPOCH, timezone.utc)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return start + timedelta(seconds=self.here.now) if self.process else datetime.now(tz)

            @classmethod
            def fromisoformat(cls, text: str) -> datetime:
                return datetime.fromisoformat(text)

        self.put(run_attempts, "datetime", Clock)
        self.put(run_lease, "datetime", Clock)
        self.put(
            vlae.launching.launch_lock, "time", SimpleNamespace(sleep=lambda seconds: sleep(20 * seconds))
        )
        seams = self

        @contextlib.contextmanager
        def pulse(beat: Callable[[], object]) -> Iterator[None]:
            """A thread of the current process, as moments."""
            process, is_over = seams.process, False

            def act() -> None:
                if is_over or process is None or not process.alive:
                    return
                with contextlib.suppress(vlae.system.files.RecordError):
                    seams.here.moment(process, beat)
                seams.here.after(PULSE_EVERY, act)

            seams.here.after(PULSE_EVERY, act)
            try:
                yield
            finally:
                is_over = True

        self.replace(run_lease.pulse, pulse)

    def _identity(self) -> None:
        self.put(os, "getpid", lambda: self.process.pid if self.process else _real.getpid())
        self.put(socket, "gethostname", lambda: self.process.host if self.process else _real.gethostname())

        def token_hex(count: int = 8) -> str:
            if self.process is None:
                return _real.token_hex(count)
            return f"{self.here.names.getrandbits(8 * count):0{2 * count}x}"

        self.put(secrets, "token_hex", token_hex)
        real_place, real_start = vlae.system.processes.place, vlae.system.processes.process_start

        def process_start(pid: int) -> float | None:
            if (process := self.process) is None:
                return real_start(pid)
            found = self.here.alive(process.host, pid)
            return None if found is None else found.began

        self.replace(real_place, lambda: f"{self.process.host} boot" if self.process else real_place())
        self.replace(real_start, process_start)

    def _signals(self) -> None:
        def kill(pid: int, number: int) -> None:
            if (process := self.process) is None:
                return _real.kill(pid, number)
            found = self.here.alive(process.host, pid)
            if found is None:
                raise ProcessLookupError(pid)
            return found.send(number)

        def install(number: int, handler: Any) -> Any:
            if (process := self.process) is None:
                return _real.signal(number, handler)
            before = process.handlers.get(number, signal.SIG_DFL)
            process.handlers[number] = handler
            return before

        def get_installed(number: int) -> Any:
            process = self.process
            return (
                _real.getsignal(number) if process is None else process.handlers.get(number, signal.SIG_DFL)
            )

        def mask(how: int, numbers: Any) -> set[int]:
            if (process := self.process) is None:
                return _real.sigmask(how, numbers)
            before, numbers = set(process.blocked), set(numbers)
            changed: dict[int, set[int]] = {
                signal.SIG_BLOCK: before | numbers,
                signal.SIG_UNBLOCK: before - numbers,
                signal.SIG_SETMASK: numbers,
            }
            process.blocked = changed[how]
            process.take_signals()
            return before

        self.put(os, "kill", kill)
        self.put(signal, "signal", install)
        self.put(signal, "getsignal", get_installed)
        self.put(signal, "pthread_sigmask", mask)
        main = object()
        one = SimpleNamespace(current_thread=lambda: main, main_thread=lambda: main)
        self.put(vlae.system.interruption, "threading", one)

    def _files(self) -> None:
        def before(owner: Any, name: str) -> None:
            real = getattr(owner, name)

            def acts(path: Any, *arguments: Any, **named: Any) -> Any:
                if self.process is not None:
                    self.here.point(f"{name} {path}")
                return real(path, *arguments, **named)

            self.put(owner, name, acts)

        for owner, name in (
            (os, "replace"), (os, "rename"), (shutil, "rmtree"), (pathlib.Path, "unlink"), (pathlib.Path, "mkdir"),
        ):  # fmt: skip
            before(owner, name)
        real_open, real_read = pathlib.Path.open, vlae.system.files.read_bytes

        def opens(path: pathlib.Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if self.process is not None and not mode.startswith("r"):
                self.here.point(f"open {path}")
            return real_open(path, mode, *arguments, **named)

        def read_bytes(*arguments: Any, **named: Any) -> bytes | None:
            if self.process is not None:
                self.here.point("read", writes=False)
            return real_read(*arguments, **named)

        self.put(pathlib.Path, "open", opens)
        self.replace(real_read, read_bytes)
        self.put(os, "fsync", lambda file: None if self.process else _real.fsync(file))
        real_sync = vlae.system.files.sync_directory
        self.replace(real_sync, lambda path: None if self.process else real_sync(path))
        load = lru_cache(1000)(yaml.safe_load)

        def safe_load(content: Any) -> Any:
            return load(content) if self.process else yaml.safe_load(content)

        self.put(run_directory, "yaml", SimpleNamespace(**{**vars(yaml), "safe_load": safe_load}))
        real_yaml = run_directory._yaml_bytes
        dumped: dict[str, bytes] = {}

        def yaml_bytes(config: dict[str, Any]) -> bytes:
            key = repr(config)
            if key not in dumped:
                dumped[key] = real_yaml(config)
            return dumped[key]

        self.put(run_directory, "_yaml_bytes", yaml_bytes)
        self._faster()

    def _faster(self) -> None:
        """The same with less time: what is written a million times need not be laid out for people."""
        real_json, real_id = vlae.system.files.json_bytes, run_directory.run_id_of
        ids: dict[str, str] = {}

        def run_id_of(config: dict[str, Any]) -> str:
            if self.process is None:
                return real_id(config)
            key = repr(config)
            if key not in ids:
                ids[key] = real_id(config)
            return ids[key]

        self.replace(real_json, lambda value, indent=2: real_json(value, None if self.process else indent))
        self.put(run_directory, "run_id_of", run_id_of)

    def _slurm(self) -> None:
        real = subprocess.run

        def run(command: Sequence[str], **named: Any) -> subprocess.CompletedProcess[str]:
            process = self.process
            if process is None:
                return real(command, **named)
            return self.here.history.ask(process, command, named.get("timeout") or 1e9)

        commands = SimpleNamespace(**{**vars(subprocess), "run": run})
        found = SimpleNamespace(
            **{
                **vars(shutil),
                "which": lambda name: f"/usr/bin/{name}" if self.process else shutil.which(name),
            }
        )
        self.put(vlae.launching.slurm_state, "subprocess", commands)
        self.put(vlae.launching.slurm_state, "shutil", found)
        import submitit
        import submitit.core.utils

        seams = self

        class Executor:
            """An executor such as submitit's: one sbatch, and then a file for each task."""

            def __init__(self, folder: Any, **named: Any) -> None:
                self.folder, self.parameters = folder, {}

            def update_parameters(self, **parameters: Any) -> None:
                self.parameters |= parameters

            def map_array(self, function: Any, tasks: Sequence[int]) -> list[Any]:
                jobs = seams.here.history.sbatch(seams.process, self.folder, self.parameters, function, tasks)
                return [SimpleNamespace(job_id=job) for job in jobs]

        class Submission:
            def __init__(self, function: Any, task: int) -> None:
                self.function, self.task = function, task

            def dump(self, path: Any) -> None:
                vlae.system.files.make_directory(path.parent)
                vlae.system.files.write_atomically(path, vlae.system.files.json_bytes({"task": self.task}))

        self.put(submitit, "SlurmExecutor", Executor)
        self.put(submitit.core.utils, "DelayedSubmission", Submission)

    def _pool(self) -> None:
        pool, seams = vlae.launching.pool, self

        def wait(sentinels: Sequence[int], timeout: float | None = None) -> list[int]:
            return self.here.history.children.wait(sentinels, timeout)

        class ForkServer:
            def prepare(self, signals: Sequence[int]) -> None:
                pass

            def start(self, name: str, arguments: tuple[Any, ...]) -> Any:
                return seams.here.history.children.start(
                    name, lambda: vlae.launching.run_process._work(*arguments)
                )

        self.put(pool, "wait", wait)
        self.put(pool, "ForkServer", ForkServer)
        self.put(pool, "LOOK_EVERY", LOOK_EVERY)
        self.put(pool, "refusal", lambda queue: None)  # the disk takes all writes

    def _work(self) -> None:
        run, worker, session = vlae.experiment.run, vlae.experiment.frozen_run, vlae.experiment.session

        class Silent:
            def __init__(self, *arguments: Any) -> None:
                pass

            def __enter__(self) -> "Silent":
                return self

            def __exit__(self, *error: object) -> None:
                pass

            def line(self, text: str) -> None:
                pass

        def carry_out(session: Any, prepared: Any) -> Any:
            laws, process = self.here.history.laws, self.process
            directory, attempt = session.directory, session.attempt
            assert process is not None
            laws.begins(directory, attempt, process.token)
            try:
                return training.train(self.here, directory, attempt, session.interruption)
            finally:
                if process.alive:
                    laws.ends(directory)

        def prepare(container: Any, threads: Any) -> None:
            self.here.sleep_whole(self.here.random.uniform(*training.START_SECONDS))

        create, write = vlae.launching.queues.create, run_directory.RunDirectory.write_results

        def creates(*arguments: Any, **named: Any) -> Any:
            queue = create(*arguments, **named)
            if self.process is not None:
                self.here.history.laws.launched[queue.token] = self.process.launched
            return queue

        def writes_results(directory: Any, results: dict[str, Any]) -> None:
            write(directory, results)
            if self.process is not None:
                self.here.history.laws.writes_results(directory)

        self.replace(create, creates)
        self.put(run_directory.RunDirectory, "write_results", writes_results)
        self.put(run, "_carry_out", carry_out)
        self.put(worker, "prepare_frozen", prepare)
        # the code is not frozen here, and importing the libraries takes longer than many histories
        self.put(worker, "check_code", lambda: None)
        self.put(session, "Reporter", Silent)
        self.put(run, "start_mirror", lambda directory: contextlib.nullcontext())
        self.put(session, "_redirect_output", lambda log: contextlib.nullcontext())
        print_exc = lambda: self._print(sys.exc_info()[1])  # noqa: E731
        self.put(worker, "traceback", SimpleNamespace(print_exc=print_exc))
        # printed in the journal instead, where a person replays it
        for module in (worker, session, vlae.launching.slurm_requeue, vlae.launching.pool):
            vars(module)["print"] = self._print

    def _print(self, *words: Any, **named: Any) -> None:
        if (process := self.process) is None:
            return _real.print(*words, **named)
        return self.here.log(f"{process} says: {' '.join(map(str, words))}".replace(self.here.root, ""))

    def _commands(self) -> None:
        launch, seams = vlae.launching.launch, self

        console = SimpleNamespace(is_terminal=False, print=lambda *words, **named: seams._print(*words))
        self.replace(vlae.system.console.standard_error, lambda: console)
        self.put(vlae.launching.launcher, "check_runs", lambda plan, here: None)
        self.put(launch, "snapshot", SimpleNamespace(freeze=lambda runs_dir: runs_dir))
        self.put(vlae.launching.launcher, "make_schedule", _in_chains)
        self.put(
            vlae.launching.slurm_launcher, "OF_ONE_MACHINE", set()
        )  # the cluster shares whatever directory it is
        slot = vlae.launching.resources.Slot({}, 1)
        self.put(vlae.launching.slurm_task, "slots", lambda runs, **named: [slot] * runs)
        self.put(vlae.launching.worker, "slots", lambda runs, **named: [slot] * min(runs, 2))
        self.put(vlae.launching.local_launcher, "slots", lambda runs, **named: [slot] * min(runs, 2))
        self.put(vlae.launching.display, "upload_later", lambda *arguments: "")

        def execute(launcher: Any, queue: Any) -> int:
            return seams.here.history.children.run_queue(queue)

        self.put(vlae.launching.local_launcher.LocalQueue, "execute", execute)


@contextlib.contextmanager
def simulate() -> Iterator[Seams]:
    """vlae meets the worlds that are put into ``world``, as long as this lasts."""
    seams = Seams()
    seams.install()
    try:
        yield seams
    finally:
        seams.undo()
        silenced = (
            vlae.experiment.frozen_run,
            vlae.experiment.session,
            vlae.launching.slurm_requeue,
            vlae.launching.pool,
        )
        for module in silenced:
            vars(module).pop("print", None)
