"""A training in miniature: a chain of hashes with a checkpoint after each epoch, so that there is one right result."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulation.world import World
from vlae.files import json_bytes, read_json, write_atomically
from vlae.interruption import Interruption
from vlae.record import Attempt, RunDirectory

EPOCHS = 3
EPOCH_SECONDS = (15.0, 90.0)
"""The shortest and the longest epoch."""
START_SECONDS = (2.0, 30.0)
"""From the start of a process to its first step: imports, data."""


def following(value: str, epoch: int) -> str:
    return hashlib.sha256(f"{value} {epoch}".encode()).hexdigest()[:16]


def reference(run_id: str) -> str:
    """What the run must come to."""
    value = run_id
    for epoch in range(EPOCHS):
        value = following(value, epoch)
    return value


def checkpoint(run: Path) -> tuple[int, str | None]:
    """Epochs that are done, and the value after them."""
    found = read_json(run / "checkpoint.json") or {"epoch": 0, "value": None}
    return found["epoch"], found["value"]


def train(
    world: World, directory: RunDirectory, attempt: Attempt, interruption: Interruption
) -> dict[str, Any]:
    """From the last checkpoint to the results; Interrupted where a signal comes."""
    epoch, value = checkpoint(directory.path)
    value = value or directory.run_id
    while epoch < EPOCHS:
        until = world.now + world.random.uniform(*EPOCH_SECONDS)
        while world.now < until:
            interruption.check()
            world.sleep(until - world.now)
        epoch, value = epoch + 1, following(value, epoch)
        content = json_bytes({"epoch": epoch, "value": value})
        write_atomically(directory.path / "checkpoint.json", content)
        attempt.heartbeat({"epoch": epoch, "epochs": EPOCHS, "step": 10 * epoch})
        interruption.check()
    results = {"test": {"elbo": -1.0}, "value": value}
    directory.write_results(results)
    return results


Train = Callable[[RunDirectory, Attempt, Interruption], dict[str, Any]]
