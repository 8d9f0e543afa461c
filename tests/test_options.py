"""launch.py's options, Hydra's own settings, completion, directories with choices of a user, and vlae.run's input."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import LAUNCH
from launching import run_command

import vlae
from vlae.cli.app import app, main
from vlae.cli.completion import candidates
from vlae.config import help, options
from vlae.config.compose import compose, validate
from vlae.config.options import check_command
from vlae.config.overrides import (
    CONF,
    choices,
    directories,
    expand,
    hydra_arguments,
    is_multirun,
    split_arguments,
    wrong_hydra_override,
)
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id
from vlae.config.sweep_file import with_sweep_file


@pytest.fixture
def command(run_launch, capfd):
    """launch.py in this process: (exit status, standard output, standard error)."""
    return lambda *arguments: (run_launch(*arguments), *capfd.readouterr())


@pytest.fixture
def mine(tmp_path):
    """A directory with an optimizer, and a launcher, of a user's own."""
    for name, content in {
        "optimizer/adagrad": "# Adagrad (Duchi et al. 2011)\nname: adagrad\n_target_: torch.optim.Adagrad\nlr: 1e-2\n",
        "hydra/launcher/two": "# two at a time\ndefaults: [local]\nworkers: 2\n",
    }.items():
        file = tmp_path / "mine" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(content)
    return tmp_path / "mine"


# options ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--foo", "--foo: unknown option"),
        ("--cfg", "--cfg: expected one argument"),
        ("--cfg nope", "--cfg: expected one of job, hydra, all, got 'nope'"),
        ("--info nope", "--info: expected one of all, config, defaults"),
        ("--package model", "--package: goes with --cfg job"),
        ("--resolve", "--resolve: goes with --cfg job"),
        ("-cn other", "--config-name: not supported"),
        ("-cp /x", "--config-path: not supported"),
        ("--experimental-rerun x", "--experimental-rerun: not supported"),
        ("--config-dir nowhere", "--config-dir or hydra.searchpath: there is no directory '"),
        ("--config-dir nowhere -m seed=0,1", "--config-dir or hydra.searchpath: there is no directory '"),
        ("--help --config-dir nowhere", "--config-dir or hydra.searchpath: there is no directory '"),
        ("hydra.searchpath=[nowhere]", "--config-dir or hydra.searchpath: there is no directory '"),
        ("--con x", "ambiguous option: --con could match"),
        (
            "-sc",
            "--shell-completion: expected install=SHELL or uninstall=SHELL, SHELL one of bash, fish, zsh",
        ),
        ("-sc install=tcsh", "--shell-completion: expected install=SHELL"),
        ("hydra/sweeper=optuna", "hydra/sweeper: no choice 'optuna' (choices: grids)"),
        ("-m hydra/sweeper=basic seed=0,1", "hydra/sweeper: no choice 'basic' (choices: grids)"),
        ("-m hydra/launcher=joblib seed=0,1", "hydra/launcher: no choice 'joblib' (choices: local, slurm)"),
        ("-m hydra/launcher=basic seed=0,1", "hydra/launcher: no choice 'basic' (choices: local, slurm)"),
        ("hydra/job_logging=default", "hydra/job_logging: no choice 'default' (choices: none)"),
        ("hydra/hydra_logging=x", "hydra/hydra_logging: no choice 'x' (choices: none)"),
        ("hydra/help=default", "hydra/help=default: no group 'hydra/help' (groups: hydra/launcher, "),
        ("hydra.run.dir=x", "hydra.run.dir=x: no setting of a launch (settings: hydra.launcher.KEY, "),
        ("-m hydra.sweeper.nam=x seed=0,1", "hydra.sweeper.nam=x: no setting of a launch"),
        ("+hydra.nope=1", "+hydra.nope=1: no setting of a launch"),
        ("hydra.mode=x", "hydra.mode: expected RUN or MULTIRUN, got 'x'"),
    ],
)
def test_an_unknown_option_or_setting_is_one_line(command, arguments, expected, tmp_path):
    status, out, err = command(*arguments.split())
    heading, problem = err.splitlines()
    assert (status, out, heading) == (2, "", "vlae: 1 problem in the configuration")
    assert problem.strip().startswith(expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ("--cfg job --package optimizer", "betas:"),
        ("--cfg hydra --package hydra.launcher", "workers: null"),
        ("--info searchpath", str(CONF)),
        ("--hydra-help", "Hydra"),
        ("dry_run=true hydra/sweeper=grids hydra/job_logging=none", "1 new"),
        ("--run dry_run=true", "1 new"),
    ],
)
def test_other_options_work(command, arguments, printed):
    status, out, _ = command(*arguments.split())
    assert (status or 0) == 0
    assert printed in out


# completion -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python launch.py mod", {"model=", "model."}),
        ("vlae launch mod", {"model=", "model."}),
        ("python launch.py model=vl", {"model=vlae", "model=vlae_newton"}),
        ("python launch.py -m model=vae,vl", {"model=vae,vlae", "model=vae,vlae_newton"}),
        ("python launch.py trainer.sel", {"trainer.selection="}),
        ("python launch.py trainer.selection=", {"trainer.selection=validation", "trainer.selection=test"}),
        ("python launch.py model=iaf model.num_", {"model.num_flows="}),
        ("python launch.py +evaluate.ais.num_ch", {"+evaluate.ais.num_chains="}),
        ("python launch.py evaluate", {"evaluate=", "evaluate."}),
        ("python launch.py evaluate=quick,", {f"evaluate=quick,{c}" for c in choices()["evaluate"]}),
        ("python launch.py evaluate=quick evaluate.num_s", {"evaluate.num_samples="}),
        ("python launch.py evaluate=quick evaluate.num_samples=", {"evaluate.num_samples=200"}),
        ("python launch.py force=", {"force=true", "force=false"}),
        ("python launch.py sweeps=smo", {"sweeps=smoke"}),
        ("python launch.py hydra/launcher=slurm hydra.launcher.par", {"hydra.launcher.partition="}),
        ("python launch.py --cf", {"--cfg"}),
        ("python launch.py modell=typo[ output_dist=g", {"output_dist=gaussian"}),
        ("python launch.py nothing.", set()),
    ],
)
def test_completion_offers_possible_words(line, expected):
    assert set(candidates(line)) == expected


@pytest.mark.slow
def test_completion_offers_choices_of_added_directories(mine):
    assert candidates(f"python launch.py --config-dir {mine} optimizer=adag") == ["optimizer=adagrad"]
    assert candidates(f"python launch.py --config-dir {mine} hydra/launcher=t") == ["hydra/launcher=two"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "words", "expected"),
    [
        ("bash", "vlae launch -m model = vl", ["vlae", "vlae_newton"]),  # bash takes = for a word
        ("bash", "vlae launch mod", ["model=", "model."]),
        ("zsh", "vlae launch model=vl", ["model=vlae", "model=vlae_newton"]),
    ],
)
def test_the_completion_of_vlae_completes_the_words_of_a_launch(monkeypatch, capsys, shell, words, expected):
    monkeypatch.setenv("_VLAE_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    monkeypatch.setattr(sys, "argv", ["vlae"])
    with pytest.raises(SystemExit):
        main()
    assert re.findall(r"[\w=.]+", capsys.readouterr().out.split("((")[-1]) == expected


@pytest.mark.slow
def test_a_real_bash_completes_groups_and_keys():
    words = ["python", LAUNCH.name, "model=vlae", "model.num_up"]
    script = f"""
    eval "$(python {LAUNCH.name} -sc install=bash)" || exit 1
    complete -p python >&2
    COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1} COMP_LINE="{" ".join(words)}" COMP_POINT=99
    hydra_bash_completion
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=LAUNCH.parent,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "model.num_updates=\n"), done.stderr
    assert "-F hydra_bash_completion python" in done.stderr


# vlae -------------------------------------------------------------------------------------------------------


def commands_of_vlae():
    return [info.name or info.callback.__name__ for info in app.registered_commands]


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["-h"], ["--help"], *([name, "-h"] for name in commands_of_vlae())])
def test_help_is_shown_with_status_0_and_flags_take_no_value(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["vlae", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    assert (end.value.code, err) == (0, "")
    usage = "" if words[:1] == ["launch"] else "Usage: "  # what it takes is not options, but keys
    assert out.startswith(f"{usage}vlae {'[OPTIONS]' if len(words) < 2 else words[0]}")
    assert "<bool>" not in out
    assert "..." not in out.partition("Commands:")[2]  # each in full


@pytest.mark.slow
def test_the_completion_of_vlae_is_installed_and_knows_its_commands(tmp_path):
    home = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    code = "import sys; sys.argv = ['vlae']; from vlae.cli.app import main; main()"
    asked = {**home, "_VLAE_COMPLETE": "complete_bash", "COMP_WORDS": "vlae eval", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=LAUNCH.parent, env=asked, capture_output=True, text=True
    )
    assert done.stdout.split() == ["evaluate"], done.stderr


# directories of a user's own --------------------------------------------------------------------------------


def spellings(mine, tmp_path):
    return [
        ["--config-dir", str(mine)],
        ["-cd", str(mine)],
        [f"--config-dir={mine}"],
        ["--config-dir", os.path.relpath(mine, tmp_path)],
        [f"hydra.searchpath=[{mine}]"],
        [f"+hydra.searchpath=[file://{mine}]"],
        ["hydra.searchpath=[mine]"],
    ]


def test_a_directory_is_named_in_any_spelling(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for option in [*spellings(mine, tmp_path), ["--config-dir=~/mine"], ["hydra.searchpath=[~/mine]"]]:
        assert directories(option) == [mine]
        options.check_options(["optimizer=adagrad", *option])
        assert hydra_arguments(["optimizer=adagrad", *option])[0] == "optimizer=adagrad"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(7))
def test_own_choices_work_in_a_sweep_as_in_a_run(command, mine, tmp_path, number):
    option = spellings(mine, tmp_path)[number]
    (tmp_path / "s.yaml").write_text("grids: [{optimizer: [adagrad, sgd]}]")
    plans = {
        "single": ["optimizer=adagrad", "dry_run=true"],
        "-m": ["-m", "optimizer=adagrad,sgd", "dry_run=true"],
        "file": ["sweeps=s.yaml", "dry_run=true"],
        "glob": ["-m", "optimizer=glob(adagr*)", "seed=0,1", "dry_run=true"],
    }
    for kind, arguments in plans.items() if number in (0, 4) else [("file", plans["file"])]:
        status, out, err = command(*arguments, *option)
        assert (status, err) == (0, ""), kind
        expected = run_id(compose(["optimizer=adagrad", f"hydra.searchpath=[{mine}]"]))
        assert expected in out


@pytest.mark.slow
def test_a_wrong_choice_names_those_of_the_directory(command, mine):
    for arguments in (["optimizer=adagrat"], ["-m", "optimizer=adagrat,adam"]):
        status, _, err = command(*arguments, "--config-dir", str(mine))
        assert status == 2
        assert "optimizer: no choice 'adagrat'; did you mean adagrad? (choices: adagrad, adam, adamw," in err
    _, _, err = command("-m", "hydra/launcher=tow", "seed=0,1", "--config-dir", str(mine))
    assert "hydra/launcher: no choice 'tow' (choices: local, slurm, two)" in err


@pytest.mark.slow
def test_help_shows_choices_and_keys_of_the_directory(mine, capsys):
    assert help.print_help(["--help", "--config-dir", str(mine), "optimizer=adagrad"]) == 0
    out = capsys.readouterr().out
    assert "* adagrad             Adagrad (Duchi et al. 2011)" in out
    assert "two                 two at a time" in out
    assert "optimizer.lr=0.01" in out


@pytest.mark.slow
def test_workers_execute_a_sweep_with_own_choices(mine, tmp_path):
    words = [
        *("-m", "seed=0,1", "optimizer=adagrad", "--config-dir", "mine", "hydra/launcher=two"),
        *("trainer.epochs=1", "evaluate.num_samples=2", "evaluate.num_images=2", "evaluate.num_gap_images=0"),
        *("device=cpu", "num_threads=1", "tracker=none", "model=vae"),
    ]
    done = run_command(LAUNCH, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "runs").glob("vae-*"))
    assert len(runs) == 2
    for run in runs:
        assert yaml.safe_load((run / "config.yaml").read_text())["optimizer"]["name"] == "adagrad"
        assert (run / "results.json").is_file()


# vlae.run ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("model=vae", "overrides: expected a list of texts such as ['model=vae', 'seed=1'], got 'model=vae'"),
        (["-m", "model=vae"], "-m: vlae.run does one run and takes no options; use python launch.py -m"),
        (["--help"], "--help: vlae.run does one run and takes no options"),
        (["--config-dir=x"], "--config-dir=x: vlae.run takes no options; write hydra.searchpath=[DIR]"),
        (["sweeps=smoke"], "sweeps=smoke: vlae.run does one run; a sweep is started by python launch.py"),
        (["hydra/launcher=slurm"], "hydra/launcher=slurm: vlae.run does one run"),
        (["hydra.launcher.workers=2"], "hydra.launcher.workers=2: vlae.run does one run"),
        (["hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN: vlae.run does one run"),
        (["dry_run=true"], "dry_run=true: vlae.run starts the run; python launch.py dry_run=true shows"),
        (["seed=0,1"], "seed=0,1: several values: call vlae.run once for each"),
        (["hydra/sweeper=x"], "hydra/sweeper: no choice 'x' (choices: grids)"),
        (["hydra.searchpath=[nowhere]"], "--config-dir or hydra.searchpath: there is no directory '"),
    ],
)
def test_vlae_run_refuses_wrong_overrides(overrides, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        vlae.run(overrides)
    (problem,) = error.value.problems
    assert problem.startswith(expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overrides", [None, 3, {"model": "vae"}, [3], [None], [["model=vae"]]])
def test_anything_but_a_list_of_texts_is_refused(overrides):
    with pytest.raises(ConfigError, match=r"overrides: expected a list of texts such as \['model=vae', "):
        options.check_call(overrides)


# advice -----------------------------------------------------------------------------------------------------

ADVISED = {
    "trainer.epoch=3": (r"did you mean (\S+)\?", "{}=3"),
    "lr=1e-3": (r"did you mean (\S+)\?", "{}=1e-3"),
    "model=vlea": (r"did you mean (\S+)\?", "model={}"),
    "modell=vae": (r"did you mean (\S+)\?", "{}=vae"),
    "mode@foo=vae": (r"did you mean (\S+)\?", "{}=vae"),
    "model@foo=vae": (r"write (\S+)", "{}"),
    "+model@foo=vae": (r"write (\S+)", "{}"),
    "model@foo=vae,vlae -m": (r"write (\S+)", "{} -m"),
    "~trainer.patience": (r"leave (\S+) out", "seed=0"),
    "model=vae,vlae": (r"add (-m) for", "model=vae,vlae {}"),
    "model.hidden_dims=7,8": (r"write a list as (\[\S+?\])", "model.hidden_dims={}"),
    "model.hidden_dims=7,8 ": (r"add (-m) for", "model.hidden_dims=[7],[8] {}"),
    "model.hidden_dims=[5": (r"a list is (\S+),", "model.hidden_dims={}"),
    "--seed=3": (r"without dashes: (\S+)", "{}"),
    "hydra/launcher=slurm": (r"add (-m) or", "hydra/launcher=slurm {}"),
    "hydra/launcher=local": (r"or (sweeps)=NAME", "hydra/launcher=local {}=smoke"),
    "hydra.sweeper.name=x": (r"add (-m) or", "hydra.sweeper.name=x {} seed=0,1"),
    "optimizer._target_=torch.optim.SGD": (r"choose (\S+),", "{}"),
    "model._target_=vlae.models.vae.VAE": (r"choose (\S+),", "{}"),
    "dataset._target_=vlae.data.mnist": (r"choose (\S+),", "{}"),
    "hydra/sweeper=basic": (r"choices: (\w+)", "hydra/sweeper={}"),
    "hydra.mode=x": (r"expected (RUN)", "hydra.mode={}"),
    "--package model": (r"goes with (--cfg job)", "--package model {}"),
    "trainer.kl=analytic trainer.objective=iwae": (
        r"expected (sampled)",
        "trainer.kl={} trainer.objective=iwae",
    ),
    "dataset.validation_size=0": (r"expected (test)", "dataset.validation_size=0 trainer.selection={}"),
    "seed=???": (r"add (seed)=", "{}=1"),
}


def problems_of(arguments):
    """The problems that launch.py finds, with nothing started."""
    try:
        arguments = with_sweep_file(arguments)
        check_command(arguments)
        overrides = [
            o for o in split_arguments(arguments)[0] if not o.startswith(("hydra.sweeper", "hydra/launcher"))
        ]
        for job in expand(overrides) if is_multirun(arguments) else [overrides]:
            validate(compose(job))
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ADVISED)
def test_the_advice_of_an_error_is_accepted(wrong):
    pattern, followed = ADVISED[wrong]
    problems = problems_of(wrong.split())
    advice = re.search(pattern, "\n".join(problems))
    assert advice, problems
    assert problems_of(followed.format(advice[1]).split()) == []


@pytest.mark.slow
def test_the_advice_about_a_target_is_accepted(tmp_path):
    (problem,) = problems_of(["optimizer._target_=torch.optim.Adagrad"])
    assert problem.startswith(
        "optimizer._target_: torch.optim.Adagrad does not go with the keys of optimizer=adam"
    )
    file = re.search(r"a file (\S+) in", problem)[1]
    content = re.search(r"with (name: \w+), (_target_: \S+) and", problem).groups()
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text("\n".join([*content, "lr: 1e-2"]))
    choice = re.search(r"choose (\S+)$", problem)[1]
    validate(compose([choice, f"hydra.searchpath=[{tmp_path}]"]))


@pytest.mark.parametrize(
    "key", ["launcher.workers", "launcher.sbatch.nice", "launcher.sbatch.a.b", "sweeper.name"]
)
def test_every_nested_key_of_a_launcher_can_be_set(key):
    assert wrong_hydra_override(f"+hydra.{key}=1", []) is None
    assert wrong_hydra_override(f"+hydra.nothing.{key}=1", []) is not None
