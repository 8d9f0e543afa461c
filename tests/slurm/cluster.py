"""A real Slurm on one machine: a controller, four nodes of two stand-in GPUs, and two partitions.

Everything it consists of lies in one directory, and nothing of the machine's own Slurm or munge is touched. Jobs in
the partition ``urgent`` preempt those in ``gpu``, which get their ``--signal`` and are queued again.
"""

import contextlib
import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import psutil

NODES = ("n1", "n2", "n3", "n4")
GPUS_PER_NODE = 2
CONTROLLER = "slurmctld"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "setpriv")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])  # the daemons are in sbin

CONFIGURATION = """\
ClusterName=standin
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire, 120 seconds by default, is also what a job that is queued again has to wait
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=4000
GresTypes=gpu
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MaxArraySize={max_array_size}
MinJobAge={min_job_age}

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{user_signal}
JobRequeue=1
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=10
KillWait={kill_wait}

# the nodes have more processors and memory than the machine
SlurmdParameters=config_overrides
{nodes}
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_time}
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """The reason why this machine cannot have such a cluster; None: it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "Slurm is started by root only; with apt-get install slurm-wlm munge it runs in any container"
    return None


def free_ports(count: int) -> list[int]:
    """Ports below those of outgoing connections, which could take one before a daemon listens on it."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(range(10_000, 32_000), 1000):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError(f"no {count} free ports between 10000 and 32000")


def wait_until(
    reached: Callable[[], bool], seconds: float, what: Callable[[], str] | str, pause: float = 0.2
) -> None:
    """Wait for a condition. AssertionError with its name: it is not true in time."""
    until = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > until:
            raise AssertionError(
                f"{what if isinstance(what, str) else what()}: not within {seconds:g} seconds"
            )
        time.sleep(pause)


class Cluster:
    """The cluster in ``directory``, between `start` and `stop` or in a ``with`` block.

    user_signal: on a preemption jobs get the --signal that they asked for, and else SIGTERM.
    grace_time: seconds from the signal of a preemption to the end of the job.
    kill_wait: seconds from SIGTERM to SIGKILL, at the end of anything.
    min_job_age: seconds for which ended jobs are remembered, at least.
    max_array_size: an index of an array is smaller than this; a controller reads it when it starts.
    """

    def __init__(
        self,
        directory: Path,
        *,
        user_signal: bool = True,
        max_array_size: int = 1001,
        grace_time: int = 15,
        kill_wait: int = 5,
        min_job_age: int = 300,
    ) -> None:
        self.directory = directory
        self.configuration = directory / "slurm.conf"
        self._settings = {
            # the name that 22.05 knows; later versions call it PreemptParameters=send_user_signal and know both
            "user_signal": "SlurmctldParameters=preempt_send_user_signal" * user_signal,
            "max_array_size": max_array_size,
            "grace_time": grace_time,
            "kill_wait": kill_wait,
            "min_job_age": min_job_age,
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when all nodes are idle; what was started is stopped again where it fails."""
        self._configure()
        try:
            self._start_munged()
            self.start_daemon(CONTROLLER)
            for node in NODES:
                self.start_daemon(node)
            self.wait_idle(30)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends all daemons and jobs at once."""
        for name in (
            CONTROLLER,
            *NODES,
        ):  # the controller first, which would start the jobs of lost nodes again
            self.kill_daemon(name)
        self._kill_processes(*NODES)
        self.kill_daemon("munged")

    def environment(self) -> dict[str, str]:
        """Environment by which Slurm's commands find this cluster."""
        return {"SLURM_CONF": str(self.configuration)}

    def command(self, *arguments: object) -> str:
        """The output of a command of Slurm; AssertionError if it fails."""
        done = subprocess.run(
            [str(argument) for argument in arguments],
            env={**os.environ, **self.environment()},
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *arguments: object) -> str:
        """``sbatch`` with these arguments; the id of the job."""
        return self.command("sbatch", "--parsable", *arguments).strip()

    def show(self, job: str) -> dict[str, str]:
        """The controller's fields of a job, or a task of an array; empty if it knows none."""
        try:
            text = self.command("scontrol", "--oneliner", "show", "job", job)
        except AssertionError:
            return {}
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def state(self, job: str) -> str:
        """The state of a job, such as ``RUNNING``; empty if the controller knows no such job."""
        return self.show(job).get("JobState", "")

    def wait_for(self, job: str, *states: str, seconds: float = 60) -> str:
        """Wait until the job is in one of the states, and return it."""
        wait_until(lambda: self.state(job) in states, seconds, lambda: f"{states}, is {self.show(job)}")
        return self.state(job)

    def start_daemon(self, name: str) -> None:
        """Start the daemon of a node, or the `CONTROLLER`, unless it runs."""
        if self._runs(name):
            return
        if name == CONTROLLER:
            self._start(name, "slurmctld", "-D")
        else:
            # its own environment is that of what runs on the node
            self._start(name, "slurmd", "-D", "-N", name, SLURMD_NODENAME=name)

    def kill_daemon(self, name: str) -> None:
        """Kill a daemon. The jobs of its node continue, and Slurm only learns later that it cannot see them."""
        if daemon := self._daemons.pop(name, None):
            daemon.kill()
            daemon.wait()

    def lose_node(self, node: str) -> None:
        """End a node as in a power failure: with its daemon and all its processes."""
        self.kill_daemon(node)
        self._kill_processes(node)

    def wait_idle(self, seconds: float = 60) -> None:
        """Wait until nothing is queued and all nodes are idle."""

        def idle() -> bool:
            for name in self._daemons:
                assert self._runs(name), f"{name} has ended:\n{self.logs()}"
            with contextlib.suppress(AssertionError):
                nodes = self.command(
                    "sinfo", "--noheader", "--Node", "--partition=gpu", "--format=%T"
                ).split()
                return nodes == ["idle"] * len(NODES) and not self.command("squeue", "--noheader")
            return False

        wait_until(idle, seconds, lambda: f"an idle cluster\n{self.logs()}")

    def reset(self) -> None:
        """Make the cluster idle and complete again: jobs are cancelled, lost nodes come back."""
        for name in (CONTROLLER, *NODES):
            self.start_daemon(name)
        self.command("scancel", f"--user={os.geteuid()}")
        self.wait_idle()

    def logs(self, lines: int = 10) -> str:
        """The last lines of each daemon; of what it printed where it has not come so far as to have a log."""
        paths = [self.directory / f"{name}.log" for name in (CONTROLLER, *NODES)]
        paths = [path if path.is_file() else path.with_suffix(".out") for path in paths]
        return "\n".join(
            "\n".join([f"==> {path.name}", *path.read_text(errors="replace").splitlines()[-lines:]])
            for path in paths
            if path.is_file()
        )

    def _configure(self) -> None:
        for folder in ("state", *(f"spool/{node}" for node in NODES)):
            self.directory.joinpath(folder).mkdir(parents=True, exist_ok=True)
        host = socket.gethostname()
        port, *ports = free_ports(1 + len(NODES))
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} "
            f"CPUs=24 RealMemory=96000 Gres=gpu:{GPUS_PER_NODE}"
            for node, node_port in zip(NODES, ports, strict=True)
        )
        self.configuration.write_text(
            CONFIGURATION.format(
                directory=self.directory, host=host, port=port, nodes=nodes, **self._settings
            )
        )
        gpus = [
            (node, self.directory / f"{node}-gpu{index}") for node in NODES for index in range(GPUS_PER_NODE)
        ]
        for _, device in gpus:
            device.symlink_to("/dev/null")  # a character device, as Slurm wants it
        text = "\n".join(f"NodeName={node} Name=gpu File={device}" for node, device in gpus)
        self.directory.joinpath("gres.conf").write_text(text + "\n")

    def _start_munged(self) -> None:
        here = self.directory
        key = here / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "seed-file": "munge.seed",
        }
        options = [f"--{option}={here / name}" for option, name in files.items()]
        # --force: it is not for munge to judge who may read the directory
        self._start("munged", "munged", "--foreground", "--force", *options)
        wait_until(
            lambda: (here / "munge.socket").exists() or not self._runs("munged"), 10, "munge", pause=0.02
        )
        assert self._runs("munged"), f"munged has ended:\n{self.logs()}"

    def _start(self, name: str, program: str, *arguments: str, **environment: str) -> None:
        path = shutil.which(program, path=PATH)
        assert path is not None, f"no {program}"
        with self.directory.joinpath(f"{name}.out").open("ab") as printed:
            # no daemon outlives this process, even a killed one; Ctrl-C in the terminal is not for them
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", path, *arguments],
                env={**os.environ, **self.environment(), **environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )

    def _runs(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _kill_processes(self, *nodes: str) -> None:
        """All that the daemons of these nodes have started, none of which can report the end of another."""
        while processes := list(self._processes(*nodes)):
            for act in (psutil.Process.suspend, psutil.Process.kill):
                for process in processes:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        act(process)
            psutil.wait_procs(processes, 5)

    def _processes(self, *nodes: str) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                # not process.environ(), which stops where slurmstepd has written its title over the first variables
                variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                here = f"SLURM_CONF={self.configuration}".encode() in variables
                if here and any(f"SLURMD_NODENAME={node}".encode() in variables for node in nodes):
                    yield from process.children(recursive=True)
                    yield process
