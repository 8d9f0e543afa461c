"""Names that people give to sweeps, groups and tags: one rule, and no way out of runs_dir."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlae.config.compose import compose
from vlae.config.overrides import hydra_arguments
from vlae.config.problems import ConfigError
from vlae.config.schema import LONGEST_NAME, wrong_name
from vlae.config.values import parse
from vlae.launching import sweep_index
from vlae.launching.status_table import select_runs
from vlae.launching.sweep_index import name_of, wrong_sweep_name
from vlae.system.disk import RecordError

TINY = ["model=vae", "trainer.epochs=1", "seed=0", "tracker=none", "device=cpu", "num_threads=1"]
quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

LEGAL = ["20261128", "2026-11-28", "1e5", "true", "007", "a b", "lr=1e-3", "v1.2+x", "_", "x" * LONGEST_NAME]
ILLEGAL = [
    *(
        "",
        " ",
        " a",
        "a ",
        "a.",
        ".",
        "..",
        ".hidden",
        "-m",
        "a/b",
        "../a",
        "/a",
        "a\\b",
        "~",
        "$HOME",
        "a\nb",
    ),
    *(
        "\x1b[31m",
        "[red]a",
        "größe",
        "a:b",
        "a*",
        "con",
        "NUL.txt",
        "Lpt1",
        "x" * (LONGEST_NAME + 1),
        "x" * 300,
    ),
]


@pytest.fixture
def launch(monkeypatch, run_launch, capsys):
    """launch.py in this process: its exit status, and what it printed."""

    def run(*words: str) -> tuple[object, str]:
        monkeypatch.setenv("COLUMNS", "200")
        status = run_launch(*words)
        return status, "".join(capsys.readouterr())

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", LEGAL)
def test_a_legal_name_is_kept_and_finds_its_sweep(name, tmp_path):
    assert wrong_name(name, file=True) is None
    assert parse(hydra_arguments([f"hydra.sweeper.name={name}"])[0]).value() == name
    sweep_index.record_sweep(tmp_path, name, {"a": "seed=0"}, [])
    sweep_index.record_sweep(tmp_path, f"{name}2"[-20:], {"b": "seed=0"}, [])
    assert select_runs(tmp_path, name) == (name, {"a": "seed=0"})
    assert name in sweep_index.sweep_names(tmp_path)


@pytest.mark.parametrize("name", ILLEGAL)
def test_the_rule_refuses_any_other_name(name):
    assert str(wrong_sweep_name(name, None)).startswith("hydra.sweeper.name: expected ")
    assert (
        wrong_sweep_name(None, Path("sweeps") / f"{name}.yaml" if "/" not in name else Path("-")) is not None
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "../../a", "[red]a", "x" * (LONGEST_NAME + 1)])
@pytest.mark.parametrize("mode", ["dry_run=true", "dry_run=false"])
def test_any_other_name_is_refused_by_its_key_and_leaves_nothing(launch, tmp_path, name, mode):
    status, text = launch("-m", *TINY, mode, f"hydra.sweeper.name={name}")
    assert status == 2
    assert "hydra.sweeper.name: expected " in text
    assert list(tmp_path.iterdir()) == []


def test_null_is_the_default_name():
    assert "expected null where there is none" in str(wrong_sweep_name("None", None))
    assert hydra_arguments(["hydra.sweeper.name=null"]) == ["hydra.sweeper.name=null"]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", [(), ("-m",)])
@pytest.mark.parametrize("mode", ["dry_run=true", "dry_run=false"])
def test_plan_and_launch_refuse_unwritable_runs_alike(launch, tmp_path, mode, sweep):
    (tmp_path / "runs").write_text("mine")
    status, text = launch(*sweep, *TINY, mode)
    assert status == 2
    assert "runs_dir: cannot write " in text
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["20261128", "a b"])
def test_a_plan_keeps_the_name_as_written(launch, name):
    status, text = launch("-m", *TINY, "dry_run=true", f"hydra.sweeper.name={name}")
    assert (status, text.splitlines()[0]) == (0, f"{name}: 1 run, 1 new; would start 1")


@pytest.mark.slow
def test_the_name_of_a_sweep_file_is_a_name_too(launch, tmp_path):
    (tmp_path / "größe.yaml").write_text("grids: [{model: vae}]")
    status, text = launch("sweeps=größe.yaml", *TINY, "dry_run=true")
    assert status == 2
    assert "sweeps: the sweep has the name of its file: expected letters" in text
    status, text = launch("sweeps=größe.yaml", *TINY, "dry_run=true", "hydra.sweeper.name=size")
    assert (status, text.split(":")[0]) == (0, "size")


def test_a_long_file_name_leaves_room_for_a_suffix():
    file = Path("x" * LONGEST_NAME + ".yaml")
    assert wrong_sweep_name(None, file) is None
    name = name_of(str(file), ["model=vae"])
    assert len(name) == LONGEST_NAME
    assert name != name_of(str(file), ["model=hf"])


def test_a_single_run_has_no_sweep_name(launch, tmp_path):
    status, text = launch(*TINY, "hydra.sweeper.name=mine")
    assert (status, "names a sweep: add -m or sweeps=NAME" in text) == (2, True)
    assert list(tmp_path.iterdir()) == []


names = st.text(max_size=20) | st.text(alphabet="./\\ab~-", max_size=6) | st.sampled_from([*LEGAL, *ILLEGAL])


@pytest.mark.slow
@quick
@given(names)
def test_no_name_leads_out_of_the_directory_of_notes(tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside")
    runs_dir = outside / "a" / "runs"
    runs_dir.mkdir(parents=True)
    if wrong_name(name, file=True) is None:
        sweep_index.record_sweep(runs_dir, name, {"a": ""}, [])
        assert sweep_index.read_sweep(runs_dir, name)["name"] == name
    else:
        with pytest.raises((RecordError, ConfigError)):
            select_runs(runs_dir, name)
    written = [path for path in outside.rglob("*") if path.is_file()]
    assert [path.parent for path in written] == [runs_dir / ".sweeps"] * len(written)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", ".", "..", "/", "../vae", "elsewhere/vae", "x" * 300, "a\0b"])
@pytest.mark.parametrize("word", ["status", "table", "cancel", "report", "sync"])
def test_only_the_right_name_selects_runs(command, tmp_path, monkeypatch, word, name):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "vae-digits-gaussian-s0-0123456789"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    status, out, err = command(word, name)
    assert (status, out) == (2, "")
    assert err.startswith("vlae: no sweep and no run ")
    assert (
        select_runs("runs", f"runs/{run.name[:5]}")[1]
        == select_runs("runs", f"{tmp_path}/runs/vae")[1]
        == {run.name: ""}
    )


def test_an_older_note_with_a_numeric_name_is_read(tmp_path):
    sweep_index.record_sweep(tmp_path, "20261128", {"a": ""}, [])
    place = tmp_path / ".sweeps" / "20261128.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"name": 20261128}))
    assert select_runs(tmp_path, "20261128") == ("20261128", {"a": ""})


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", ""])
def test_a_path_is_no_name_of_a_note(tmp_path, name):
    with pytest.raises(ValueError, match="one visible file name"):
        sweep_index.record_sweep(tmp_path / "runs", name, {}, [])
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "a\u202eb", "  "])
def test_tracker_settings_are_printable(text):
    for override in (f'tracker.group="{text}"', f'tracker.name="{text}"', f'tracker.tags=["{text}"]'):
        with pytest.raises(ConfigError) as refused:
            compose([override])
        assert refused.value.problems[0].startswith(f"{override.partition('=')[0]}")
    compose(["tracker.group='a/b: größe'", "tracker.tags=['lr=1e-3']"])
