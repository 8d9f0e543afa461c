"""launch.py as a command: its exit statuses, its messages, and the files that remain."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import LAUNCH

from vlae.cli import hydra_main
from vlae.cli.app import main
from vlae.config.compose import Composer, compose
from vlae.config.problems import ConfigError
from vlae.config.run_id import SCHEMA_VERSION, run_id
from vlae.launching.local_launcher import LocalQueue
from vlae.system.disk import RecordError


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def command(monkeypatch, run_launch):
    """Runs launch.py in this process with another job in place of training; returns its exit status."""

    def run(job, *arguments: str) -> object:
        monkeypatch.setattr(hydra_main, "run_command", job)
        return run_launch(*arguments)

    return run


# in a process of its own ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wrong_command_prints_one_block_exits_2_and_leaves_nothing(tmp_path):
    done = python(str(LAUNCH), "model.num_updates=four", "trainer.epoch=3", "model=nope,vae", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    heading, *problems = done.stderr.splitlines()
    assert heading == "vlae: 3 problems in the configuration"
    assert all(line.startswith("  ") for line in problems)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_imports_no_torch_and_works_anywhere(tmp_path):
    done = python("-X", "importtime", str(LAUNCH), "--help", "model=iaf", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "model.num_flows=4" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert imported.isdisjoint({"torch", "torchvision", "zuko", "scipy"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cfg_prints_the_composed_configuration_anywhere(tmp_path):
    done = python(str(LAUNCH), "seed=3", "--cfg", "job", "--resolve", "model=hf", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    printed, composed = yaml.safe_load(done.stdout), compose(["model=hf", "seed=3"])
    assert run_id({**printed, "schema_version": SCHEMA_VERSION}) == run_id(composed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["model.num_updates=four"], ["--cfg", "job"], ["dry_run=true"], ["--foo"], ["--"]]
)
def test_vlae_launch_does_what_launch_py_does(run_launch, monkeypatch, capfd, words):
    status, expected = run_launch(*words) or 0, capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["vlae", "launch", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, *capfd.readouterr()) == (status, *expected)


def test_the_help_of_vlae_launch_names_it(monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["vlae", "launch", "--help"])
    with pytest.raises(SystemExit):
        main()
    printed = capfd.readouterr().out
    assert "  vlae launch sweeps=smoke " in printed
    assert "launch.py" not in printed.partition("Groups")[0]
    assert "vlae --install-completion " in printed


# in this process --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_job_gets_only_the_composed_configuration(command, tmp_path):
    got = []
    assert command(lambda container: got.append(container) or 0, "model=hf", "+seed=7") == 0
    assert got == [compose(["model=hf", "seed=7"])]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("status", [0, 1, 3, 130])
def test_the_exit_status_of_the_job_reaches_the_shell(command, status):
    assert command(lambda container: status) == status


@pytest.mark.slow
@pytest.mark.parametrize("error", [RecordError("disk full"), ConfigError(["device: none"])])
def test_an_error_of_the_user_is_one_block_without_a_traceback(command, capfd, error):
    def job(container):
        raise error

    assert command(job) == 2
    assert capfd.readouterr().err == f"vlae: {error}\n"


@pytest.mark.slow
def test_an_unexpected_error_keeps_its_traceback(command):
    def job(container):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        command(job)


@pytest.mark.slow
def test_an_error_of_hydra_is_one_block_without_a_traceback(command, capfd):
    assert command(None, "~optimizer.nothing") == 2
    error = capfd.readouterr().err
    heading, problem = error.splitlines()
    assert heading == "vlae: 1 problem in the configuration"
    assert problem == "  composition: Could not delete from config. 'optimizer.nothing' does not exist."
    assert "HYDRA_FULL_ERROR" not in error


def test_cfg_refuses_a_choice_that_does_not_exist(command, capfd):
    assert command(None, "model=nope", "--cfg", "job") == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "model: no choice 'nope'" in printed.err


@pytest.mark.slow
def test_multirun_reports_all_problems_before_the_first_run(command, capfd, tmp_path):
    ran = []
    assert command(ran.append, "-m", "model=vae,vlae", "seed=0,x", "model.num_updates=3") == 2
    assert ran == []
    assert list(tmp_path.iterdir()) == []
    error = capfd.readouterr().err
    assert "seed: expected a whole number, got 'x'" in error
    assert "model.num_updates: unknown key" in error


@pytest.mark.slow
def test_all_problems_of_launcher_sweep_and_runs_are_one_report(command, capfd, tmp_path):
    assert command(None, "-m", "model=vae,vlae", "seed=x", "hydra.launcher.worker=2") == 2
    _, *problems = capfd.readouterr().err.splitlines()
    assert [problem.split(":")[0].strip() for problem in problems] == ["hydra.launcher.worker", "seed"]
    assert "did you mean hydra.launcher.workers?" in problems[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("hydra.launcher.workers=0", "hydra.launcher.workers: expected 1 or more or null, got 0"),
        ("hydra.launcher.runs_per_gpu=x", "hydra.launcher.runs_per_gpu: expected a whole number, got 'x'"),
        ("runs_dir=a,b", 'runs_dir: expected one value for all runs of a sweep, got "a", "b"'),
        ("force=true,false", "force: expected one value for all runs of a sweep"),
    ],
)
def test_settings_of_a_launch_are_checked(command, capfd, tmp_path, override, expected):
    assert command(None, "-m", "seed=0,1", override) == 2
    assert expected.replace('"', "'") in capfd.readouterr().err.replace('"', "'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["hydra/launcher=slurm", "hydra.launcher.workers=2"])
def test_a_launcher_without_a_sweep_is_refused(command, capfd, override):
    assert command(None, "model=vae", override) == 2
    assert f"{override}: launchers start sweeps: add -m or sweeps=NAME" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweeps=smok"], "sweeps: no choice 'smok'; did you mean smoke?"),
        (["sweeps=smoke", "sweeps=smoke"], "sweeps: expected one sweep file, got smoke, smoke"),
        (["sweeps=smoke,gaussian_all"], "sweeps: expected one sweep file"),
        (["sweeps=mine.yaml"], "sweeps: no file 'mine.yaml'"),
    ],
)
def test_a_missing_or_invalid_sweep_file_is_refused(command, capfd, tmp_path, arguments, expected):
    assert command(None, *arguments) == 2
    assert expected in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "file/below", "locked/below"])
@pytest.mark.parametrize("many", [False, True])
def test_an_unwritable_runs_dir_is_one_line(command, capfd, tmp_path, monkeypatch, place, many):
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(
        os, "access", lambda place, mode: place != tmp_path / "locked"
    )  # root may write anywhere
    if many:
        monkeypatch.setattr(Composer, "__call__", once(Composer.__call__))
        assert command(None, "-m", "seed=range(0,5000)", f"runs_dir={place}") == 2
    else:
        monkeypatch.setitem(
            sys.modules, "vlae.experiment.trained_model", None
        )  # and before torch is imported
        assert command(hydra_main.run_command, f"runs_dir={place}") == 2
    reason = "locked" if place.startswith("locked") else "file is not a directory"
    assert re.fullmatch(
        rf"vlae: runs_dir: cannot write {tmp_path / place}: .*{reason}\n", capfd.readouterr().err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "locked"]


def once(function):
    """``function``, which may be called a single time."""
    calls = []

    def call(*arguments):
        calls.append(1)
        assert len(calls) == 1
        return function(*arguments)

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["hydra/launcher=nope", "seed=0,1"], "hydra/launcher: no choice 'nope' (choices: local, slurm)"),
        (
            ["hydra.launcher.workers=1,2"],
            "hydra.launcher.workers=1,2: expected one value: it is a setting of",
        ),
        (
            ["hydra/launcher=local,slurm"],
            "hydra/launcher=local,slurm: expected one value: it is a setting of",
        ),
        (["seed=interval(0,1)"], "seed=interval(0,1): an interval has no values to go through"),
        (["seed=range(3,3)"], "seed=range(3,3): expected one value or more, got none"),
        (["seed=range(0,1e9)"], "seed=range(0,1e9): expected at most 100,000 values, got 1,000,000,000"),
        (["seed=shuffle(range(9e9))"], "expected at most 100,000 values, got 9,000,000,000"),
        (["model=range(0,1e9)"], "model=range(0,1e9): expected at most 100,000 values"),
        (["seed=range(0,inf)"], "seed=range(0,inf): expected at most 100,000 values, got inf"),
        (
            ["seed=range(0,1000)", "trainer.epochs=range(1,500)"],
            "sweep: expected at most 100,000 runs, got 499,000 (seed: 1,000, trainer.epochs: 499)",
        ),
        (["model=glob(x*)"], "model=glob(x*): glob() finds no choice (choices: "),
    ],
)
def test_an_invalid_sweep_is_one_short_problem(command, capfd, tmp_path, arguments, expected):
    assert command(None, "-m", *arguments) == 2
    heading, problem = capfd.readouterr().err.splitlines()
    assert heading == "vlae: 1 problem in the configuration"
    assert expected in problem
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_file_is_not_shown_as_one_configuration(command, capfd):
    assert command(None, "sweeps=smoke", "--cfg", "job") == 2
    assert "sweeps=smoke --cfg: only one of them can be done" in capfd.readouterr().err


@pytest.mark.slow
def test_a_sweep_file_with_overrides_has_a_limit_too(command, capfd):
    assert command(None, "sweeps=smoke", "seed=range(0,60000)") == 2
    assert "sweep: expected at most 100,000 runs, got 600,000" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("dry", [False, True])
def test_an_override_of_an_axis_is_noted_below_the_headline(command, capfd, tmp_path, dry, monkeypatch):
    (tmp_path / "mine.yaml").write_text("common: {model: vae, seed: [0, 1]}")
    monkeypatch.setattr(LocalQueue, "prepare", lambda *words: None)
    monkeypatch.setattr(LocalQueue, "execute", lambda *words: 0)
    assert command(None, "sweeps=mine.yaml", "seed=7", *(["dry_run=true"] if dry else [])) == 0
    printed = capfd.readouterr()
    heading, note = (printed.out if dry else printed.err).splitlines()[:2]
    assert "1 run, 1 new" in heading
    assert note == "  seed=7 on the command line replaces the 2 values of the sweep file"


@pytest.mark.slow
@pytest.mark.parametrize("words", [[str(LAUNCH)], ["-c", "from vlae.cli.app import main; main()"]])
def test_the_version_names_the_code(tmp_path, words):
    done = python(*words, "--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        r"vlae [\d.]+, code [0-9a-f]{12}(, commit [0-9a-f]{12})?(, changed since)?\n", done.stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("hydra", [str(LAUNCH)]),
        ("typer", ["-c", "from vlae.cli.app import main; main()", "status"]),
        ("torch", ["-c", "from vlae.cli.app import main; main()", "sample", "vae"]),
    ],
)
def test_a_ctrl_c_while_libraries_are_imported_is_one_line(tmp_path, library, words):
    (tmp_path / f"{library}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vlae: stopped\n")


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


@pytest.mark.slow
def test_a_stopped_command_promises_no_checkpoint(command, capfd):
    def job(container):
        raise KeyboardInterrupt

    assert command(job) == 130
    assert capfd.readouterr().err.endswith("from the last checkpoint, if there is one\n")
