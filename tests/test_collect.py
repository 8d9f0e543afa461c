"""Runs as rows: what a row says, that the index changes nothing but the time, and what is left out."""

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
from vlae.report.metric_values import figures
from vlae.report.runs import DAMAGED, NEVER, LeftOut, Run, collect
from vlae.report.sources import cache
from vlae.report.sources.run_directories import Reader, RunDirectories, settings_told
from vlae.system.disk import RecordError

VAE, VLAE = "model=vae", "model=vlae"


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Files are old enough for the index as soon as they are written."""
    monkeypatch.setattr(cache, "SETTLED", -1.0)


def rows(runs_dir, name=None):
    """Without what cannot be compared."""
    runs = collect(RunDirectories(runs_dir, name))
    return [run._replace(per_image=None) for run in runs.runs], list(runs.left_out)


def leaves(value, place=()):
    if isinstance(value, dict):
        return [leaf for key, entry in value.items() for leaf in leaves(entry, (*place, key))]
    return [(place, value)]


# --- what a row says ------------------------------------------------------------------------------------------------


def test_a_row_has_every_setting_and_every_figure(tmp_path):
    cfg = container(VLAE, seed=3)
    path = done(tmp_path, cfg)
    (run,), left_out = rows(tmp_path)
    told = json.loads((path / "results.json").read_text())
    assert (run.id, run.state, left_out) == (run_id(cfg), "done", [])
    assert run.settings == settings(cfg)
    assert run.value("model.num_updates") == run.value("T") == 4
    assert run.value("model.hidden_dims") == "[64, 64]"
    laplace = told["test"]["log_likelihood"]["laplace"]
    assert run.value("test.log_likelihood.laplace.mean") == laplace["mean"]
    assert run.value("test.log_likelihood.laplace.standard_error") == laplace["standard_error"]
    assert run.value("test.log_likelihood.laplace.k_hat_unreliable") == 0.0
    assert run.value("test.log_likelihood.laplace.unreliable") is False
    assert run.value("cost.train_seconds") == 5.0
    assert run.value("environment.code.commit") == "c" * 40
    measured = [
        value for place, value in leaves({k: told[k] for k in ("test", "validation", "cost", "environment")})
    ]
    assert len(run.figures) == len(measured) + 2 + 2  # best epoch and epochs, two marks of reliability


def test_the_images_are_read_when_they_are_asked_for(tmp_path):
    path = done(tmp_path, container(VAE))
    file = path / "test_log_likelihood.npz"
    run = collect(RunDirectories(tmp_path)).runs[0]
    np.testing.assert_array_equal(
        run.per_image("log_likelihood_laplace"), np.load(file)["log_likelihood_laplace"]
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
def test_images_that_are_damaged_are_no_images_that_are_not_there(tmp_path, damage, reason):
    file = done(tmp_path, container(VAE)) / "test_log_likelihood.npz"
    (run,) = collect(RunDirectories(tmp_path)).runs
    damage(file)
    with pytest.raises(RecordError, match=rf"^{file.name}:? {reason}"):
        run.per_image("log_likelihood")


def test_the_frame_has_one_row_a_run_and_one_column_a_key(tmp_path):
    for seed in range(3):
        done(tmp_path, container(VAE, seed=seed))
    stopped(tmp_path, container(VLAE), state="failed", reason="exception")
    runs = collect(RunDirectories(tmp_path))
    frame = runs.frame()
    assert len(frame) == 4
    assert list(frame.columns) == [key for key in runs.known() if key != "T"]
    for run, (_, row) in zip(runs.runs, frame.iterrows(), strict=True):
        for key in ("id", "state", "reason", "model.name", "seed"):
            assert row[key] == run.value(key)
    assert frame["test.elbo"].isna().tolist() == [False, False, False, True]


def test_runs_that_are_not_done_tell_their_state_and_why(tmp_path):
    stopped(tmp_path, container(VAE, seed=0))
    stopped(tmp_path, container(VAE, seed=1), state="failed", reason="exception")
    stopped(tmp_path, container(VAE, seed=2))
    waiting = [Waiting(run_id(container(VAE, seed=2)), 0)]
    queues.create(tmp_path, kind="local", sweep="s", code=tmp_path, runs=waiting, settings={})
    told = {run.value("seed"): (run.state, run.reason) for run in rows(tmp_path)[0]}
    assert told == {0: ("new", ""), 1: ("failed", "exception"), 2: ("queued", "")}


def test_a_sweep_knows_the_runs_that_were_never_launched(tmp_path):
    here, gone = container(VLAE, seed=0), container(VLAE, "model.num_updates=2", seed=1)
    done(tmp_path, here)
    labels = {run_id(here): "seed=0", run_id(gone): "model.num_updates=2 seed=1"}
    sweep_index.remember(tmp_path, "s", labels, [])
    (first, second), _ = rows(tmp_path, "s")
    assert (first.state, first.label) == ("done", "seed=0")
    assert (second.state, second.value("T"), second.value("seed"), second.value("model.name")) == (
        NEVER,
        2,
        1,
        "vlae",
    )
    assert second.settings.items() <= settings(gone).items()


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (
            "model=my-model trainer.objective=iwae trainer.epochs=5",
            {"trainer.objective": "iwae", "trainer.epochs": 5},
        ),
        ("+model.hidden_dims=[5,6] device=cpu", {"model.hidden_dims": "[5, 6]"}),
        ("not an override = {", {}),
        (
            "evaluate.proposals=[own,laplace] optimizer.lr=1e-4",
            {"evaluate.proposals": '["own", "laplace"]', "optimizer.lr": 1e-4},
        ),
        (
            "trainer.objective=on trainer.kl=2020-01-01 trainer.epochs=12:30",
            {"trainer.objective": "on", "trainer.kl": "2020-01-01", "trainer.epochs": "12:30"},
        ),
        (
            "optimizer.lr=nan trainer.epochs=-.inf model.x=1e999 model.y=NaN",
            {"optimizer.lr": "nan", "trainer.epochs": "-.inf", "model.x": "1e999", "model.y": "NaN"},
        ),
        (
            "model.a=True model.b=.5 model.c='5' model.d=null",
            {"model.a": True, "model.b": 0.5, "model.c": "5", "model.d": None},
        ),
    ],
)
def test_a_label_tells_what_it_says_and_no_defaults(label, told):
    found = settings_told("x", label)
    found.pop("model.name", None)
    assert found == told
    json.dumps(found, allow_nan=False)
    assert [type(value) for value in found.values()] == [type(value) for value in told.values()]


# --- configurations ---------------------------------------------------------------------------------------------------

# without those that YAML's parsers in C and in Python take for different breaks of lines
texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), max_size=30
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts
)


@effort(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["model", "dataset", "trainer"]), st.dictionaries(texts, values)),
    st.integers(),
)
def test_a_frozen_config_read_in_sections_is_the_config(changes, seed):
    cfg = container(VAE)
    for section, keys in changes.items():
        cfg[section] |= {key: value for key, value in keys.items() if key != "name"}
    cfg["seed"] = seed
    text = yaml.safe_dump(cfg, sort_keys=False, allow_unicode=True, width=110)
    assume(yaml.safe_load(text) == cfg)  # others are not frozen
    assert Reader()._config(f"# header\n{text}") == (run_id(cfg), settings(cfg))


def test_sections_that_refer_to_each_other_are_read_together():
    shared = [5, 6]
    cfg = container(VAE, model__hidden_dims=shared, trainer__extra=shared)
    text = yaml.safe_dump(cfg, sort_keys=False)
    assert "*id001" in text
    assert Reader()._config(text) == (run_id(cfg), settings(cfg))


# --- the index --------------------------------------------------------------------------------------------------------


def without_index(runs_dir):
    cache.path_of(runs_dir).unlink(missing_ok=True)
    found = rows(runs_dir)
    cache.path_of(runs_dir).unlink(missing_ok=True)
    return found


def test_the_index_changes_nothing_whatever_happens_to_the_runs(tmp_path):
    paths = [done(tmp_path, container(VAE, seed=seed)) for seed in range(3)]
    fresh = container(VLAE)
    expected = without_index(tmp_path)
    assert rows(tmp_path) == rows(tmp_path) == expected
    changes = [
        lambda: done(tmp_path, container(VAE, seed=0), level=5.0),
        lambda: (paths[1] / "results.json").unlink(),
        lambda: shutil.rmtree(paths[2]),
        lambda: stopped(tmp_path, fresh, state="failed", reason="exception"),
        lambda: done(tmp_path, fresh),
        lambda: (paths[0] / "results.json").write_text("{"),
    ]
    for change in changes:
        rows(tmp_path)
        before = cache.path_of(tmp_path).read_bytes()
        change()
        kept = rows(tmp_path)
        assert kept == without_index(tmp_path)
        cache.path_of(tmp_path).write_bytes(before)  # of the time before
        assert rows(tmp_path) == kept


def test_what_is_in_the_index_is_not_read_again(tmp_path, monkeypatch):
    done(tmp_path, container(VAE))
    first = rows(tmp_path)
    monkeypatch.setattr(Reader, "entry", None)
    assert rows(tmp_path) == first


def test_files_of_this_moment_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SETTLED", 60.0)
    done(tmp_path, container(VAE))
    rows(tmp_path)
    assert not cache.path_of(tmp_path).exists()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 0}', '{"format": 1}', '{"format": 1, "runs": 3}']
)
def test_a_damaged_index_is_made_anew(tmp_path, content):
    done(tmp_path, container(VAE))
    expected = rows(tmp_path)
    cache.path_of(tmp_path).write_text(content)
    assert rows(tmp_path) == expected
    assert json.loads(cache.path_of(tmp_path).read_text())["runs"]


def test_an_index_that_cannot_be_written_is_only_slower(tmp_path, monkeypatch):
    done(tmp_path, container(VAE))
    monkeypatch.setenv("VLAE_CACHE", "/dev/null")
    assert rows(tmp_path) == rows(tmp_path)
    assert len(rows(tmp_path)[0]) == 1


def test_looking_at_some_runs_keeps_what_is_known_of_the_others(tmp_path, monkeypatch):
    done(tmp_path, container(VAE))
    done(tmp_path, container(VLAE))
    expected = rows(tmp_path)
    done(tmp_path, container(VAE), level=1.0)
    rows(tmp_path, "vae")
    monkeypatch.setattr(Reader, "entry", None)
    assert rows(tmp_path, "vlae")[0] == [run for run in expected[0] if run.id.startswith("vlae")]


# --- what is left out -------------------------------------------------------------------------------------------------


def _replace(name, old, new):
    def change(path):
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "because"),
    [
        (lambda path: (path / "results.json").write_text('{"test": '), "holds no JSON object"),
        (lambda path: (path / "results.json").write_text('"done"'), "holds no JSON object"),
        (_replace("results.json", '"log_likelihood"', '"nll"'), "results.json: it does not hold the figures"),
        (_replace("results.json", '"ess_median"', '"ess"'), None),
        (_replace("results.json", '"own": {', '"own": 3, "other": {'), "results.json: it does not hold"),
        (
            _replace("results.json", '"host": "h"', '"host": ["h"]'),
            "results.json: environment.host: expected a number",
        ),
        (
            _replace("results.json", '"0123456789ab"', '["0123"]'),
            "results.json: environment.code.hash: expected",
        ),
        (
            _replace("results.json", '"elbo": -3.5', f'"elbo": -1{400 * "0"}'),
            "results.json: test.elbo: expected",
        ),
        (
            _replace("results.json", '"epochs": 4', f'"epochs": 4{400 * "0"}'),
            "results.json: epochs: expected",
        ),
        (
            _replace("results.json", '"best_epoch": 3', '"best_epoch": [3]'),
            "results.json: best_epoch: expected",
        ),
        (_replace("results.json", '"elbo": -3.5', '"elbo": "good"'), None),  # a hole of that figure alone
        (_replace("results.json", '"elbo": -3.5', '"elbo": null'), None),
        (_replace("results.json", "vae-digits", "hf-digits"), "results.json is that of another run"),
        (lambda path: (path / "config.yaml").unlink(), "it is no run: it has no config.yaml"),
        (lambda path: (path / "config.yaml").write_text("model: [\n"), "config.yaml is not that of a run"),
        (
            lambda path: (path / "config.yaml").write_text("model: &a [*a]\n"),
            "config.yaml is not that of a run",
        ),
        (lambda path: (path / "config.yaml").write_text("3\n"), "config.yaml is not that of a run"),
        (lambda path: (path / "config.yaml").write_bytes(b"\xff\xfe"), "config.yaml is not that of a run"),
        (_replace("config.yaml", "latent_dim: 8", "latent_dim: 9"), "config.yaml was edited by hand"),
        (lambda path: (path / "status.json").write_text("{"), "holds no JSON object"),
        (_replace("status.json", '"done"', '"over"'), "status.json: state: expected one of new, "),
        (
            _replace("status.json", '"gpu_seconds": 0.0', '"gpu_seconds": "3"'),
            "status.json: gpu_seconds: expected",
        ),
        (lambda path: path.rename(path.with_name("renamed")), "was renamed"),
        (lambda path: path.with_name("empty").mkdir(), "it is no run"),
        (
            lambda path: path.with_name("empty").symlink_to("empty"),
            "it is a link that leads nowhere (Too many",
        ),
        (
            lambda path: path.with_name("empty").symlink_to("gone"),
            "it is a link that leads nowhere (No such file",
        ),
    ],
)
def test_what_cannot_be_counted_is_left_out_with_the_reason(tmp_path, damage, because):
    done(tmp_path, container(VLAE))
    damage(done(tmp_path, container(VAE)))
    for _ in range(2):
        found, left_out = rows(tmp_path)
        assert any(run.id.startswith("vlae") for run in found)
        if because is None:  # a figure that older runs lack
            assert len(found) == 2
        else:
            assert [because in left.because for left in left_out] == [True]
            damaged = [(run.id, run.reason) for run in found if run.state == DAMAGED]
            assert damaged == [
                left for left in left_out if left.name != "empty"
            ]  # its name or its config tell which run it is
            assert len([run for run in found if run.readable]) == 1 + (left_out[0].name == "empty")


@pytest.mark.parametrize("format", ["csv", "json", "html", "latex", "markdown", "terminal"])
def test_runs_that_were_never_launched_are_in_every_table_whatever_their_labels_say(
    command, tmp_path, format
):
    name = done(tmp_path, container(VAE)).name
    labels = {
        name: "model=vae",
        **{f"vae-{k}": f"trainer.kl={v}" for k, v in enumerate(["2020-01-01", "nan", "on"])},
    }
    sweep_index.remember(tmp_path, "s", labels, [])
    status, out, _ = command("table", "s", "--rows", "trainer.kl", "--format", format, "--runs-dir", tmp_path)
    assert status == 0
    assert "2020-01-01" in out


def test_a_run_of_a_sweep_that_is_a_link_to_itself_is_damaged(tmp_path):
    name = run_id(container(VAE))
    (tmp_path / name).symlink_to(name)
    sweep_index.remember(tmp_path, "s", {name: "model=vae"}, [])
    (run,), ((left, because),) = rows(tmp_path, "s")
    assert (run.id, run.state, left) == (name, DAMAGED, name)
    assert because.startswith("it is a link that leads nowhere (")


def test_runs_that_may_not_be_read_are_an_error_that_names_the_directory(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda place, mode: False)  # root may read everything
        with pytest.raises(RecordError, match=f"no permission to read {tmp_path}"):
            RunDirectories(tmp_path)

    def refused(place):
        raise PermissionError(13, "Permission denied")

    source = RunDirectories(tmp_path)
    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(RecordError, match=f"cannot read {tmp_path}: Permission denied"):
        collect(source)


def test_a_copy_of_a_run_does_not_count_twice(tmp_path):
    path = done(tmp_path, container(VAE))
    shutil.copytree(path, tmp_path / "a-copy")
    found, left_out = rows(tmp_path)
    assert [run.id for run in found] == [path.name]
    assert left_out == [LeftOut("a-copy", f"it is a copy of {path.name}")]


# --- other sources ----------------------------------------------------------------------------------------------------


def test_any_source_of_rows_can_be_collected():
    class Service:
        title = "elsewhere"

        def __iter__(self):
            for seed in (0, 0, 1):
                cfg = container(VAE, seed=seed)
                yield Run(
                    run_id(cfg), "", settings(cfg), "done", "", figures(results(cfg, {"own": np.ones(3)}))
                )
            yield LeftOut("x", "deleted")

    runs = collect(Service())
    assert [run.value("seed") for run in runs.runs] == [0, 1]
    assert [left.name for left in runs.left_out] == [runs.runs[0].id, "x"]


@pytest.mark.slow
def test_tables_need_no_library_that_trains():
    modules = "vlae.cli.table, vlae.report.tables.table, vlae.report.sources.run_directories"
    code = f"import sys; import {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "hydra", "omegaconf", "wandb", "pandas"} & set(loaded)
