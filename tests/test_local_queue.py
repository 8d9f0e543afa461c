"""The local queue, with real processes: no run affects the others, and nothing runs twice."""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from launching import Shell, run_command
from programs import do_without

from benchmarks.full_disk import differences, run_on_full_disk, small_disk
from vlae.runs.directory import RunDirectory, all_runs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TINY = (
    "-m", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6]", "trainer.epochs=4", "num_threads=1",
    "trainer.checkpoint_every=0.05", "evaluate.num_samples=20", "evaluate.num_images=20", "device=cpu",
    "evaluate.num_gap_images=0", "hydra.launcher.workers=2",
)  # fmt: skip
LONG = "trainer.epochs=4000"
NAN = "optimizer=sgd", "optimizer.lr=1e30"


class Command(Shell):
    """launch.py as a shell starts it."""

    def __init__(self, place: Path, *arguments: str, root: Path = ROOT, ignoring: Sequence[int] = ()) -> None:
        super().__init__(place, arguments, root, ignoring)

    def finish(self, status: int | None = 0) -> str:
        """The output of the command. ``status``: its exit status, or None for any."""
        text = self.wait()
        assert status in (None, self.exit_status), text
        return text


def launch(place: Path, *arguments: str, status: int = 0, root: Path = ROOT) -> str:
    environment = {**os.environ, "COLUMNS": "200"}
    done = run_command(root / "launch.py", *TINY, *arguments, cwd=place, env=environment, together=True)
    assert done.returncode == status, done.stdout
    return done.stdout


def states(place: Path) -> list[str]:
    return [run.state() for run in all_runs(place / "runs")]


def attempts(place: Path) -> list[int]:
    return [
        len([p for p in (run.path / "attempts").iterdir() if p.name.isdigit()])
        for run in all_runs(place / "runs")
    ]


def wait_until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def training(place: Path, number: int) -> bool:
    """True if this number of runs is in training."""
    runs = [run.status() for run in all_runs(place / "runs")]
    return sum(run["state"] == "running" and "step" in (run["progress"] or {}) for run in runs) >= number


def outcome(run: RunDirectory) -> object:
    results = run.results()
    assert results is not None
    del results["cost"], results["environment"]
    kept = {key: value for key, value in results["test"].items() if key != "seconds"}
    text = json.dumps({**results, "test": kept})
    return re.sub(r'"seconds[a-z_]*": [^,}]*', "", text)


def test_one_failure_stops_no_other_run(tmp_path):
    text = launch(tmp_path, "model=vae", "seed=0,1", *NAN, status=1)
    assert text.count("failed: model") + text.count("failed: seed") >= 2
    text = launch(tmp_path, "model=vae", "seed=0,1,2", status=0)
    assert "3 done" in text.splitlines()[-1]
    assert sorted(states(tmp_path)) == ["done"] * 3 + ["failed"] * 2
    before = attempts(tmp_path)
    text = launch(tmp_path, "model=vae", "seed=0,1,2")
    assert "nothing to do" in text
    text = launch(tmp_path, "model=vae", "seed=0,1", *NAN, status=1)
    assert "retry=true starts the failed runs again" in text
    assert "NonFiniteError" in text
    assert attempts(tmp_path) == before
    text = launch(tmp_path, "model=vae", "seed=0,1", *NAN, "retry=true", status=1)
    logs = re.findall(r"failed: seed=.*NonFiniteError.*\(log: (.*)\)", text)
    assert len(logs) == 2
    assert all("Traceback" in Path(log).read_text() for log in logs)
    assert sum(attempts(tmp_path)) == sum(before) + 2


def test_after_ctrl_c_the_same_command_completes_the_runs(tmp_path):
    seeds = ("model=vae", "seed=0,1,2", "trainer.epochs=80")
    command = Command(tmp_path, *TINY, *seeds)
    wait_until(lambda: training(tmp_path, 2))
    command.press_ctrl_c()
    text = command.finish(130)
    assert "the same command continues from here" in text
    assert sorted(states(tmp_path)) == ["interrupted", "interrupted", "new"]
    launch(tmp_path, *seeds)
    (tmp_path / "straight").mkdir()
    launch(tmp_path / "straight", *seeds)
    assert sorted(attempts(tmp_path)) == [1, 2, 2]
    pairs = zip(all_runs(tmp_path / "runs"), all_runs(tmp_path / "straight" / "runs"), strict=True)
    assert all(outcome(a) == outcome(b) for a, b in pairs)


def test_a_sweep_ignores_the_signals_its_shell_ignores(tmp_path):
    epochs = "trainer.epochs=100"
    command = Command(
        tmp_path, *TINY, "model=vae", "seed=0,1,2", epochs, ignoring=(signal.SIGHUP, signal.SIGINT)
    )
    wait_until(lambda: training(tmp_path, 2))
    runs = [run.holder()["pid"] for run in all_runs(tmp_path / "runs") if run.state() == "running"]
    processes = {command.pid, *runs, *(psutil.Process(pid).ppid() for pid in runs)}
    queue = [process.pid for process in psutil.Process(command.pid).children()]
    for pid in (*processes, *queue):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGINT):
            os.kill(pid, number)
    command.finish(0)
    assert states(tmp_path) == ["done"] * 3
    assert attempts(tmp_path) == [1] * 3


def test_a_killed_run_is_reported_and_stops_no_other(tmp_path):
    command = Command(tmp_path, *TINY, "model=vae", "seed=0,1,2", "trainer.epochs=100")
    wait_until(lambda: training(tmp_path, 2))
    victim = next(run for run in all_runs(tmp_path / "runs") if run.state() == "running")
    os.kill(victim.holder()["pid"], signal.SIGKILL)
    text = command.finish(1)
    assert re.search(r"killed: seed=\d: by SIGKILL", text)
    assert sorted(states(tmp_path)) == ["done", "done", "interrupted"]
    assert victim.status()["reason"] == "killed"
    launch(tmp_path, "model=vae", "seed=0,1,2", "trainer.epochs=100")
    assert states(tmp_path) == ["done"] * 3


@pytest.mark.parametrize("whom", ["command", "queue"])
def test_a_killed_launcher_loses_no_run_and_runs_none_twice(tmp_path, whom):
    seeds = ("model=vae", "seed=0,1,2,3", "trainer.epochs=100")
    command = Command(tmp_path, *TINY, *seeds)
    wait_until(lambda: training(tmp_path, 2))
    queue = next(
        p for p in psutil.Process(command.pid).children() if "launching.worker" in " ".join(p.cmdline())
    )
    (queue if whom == "queue" else psutil.Process(command.pid)).kill()
    command.finish(None)
    second = Command(tmp_path, *TINY, *seeds)
    text = second.finish()
    if whom == "command":  # its queue continues
        assert "2 queued, 2 running" in text
        wait_until(lambda: states(tmp_path) == ["done"] * 4)
    else:  # the running ones continue, and the others are started by the second command
        assert "2 new, 2 running; starting 2" in text
        wait_until(lambda: states(tmp_path) == ["done"] * 4)
    assert attempts(tmp_path) == [1, 1, 1, 1]


def test_the_same_sweep_launched_twice_at_once_runs_once(tmp_path):
    commands = [Command(tmp_path, *TINY, "model=vae", "seed=0,1,2,3") for _ in range(3)]
    texts = [command.finish() for command in commands]
    assert sum("4 done" in text.splitlines()[-1] for text in texts) == 1
    wait_until(lambda: states(tmp_path) == ["done"] * 4)
    assert attempts(tmp_path) == [1, 1, 1, 1]


def test_a_later_edit_does_not_change_launched_runs(tmp_path):
    root = tmp_path / "project"
    for name in ("vlae", "conf", "hydra_plugins", "launch.py", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (root / name).parent.mkdir(exist_ok=True)
        copy(ROOT / name, root / name)
    arguments = ("model=vae,hf", "seed=0", "trainer.epochs=40", "hydra.launcher.workers=1")
    command = Command(root, *TINY, *arguments, root=root)
    wait_until(lambda: training(root, 1))
    for file in (root / "vlae").rglob("*.py"):
        file.write_text("raise RuntimeError('edited')\n")
    for file in (root / "conf").rglob("*.yaml"):
        file.write_text("epochs: 1\n")
    text = command.finish()
    assert "2 done" in text.splitlines()[-1]
    frozen = {run.results()["environment"]["code"]["hash"] for run in all_runs(root / "runs")}
    assert frozen == {p.name for p in (root / "runs" / ".code").iterdir() if not p.name.startswith(".")}


def test_force_keeps_old_results_until_new_ones_exist(tmp_path):
    launch(tmp_path, "model=vae", "seed=0")
    (run,) = all_runs(tmp_path / "runs")
    before = run.path.joinpath("results.json").stat().st_ino
    text = launch(tmp_path, "model=vae", "seed=0", "force=true")
    assert "1 done" in text.splitlines()[-1]
    assert run.path.joinpath("results.json").stat().st_ino != before
    assert list((tmp_path / "runs" / ".reruns").glob("[!.]*")) == []


def test_each_run_has_its_gpu(tmp_path):
    """Stand-ins for GPUs: a run sees the one of its slot."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "5,7"
    try:
        launch(tmp_path, "model=vae", "seed=0,1", "device=auto")
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    claims = [
        json.loads((run.path / "attempts/1/claim.json").read_text()) for run in all_runs(tmp_path / "runs")
    ]
    assert [claim["gpus"] for claim in claims] == [1.0, 1.0]
    assert {claim["visible_gpus"] for claim in claims} == {"5", "7"}


def test_a_sweep_completes_on_a_disk_that_fills_twice(tmp_path):
    sweep = (*TINY, "model=vae", "seed=0,1,2", "trainer.epochs=60", "tracker=none")
    (tmp_path / "undisturbed").mkdir()
    launch(tmp_path / "undisturbed", *sweep[len(TINY) :])
    log = tmp_path / "log.txt"
    with contextlib.ExitStack() as after:
        try:
            disk = after.enter_context(small_disk(tmp_path / "disk", "20m"))
        except OSError as error:
            do_without(str(error))
        assert run_on_full_disk(disk, sweep, log, (5, 70), full_for=12) == 0, log.read_text()
        assert differences(disk / "runs", tmp_path / "undisturbed" / "runs") == []
        assert attempts(disk) == [1, 1, 1]
    lines = log.read_text().splitlines()
    assert len([line for line in lines if line.startswith("no space left on")]) <= 2
    assert "Traceback" not in log.read_text()
    assert "3 done" in lines[-1]


def server_of(queue_process: psutil.Process) -> psutil.Process:
    """The process that the runs are forked from."""
    (found,) = [p for p in queue_process.children() if "multiprocessing.forkserver" in " ".join(p.cmdline())]
    return found


def test_runs_outlive_their_fork_server_and_start_only_once(tmp_path):
    command = Command(tmp_path, *TINY, "model=vae", "seed=0,1,2", "trainer.epochs=80")
    wait_until(lambda: training(tmp_path, 2))
    (queue_process,) = psutil.Process(command.pid).children()
    server = server_of(queue_process)
    for process in queue_process.children():
        if "resource_tracker" in " ".join(process.cmdline()):
            process.kill()
    server.kill()
    text = command.finish()
    assert "3 done" in text.splitlines()[-1]
    assert attempts(tmp_path) == [1, 1, 1]
    assert "warning" not in text.lower()


def test_a_hanging_run_is_ended_and_the_others_continue(tmp_path):
    command = Command(tmp_path, *TINY, "model=vae", "seed=0,1", LONG, "hydra.launcher.run_timeout_min=0.3")
    wait_until(lambda: training(tmp_path, 2))
    victim, other = all_runs(tmp_path / "runs")
    os.kill(victim.holder()["pid"], signal.SIGSTOP)
    wait_until(lambda: victim.status()["reason"] == "no progress for 0.3 min")
    assert victim.state() == "interrupted"
    assert other.state() == "running"
    command.press_ctrl_c()
    assert re.search(r"interrupted 1/2: seed=0  .* \(no progress for 0\.3 min\)", command.finish(130))
