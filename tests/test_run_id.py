"""Ids of runs: independent of where code lies, and runs of the first scheme of ids, which stay readable."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

import vlae
from vlae.config.compose import compose
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id
from vlae.config.schema import SCHEMA_VERSION
from vlae.runs.directory import RunDirectory
from vlae.system.disk import RecordError

TINY = (
    "model=vae", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=1",
    "evaluate.num_samples=20", "evaluate.num_gap_images=0", "evaluate.proposals=[own]", "device=cpu", "tracker=none",
)  # fmt: skip
OLD = "vae-digits-gaussian-s0-0123456789"
MADE_AGAIN = f"{OLD} has the settings of this run under an earlier scheme of ids"


def edit(run: Path, **changes: object) -> None:
    """Set sections or keys of config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text()) | changes
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    runs_dir = tmp_path_factory.mktemp("trained")
    vlae.run([*TINY, f"runs_dir={runs_dir}"], quiet=True)
    return next(runs_dir.glob("vae-*"))


@pytest.fixture
def runs(trained, tmp_path) -> Path:
    """A runs directory with one run, of the first scheme."""
    run = shutil.copytree(trained, tmp_path / "runs" / OLD)
    for name in ("status.json", "results.json"):
        (run / name).write_text(json.dumps(json.loads((run / name).read_text()) | {"run_id": OLD}))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"schema_version: {SCHEMA_VERSION}\n", ""))
    return run.parent


@pytest.mark.slow
@pytest.mark.parametrize("section", ["model", "dataset", "output_dist", "optimizer"])
def test_the_id_is_independent_of_the_code_directory(section):
    container = compose(TINY)
    moved = {**container, section: {**container[section], "_target_": "vlae.elsewhere.Renamed"}}
    assert run_id(moved) == run_id(container)


def test_the_scheme_is_part_of_configuration_and_id():
    container = compose(TINY)
    assert container["schema_version"] == SCHEMA_VERSION
    assert run_id({**container, "schema_version": SCHEMA_VERSION + 1}) != run_id(container)


def test_the_scheme_cannot_be_chosen():
    with pytest.raises(ConfigError, match="schema_version: it is written by vlae and not set; remove it"):
        compose([*TINY, "+schema_version=1"])


@pytest.mark.slow
@pytest.mark.parametrize("words", [["show", OLD], ["table"], ["status"], ["report"]])
def test_a_run_of_the_first_scheme_is_shown(words, runs, command, tmp_path):
    out = ["--out", str(tmp_path / "report.html")] if words == ["report"] else []
    status, printed, said = command(*words, *out, "--runs-dir", runs)
    assert status == 0, said
    assert words[0] != "table" or "excluded" not in said
    text = Path(out[1]).read_text() if out else printed
    assert (OLD if words[0] in ("show", "report") else "VAE" if words[0] == "table" else "vae") in text


@pytest.mark.slow
def test_a_run_of_the_first_scheme_keeps_its_own_id(runs):
    assert vlae.load(OLD, str(runs)).directory.run_id == OLD


@pytest.mark.slow
def test_a_run_of_the_first_scheme_is_scored_again_without_training(runs, command):
    status, _, said = command("evaluate", OLD, "evaluate.num_samples=7", "device=cpu", "--runs-dir", runs)
    assert status == 0, said
    [new] = [path for path in runs.glob("vae-*") if path.name != OLD]
    assert RunDirectory(new).results()["taken_over"]["training"]["run"] == OLD


@pytest.mark.slow
def test_a_rerun_of_the_first_scheme_counts_once(runs, command, capsys):
    new = vlae.run([*TINY, f"runs_dir={runs}"])["run_id"]
    assert MADE_AGAIN in "".join(capsys.readouterr())
    assert new == run_id(compose(TINY)) != OLD
    assert {path.name for path in runs.glob("vae-*")} == {OLD, new}
    _, table, said = command("table", "--runs-dir", runs, "--format", "csv")
    assert [line.split(",")[0] for line in table.splitlines()[1:]] == ["vae"], table
    assert f"{OLD} (it is {new} under an earlier scheme of ids)" in said
    vlae.run([*TINY, f"runs_dir={runs}"])
    assert MADE_AGAIN not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_a_dry_run_reports_a_rerun(runs, run_launch, capsys):
    assert run_launch(*TINY, f"runs_dir={runs}", "dry_run=true") == 0
    assert MADE_AGAIN in " ".join("".join(capsys.readouterr()).split())
    assert run_launch("-m", *TINY, f"runs_dir={runs}", "dry_run=true", "seed=0,1") == 0
    assert MADE_AGAIN in " ".join("".join(capsys.readouterr()).split())
    assert [path.name for path in runs.glob("vae-*")] == [OLD]


@pytest.mark.slow
def test_a_sweep_reports_a_rerun(runs, run_launch, capsys):
    assert run_launch("-m", *TINY, f"runs_dir={runs}", "seed=0") == 0
    assert MADE_AGAIN in " ".join("".join(capsys.readouterr()).split())
    assert len(list(runs.glob("vae-*"))) == 2


def test_a_run_of_a_newer_scheme_is_refused(runs, command):
    edit(runs / OLD, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(RecordError, match=rf"made by a newer vlae \(schema_version {SCHEMA_VERSION + 1}"):
        RunDirectory(runs / OLD).config()
    _, printed, said = command("table", "--runs-dir", runs)
    assert "config.yaml was made by a newer vlae" in " ".join(f"{printed} {said}".split())


@pytest.mark.parametrize("words", [["evaluate", OLD], ["sample", OLD]])
@pytest.mark.parametrize("target", ["vlae.models.moved.VAE", "vlae.models.vae.Moved"])
def test_a_frozen_target_that_no_longer_imports_is_one_line(words, target, runs, command, tmp_path):
    model = yaml.safe_load((runs / OLD / "config.yaml").read_text())["model"]
    edit(runs / OLD, model={**model, "_target_": target})
    out = ["--out", str(tmp_path / "out.png")] if words[0] == "sample" else []
    status, _, said = command(*words, "--runs-dir", runs, *out)
    assert status == 2
    assert f"model._target_: {target!r} cannot be imported: this code has no such name" in said
    assert f"{runs / OLD / 'config.yaml'} names it" in said
    assert "Traceback" not in said
    assert command("show", OLD, "--runs-dir", runs)[0] == 0  # what is recorded needs no code
