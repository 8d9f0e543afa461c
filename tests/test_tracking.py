"""Runs on Weights & Biases with the real client: what arrives at a recording server, and what its failures do to a run."""

import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from wandb_server import WandbServer

from vlae import config
from vlae.record import RunDirectory
from vlae.trackers.companion import ENDS_WITHIN, mirrored

pytestmark = pytest.mark.slow

TINY = (
    "model=vlae",
    "dataset.sizes.latent_dim=2",
    "dataset.sizes.hidden_dims=[3]",
    "device=cpu",
    "trainer.epochs=6",
)
A_FEW_SECONDS = ENDS_WITHIN + 1.5


@pytest.fixture
def server():
    with WandbServer() as server:
        yield server
    assert not server.errors
    assert not server.unknown


@pytest.fixture
def client(tmp_path, monkeypatch):
    """An environment without a key, whose files are all below ``tmp_path``."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "SLURM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "client"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


@pytest.fixture
def online(client, server, tmp_path, monkeypatch):
    """The same with a key, and the server."""
    for name, value in server.environment(tmp_path / "client").items():
        if name in ("WANDB_BASE_URL", "WANDB_API_KEY"):
            monkeypatch.setenv(name, value)
    return server


class FakeRun:
    """A run directory that is written without training: what a run leaves in it, epoch by epoch."""

    def __init__(self, runs_dir, *overrides, seed=0):
        container = config.compose(
            [*TINY, f"runs_dir={runs_dir}", f"seed={seed}", "tracker.group=sweep", *overrides]
        )
        self.directory = RunDirectory.create(runs_dir, config.run_id(container), container)
        self.id = self.directory.run_id

    def epochs(self, first, last, pictures=(2, 4, 6), pause=0.0):
        for epoch in range(first, last + 1):
            line = {"epoch": epoch, "global_step": 10 * epoch, "train/elbo_nats": -100.0 / epoch}
            self.directory.append_metrics(line | {"validation/elbo_nats_after_1": -50.0 / epoch})
            if epoch in pictures:
                self.picture(f"epoch-{epoch:06d}", "reconstructions", epoch)
            time.sleep(pause)

    def picture(self, folder, name, grey):
        place = self.directory.path / "images" / folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5), grey, np.uint8)).save(place / f"{name}.png")

    def complete(self):
        self.picture("", "prior_samples", 99)
        np.savez(
            self.directory.path / "test_log_likelihood.npz",
            log_likelihood=np.array([-1.0, -2.0]),
            log_likelihood_laplace=np.array([-0.5, -1.5]),
        )
        test = {"elbo": -2.5, "log_likelihood": {"own": {"mean": -1.5, "k_hat_unreliable": None}}}
        self.directory.write_results(
            {"run_id": self.id, "epochs": 6, "test": test, "environment": {"host": "h"}}
        )

    def attempt(self, act, end=None):
        """One attempt that does this; the seconds that its end took."""
        began = math.nan
        try:
            with mirrored(self.directory), self.directory.claim():
                act()
                began = time.monotonic()
                if end is not None:
                    raise end
        except BaseException as error:
            if error is not end:
                raise
        return time.monotonic() - began

    def whole(self):
        self.epochs(1, 6)
        self.complete()

    def log(self):
        return (self.directory.path / "tracking" / "log.txt").read_text()


@pytest.fixture
def run(tmp_path):
    return FakeRun(tmp_path / "runs")


def history(recorded, key="train/elbo_nats"):
    """Of one figure: its epochs in the order in which they arrived."""
    return [line["epoch"] for line in recorded.history if key in line]


def vlae(*words, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "vlae.cli_main", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_all_that_a_run_tells_arrives(online, run):
    run.attempt(lambda: (time.sleep(4), run.whole()))
    found = online.run(run.id)
    assert history(found) == [1, 2, 3, 4, 5, 6]
    assert found.exit_codes == [0]
    assert found.group == "sweep"
    print(found.config, found.summary, found.tags, found.notes, found.files.keys(), found.fields)
    print(run.log())
    assert found.config["model"]["latent_dim"] == 2
