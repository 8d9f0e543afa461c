"""Reports on Weights & Biases, made with the real client on a recording server."""

import json
import sys

import pytest
from mirrored import PROJECT, Commands, mirror
from recorded import container, done, stopped
from wandb_server import ENTITY

from vlae.launching import sweep_index
from vlae.report.sources.wandb import Place, places_of

pytestmark = pytest.mark.slow

VAE, VLAE = "model=vae", "model=vlae"


@pytest.fixture
def vlae(tmp_path, server):
    pytest.importorskip("wandb_workspaces")
    return Commands(tmp_path / "client", server)


def sweep(runs_dir, server, *words, group="s"):
    """Six runs of a sweep, one of which has failed; mirrored."""
    words = ["tracker=wandb", f"tracker.group={group}", *words]
    places = [
        done(runs_dir, container(model, *words, seed=seed))
        for model in (VAE, VLAE)
        for seed in range(3)
        if (model, seed) != (VLAE, 2)
    ]
    places.append(stopped(runs_dir, container(VLAE, *words, seed=2), state="failed", reason="exception"))
    command = ["launch.py", "++num_threads=1", "hydra.sweeper.file=sweeps/s.yaml", "--multirun"]
    sweep_index.record_sweep(runs_dir, "s", {place.name: "" for place in places}, command)
    for place in places:
        mirror(server, place, group=group)
    return places


def blocks(report, kind):
    return [block for block in report.spec["blocks"] if block["type"] == kind]


def panels(grid):
    found = grid["metadata"]["panelBankSectionConfig"]["panels"]
    return {panel["viewType"]: panel["config"] for panel in found}


def test_a_report_has_table_curves_bars_pictures_and_commands(tmp_path, server, vlae):
    sweep(tmp_path, server)
    said = vlae("report", "s", "--wandb", "--runs-dir", tmp_path)
    (report,) = server.reports
    assert report.title == "vlae: s"
    assert said.strip().startswith(server.url)
    assert len(said.splitlines()) == 1
    introduction, table, commands = (block["content"] for block in blocks(report, "markdown-block"))
    assert "6 runs: 5 done, 1 failed" in introduction
    local = vlae("table", "s", "--runs-dir", tmp_path, "--format", "markdown")
    assert table == local
    assert "(n = 2)" in table
    assert "1 failed (exception)" in table
    assert "sweeps=sweeps/s.yaml" in commands
    assert "num_threads=1" in commands
    assert "git checkout cccccccccc" in commands
    (grid,) = blocks(report, "panel-grid")
    assert panels(grid)["Run History Line Plot"]["metrics"] == ["validation/elbo_nats"]
    assert panels(grid)["Run History Line Plot"]["xAxis"] == "epoch"
    assert panels(grid)["Bar Chart"]["metrics"] == ["test/log_likelihood/fitted/mean"]
    for kind in ("Run History Line Plot", "Bar Chart"):
        assert panels(grid)[kind]["groupBy"] == "model.value.name"
    media = [p["config"]["mediaKeys"] for p in grid["metadata"]["panelBankSectionConfig"]["panels"][2:]]
    assert media == [
        ["final/reconstructions", "final/prior_samples"],
        ["images/reconstructions", "images/prior_samples"],
    ]
    (runset,) = grid["metadata"]["runSets"]
    assert runset["project"]["name"] == PROJECT
    (only,) = runset["filters"]["filters"]
    assert (only["key"], only["op"], only["value"]) == ({"section": "run", "name": "group"}, "IN", ["s"])
    known = {key for run in server.runs.values() for key in run.summary}
    assert {"test/log_likelihood/fitted/mean", "validation/elbo_nats"} <= known


def test_a_second_report_replaces_only_the_first(tmp_path, server, vlae):
    places = sweep(tmp_path, server)
    first = vlae("report", "s", "--wandb", "--runs-dir", tmp_path)
    sweep_index.record_sweep(tmp_path, "t", {places[0].name: ""}, [])
    other = vlae("report", "t", "--wandb", "--runs-dir", tmp_path)
    (places[-1] / "status.json").write_text(
        (places[-1] / "status.json").read_text().replace("exception", "OOM")
    )
    assert vlae("report", "s", "--wandb", "--runs-dir", tmp_path) == first != other
    assert [(report.title, report.num_saves) for report in server.reports] == [("vlae: s", 2), ("vlae: t", 1)]
    assert "1 failed (OOM)" in blocks(server.reports[0], "markdown-block")[1]["content"]


def test_each_column_has_panels_of_its_own_runs(tmp_path, server, vlae):
    places = sweep(tmp_path, server)
    places.append(done(tmp_path, container(VAE, "output_dist=bernoulli", "tracker.group=s")))
    sweep_index.record_sweep(tmp_path, "s", {place.name: "" for place in places}, [])
    vlae("report", "s", "--wandb", "--runs-dir", tmp_path)
    (report,) = server.reports
    conditions = [
        {f["key"]["name"]: f["value"] for f in grid["metadata"]["runSets"][0]["filters"]["filters"]}
        for grid in blocks(report, "panel-grid")
    ]
    assert [c["output_dist.value.name"] for c in conditions] == [["bernoulli"], ["gaussian"]]
    assert all(c["dataset.value.name"] == ["digits"] and c["group"] == ["s"] for c in conditions)


def test_panels_show_a_rerun_once(tmp_path, server, vlae):
    rerun, in_work, *_ = sweep(tmp_path, server)
    keep_generation(rerun, 3)
    keep_generation(in_work, 1)
    keep_generation(tmp_path / ".reruns" / in_work.name, 2)
    vlae("report", "s", "--wandb", "--runs-dir", tmp_path)
    (grid,) = blocks(server.reports[0], "panel-grid")
    (_, left_out) = grid["metadata"]["runSets"][0]["filters"]["filters"]
    assert (left_out["key"], left_out["op"]) == ({"section": "run", "name": "name"}, "NIN")
    assert left_out["value"] == [rerun.name, f"{rerun.name}-g2", f"{in_work.name}-g2"]


def keep_generation(run, number):
    (run / "tracking").mkdir(parents=True)
    (run / "tracking" / "wandb.json").write_text(json.dumps({"generation": number}))


def test_models_of_several_T_are_distinguished(tmp_path, server, vlae):
    places = [done(tmp_path, container(VLAE, f"model.num_updates={t}", "tracker.group=s")) for t in (1, 2)]
    sweep_index.record_sweep(tmp_path, "s", {place.name: "" for place in places}, [])
    mirror(server, places[0])
    vlae("report", "s", "--wandb", "--runs-dir", tmp_path)
    (grid,) = blocks(server.reports[0], "panel-grid")
    grouping = [key["name"] for key in grid["metadata"]["runSets"][0]["grouping"]]
    assert grouping == ["model.value.name", "model.value.num_updates"]
    assert "groupBy" not in panels(grid)["Bar Chart"]


def test_places_are_those_of_the_frozen_configurations(tmp_path):
    words = [["tracker.project=p", "tracker.entity=e", f"tracker.group={group}"] for group in ("a", "b")]
    runs = [done(tmp_path, container(VAE, *words[seed % 2], seed=seed)).name for seed in range(3)]
    runs.append(done(tmp_path, container(VAE, seed=3)).name)
    assert places_of(tmp_path, runs) == [Place("e", "p", ("a", "b")), Place("", PROJECT, ())]
    assert places_of(tmp_path, []) == [Place("", PROJECT, ())]


def test_a_missing_key_extra_or_upload_is_one_line(tmp_path, server, vlae):
    place = done(tmp_path, container(VAE, "tracker.group=s"))
    sweep_index.record_sweep(tmp_path, "s", {place.name: ""}, [])
    words = ["report", "s", "--wandb", "--runs-dir", tmp_path]
    instead = "vlae report s --out report.html needs neither\n"
    without_key = Commands(tmp_path / "other", None)(*words, status=2)
    assert without_key.startswith("vlae: no key for Weights & Biases at https://")
    assert without_key.endswith(instead)
    block = "import sys; sys.modules['wandb_workspaces'] = None; from vlae.cli.app import main; main()"
    without_extra = vlae.process([sys.executable, "-c", block, *map(str, words)], status=2)
    assert "pip install 'vlae[reports]'" in without_extra
    assert without_extra.endswith(instead)
    not_there = vlae(*words, status=2)
    assert "nothing of s is on Weights & Biases yet" in not_there
    assert "`vlae sync s`" in not_there
    server.fail(status=401)
    refused = vlae(*words, status=2)
    assert refused.startswith("vlae: Weights & Biases: ")
    server.stop()
    unreachable = vlae(*words, status=2)
    assert unreachable.startswith(f"vlae: Weights & Biases: {server.url} could not be reached (")
    assert unreachable.endswith(instead)
    every = (without_key, without_extra, not_there, refused, unreachable)
    assert all(len(said.splitlines()) == 1 for said in every)
    assert "expected a sweep" in vlae("report", "--wandb", status=2)
    assert f"{ENTITY}/{PROJECT}" not in {f"{report.entity}/{report.project}" for report in server.reports}
