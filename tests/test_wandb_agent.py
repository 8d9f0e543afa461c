"""A sweep of W&B's own: the shipped file, with the real `wandb sweep` and `wandb agent` and a recording server."""

import sys

import pytest
import yaml
from mirrored import Commands
from wandb_server import ENTITY

from vlae.config import sweep_file
from vlae.config.compose import compose, validate
from vlae.config.overrides import CONF
from vlae.config.run_id import run_id

pytestmark = pytest.mark.slow

FILE = sweep_file.SWEEPS / "wandb" / "vlae.yaml"
SMALL = {
    "trainer.epochs": 2,
    "evaluate.num_samples": 5,
    "evaluate.num_images": 5,
    "evaluate.num_gap_images": 0,
    "num_threads": 1,
    "device": "cpu",
}


def test_an_agent_starts_runs_under_their_own_ids(tmp_path, server):
    content, runs_dir = yaml.safe_load(FILE.read_text()), tmp_path / "runs"
    content["parameters"] |= {key: {"value": value} for key, value in SMALL.items()}
    content["parameters"] |= {"runs_dir": {"value": str(runs_dir)}, "model": {"values": ["vae", "hf"]}}
    content["parameters"]["seed"] = {"values": [0]}
    (tmp_path / "vlae.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    commands = Commands(tmp_path / "client", server)
    commands.cwd = CONF.parent  # which has launch.py
    wandb = [sys.executable, "-m", "wandb"]
    commands.process([*wandb, "sweep", "--project", "vlae", str(tmp_path / "vlae.yaml")])
    (sweep,) = server.sweeps
    commands.process([*wandb, "agent", f"{ENTITY}/vlae/{sweep.id}"])
    assert len(sweep.given) == 2
    overrides = [f"{key}={value}" for key, value in SMALL.items()]
    expected = {
        run_id(compose([*overrides, f"model={model}", "seed=0", f"runs_dir={runs_dir}"]))
        for model in ("vae", "hf")
    }
    assert {place.name for place in runs_dir.iterdir() if place.name[0] != "."} == expected
    commands("sync", "--runs-dir", runs_dir)  # what was too short to be mirrored to its end
    assert {run.name for run in server.runs.values()} == expected
    for run in server.runs.values():
        assert (run.group, run.project, run.entity) == (sweep.id, "vlae", ENTITY)
        assert run.config["model"]["name"] in ("vae", "hf")
        assert "test/elbo" in run.summary


def test_an_agent_sweep_is_no_file_of_grids():
    assert FILE.stem not in sweep_file.sweep_names()


def test_every_point_is_a_valid_and_distinct_run():
    from wandb_server import RecordedSweep

    sweep = RecordedSweep("", "", "", yaml.safe_load(FILE.read_text()))
    containers = [compose([f"{key}={value}" for key, value in point.items()]) for point in sweep.points()]
    for container in containers:
        validate(container)
    assert len({run_id(container) for container in containers}) == len(containers) == 10
