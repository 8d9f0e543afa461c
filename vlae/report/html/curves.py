"""Learning curves for a script to draw: the figures of each epoch, fewer of them where there are many."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlae.config.problems import shown
from vlae.report.html.models import Model
from vlae.report.runs import LeftOut, Run
from vlae.system.disk import RecordError
from vlae.system.files import read_bytes

POINTS = 240
"""Of a curve, at most; no screen shows more."""
FEWEST = 40
NUMBERS = 300_000
"""Of all curves together."""
MOST_RUNS = 1000
FIRST = (
    "validation/elbo_nats",
    "train/elbo_nats",
    "validation/reconstruction_nats",
    "validation/kl_nats",
    "train/reconstruction_nats",
    "train/kl_nats",
)
"""The order in which figures are offered; others follow by name."""
NO_FIGURES = ("epoch", "global_step", "seconds")


@dataclass(frozen=True)
class Curves:
    """What is drawn, and what is not."""

    data: dict[str, Any]
    """``epochs``, ``figures``, and ``runs``: of each its model, label and a list for each figure, along the epochs."""
    every: int
    """One epoch in so many."""
    left_out: tuple[LeftOut, ...]
    more: int
    """Runs that are too many."""


def curves(runs_dir: Path, models: Sequence[Model]) -> Curves:
    """Of all runs that have begun; damaged ones are named."""
    started = [(number, run) for number, model in enumerate(models) for run in model.readable]
    chosen, left_out = started[:MOST_RUNS], []
    lines: dict[str, int] = {}
    for _, run in chosen:
        try:
            lines[run.id] = _content(runs_dir, run).count(b"\n")
        except RecordError as error:
            left_out.append(LeftOut(run.id, str(error)))
    begun = [(number, run) for number, run in chosen if lines.get(run.id)]
    every = _every(max(lines.values(), default=0), len(begun))
    read: list[tuple[int, Run, dict[int, dict[str, Any]]]] = []
    for number, run in begun:
        try:
            read.append((number, run, _epochs(_content(runs_dir, run), every)))
        except (RecordError, ValueError) as error:
            left_out.append(LeftOut(run.id, f"metrics.jsonl cannot be read ({error})"))
            del lines[run.id]
    cut = [(run.id, run.lacks_epochs(lines[run.id])) for _, run in chosen if run.id in lines]
    left_out += [LeftOut(name, text) for name, text in cut if text]
    return Curves(_along_epochs(read), every, tuple(left_out), len(started) - len(chosen))


def _content(runs_dir: Path, run: Run) -> bytes:
    return read_bytes(runs_dir / run.id / "metrics.jsonl") or b""


def _every(longest: int, runs: int) -> int:
    points = max(FEWEST, min(POINTS, NUMBERS // max(1, runs * len(FIRST) * 3 // 2)))
    return max(1, math.ceil(longest / points))


def _epochs(content: bytes, every: int) -> dict[int, dict[str, Any]]:
    """The first line, and then one in so many; a line torn by a kill does not count."""
    lines = content.split(b"\n")[:-1]
    chosen = [line for at, line in enumerate(lines, 1) if at == 1 or at % every == 0]
    return {_epoch(entry): entry for entry in map(json.loads, chosen)}


def _epoch(entry: Any) -> int:
    if not isinstance(entry, dict) or not isinstance(entry.get("epoch"), int):
        raise ValueError(f"expected figures of an epoch, came {shown(entry)}")
    return entry["epoch"]


def _along_epochs(read: Sequence[tuple[int, Run, dict[int, dict[str, Any]]]]) -> dict[str, Any]:
    epochs = sorted({epoch for _, _, entries in read for epoch in entries})
    figures = _ordered(key for _, _, entries in read for entry in entries.values() for key in entry)
    return {
        "epochs": epochs,
        "figures": figures,
        "runs": [
            {
                "model": number,
                "label": run.label or run.id,
                "values": [_values(entries, epochs, figure) for figure in figures],
            }
            for number, run, entries in read
        ],
    }


def _ordered(keys: Iterable[str]) -> list[str]:
    found = set(keys) - set(NO_FIGURES)
    return [key for key in FIRST if key in found] + sorted(found - set(FIRST))


def _values(entries: dict[int, dict[str, Any]], epochs: Sequence[int], figure: str) -> list[float | None]:
    values = [_short(entries.get(epoch, {}).get(figure)) for epoch in epochs]
    while values and values[-1] is None:
        values.pop()
    return values


def _short(value: Any) -> float | None:
    """Five digits are more than a screen shows."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
