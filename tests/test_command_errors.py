"""launch.py as a command: its exit statuses, what it prints when something is wrong, and what it leaves behind."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from vlae import config
from vlae.record import RecordError

LAUNCH = Path(__file__).parents[1] / "launch.py"


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def command(monkeypatch, tmp_path):
    """Runs launch.py in this process with another job in place of training; returns its exit status."""

    def run(job, *arguments: str) -> int:
        module = ModuleType("vlae.job")
        module.launch = job  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "vlae.job", module)
        monkeypatch.setattr(sys, "argv", [str(LAUNCH), *arguments])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # launch.py sets it; so it is put back
        monkeypatch.chdir(tmp_path)
        spec = importlib.util.spec_from_file_location("launch", LAUNCH)
        launch = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "launch", launch)
        spec.loader.exec_module(launch)
        try:
            return launch.main()
        except SystemExit as end:
            return end.code

    return run


# in a process of its own ------------------------------------------------------------------------------------


def test_a_wrong_command_prints_one_block_exits_2_and_leaves_nothing(tmp_path):
    done = python(str(LAUNCH), "model.num_updates=four", "trainer.epoch=3", "model=nope,vae", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    heading, *problems = done.stderr.splitlines()
    assert heading == "vlae: 3 problems in the configuration"
    assert all(line.startswith("  ") for line in problems)
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_torch_and_works_anywhere(tmp_path):
    done = python("-X", "importtime", str(LAUNCH), "--help", "model=iaf", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "model.num_flows=4" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert imported.isdisjoint({"torch", "torchvision", "sklearn", "zuko", "scipy"})
    assert list(tmp_path.iterdir()) == []


def test_cfg_prints_the_composed_configuration_anywhere(tmp_path):
    done = python(str(LAUNCH), "seed=3", "--cfg", "job", "--resolve", "model=hf", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    printed, composed = yaml.safe_load(done.stdout), config.compose(["model=hf", "seed=3"])
    assert config.run_id(printed) == config.run_id(composed)
    assert list(tmp_path.iterdir()) == []


# in this process --------------------------------------------------------------------------------------------


def test_the_job_gets_the_composed_configuration_and_nothing_is_left_beside_it(command, tmp_path):
    got = []
    assert command(lambda container: got.append(container) or 0, "model=hf", "+seed=7") == 0
    assert got == [config.compose(["model=hf", "seed=7"])]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [0, 1, 3, 130])
def test_the_exit_status_of_the_job_reaches_the_shell(command, status):
    assert command(lambda container: status) == status


@pytest.mark.parametrize("error", [RecordError("disk full"), config.ConfigError(["device: none"])])
def test_an_error_of_the_user_is_one_block_without_a_traceback(command, capfd, error):
    def job(container):
        raise error

    assert command(job) == 2
    assert capfd.readouterr().err == f"vlae: {error}\n"


def test_an_unexpected_error_keeps_its_traceback(command):
    def job(container):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        command(job)


def test_hydras_own_refusal_is_one_block_without_a_traceback(command, capfd):
    assert command(None, "~nothing") == 2
    error = capfd.readouterr().err
    assert error.startswith("vlae: 1 problem in the configuration\n  composition: Could not delete")
    assert "HYDRA_FULL_ERROR" not in error


def test_cfg_refuses_a_choice_that_does_not_exist(command, capfd):
    assert command(None, "model=nope", "--cfg", "job") == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "model: no choice 'nope'" in printed.err


def test_multirun_runs_every_combination_in_turn_and_returns_the_worst_status(command, tmp_path):
    ran = []

    def job(container):
        ran.append((container["model"]["name"], container["seed"]))
        return len(ran) % 3

    assert command(job, "model=vae,hf", "seed=0,1", "-m", "runs_dir=here") == 2
    assert ran == [("vae", 0), ("vae", 1), ("hf", 0), ("hf", 1)]
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [
        "here/.multirun/multirun.yaml"
    ]


def test_multirun_goes_on_after_a_run_that_failed(command, capfd):
    ran = []

    def job(container):
        ran.append(container["seed"])
        if len(ran) == 1:
            raise RecordError("held by another process")
        return 0

    assert command(job, "-m", "seed=0,1") == 2
    assert ran == [0, 1]
    assert "held by another process" in capfd.readouterr().err


def test_multirun_reports_what_is_wrong_with_any_run_before_the_first_starts(command, capfd, tmp_path):
    ran = []
    assert command(ran.append, "-m", "model=vae,vlae", "seed=0,x", "model.num_updates=3") == 2
    assert ran == []
    assert list(tmp_path.iterdir()) == []
    error = capfd.readouterr().err
    assert "seed: expected a whole number, came 'x'" in error
    assert "model.num_updates: unknown key" in error


def test_a_signal_ends_a_multirun(command):
    ran = []

    def job(container):
        ran.append(container["seed"])
        return 128 + 15

    assert command(job, "-m", "seed=0,1,2") == 128 + 15
    assert ran == [0]


def test_a_place_that_cannot_be_made_for_a_multirun_is_one_line(command, capfd, tmp_path):
    (tmp_path / "file").touch()
    ran = []
    assert command(ran.append, "-m", "seed=0,1", "runs_dir=file") == 2
    heading, problem = capfd.readouterr().err.splitlines()
    assert heading == "vlae: 1 problem in the configuration"
    assert problem.startswith("  runs_dir: file")
    assert ran == []


def test_an_unexpected_error_of_the_file_system_keeps_its_traceback(command):
    def job(container):
        raise FileNotFoundError("a bug")

    with pytest.raises(FileNotFoundError, match="a bug"):
        command(job, "-m", "seed=0,1")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["-m", "--cfg", "job"], "--multirun --cfg"),
        (["--info", "-c", "job"], "--cfg --info"),
        (["--resolve"], "--resolve"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(command, capfd, options, named):
    assert command(None, *options) == 2
    heading, problem = capfd.readouterr().err.splitlines()
    assert heading == "vlae: 1 problem in the configuration"
    assert problem.startswith(f"  {named}: ")


def test_a_stopped_command_promises_no_checkpoint(command, capfd):
    def job(container):
        raise KeyboardInterrupt

    assert command(job) == 130
    assert capfd.readouterr().err.endswith("from the last checkpoint, if there is one\n")
