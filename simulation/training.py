"""A training in miniature: a chain of hashes with a checkpoint after each epoch, so that there is one right result."""

import hashlib
from pathlib import Path
from typing import Any

from simulation.world import World
from vlae.runs.attempts import Attempt
from vlae.runs.directory import RunDirectory
from vlae.system.files import json_bytes, read_json, write_atomically
from vlae.system.interruption import Interruption

EPOCHS = 3
STEPS = 10
"""Steps per epoch."""
EPOCH_SECONDS = (15.0, 90.0)
"""The shortest and the longest epoch."""
START_SECONDS = (2.0, 30.0)
"""Seconds from the start of a process to its first step: imports, data."""


def following(value: str, epoch: int) -> str:
    return hashlib.sha256(f"{value} {epoch}".encode()).hexdigest()[:16]


def reference(run_id: str) -> str:
    """The result that the run must have."""
    value = run_id
    for epoch in range(EPOCHS):
        value = following(value, epoch)
    return value


def steps(run: Path) -> int:
    """Number of steps that the run has done and saved."""
    found = read_json(run / "checkpoint.json") or {"epoch": 0, "step": 0}
    return STEPS * found["epoch"] + found["step"]


def train(
    world: World, directory: RunDirectory, attempt: Attempt, interruption: Interruption
) -> dict[str, Any]:
    """Train from the last checkpoint to the results. Interrupted: by a signal; the steps so far are saved."""
    found = read_json(directory.path / "checkpoint.json") or {
        "epoch": 0,
        "step": 0,
        "value": directory.run_id,
    }
    epoch, step, value = found["epoch"], found["step"], found["value"]

    def save() -> None:
        content = json_bytes({"epoch": epoch, "step": step, "value": value})
        write_atomically(directory.path / "checkpoint.json", content)

    while epoch < EPOCHS:
        seconds = world.random.uniform(*EPOCH_SECONDS) / STEPS
        began, until = world.now - step * seconds, world.now + (STEPS - step) * seconds
        while world.now < until and not interruption.requested:
            world.sleep(until - world.now)
        step = min(STEPS, int((world.now - began) / seconds + 0.5))
        if step == STEPS:
            epoch, step, value = epoch + 1, 0, following(value, epoch)
        save()
        attempt.heartbeat({"epoch": epoch, "epochs": EPOCHS, "step": STEPS * epoch + step})
        interruption.check()
    results = {"test": {"elbo": -1.0}, "value": value}
    directory.write_results(results)
    return results
