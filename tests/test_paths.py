"""Paths that people give: ~ and environment variables mean the same everywhere, and never become a directory's name."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml

import vlae
from vlae.config.compose import compose, with_absolute_paths
from vlae.config.problems import ConfigError
from vlae.config.run_id import PATHS, get, run_id
from vlae.config.sweep_file import expand_file, place_of
from vlae.data import datasets
from vlae.errors import UserError
from vlae.launching.rescore import with_other_scores
from vlae.report.sources.run_directories import collect_runs
from vlae.runs.directory import find
from vlae.system.files import expand_path

TINY = [
    *(
        "model=vae",
        "trainer.epochs=1",
        "tracker=none",
        "device=cpu",
        "num_threads=1",
        "evaluate.num_images=5",
    ),
    *(
        "evaluate.num_samples=5",
        "evaluate.num_gap_images=0",
        "evaluate.proposals=[own]",
        "model.hidden_dims=[4]",
    ),
]
SPELLINGS = ["~/a", "$SCRATCH/a", "${SCRATCH}/a"]
NOWHERE = ["$NOWHERE/a", "${NOWHERE}/a", "a/$NOWHERE", "$EMPTY", "~nobody-has-this-name/a"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SCRATCH", str(home))
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield home
    assert not any(
        set(name) & set("~$") for _, folders, files in os.walk(tmp_path) for name in [*folders, *files]
    )


@pytest.mark.parametrize("path", SPELLINGS)
def test_a_path_expands_as_in_a_shell(path, home):
    assert expand_path(path) == str(home / "a")


@pytest.mark.parametrize("path", ["a", "/a/b", "a~/~b", "./~", "a$", "a b", ""])
def test_any_other_path_is_left_alone(path):
    assert expand_path(path) == path


@pytest.mark.parametrize("path", NOWHERE)
def test_an_unset_variable_is_refused(path):
    with pytest.raises(ValueError, match=r"NOWHERE is not set|EMPTY is not set|no home directory ~nobody"):
        expand_path(path)


def overrides_of(key: str, path: str) -> list[str]:
    """The command line as it is without a shell that expands it."""
    dataset = {"dataset.root": ["dataset=mnist"], "dataset.path": ["dataset=npz"]}.get(key, [])
    return [*dataset, f"{key}={path}"]


@pytest.fixture
def images(home):
    pixels = np.zeros((3, 2, 2), dtype=np.float32)
    with (home / "a").open("wb") as file:
        np.savez(file, train=pixels, test=pixels)


@pytest.mark.slow
@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("path", ["~/a", "$SCRATCH/a", "${oc.env:SCRATCH}/a"])
def test_every_path_key_expands_on_command_line_and_in_sweeps(key, path, home, images, tmp_path):
    plain = compose(overrides_of(key, str(home / "a")))
    assert get(plain, key) == str(home / "a")
    composed = compose(overrides_of(key, path))
    assert (composed, run_id(composed)) == (plain, run_id(plain))
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({"common": dict(text.split("=", 1) for text in overrides_of(key, path))}))
    assert compose(expand_file(file)[0]) == plain


@pytest.mark.slow
@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("path", [*NOWHERE, "${SCRATCH}/a", "${oc.env:NOWHERE}"])
def test_an_unset_variable_is_refused_with_the_key(key, path):
    with pytest.raises(ConfigError) as refused:
        compose([text.replace("'", "") for text in overrides_of(key, path)])
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [key]
    if path == "${SCRATCH}/a":  # a key of the configuration in this place
        assert "an environment variable is $SCRATCH or ${oc.env:SCRATCH}" in str(refused.value)


@pytest.mark.slow
def test_a_path_needs_no_quotes_for_its_parentheses():
    assert compose(["runs_dir=runs (1)/[a]"])["runs_dir"] == "runs (1)/[a]"


def test_the_path_of_a_sweep_file_expands(home):
    (home / "s.yaml").write_text("grids: [{}]")
    assert {place_of(f"{place}/s.yaml") for place in ("~", "$SCRATCH", str(home))} == {home / "s.yaml"}
    with pytest.raises(ConfigError, match=r"sweeps: the environment variable NOWHERE is not set"):
        place_of("$NOWHERE/s.yaml")


@pytest.mark.slow
def test_frozen_paths_are_absolute_in_every_spelling(home, command):
    results = vlae.run([*TINY, "runs_dir=~/runs", "dataset.sizes.latent_dim=2"], quiet=True)
    name = results["run_id"]
    frozen = yaml.safe_load((home / "runs" / name / "config.yaml").read_text())
    assert frozen["runs_dir"] == str(home / "runs")
    for runs_dir in ("~/runs", "$SCRATCH/runs", str(home / "runs")):
        assert vlae.load(name, runs_dir).directory.path == home / "runs" / name
        assert find("elsewhere", f"{runs_dir}/{name}").path == home / "runs" / name
        assert [run.id for run in collect_runs(None, runs_dir).runs] == [name]
        assert "1 done" in command("status", "--runs-dir", runs_dir)[1]
    status, out, _ = command("table", "--runs-dir", "~/runs", "--out", "$SCRATCH/t.md")
    assert (status, out, (home / "t.md").is_file()) == (0, f"{home}/t.md\n", True)


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--runs-dir", "$NOWHERE/runs"),
        ("show", "vae", "--runs-dir", "~nobody-has-this-name"),
        ("report", "--out", "$NOWHERE/r.html"),
        ("download", "mnist", "--root", "$NOWHERE"),
    ],
)
def test_every_path_option_refuses_an_unset_variable(command, words):
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert err.startswith(
        f"vlae: {words[-2]}: there is no home directory ~nobody"
        if "~" in words[-1]
        else f"vlae: {words[-2]}: the environment variable NOWHERE is not set"
    )


def test_python_refuses_an_unset_variable_too():
    for call in (
        lambda: vlae.load("a", "$NOWHERE"),
        lambda: collect_runs(None, "$NOWHERE"),
        lambda: datasets.mnist(root="$NOWHERE"),
    ):
        with pytest.raises(UserError, match="NOWHERE is not set"):
            call()


@pytest.mark.slow
def test_an_evaluation_expands_only_its_own_paths(home):
    container = with_absolute_paths(compose(["dataset=mnist"])) | {"runs_dir": "/$NOWHERE"}
    found = with_other_scores(container, ["dataset.root=$SCRATCH/a"])
    assert (found["dataset"]["root"], found["runs_dir"]) == (str(home / "a"), "/$NOWHERE")
    assert Path(with_other_scores(container, [])["dataset"]["root"]).is_absolute()
