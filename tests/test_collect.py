"""Runs as rows: the content of a row, and the runs that are left out."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from recorded import container, done, results, stopped

from vlae.config.run_id import run_id, settings
from vlae.launching import queues, sweep_index
from vlae.launching.queues import Waiting
from vlae.report.metric_values import metrics_of_results
from vlae.report.runs import LeftOut, Run, collect
from vlae.report.sources.run_directories import collect_runs
from vlae.report.sources.run_rows import parse_config
from vlae.system.disk import RecordError

VAE, VLAE = "model=vae", "model=vlae"


def rows(runs_dir, name=None):
    """The runs, without values that cannot be compared, and those left out."""
    runs = collect_runs(name, runs_dir)
    return [run._replace(per_image=None, history=None) for run in runs.runs], list(runs.left_out)


def leaves(value, place=()):
    if isinstance(value, dict):
        return [leaf for key, entry in value.items() for leaf in leaves(entry, (*place, key))]
    return [(place, value)]


def test_a_run_of_an_earlier_scheme_counts_until_it_is_rerun():
    old, new = Run("old", "", {"seed": 0}, "done", earlier=True), Run("new", "", {"seed": 0}, "done")
    other = Run("other", "", {"seed": 1}, "done", earlier=True)
    runs = collect("runs", [old, new, other])
    assert runs.runs == (new, other)
    assert runs.left_out == (LeftOut("old", "it is new under an earlier scheme of ids"),)


# --- what a row says ------------------------------------------------------------------------------------------------


def test_a_row_has_every_setting_and_metric(tmp_path):
    cfg = container(VLAE, seed=3)
    path = done(tmp_path, cfg)
    (run,), left_out = rows(tmp_path)
    content = json.loads((path / "results.json").read_text())
    assert (run.id, run.state, left_out) == (run_id(cfg), "done", [])
    assert run.settings == settings(cfg)
    assert run.value("model.num_updates") == run.value("T") == 4
    assert run.value("model.hidden_dims") == "[64, 64]"
    fitted = content["test"]["log_likelihood"]["fitted"]
    assert run.value("test.log_likelihood.fitted.mean") == fitted["mean"]
    assert run.value("test.log_likelihood.fitted.standard_error") == fitted["standard_error"]
    assert run.value("test.log_likelihood.fitted.k_hat_unreliable") == 0.0
    assert run.value("test.log_likelihood.fitted.unreliable") is False
    assert run.value("cost.train_seconds") == 5.0
    assert run.value("environment.code.commit") == "c" * 40
    measured = [
        value
        for place, value in leaves({k: content[k] for k in ("test", "validation", "cost", "environment")})
    ]
    assert len(run.metrics) == len(measured) + 2 + 2  # best epoch and epochs, two marks of reliability


@pytest.mark.slow
def test_images_are_read_on_demand(tmp_path):
    path = done(tmp_path, container(VAE))
    file = path / "test_log_likelihood.npz"
    run = collect_runs(None, tmp_path).runs[0]
    np.testing.assert_array_equal(
        run.per_image("log_likelihood_fitted"), np.load(file)["log_likelihood_fitted"]
    )
    assert run.per_image("log_likelihood_student_t") is None
    file.unlink()
    with pytest.raises(RecordError, match="npz is missing"):
        run.per_image("log_likelihood")


def _cut(file):
    file.write_bytes(file.read_bytes()[:100])


def _flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1
    file.write_bytes(content)


def _single(file):
    with file.open("wb") as opened:
        np.save(opened, np.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "cannot be read"),
        (_flipped, "cannot be read"),
        (lambda file: file.write_bytes(b""), "cannot be read"),
        (lambda file: file.write_text("no arrays"), "cannot be read"),
        (_single, "cannot be read"),
        (lambda file: np.savez(file, log_likelihood=np.array(["a"])), "expected a number for each image"),
        (lambda file: np.savez(file, log_likelihood=np.ones((3, 3))), "expected a number for each image"),
    ],
)
def test_damaged_images_are_not_missing_images(tmp_path, damage, reason):
    file = done(tmp_path, container(VAE)) / "test_log_likelihood.npz"
    (run,) = collect_runs(None, tmp_path).runs
    damage(file)
    with pytest.raises(RecordError, match=rf"^{file.name}:? {reason}"):
        run.per_image("log_likelihood")


def test_the_frame_has_one_row_per_run_and_column_per_key(tmp_path):
    for seed in range(3):
        done(tmp_path, container(VAE, seed=seed))
    stopped(tmp_path, container(VLAE), state="failed", reason="exception")
    runs = collect_runs(None, tmp_path)
    frame = runs.frame()
    assert len(frame) == 4
    assert list(frame.columns) == [key for key in runs.all_keys() if key != "T"]
    for run, (_, row) in zip(runs.runs, frame.iterrows(), strict=True):
        for key in ("id", "state", "reason", "model.name", "seed"):
            assert row[key] == run.value(key)
    assert frame["test.elbo"].isna().tolist() == [False, False, False, True]


def test_unfinished_runs_have_state_and_reason(tmp_path):
    stopped(tmp_path, container(VAE, seed=0))
    stopped(tmp_path, container(VAE, seed=1), state="failed", reason="exception")
    stopped(tmp_path, container(VAE, seed=2))
    waiting = [Waiting(run_id(container(VAE, seed=2)), 0)]
    queues.create(tmp_path, kind="local", sweep="s", code=tmp_path, runs=waiting, settings={})
    states = {run.value("seed"): (run.state, run.reason) for run in rows(tmp_path)[0]}
    assert states == {0: ("new", ""), 1: ("failed", "exception"), 2: ("queued", "")}


@pytest.mark.slow
def test_a_missing_run_of_a_sweep_is_noted(tmp_path):
    here, gone = container(VLAE, seed=0), container(VLAE, "model.num_updates=2", seed=1)
    done(tmp_path, here)
    sweep_index.record_sweep(tmp_path, "s", {run_id(here): "seed=0", run_id(gone): "seed=1"}, [])
    (run,), left_out = rows(tmp_path, "s")
    assert (run.state, run.label) == ("done", "seed=0")
    assert left_out == [LeftOut(run_id(gone), "its directory is missing")]


# --- several sources ------------------------------------------------------------------------------------------------


def record(runs_dir, name, *containers, earlier=()):
    for launch in (*earlier, containers):
        sweep_index.record_sweep(
            runs_dir, name, {run_id(each): f"seed={each['seed']}" for each in launch}, []
        )


def test_several_sweeps_prefixes_and_directories_are_read_together(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    vae, vlae, other, far = container(VAE), container(VLAE), container(VAE, seed=1), container("model=hf")
    for runs_dir, containers in ((here, (vae, vlae, other)), (there, (far, vae))):
        for each in containers:
            done(runs_dir, each)
    record(here, "one", vae, other)
    record(here, "two", vae, vlae)
    record(there, "three", far, vae)
    for names, expected in (
        (["one", "two"], [(vae, "one"), (other, "one"), (vlae, "two")]),
        (["two", "one"], [(vae, "two"), (vlae, "two"), (other, "one")]),
        (["vlae-", "one"], [(vlae, "vlae-"), (vae, "one"), (other, "one")]),
        (["two", str(there / "three")], [(vae, "two"), (vlae, "two"), (far, "three")]),
        ([str(there)], [(far, "three"), (vae, "three")]),
        ([f"{there}/hf"], [(far, "hf")]),
        (["one", "one"], [(vae, "one"), (other, "one")]),
    ):
        runs = collect_runs(names, here)
        found = [(run.id, run.sweep) for run in runs.runs]
        assert found == [(run_id(each), sweep) for each, sweep in expected], names
        assert not runs.left_out
    both = collect_runs(["one", "two"], here)
    assert (both.title, both.note) == ("one two", "1 of 2 runs of two count with a source before it")
    record(there, "one", far)
    assert {run.id: run.sweep for run in collect_runs(None, here).runs} == {
        run_id(vae): "one", run_id(other): "one", run_id(vlae): "two"
    }  # fmt: skip
    assert [r.id for r in collect_runs(there, here).runs] == [
        r.id for r in collect_runs([str(there)], here).runs
    ]
    with pytest.raises(RecordError, match="got an empty list"):
        collect_runs([], here)
    assert [run.sweep for run in collect_runs(["one", f"{there}/one"], here).runs] == [
        "one",
        "one",
        f"{there}/one",
    ]
    for names, launch in ((["one", "nothing"], None), (["one", "two"], 1), ([str(there / "nothing")], None)):
        with pytest.raises(RecordError):
            collect_runs(names, here, launch)


@pytest.mark.slow
def test_each_of_several_sweeps_counts_with_its_newest_complete_launch(tmp_path):
    """One sweep is being scored again: its earlier scores count, beside those of the other."""
    first, again = (container(VAE, f"evaluate.num_samples={n}") for n in (100, 200))
    other = container(VLAE)
    for each in (first, other):
        done(tmp_path, each)
    stopped(tmp_path, again)
    record(tmp_path, "one", again, earlier=[[first]])
    record(tmp_path, "two", other)
    runs = collect_runs(["one", "two"], tmp_path).newest_complete("test.elbo")
    assert [run.id for run in runs.runs] == [run_id(first), run_id(other)]
    assert "Launch 1" in runs.note or "as an earlier launch has scored" in runs.note


# --- configurations ---------------------------------------------------------------------------------------------------

# without those that YAML's parsers in C and in Python take for different breaks of lines
texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), max_size=30
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)


@pytest.mark.slow
@effort(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["model", "dataset", "trainer"]), st.dictionaries(texts, values)),
    st.integers(),
)
def test_a_frozen_config_is_read_independently_of_others(changes, seed):
    cfg = container(VAE)
    for section, keys in changes.items():
        cfg[section] |= {key: value for key, value in keys.items() if key != "name"}
    cfg["seed"] = seed
    text = yaml.safe_dump(cfg, sort_keys=False, allow_unicode=True, width=110)
    assume(yaml.safe_load(text) == cfg)  # others are not frozen
    parsed = {}
    for _ in range(2):  # another seed of the same settings is not parsed again
        assert parse_config(f"# header\n{text}", parsed)[:2] == (run_id(cfg), settings(cfg))
        cfg["seed"] += 1
        text = yaml.safe_dump(cfg, sort_keys=False, allow_unicode=True, width=110)


def test_configurations_of_several_seeds_are_parsed_once(tmp_path, monkeypatch):
    for seed in range(3):
        done(tmp_path, container(VAE, seed=seed))
    parsed, load = [], yaml.load
    monkeypatch.setattr(yaml, "load", lambda text, loader: parsed.append(text) or load(text, loader))
    assert [run.value("seed") for run in rows(tmp_path)[0]] == [0, 1, 2]
    assert len(parsed) == 1


# --- what is left out -------------------------------------------------------------------------------------------------


def _replace(name, old, new):
    def change(path):
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new))

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "because"),
    [
        (lambda path: (path / "results.json").write_text('{"test": '), "holds no JSON object"),
        (lambda path: (path / "results.json").write_text('"done"'), "holds no JSON object"),
        (_replace("results.json", '"log_likelihood"', '"nll"'), "results.json: it lacks metrics"),
        (_replace("results.json", '"ess_median"', '"ess"'), None),
        (_replace("results.json", '"own": {', '"own": 3, "other": {'), "results.json: it lacks metrics"),
        (
            _replace("results.json", '"host": "h"', '"host": ["h"]'),
            "results.json: environment.host: expected a number",
        ),
        (
            _replace("results.json", '"0123456789ab"', '["0123"]'),
            "results.json: environment.code.hash: expected",
        ),
        (
            _replace("results.json", '"best_epoch": 3', '"best_epoch": [3]'),
            "results.json: best_epoch: expected",
        ),
        (_replace("results.json", '"elbo": -3.5', '"elbo": "good"'), None),  # a hole of that figure alone
        (_replace("results.json", '"elbo": -3.5', '"elbo": null'), None),
        (_replace("results.json", "vae-digits", "hf-digits"), "results.json is that of another run"),
        (lambda path: (path / "config.yaml").unlink(), "it has no config.yaml"),
        (lambda path: (path / "config.yaml").write_text("model: [\n"), "config.yaml is not that of a run"),
        (
            lambda path: (path / "config.yaml").write_text("model: &a [*a]\n"),
            "config.yaml is not that of a run",
        ),
        (lambda path: (path / "config.yaml").write_text("3\n"), "config.yaml is not that of a run"),
        (lambda path: (path / "config.yaml").write_bytes(b"\xff\xfe"), "config.yaml is not that of a run"),
        (_replace("config.yaml", "latent_dim: 8", "latent_dim: 9"), "config.yaml was edited"),
        (lambda path: (path / "status.json").write_text("{"), "holds no JSON object"),
        (_replace("status.json", '"done"', '"over"'), "status.json: state: expected 'new', "),
        (
            _replace("status.json", '"gpu_seconds": 0.0', '"gpu_seconds": "3"'),
            "status.json: gpu_seconds: expected",
        ),
        (lambda path: path.rename(path.with_name("renamed")), "was renamed"),
        (lambda path: path.with_name("empty").mkdir(), "it has no config.yaml"),
    ],
)
def test_uncountable_runs_are_left_out_with_the_reason(tmp_path, damage, because):
    done(tmp_path, container(VLAE))
    damage(done(tmp_path, container(VAE)))
    found, left_out = rows(tmp_path)
    assert any(run.id.startswith("vlae") for run in found)
    if because is None:  # a metric that older runs lack
        assert (len(found), left_out) == (2, [])
    else:
        assert [because in left.because for left in left_out] == [True]
        assert len(found) == 1 + (left_out[0].name == "empty")


def test_unreadable_runs_are_an_error_with_the_directory(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda place, mode: False)  # root may read everything
        with pytest.raises(RecordError, match=f"no permission to read {tmp_path}"):
            collect_runs(None, tmp_path)

    def refused(place):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)
        with pytest.raises(RecordError, match=f"cannot read {tmp_path}: Permission denied"):
            collect_runs(None, tmp_path)


def test_a_copy_of_a_run_does_not_count_twice(tmp_path):
    path = done(tmp_path, container(VAE))
    shutil.copytree(path, tmp_path / "a-copy")
    found, left_out = rows(tmp_path)
    assert [run.id for run in found] == [path.name]
    assert left_out == [LeftOut("a-copy", f"it is a copy of {path.name}")]


# --- other sources ----------------------------------------------------------------------------------------------------


def test_any_source_of_rows_can_be_collected():
    def rows_of_a_service():
        for seed in (0, 0, 1):
            cfg = container(VAE, seed=seed)
            metrics = metrics_of_results(results(cfg, {"own": np.ones(3)}))
            yield Run(run_id(cfg), "", settings(cfg), "done", "", metrics)
        yield LeftOut("x", "deleted")

    runs = collect("elsewhere", rows_of_a_service())
    assert [run.value("seed") for run in runs.runs] == [0, 1]
    assert [left.name for left in runs.left_out] == [runs.runs[0].id, "x"]


@pytest.mark.slow
def test_tables_need_no_training_library():
    tables = [f"vlae.report.tables.{name}" for name in ("table", "layout", "formats")]
    modules = ", ".join(["vlae.cli.commands.table", "vlae.report.sources.run_directories", *tables])
    code = f"import sys; import {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "hydra", "omegaconf", "wandb", "pandas"} & set(loaded)
