"""The epochs that a run takes over from another run of its training: checked, copied, and recorded."""

import json
from typing import Any

import torch

from vlae.config.schema import Trainer
from vlae.runs import checkpoint
from vlae.runs.directory import RunDirectory, metrics_of
from vlae.runs.schema import TAKEN_OVER, TakenOver, check_record
from vlae.runs.trainings import selection_elbos, usable_of
from vlae.system.disk import RecordError, patiently
from vlae.system.files import check_inside, read_json, write_json
from vlae.training.checkpoints import Progress, check_training

FILE = "taken_over.json"


def read_taken_over(directory: RunDirectory) -> TakenOver | None:
    """What the run took over; None: it has trained by itself."""
    place = directory.path / FILE
    if (content := read_json(place)) is None:
        return None
    return check_record(TAKEN_OVER, str(place), content, "Delete it: it only says where epochs came from")


def origin(directory: RunDirectory) -> str:
    """Where the epochs of a run came from, in words; empty: it has trained them itself."""
    taken = read_taken_over(directory)
    return f", the first {taken['epochs']} by {taken['run']}" if taken else ""


def caution(taken: TakenOver) -> str:
    """A caution if another version of torch has trained, so that the last digits may differ; else empty."""
    theirs = (taken["environment"] or {}).get("torch")
    if theirs in (None, torch.__version__):
        return ""
    return f"{taken['run']} was trained with torch {theirs}, and this is {torch.__version__}: last digits may differ"


@patiently
def take_over(
    other: RunDirectory, own: RunDirectory, trainer: Trainer, training: str, *, complete: bool = False
) -> TakenOver | None:
    """Give ``own`` the epochs of ``other`` that it can use; None: there are none.

    complete: only if nothing is left to train then.
    A kill at any moment leaves a run that starts from what it has, or takes over again; a full disk is waited for.
    RecordError: what ``other`` has is damaged, or of another training.
    """
    folder = own.path / "checkpoints"
    if not check_inside(other.path, "checkpoints", "last.pt").is_file():
        return None
    staged = checkpoint.stage(check_inside(other.path, "checkpoints"), folder)
    state = checkpoint.read(staged)
    check_training(state, training, other.path / "checkpoints")
    lines = other.metrics_bytes()[: state["metrics_size"]]
    progress, elbos = Progress(**state["progress"]), _elbos(other, lines, trainer)
    if len(elbos) != progress.epoch:
        raise RecordError(f"its metrics.jsonl has {len(elbos)} of {progress.epoch} epochs")
    usable = usable_of(trainer, elbos, progress.epoch)
    is_whole = state["model"] is not None
    if usable is None or not (usable.complete or (is_whole and not complete)):
        return None
    if usable.complete and not (is_whole and progress.epoch == usable.epochs and progress.batch == 0):
        lines, state = _cut(lines, state, usable.epochs)
        progress, is_whole = Progress(**state["progress"]), False
    found = TakenOver(
        run=other.path.name,
        epochs=progress.epoch,
        seconds=progress.seconds,
        environment=state.get("environment") or (other.results() or {}).get("environment"),
    )
    write_json(own.path / FILE, found)
    checkpoint.remove(folder)  # they would not fit the metrics
    own.replace_metrics(lines)
    if is_whole:
        checkpoint.put(staged)
    else:
        checkpoint.save(folder, state)
    return found


def _elbos(other: RunDirectory, lines: bytes, trainer: Trainer) -> tuple[float, ...]:
    return selection_elbos(metrics_of(other.path / "metrics.jsonl", lines.splitlines()), trainer.selection)


def _cut(lines: bytes, state: dict[str, Any], epochs: int) -> tuple[bytes, dict[str, Any]]:
    """The first epochs of a longer training, of which only the best model is kept; it cannot be trained on."""
    kept = lines.splitlines(keepends=True)[:epochs]
    parsed = [json.loads(line) for line in kept]
    progress = {
        **state["progress"],
        "epoch": epochs,
        "batch": 0,
        "step": parsed[-1]["global_step"],
        "means": [],
        "seconds": sum(line["seconds"] for line in parsed),
        "epoch_seconds": 0.0,
    }
    only_best = {"model": None, "optimizer": None, "progress": progress, "metrics_size": len(b"".join(kept))}
    return b"".join(kept), {**state, **only_best}
