"""Tables from Weights & Biases, read with the real client from a recording server: the same as from run directories."""

import json
import math
import subprocess
import sys

import pytest
from mirrored import PROJECT, TABLE, Commands, mirror
from recorded import container, done, results, stopped
from wandb_server import ENTITY

from vlae.launching import sweep_index
from vlae.report.metric_values import metrics_of_results
from vlae.report.sources.wandb import PAGE, results_of
from vlae.runs.directory import RunDirectory
from vlae.trackers.run_history import flat

VAE, VLAE, HF = "model=vae", "model=vlae", "model=hf"
PLACE = f"wandb:{ENTITY}/{PROJECT}"


@pytest.fixture
def vlae(tmp_path, server):
    return Commands(tmp_path / "client", server)


def as_json(text):
    return json.loads(text[text.index("{") :])


def sweep(runs_dir, *containers, name="s"):
    """Runs that are done, of a sweep; their directories."""
    places = [done(runs_dir, cfg, level=cfg["seed"] + len(cfg["model"]["name"])) for cfg in containers]
    sweep_index.record_sweep(runs_dir, name, {place.name: "" for place in places}, [])
    return places


# --- what is read back ------------------------------------------------------------------------------------------------


def test_a_summary_has_the_known_metrics_of_the_results():
    cfg = container(VAE)
    content = results(cfg, {})
    content["test"]["log_likelihood"] = {
        "own": {"mean": -1.5, "k_hat_unreliable": 0.01, "ess_median": 3.0, "mode_search": {"steps_max": 2}},
        "laplace": {"mean": -1.25, "k_hat_unreliable": None, "ess_median": 3.0},
    }
    of_epochs = {
        "validation/elbo_nats": 0.0,
        "train/elbo_nats": 0.0,
        "epoch": 1,
        "test/per_image": {"path": ""},
    }
    found = metrics_of_results(results_of(flat(content) | of_epochs))
    assert found == {key: value for key, value in metrics_of_results(content).items() if value is not None}


@pytest.mark.slow
def test_the_table_is_the_same_as_from_run_directories(tmp_path, server, vlae):
    models = ((VAE, 3), (HF, 3), (VLAE, 3))
    places = sweep(
        tmp_path, *(container(model, seed=seed) for model, seeds in models for seed in range(seeds))
    )
    places.append(
        stopped(tmp_path, container(VLAE, seed=3), state="interrupted", reason="crashed", attempt=1)
    )
    sweep_index.record_sweep(tmp_path, "s", {place.name: "" for place in places}, [])
    for place in reversed(places[:-1]):
        mirror(server, place)
    mirror(server, places[-1], state="crashed")
    mirror(server, done(tmp_path / "other", container(HF, seed=9)), group="other")
    for asked in ([], ["--metric", "test.log_likelihood.own.mean"], ["--metric", "cost.train_seconds"]):
        for format in ("json", "markdown", "csv"):
            words = ["table", *asked, "--format", format]
            local = vlae(*words, "s", "--runs-dir", tmp_path)
            assert vlae(*words, "--from", PLACE, "--group", "s", "--per-image") == local
    assert "paired over images and seeds" in vlae("table", "--from", PLACE, "--group", "s", "--per-image")
    assert list(vlae.cwd.iterdir()) == []


@pytest.mark.slow
def test_the_table_is_the_same_for_synced_runs(tmp_path, server, vlae):
    words = ["tracker=wandb", "tracker.mode=offline", "tracker.group=s", "trainer.epochs=4"]
    places = sweep(tmp_path, *(container(model, *words, seed=seed) for model in (VAE, HF) for seed in (0, 1)))
    for place in places:
        status = json.loads((place / "status.json").read_text())
        (place / "status.json").write_text(json.dumps(status | {"attempt": 1}))
    ends = {"failed": "exception", "interrupted": "SIGTERM"}
    for seed, (state, reason) in enumerate(ends.items(), start=2):
        how = {"state": state, "reason": reason, "attempt": 1}
        places.append(stopped(tmp_path, container(VAE, *words, seed=seed), **how))
    sweep_index.record_sweep(tmp_path, "s", {place.name: "" for place in places}, [])
    vlae("sync", "s", "--runs-dir", tmp_path)
    assert len(server.runs) == 6
    assert {run.state for run in server.runs.values()} == {"finished", "failed"}
    local = as_json(vlae("table", "s", "--runs-dir", tmp_path, "--format", "json"))
    assert as_json(vlae("table", "--from", PLACE, "--per-image", "--format", "json")) == {
        **local,
        "title": f"{ENTITY}/{PROJECT}",
    }


@pytest.mark.slow
def test_runs_without_scores_are_the_same_when_synced(tmp_path, server, vlae):
    words = ["tracker=wandb", "tracker.mode=offline", "tracker.group=s", "trainer.epochs=4"]
    places = sweep(tmp_path, *(container(model, *words, seed=seed) for model in (VAE, HF) for seed in (0, 1)))
    for model, seed in ((VAE, 2), (VLAE, 0)):
        cfg = container(model, *words, "evaluate=none", seed=seed)
        places.append(stopped(tmp_path, cfg, state="done"))
        RunDirectory(places[-1]).write_results(results(cfg, {}) | {"test": {}})
    for place in places:
        RunDirectory(place).write_status(attempt=1)
    sweep_index.record_sweep(tmp_path, "s", {place.name: "" for place in places}, [])
    vlae("sync", "s", "--runs-dir", tmp_path)
    assert {run.state for run in server.runs.values()} == {"finished"}
    for asked in ([], ["--metric", "validation.elbo"]):
        local = as_json(vlae("table", "s", "--runs-dir", tmp_path, *asked, "--format", "json"))
        assert as_json(vlae("table", "--from", PLACE, *asked, "--per-image", "--format", "json")) == {
            **local,
            "title": f"{ENTITY}/{PROJECT}",
        }
    assert vlae("table", "--from", PLACE).count("1 not scored") == 1  # one note, on the cells of both models


@pytest.mark.slow
def test_means_are_the_same_without_the_test_images(tmp_path, server, vlae):
    for place in sweep(
        tmp_path, *(container(model, seed=seed) for model in (VAE, VLAE) for seed in (0, 1, 2))
    ):
        mirror(server, place)
    local = as_json(vlae("table", "s", "--runs-dir", tmp_path, "--format", "json"))
    found = as_json(vlae("table", "--from", PLACE, "--group", "s", "--format", "json"))
    assert "paired over seeds alone; --per-image reads them" in found["notes"][-1]
    assert "paired over seeds," in found["caption"]
    for ours, theirs in zip(local["cells"], found["cells"], strict=True):
        for key in ("row", "column", "n", "runs", "mean", "standard_error", "missing", "difference"):
            assert ours[key] == theirs[key]
    assert server.count("RunFiles") == 0


@pytest.mark.slow
def test_three_hundred_runs_take_one_request_per_page(tmp_path, server, vlae):
    first = done(tmp_path, container(VAE))
    cfg, content = container(VAE), json.loads((first / "results.json").read_text())
    from vlae.config.run_id import run_id

    for seed in range(300):
        recorded = mirror(server, first, generation=seed + 1)
        own = {**cfg, "seed": seed}
        del server.runs[ENTITY, PROJECT, recorded.name]
        recorded.name = run_id(own)
        recorded.raw_config = {key: {"value": value} for key, value in own.items()}
        recorded.lines["wandb-summary.json"] = {0: json.dumps(flat(content))}
        server.runs[ENTITY, PROJECT, recorded.name] = recorded
    server.requests.clear()
    (cell,) = as_json(vlae("table", "--from", PLACE, "--format", "json"))["cells"]
    assert cell["n"] == 300
    assert server.count("Runs") == math.ceil(300 / PAGE)
    assert len(server.requests) <= math.ceil(300 / PAGE) + 3  # and whether anybody is there, and who asks


@pytest.mark.slow
def test_only_compared_runs_load_test_images(tmp_path, server, vlae):
    for place in sweep(tmp_path, *(container(model, seed=seed) for model in (VAE, VLAE) for seed in (0, 1))):
        mirror(server, place)
    vlae("table", "--from", PLACE, "--per-image")
    assert server.count("RunFiles") == 4
    server.requests.clear()
    vlae("table", "--from", PLACE, "--per-image", "--metric", "cost.train_seconds")
    assert server.count("RunFiles") == 0


# --- what is not a run that counts ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_newest_done_rerun_counts(tmp_path, server, vlae):
    (place,) = sweep(tmp_path, container(VAE))
    old, new = mirror(server, place), mirror(server, place, generation=2)
    mirror(server, stopped(tmp_path / "rerun", container(VAE)), generation=3, state="running")

    def mean():
        (cell,) = as_json(vlae("table", "--from", PLACE, "--metric", "test.elbo", "--format", "json"))[
            "cells"
        ]
        return cell["n"], cell["runs"], cell["mean"]

    summary = json.loads(new.lines["wandb-summary.json"][0]) | {"test/elbo": -77.0}
    new.lines["wandb-summary.json"] = {0: json.dumps(summary)}
    assert mean() == (1, 1, -77.0)
    del server.runs[ENTITY, PROJECT, new.name]
    assert old.summary["test/elbo"] == -3.5
    assert mean() == (1, 1, -3.5)


@pytest.mark.slow
def test_a_run_and_its_twin_of_an_earlier_scheme_count_once(tmp_path, server, vlae):
    (place,) = sweep(tmp_path, container(VAE))
    old = mirror(server, place)
    del server.runs[ENTITY, PROJECT, old.name]
    old.name, old.raw_config = "vae-digits-gaussian-s0-0123456789", dict(old.raw_config)
    del old.raw_config["schema_version"]
    server.runs[ENTITY, PROJECT, old.name] = old

    def record_of_images():
        found = as_json(vlae("table", "--from", PLACE, "--format", "json"))
        return [(cell["n"], cell["runs"]) for cell in found["cells"]], " ".join(found["notes"])

    assert record_of_images()[0] == [(1, 1)]
    mirror(server, place)
    counts, notes = record_of_images()
    assert counts == [(1, 1)]
    assert f"{old.name} (it is {place.name} under an earlier scheme of ids)" in notes


@pytest.mark.slow
def test_foreign_and_changed_runs_are_named_and_left_out(tmp_path, server, vlae):
    good, copied, edited, empty, foreign = (
        mirror(server, done(tmp_path, container(VAE, seed=seed))) for seed in range(5)
    )
    server.runs[ENTITY, PROJECT, "abc123"] = server.runs.pop((ENTITY, PROJECT, copied.name))
    copied.name = "abc123"
    edited.raw_config["trainer"]["value"]["epochs"] = 7
    empty.lines["wandb-summary.json"] = {0: json.dumps({"test/elbo": 1.0})}
    foreign.raw_config = {"lr": {"value": 0.1}}
    said = vlae("table", "--from", PLACE, "--format", "json")
    (cell,), (note, _) = as_json(said)["cells"], as_json(said)["notes"]
    assert (cell["n"], cell["runs"], cell["missing"]) == (1, 1, "")
    assert f"abc123 (its configuration is that of {container_id(1)})" in note
    assert f"{edited.name} (its configuration is that of vae-digits-gaussian-s2-" in note
    assert f"{empty.name} (its summary: it lacks metrics of a run" in note
    assert f"{foreign.name} (it is not a run of vlae)" in note
    assert good.name not in note


@pytest.mark.slow
def test_unreadable_test_images_affect_only_their_run(tmp_path, server, vlae):
    for model in (VAE, HF):
        for seed in (0, 1):
            recorded = mirror(server, done(tmp_path, container(model, seed=seed)))
    recorded.files[TABLE] = b'{"columns": ["log_likelihood_laplace"], "data": [["x"]]}'
    answer = as_json(vlae("table", "--from", PLACE, "--per-image", "--format", "json"))
    ((name, because),) = answer["unread"]
    assert name == recorded.name
    assert because.startswith("its table of test images cannot be read: ")
    assert sum(cell["n"] for cell in answer["cells"]) == 4


def container_id(seed):
    from vlae.config.run_id import run_id

    return run_id(container(VAE, seed=seed))


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_busy_service_is_retried(tmp_path, server, vlae):
    mirror(server, done(tmp_path, container(VAE)))
    server.fail(status=429, retry_after=0.2, only="Runs", times=2)
    assert "VAE" in vlae("table", "--from", PLACE)
    assert server.count("Runs") == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from", "wandb:tester/none"], "Could not find project none"),
        (
            ["--from", PLACE, "--group", "none"],
            "no runs in the group 'none' of tester/vlae on Weights & Biases",
        ),
        (
            ["--from", "tester/vlae"],
            "--from: expected wandb:ENTITY/PROJECT or wandb:PROJECT, got 'tester/vlae'",
        ),
        (["--from", "wandb:a/b/c"], "--from: expected wandb:ENTITY/PROJECT"),
        (["--from", PLACE, "smoke"], "the runs of a sweep there are --group smoke"),
        (["--group", "s"], "--group: goes with --from"),
        (["--per-image"], "--per-image: goes with --from"),
    ],
)
def test_an_unreadable_source_is_one_line(tmp_path, server, vlae, words, said):
    mirror(server, done(tmp_path, container(VAE)))
    message = vlae("table", *words, "--runs-dir", tmp_path, status=2)
    assert said in message
    assert len(message.splitlines()) == 1


@pytest.mark.slow
def test_a_missing_or_refused_key_is_one_line(tmp_path, server, vlae):
    said = Commands(tmp_path / "other", None)("table", "--from", PLACE, status=2)
    assert said.startswith("vlae: no key for Weights & Biases at https://")
    assert said.endswith(": set WANDB_API_KEY, or run `wandb login`\n")
    server.fail(status=401)
    said = vlae("table", "--from", PLACE, status=2)
    assert said.startswith("vlae: Weights & Biases: ")
    assert len(said.splitlines()) == 1


@pytest.mark.slow
def test_a_table_of_run_directories_needs_no_wandb():
    code = "import sys, vlae.cli.commands.table, vlae.report.tables.table; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
