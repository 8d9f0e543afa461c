"""The commands and the code that made the runs of a report."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlae.launching import sweep_index
from vlae.report.runs import Run, Runs
from vlae.system.disk import RecordError

SWEEP_FILE = "hydra.sweeper.file="


@dataclass(frozen=True)
class Launch:
    """The launch of a sweep that has runs of the report."""

    name: str
    date: str
    command: str
    runs: int
    """Number of its runs in the report."""


@dataclass(frozen=True)
class Code:
    """A version of the code that some runs executed."""

    digest: str
    commit: str
    """Empty: it is unknown."""
    changed: bool
    runs: int
    frozen: str
    """Its copy in the runs directory; empty: there is none."""


def launches(runs_dir: Path, runs: Runs) -> list[Launch]:
    """The launches by date. A sweep whose note cannot be read is skipped."""
    ids, found = {run.id for run in runs.runs}, []
    for name in sweep_index.names(runs_dir):
        try:
            sweep = sweep_index.recall(runs_dir, name) or {}
            own = len(ids & set(sweep["runs"]))
            if own:
                found.append(Launch(name, str(sweep["launched"]), _command(sweep["command"]), own))
        except (RecordError, LookupError, TypeError):
            continue
    named = [launch for launch in found if launch.name == runs.title]
    return named or sorted(found, key=lambda launch: (launch.date, launch.name))


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
    return [
        Code(str(digest or "unknown"), str(commit or ""), bool(changed), number, _frozen(runs_dir, digest))
        for (digest, commit, changed), number in sorted(
            counts.items(), key=lambda item: (-item[1], str(item[0]))
        )
    ]


def _frozen(runs_dir: Path, digest: object) -> str:
    return f".code/{digest}" if digest and (runs_dir / ".code" / str(digest)).is_dir() else ""
