"""Runs that failed or were interrupted, grouped by cause, with a traceback of each cause."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlae.launching.run_state import state_on_disk
from vlae.report.runs import Run
from vlae.runs.lease import last_number
from vlae.system.disk import RecordError
from vlae.system.files import check_inside, read_bytes

LONGEST = 12_000
"""Characters of a traceback; of a longer one its end is shown, where the error is."""
MOST_CAUSES = 50


@dataclass(frozen=True)
class Failure:
    """The runs that ended by one cause."""

    state: str
    reason: str
    message: str
    runs: tuple[Run, ...]
    traceback: str
    """The traceback of the first run; empty: it left none."""
    place: str
    """The file of the traceback, relative to the runs directory."""


def failures(runs_dir: Path, runs: Sequence[Run]) -> tuple[list[Failure], int]:
    """The most frequent causes first; and the number of causes beyond MOST_CAUSES."""
    groups: dict[tuple[str, str, str], list[tuple[Run, str]]] = {}
    for run in runs:
        if run.state in ("failed", "interrupted"):
            message = state_on_disk(runs_dir / run.id).message if run.state == "failed" else ""
            cause = (run.state, run.reason, re.sub(r"\d+", "#", message))
            groups.setdefault(cause, []).append((run, message))
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0]))
    shown = [_failure(runs_dir, state, reason, group) for (state, reason, _), group in ordered[:MOST_CAUSES]]
    return shown, max(0, len(ordered) - MOST_CAUSES)


def _failure(runs_dir: Path, state: str, reason: str, group: Sequence[tuple[Run, str]]) -> Failure:
    first, message = group[0]
    text, place = _traceback(runs_dir, first.id)
    return Failure(state, reason, message, tuple(run for run, _ in group), text, place)


def _traceback(runs_dir: Path, run_id: str) -> tuple[str, str]:
    attempts = runs_dir / run_id / "attempts"
    file = attempts / str(last_number(attempts)) / "traceback.txt"
    try:
        check_inside(runs_dir / run_id, "attempts", file.parent.name)
        content = read_bytes(file) or b""
    except RecordError as error:
        content = str(error).encode()
    text = content.decode("utf-8", "replace")
    cut = f"[the first {len(text) - LONGEST} characters are left out]\n" if len(text) > LONGEST else ""
    return cut + text[-LONGEST:], str(file.relative_to(runs_dir)) if content else ""
