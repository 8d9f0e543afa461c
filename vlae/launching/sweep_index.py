"""The name of each sweep and its runs: runs_dir/.sweeps/<name>.json. The state of a run is in its own directory."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from vlae.config.problems import Problem, format_value
from vlae.config.run_id import OF_A_COMMAND, OPERATIONAL
from vlae.config.schema import LONGEST_NAME, wrong_name
from vlae.runs.lease import now
from vlae.runs.schema import check_record
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, make_directory, read_json, write_json

SWEEPS = ".sweeps"  # in runs_dir


def _check_id(run: str) -> str:
    if not run or run[0] == "." or "/" in run or not run.isprintable():
        raise ValueError("ids of runs")
    return run


class Launch(TypedDict):
    """One launch of a sweep."""

    __pydantic_config__ = ConfigDict(extra="allow")  # pyright: ignore[reportGeneralTypeIssues]
    launched: str
    command: list[str]
    runs: dict[Annotated[str, AfterValidator(_check_id)], str]  # their ids, with what distinguishes each


class Sweep(Launch):
    """The note of a sweep: its latest launch, and earlier ones of other runs, as when it is scored again."""

    name: str
    earlier: list[Launch]  # the oldest first


_SWEEP = TypeAdapter(Sweep)


def record_sweep(runs_dir: StrPath, name: str, labels: dict[str, str], command: list[str]) -> None:
    """``labels``: what distinguishes each run. What a sweep of this name has launched before becomes earlier."""
    if not _is_file_name(name):
        raise ValueError(f"the name of a sweep is one visible file name, not {name!r}")
    before: list[Launch] = []
    with suppress(RecordError):  # a damaged note is replaced
        before = launches_of(read_sweep(runs_dir, name))
    earlier = [each for each in before if each["runs"].keys() != labels.keys()]
    sweep = Sweep(name=name, launched=now(), command=command, runs=labels, earlier=earlier)
    write_json(make_directory(Path(runs_dir) / SWEEPS) / f"{name}.json", sweep)


def read_sweep(runs_dir: StrPath, name: str) -> Sweep | None:
    """The note of a sweep; None: no such sweep. RecordError: the note is damaged."""
    place = Path(runs_dir) / SWEEPS / f"{name}.json"
    if not _is_file_name(name) or (found := read_json(place)) is None:
        return None
    # notes of older versions may have a number for a name
    sweep = {"launched": "", "command": [], "runs": None, "earlier": [], **found, "name": name}
    return check_record(
        _SWEEP, str(place), sweep, "Rerun the command that launched the sweep to write it again"
    )


def launches_of(sweep: Sweep | None) -> list[Launch]:
    """All launches of a sweep, the oldest first."""
    if sweep is None:
        return []
    latest = Launch(launched=sweep["launched"], command=sweep["command"], runs=sweep["runs"])
    return [*sweep["earlier"], latest]


def note_on_launches(runs_dir: StrPath, name: str) -> str:
    """Where the earlier scores of a sweep are shown; empty: it was launched once, or is none."""
    number = len(launches_of(read_sweep(runs_dir, name)))
    which = "1" if number == 2 else f"1 to {number - 1}"
    text = f"this is launch {number} of {name}; `vlae table {name} --evaluation N` shows launch {which}"
    return text if number > 1 else ""


def labels_of_launch(sweep: Sweep, number: int | None) -> dict[str, str]:
    """The runs of a launch, 1 being the oldest; None: the latest. RecordError: there is no such launch."""
    launches = launches_of(sweep)
    if number is None:
        return sweep["runs"]
    if not 1 <= number <= len(launches):
        known = ", ".join(f"{n} ({each['launched']})" for n, each in enumerate(launches, 1))
        raise RecordError(f"--evaluation: expected a launch of {sweep['name']}, one of {known}; got {number}")
    return launches[number - 1]["runs"]


def _is_file_name(name: str) -> bool:
    """True if a file of this name stays in its directory, and its name is not too long."""
    visible = bool(name) and name[0] != "."
    return visible and Path(name).name == name and "\0" not in name and len(os.fsencode(name)) < 200


def sweep_names(runs_dir: StrPath) -> list[str]:
    """Every sweep that was launched here."""
    return sorted(file.stem for file in (Path(runs_dir) / SWEEPS).glob("*.json") if file.name[0] != ".")


def name_of(file: str | None, overrides: Sequence[str]) -> str | None:
    """The name of the file, and a hash of the overrides that change its runs in more than how they are scored."""
    if file is None:
        return None
    name = Path(file).stem
    keys = (*OPERATIONAL, *OF_A_COMMAND)
    given = {text: text.lstrip("+").partition("=")[0] for text in overrides}
    changing = sorted(
        text for text, key in given.items() if key not in keys and key.split(".")[0] != "evaluate"
    )
    if not changing:
        return name
    digest = hashlib.sha256(" ".join(changing).encode()).hexdigest()[:6]
    return f"{name[: LONGEST_NAME - len(digest) - 1]}-{digest}"


def wrong_sweep_name(given: str | None, file: Path | None) -> Problem | None:
    """The problem with the name of a sweep, if any: the ``given`` one, or that of its file."""
    if given == "None":
        return Problem("hydra.sweeper.name", "expected null where there is none, got the text 'None'")
    name = given if given is not None else file and file.stem
    if name is None or not (wrong := wrong_name(name, file=True)):
        return None
    if given is not None:
        return Problem("hydra.sweeper.name", f"expected {wrong}, got {format_value(given)}")
    got = f"expected {wrong}, got {format_value(name)}"
    text = f"the sweep has the name of its file: {got}; or add hydra.sweeper.name=NAME"
    return Problem("sweeps", text)
