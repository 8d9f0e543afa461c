"""Runs that share a training with a run that is there already, killed while they take over: see test_sharing.py.

``python sharing.py MODEL`` prints one line per case, ``python sharing.py steps`` one. A Python of its own, because it
forks.
"""

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from killing import killed_at_every_step

import vlae
from vlae.config.schema import Trainer
from vlae.experiment.take_over import own_elbos, take_over
from vlae.runs.directory import RunDirectory

TINY = (
    "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "optimizer.lr=0.1", "trainer.batch_size=100",
    "evaluate.num_samples=9", "evaluate.num_gap_images=0", "evaluate.bracket.num_images=0", "evaluate.num_images=10",
    "tracker=none", "num_threads=1",
)  # fmt: skip
OFTEN = "trainer.checkpoint_every=0.000001"
ASKED = 4
"""Epochs that a run asks for."""
SOURCES = {"shorter": 2, "equal": ASKED, "longer": 5}
"""Epochs of the run that is there. With these settings the fifth epoch of each model is worse than the best before."""
MOMENTS = {
    "metrics": "metrics.jsonl",
    "checkpoint": "checkpoints/last.pt",
    "scores": "checkpoints/evaluation.pt",
}
"""The file before whose renaming the run is killed: epochs half taken over, about to be complete, and scored."""


def train(runs_dir: Path, epochs: int, *overrides: str) -> Path:
    results = vlae.run([*TINY, *overrides, f"trainer.epochs={epochs}", f"runs_dir={runs_dir}"], quiet=True)
    return runs_dir / results["run_id"]


def in_child(act: Any, *arguments: Any, kill_before: str = "", times: int = 1) -> bool:
    """True if a forked process has done it; False if it was killed before it renamed a file to this name.

    times: how many renamings to this name it begins.
    """
    child = os.fork()
    if child == 0:
        if kill_before:
            begun = itertools.count(1)
            sys.addaudithook(lambda event, given: _die(event, given, kill_before, begun, times))
        act(*arguments)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status == 0


def _die(event: str, given: Any, name: str, begun: Iterator[int], times: int) -> None:
    if event == "os.rename" and str(given[1]).endswith(name) and next(begun) == times:
        os.kill(os.getpid(), signal.SIGKILL)


def outcome(run: Path) -> dict[str, Any]:
    """All that must be as if the run had trained alone."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["progress"]
    return {
        "test": json.loads((run / "results.json").read_text())["test"],
        "metrics": [
            {k: v for k, v in line.items() if k not in ("seconds", "memory_bytes")} for line in lines
        ],
        "weights": {name: value.numpy().tobytes() for name, value in state["best_model"].items()},
        "images": {name: v.tobytes() for name, v in np.load(run / "test_log_likelihood.npz").items()},
        "progress": [state["epoch"], state["step"], state["best_epoch"], state["best_elbo"]],
    }


def taken_over(run: Path) -> tuple[int, bool]:
    """The epochs that a run took over, and whether it has trained any itself, by its costs."""
    results = json.loads((run / "results.json").read_text())
    taken, cost = results["taken_over"]["training"], results["cost"]
    return taken["epochs"], cost["train_seconds"] > taken["seconds"] == cost["train_seconds_taken_over"]


def check(model: str, place: Path) -> None:
    alone = outcome(train(place / "alone", ASKED, model))
    for case, epochs in SOURCES.items():
        for moment, name in MOMENTS.items():
            runs = place / f"{case}-{moment}"
            # its scores have other settings, so that every run scores by itself
            assert in_child(train, runs, epochs, model, "evaluate.num_samples=8")
            source = {path: path.read_bytes() for path in runs.glob("[!.]*/*") if path.is_file()}
            killed = not in_child(train, runs, ASKED, model, kill_before=name)
            run = train(runs, ASKED, model)
            print(case, moment, killed, *taken_over(run), outcome(run) == alone, flush=True)
            assert all(path.read_bytes() == content for path, content in source.items())
    runs = place / "own"  # a run that has epochs of its own, when another one has more
    assert not in_child(train, runs, ASKED, model, OFTEN, kill_before="checkpoints/last.pt", times=3)
    assert in_child(train, runs, 5, model, "evaluate.num_samples=8", "force=true")
    assert not in_child(train, runs, ASKED, model, kill_before="metrics.jsonl", times=2)
    run = train(runs, ASKED, model)
    print("own", *taken_over(run), outcome(run) == alone, flush=True)


def check_every_step(place: Path) -> None:
    """Kill the taking over at every step on the file system: what is left is whole, and is taken over again."""
    runs = place / "runs"
    source = RunDirectory(train(runs, ASKED, "model=vae"))
    assert not in_child(
        train, runs, ASKED + 1, "model=vae", OFTEN, "force=true", kill_before="last.pt", times=30
    )
    [own] = (runs / ".reruns").glob("vae-*")  # interrupted, with a checkpoint of its own
    state = torch.load(source.path / "checkpoints" / "last.pt", weights_only=True)
    shapes = {name: value.shape for name, value in state["model"].items()}
    how = source.training(), Trainer(epochs=ASKED + 1), shapes
    epochs = set()

    def act(folder: Path) -> None:
        take_over(source, RunDirectory(folder / own.name), *how)

    def verify(folder: Path) -> None:
        left = RunDirectory(folder / own.name)
        elbos = own_elbos(left, "validation")
        epochs.add(len(elbos))
        recorded = (left.path / "taken_over.json").is_file()
        assert recorded == (len(elbos) == ASKED), (recorded, elbos)
        assert take_over(source, left, *how) is not None
        assert len(own_elbos(left, "validation")) == ASKED

    steps = killed_at_every_step(lambda folder: shutil.copytree(own, folder / own.name), act, verify)
    print(steps > 10, sorted(epochs))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1] == "steps":
            check_every_step(Path(folder))
        else:
            check(f"model={sys.argv[1]}", Path(folder))
