"""The origin of the metrics of a report: states and failures of its runs, the commands and code that made them."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vlae.launching import sweep_index
from vlae.launching.run_state import state_on_disk
from vlae.report.runs import Run, Runs
from vlae.runs.lease import last_number
from vlae.system.console import count_of, duration
from vlae.system.disk import RecordError
from vlae.system.files import check_inside, read_bytes

STATES = ("done", "running", "queued", "interrupted", "failed", "new")
LONGEST = 12_000  # characters of a traceback; of a longer one its end is shown, where the error is
MOST_CAUSES = 50
SWEEP_FILE = "hydra.sweeper.file="


class Failure(NamedTuple):
    """The runs that ended by one cause."""

    state: str
    reason: str
    message: str
    runs: tuple[Run, ...]
    traceback: str  # the traceback of the first run; empty: it left none
    place: str  # the file of the traceback, relative to the runs directory


class Launch(NamedTuple):
    """The launch of a sweep that has runs of the report."""

    name: str
    date: str
    command: str
    runs: int  # number of its runs in the report


class Code(NamedTuple):
    """A version of the code that some runs executed."""

    digest: str
    commit: str  # empty: it is unknown
    changed: bool
    runs: int
    frozen: str  # its copy in the runs directory; empty: there is none


def facts(runs_dir: Path, runs: Runs, configurations: int) -> list[tuple[str, str]]:
    """Numbers and what they count."""
    counts = Counter(run.state for run in runs.runs)
    states = [*STATES, *sorted(counts.keys() - set(STATES))]
    names = {name for run in runs.runs if (name := run.value("model.name")) is not None}
    texts = [count_of(len(runs.runs), "run"), count_of(len(names), "model")]
    if configurations != len(names):
        texts.append(count_of(configurations, "configuration"))
    texts += [f"{counts[s]} {'never started' if s == 'new' else s}" for s in states if counts[s]]
    found = [(number, what) for number, _, what in (text.partition(" ") for text in texts)]
    if seconds := sum(computed_seconds(run) for run in runs.runs):
        found.append((duration(seconds), "of computation"))
    if gpu := sum(state_on_disk(runs_dir / run.id).gpu_seconds for run in runs.runs):
        found.append((f"{gpu / 3600:.1f}", "GPU hours"))
    return found


def computed_seconds(run: Run) -> float:
    """Seconds of computation of this run, without what it took over from others."""
    parts = ("cost.train_seconds", "cost.evaluate_seconds")
    return sum((run.number(key) or 0.0) - (run.number(f"{key}_taken_over") or 0.0) for key in parts)


def failures(runs_dir: Path, runs: Sequence[Run]) -> tuple[list[Failure], int]:
    """The most frequent causes first; and the number of causes beyond MOST_CAUSES."""
    groups: dict[tuple[str, str, str], list[tuple[Run, str]]] = {}
    for run in runs:
        if run.state in ("failed", "interrupted"):
            message = state_on_disk(runs_dir / run.id).message if run.state == "failed" else ""
            cause = (run.state, run.reason, re.sub(r"\d+", "#", message))
            groups.setdefault(cause, []).append((run, message))
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0]))
    shown = [
        Failure(state, reason, group[0][1], tuple(r for r, _ in group), *_traceback(runs_dir, group[0][0].id))
        for (state, reason, _), group in ordered[:MOST_CAUSES]
    ]
    return shown, max(0, len(ordered) - MOST_CAUSES)


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


def launches(runs_dir: Path, runs: Runs) -> list[Launch]:
    """The launches by date. A sweep whose note cannot be read is skipped."""
    ids, found = {run.id for run in runs.runs}, []
    for name in sweep_index.sweep_names(runs_dir):
        try:
            sweep = sweep_index.read_sweep(runs_dir, name) or {}
            if own := len(ids & set(sweep["runs"])):
                found.append(Launch(name, str(sweep["launched"]), _command(sweep["command"]), own))
        except (RecordError, LookupError, TypeError):
            continue
    asked = {part.title.rpartition("/")[2] for part in runs.parts or [runs]}
    named = [launch for launch in found if launch.name in asked]
    return named or sorted(found, key=lambda launch: (launch.date, launch.name))


def commands_to_repeat(runs_dir: Path, runs: Runs) -> list[str]:
    """The commands that reproduce the runs, for a shell."""
    checkouts = [
        f"git checkout {code.commit}  # {count_of(code.runs, 'run')}{', with changes' if code.changed else ''}"
        for code in codes(runs_dir, runs.runs)
        if code.commit
    ]
    return [*checkouts, *(each.command for each in launches(runs_dir, runs)), f"vlae table {runs.title}"]


def _command(words: Sequence[str]) -> str:
    """The command as a person types it: ``sweeps=FILE`` instead of the words that Hydra takes."""
    of_file = any(word.lstrip("+").startswith(SWEEP_FILE) for word in words)
    program, typed = words[0], []
    for word in map(str, words[1:]):
        plain = word.lstrip("+") if word.startswith("++") else word
        if plain.startswith(SWEEP_FILE):
            plain = "sweeps=" + plain.removeprefix(SWEEP_FILE)
        if not (of_file and plain in ("--multirun", "-m")):
            typed.append(plain)
    program = f"python {shlex.quote(program)}" if program.endswith(".py") else program  # vlae launch
    return f"{program} {shlex.join(typed)}"


def codes(runs_dir: Path, runs: Sequence[Run]) -> list[Code]:
    """The versions that most runs executed come first."""
    keys = ("hash", "commit", "changed")
    done = [run for run in runs if run.metrics is not None]
    counts = Counter(tuple(run.value(f"environment.code.{key}") for key in keys) for run in done)
    found = []
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    for (digest, commit, changed), number in ordered:
        frozen = f".code/{digest}" if digest and (runs_dir / ".code" / str(digest)).is_dir() else ""
        found.append(Code(str(digest or "unknown"), str(commit or ""), bool(changed), number, frozen))
    return found
