"""Runs are found by their ids."""

from pathlib import Path

import pytest

from run_directory.example import CONFIG
from vlae.runs.directory import RunDirectory, all_runs, find
from vlae.system.disk import RecordError


@pytest.fixture
def runs_dir(tmp_path) -> Path:
    for name in [
        "vae-digits-s0-aa",
        "vae-digits-s0-ab",
        "iaf-mnist-s0-cc",
        "iaf-mnist-s0-c",
        *map("m{}".format, range(12)),
    ]:
        RunDirectory.create(tmp_path / "runs", name, CONFIG)
    tmp_path.joinpath("runs", "empty").mkdir()
    RunDirectory.create(tmp_path / "runs" / ".reruns", "hidden-run", CONFIG)
    return tmp_path / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iaf-mnist-s0-cc", "iaf-mnist-s0-c", "vae-digits-s0-ab", "m11"])
def test_a_run_is_found_by_its_id_even_if_it_is_a_prefix(runs_dir, name, monkeypatch):
    monkeypatch.chdir(runs_dir.parent)
    for given_ in (name, str(runs_dir / name), f"runs/{name}/", f"./runs/{name}"):
        assert find(runs_dir, given_).path == runs_dir / name


@pytest.mark.slow
def test_a_run_is_found_by_a_unique_prefix(runs_dir, monkeypatch):
    assert find(runs_dir, "vae-digits-s0-aa"[:-1] + "a").path.name == "vae-digits-s0-aa"
    assert find(runs_dir, str(runs_dir / "m11")[:-1] + "1").path.name == "m11"
    monkeypatch.chdir(runs_dir.parent)
    runs_dir.parent.joinpath("iaf-mnist-s0-cc").mkdir()  # a directory of that name, which is no run
    assert find(runs_dir, "iaf-mnist-s0-cc").path.parent == runs_dir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vae", "'vae' could be any of 2 runs in .*:\n  vae-digits-s0-aa\n  vae-digits-s0-ab$"),
        ("m", r"'m' could be any of 12 runs in .*(\n  m\d+){10}\n  \.\.\.$"),
        ("", "'' could be any of 16 runs"),
        ("vea-digits-s0-aa", "no run 'vea-digits-s0-aa' in .*; did you mean vae-digits-s0-aa, "),
        ("mnist", "no run 'mnist' in .*; did you mean iaf-mnist-s0-c, iaf-mnist-s0-cc"),
        ("hidden-run", "no run 'hidden-run' in [^;]*$"),
        ("empty", "empty is not a run: it has no config.yaml"),
        ("elsewhere/x", "no run 'elsewhere/x': no directory elsewhere$"),
    ],
)
def test_an_unknown_name_lists_the_runs(runs_dir, name, message):
    with pytest.raises(RecordError, match=message):
        find(runs_dir, name)


@pytest.mark.slow
def test_hidden_directories_are_not_runs(runs_dir):
    assert len(all_runs(runs_dir)) == 16
    assert all_runs(runs_dir / "missing") == []


def test_an_impossible_file_name_is_no_run(tmp_path):
    with pytest.raises(RecordError, match="no run 'xxx"):
        find(tmp_path, "x" * 300)
