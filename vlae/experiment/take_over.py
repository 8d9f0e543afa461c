"""The epochs that a run takes over from another run of its training: checked, copied, and recorded."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vlae.config.schema import Trainer
from vlae.runs import checkpoint
from vlae.runs.directory import RunDirectory, metrics_of
from vlae.runs.schema import TAKEN_OVER as RECORD
from vlae.runs.schema import TakenOver, check_record
from vlae.runs.trainings import TAKEN_OVER, Usable, selection_elbos, usable_of
from vlae.system.disk import RecordError, patiently
from vlae.system.files import check_inside, read_json, write_atomically, write_json
from vlae.training.checkpoints import Progress, check_training, read_checkpoint

Shapes = Mapping[str, torch.Size]
"""The shape of each weight of a model, by its name."""


def read_taken_over(directory: RunDirectory) -> TakenOver | None:
    """What the run took over; None: it has trained by itself."""
    place = directory.path / TAKEN_OVER
    if (content := read_json(place)) is None:
        return None
    return check_record(RECORD, str(place), content, "Delete it: it only says where epochs came from")


def origin(directory: RunDirectory) -> str:
    """Where the epochs of a run came from, in words; empty: it has trained them itself."""
    taken = read_taken_over(directory)
    return f", the first {taken['epochs']} by {taken['run']}" if taken else ""


def caution(taken: TakenOver, ours: Mapping[str, str]) -> str:
    """A caution if other code or another torch has trained than ``ours``; else empty."""
    others = {key: sorted({pair[key] for pair in taken["trained_with"]} - {ours[key]}) for key in ours}
    said = [f"{key} {', '.join(values)} (this is {ours[key]})" for key, values in others.items() if values]
    return f"{taken['run']} was trained with {' and '.join(said)}; force=true trains again" if said else ""


def own_elbos(directory: RunDirectory, selection: str) -> tuple[float, ...]:
    """Selection ELBOs of the epochs in the run's own checkpoint, to which its metrics are cut.

    Without a checkpoint nothing is left of what it has trained, or had half taken over.
    """
    state, _ = read_checkpoint(directory)
    if state is None:
        (directory.path / TAKEN_OVER).unlink(missing_ok=True)
    directory.truncate_metrics(state["metrics_size"] if state else 0)
    return selection_elbos(directory.metrics(), selection)


@patiently
def take_over(
    other: RunDirectory,
    own: RunDirectory,
    training: str,
    trainer: Trainer,
    shapes: Shapes,
    *,
    complete: bool = False,
) -> TakenOver | None:
    """Give ``own`` the epochs of ``other`` that it can use; None: there are none.

    training: that of both. shapes: of the model's weights, by name. complete: only if nothing is left to train then.
    All is written before anything of ``own`` is replaced, so that a full disk changes nothing, and is waited for. A
    kill at any moment leaves a run that starts from what it has, or takes over again.
    RecordError: what ``other`` has is damaged, or of another training.
    """
    folder = check_inside(other.path, "checkpoints")
    files = [path for path in (checkpoint.kept(folder, trainer.epochs), folder / "last.pt") if path.is_file()]
    for file in files:
        staged = checkpoint.stage(
            check_inside(other.path, "checkpoints", file.name), own.path / "checkpoints"
        )
        try:
            part = _usable_part(other, staged, training, trainer, shapes)
        except RecordError as error:
            raise RecordError(str(error).replace(str(staged), str(file))) from error
        if part:
            state, lines, usable = part
            if usable.complete or (state["model"] is not None and not complete):
                return _put(other, own, staged, state, lines)
    return None


def _usable_part(
    other: RunDirectory, staged: Path, training: str, trainer: Trainer, shapes: Shapes
) -> tuple[dict[str, Any], bytes, Usable] | None:
    """The state and the metrics to take from a checkpoint of ``other``; None: it has none of use."""
    state = checkpoint.read(staged)
    check_training(state, training, other.path / "checkpoints")
    try:
        progress, lines = Progress(**state["progress"]), other.metrics_bytes()[: state["metrics_size"]]
        best = {name: value.shape for name, value in progress.best_model.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise RecordError(f"its checkpoint is of another version ({error})") from error
    if best not in ({}, dict(shapes)):
        raise RecordError("its checkpoint has other weights than the model: their code differs")
    elbos = selection_elbos(metrics_of(other.path / "metrics.jsonl", lines.splitlines()), trainer.selection)
    if len(elbos) != progress.epoch:
        raise RecordError(f"its metrics.jsonl has {len(elbos)} of {progress.epoch} epochs")
    usable = usable_of(trainer, elbos, progress.epoch)
    at_end = usable and progress.epoch == usable.epochs and progress.batch == 0
    if usable and usable.complete and not (at_end and state["model"] is not None):
        lines, state = _cut(lines, state, usable.epochs)
        checkpoint.write(staged, state)
    return usable and (state, lines, usable)


def _put(
    other: RunDirectory, own: RunDirectory, staged: Path, state: dict[str, Any], lines: bytes
) -> TakenOver:
    progress, folder = state["progress"], own.path / "checkpoints"
    found = TakenOver(
        run=other.path.name,
        epochs=progress["epoch"],
        seconds=progress["seconds"],
        trained_with=progress.get("trained_with") or _trained_with(other),
        whole=state["model"] is not None,
    )
    record, metrics = folder / ".taken_over.next", folder / ".metrics.next"
    write_json(record, found)
    write_atomically(metrics, lines)
    checkpoint.remove(folder)  # they would not fit the metrics
    os.replace(record, own.path / TAKEN_OVER)
    os.replace(metrics, own.path / "metrics.jsonl")
    checkpoint.put(staged)
    return found


def _trained_with(older: RunDirectory) -> list[dict[str, str]]:
    """The code and the torch of a run whose checkpoints do not say so yet; empty: it is not done."""
    environment = (older.results() or {}).get("environment") or {}
    code, version = (environment.get("code") or {}).get("hash"), environment.get("torch")
    return [{"code": str(code), "torch": str(version)}] if code and version else []


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
    only_best = {
        "model": None,
        "optimizer": None,
        "parts": {},
        "progress": progress,
        "metrics_size": len(b"".join(kept)),
    }
    return b"".join(kept), {**state, **only_best}
