"""A run directory is whole or absent, and its configuration stays what it was."""

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from run_directory.example import CONFIG, RUN_ID, in_python, output_of, text, values, visible_and_hidden
from vlae.config.run_id import OF_A_COMMAND
from vlae.runs.directory import RunDirectory
from vlae.system.disk import RecordError


@pytest.mark.slow
def test_reading_states_imports_neither_torch_nor_hydra():
    script = """
        import sys, vlae.runs.directory
        print({name.split(".")[0] for name in sys.modules} & {"torch", "hydra", "omegaconf", "numpy"})
    """
    assert output_of(in_python(script)) == "set()\n"


@pytest.mark.slow
@given(config=st.dictionaries(text.filter(lambda key: key not in OF_A_COMMAND), values, max_size=4))
def test_a_frozen_config_keeps_values_and_types(tmp_path_factory, config):
    run = RunDirectory.create(tmp_path_factory.mktemp("runs"), "run", config)
    text = run.path.joinpath("config.yaml").read_text("utf-8")
    assert repr(yaml.safe_load(text)) == repr(config)
    assert text.startswith("#")


def test_a_frozen_config_is_the_one_that_was_given(run):
    assert repr(run.config()) == repr(CONFIG)
    assert run.state() == "new"


def test_operational_keys_are_not_frozen(tmp_path):
    for force in (True, False):
        run = RunDirectory.create(tmp_path / str(force), RUN_ID, CONFIG | {"force": force})
        assert run.config() == CONFIG | {"force": False}


@pytest.mark.parametrize("value", [(8, 8), float("nan"), "\x85"])
def test_a_config_that_yaml_would_change_is_refused_before_writing(tmp_path, value):
    with pytest.raises(ValueError, match="plain values only"):
        RunDirectory.create(tmp_path, "run", {"model": {"hidden_dims": value}})
    assert visible_and_hidden(tmp_path) == set()


def test_creating_an_existing_run_changes_nothing(run, tmp_path):
    before = run.path.joinpath("config.yaml").stat().st_mtime_ns
    again = RunDirectory.create(tmp_path / "runs", RUN_ID, CONFIG | {"device": "cpu"})
    assert again.config() == CONFIG
    assert run.path.joinpath("config.yaml").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    ["lr: 0.0005 -> lr: 0.005", "seed: 0 -> seed: [", "seed: 0 -> seed: &a [*a]", "seed: 0 -> ", "vlae -> 3"],
)
def test_an_edited_config_is_refused(run, edit):
    path = run.path / "config.yaml"
    old, new = edit.split(" -> ")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RecordError, match=re.escape(f"{path} was edited by hand")):
        run.config()


def test_a_config_that_lost_its_scheme_is_refused(run):
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("schema_version: 2\n", ""))
    with pytest.raises(
        RecordError, match=re.escape(f"{path} was edited by hand: it lacks the key schema_version")
    ):
        run.config()


def test_a_renamed_directory_is_the_same_run(run):
    renamed = RunDirectory(run.path.rename(run.path.with_name("my best one")))
    assert renamed.run_id == RUN_ID
    assert renamed.config() == CONFIG


@pytest.mark.slow
def test_a_killed_creation_leaves_a_whole_run_or_none():
    script = """
        from killing import killed_at_every_step
        from run_directory.example import CONFIG, RUN_ID
        from vlae.runs.directory import RunDirectory, all_runs

        def check(folder):
            assert all(run.config() == CONFIG and run.status()["run_id"] == RUN_ID for run in all_runs(folder))
            assert RunDirectory.create(folder, RUN_ID, CONFIG).config() == CONFIG

        print(killed_at_every_step(lambda folder: None, lambda f: RunDirectory.create(f, RUN_ID, CONFIG), check))
    """
    assert int(output_of(in_python(script))) > 5
