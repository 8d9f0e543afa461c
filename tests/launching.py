"""launch.py and vlae as processes, forked from one that has imported the libraries, so that they start at once.

Importing torch and its like takes longer than a small run. Nothing of vlae is imported ahead, so what the process
does is what the command does.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LAUNCH = Path(__file__).parents[1] / "launch.py"
LIBRARIES = [
    "hydra",
    "pydantic",
    "rich.progress",
    "torch._dynamo",
    "torchvision.utils",
    "typer",
    "wandb",
    "zuko",
]

forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(LIBRARIES)


def launch(arguments: Sequence[str]) -> None:
    """``python launch.py <arguments>`` in this process, reporting every step and every four images in status.json."""
    sys.path.insert(0, str(LAUNCH.parent))
    from vlae.estimation.estimators import importance
    from vlae.runs import attempts

    attempts.HEARTBEAT_EVERY, importance.MAX_GROUP = 0.0, 4
    execute(LAUNCH, arguments)


def execute(program: Path | str, arguments: Sequence[str]) -> None:
    """``python <program> <arguments>`` in this process; a program is a file, or the name of a module."""
    sys.argv = [str(program), *arguments]
    if isinstance(program, Path):
        sys.path.insert(0, str(program.parent))
        runpy.run_path(str(program), run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def run_command(
    program: Path | str,
    *arguments: object,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    largest_file: int | None = None,
    together: bool = False,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of ``python <program> <arguments>``.

    largest_file: bytes, as a full disk would have it. together: standard error is part of standard output.
    """
    words = [str(word) for word in arguments]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("out", "out" if together else "err")]
        options = (program, words, cwd, outputs, dict(os.environ if env is None else env), largest_file)
        process = forking.Process(target=_execute, args=options)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([str(program), *words], timeout)
        out, err = (output.read_text() for output in outputs)
        err = "" if together else err
    return subprocess.CompletedProcess([str(program), *words], process.exitcode, out, err)


def _execute(
    program: Path | str,
    words: Sequence[str],
    cwd: Path,
    outputs: Sequence[Path],
    env: Mapping[str, str],
    largest_file: int | None,
) -> None:
    _enter(cwd, env, *outputs)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    execute(program, words)


def _enter(place: Path, environment: Mapping[str, str], *outputs: Path) -> None:
    print_to(*outputs)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)


class Launched:
    """A process that runs a program in ``place``, with an output file for both its streams."""

    def __init__(self, place: Path, arguments: Sequence[str]) -> None:
        self._start(place, _launch_into, arguments)

    def _start(self, place: Path, target: Callable[..., None], *options: object) -> None:
        descriptor, output = tempfile.mkstemp(".txt", dir=place)
        os.close(descriptor)
        self.output = Path(output)
        self._process = forking.Process(target=target, args=(place, self.output, *options))
        self._process.start()
        self.pid = self._process.pid

    @property
    def exit_status(self) -> int | None:
        """The exit status, or minus the number of a signal. None: the process is running."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        assert self.exit_status is None, self.output.read_text()
        os.kill(self.pid, number)

    def wait(self, seconds: float = 300) -> str:
        """The output of the process until its end."""
        self._process.join(seconds)
        assert self.exit_status is not None, self.output.read_text()
        return self.output.read_text()


def _launch_into(place: Path, output: Path, arguments: Sequence[str]) -> None:
    print_to(output, output)
    os.chdir(place)
    launch(arguments)


class Shell(Launched):
    """``python <root>/launch.py`` in a session of its own, as a shell starts it."""

    def __init__(
        self, place: Path, arguments: Sequence[str], root: Path = LAUNCH.parent, ignoring: Sequence[int] = ()
    ) -> None:
        """ignoring: signals that the shell ignores."""
        environment = {**os.environ, "COLUMNS": "200"}
        self._start(place, _start_session, root / LAUNCH.name, arguments, environment, ignoring)

    def press_ctrl_c(self) -> None:
        os.killpg(self.pid, signal.SIGINT)


def _start_session(
    place: Path,
    output: Path,
    program: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    ignoring: Sequence[int],
) -> None:
    os.setsid()
    for number in ignoring:
        signal.signal(number, signal.SIG_IGN)
    _enter(place, environment, output, output)
    execute(program, arguments)


def print_to(*outputs: Path) -> None:
    """Standard output and standard error of this process become these files."""
    for descriptor, output in enumerate(outputs, 1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


if __name__ == "__main__":
    launch(sys.argv[1:])
