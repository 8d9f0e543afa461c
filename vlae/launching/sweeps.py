"""Which runs belong to a sweep: runs_dir/.sweeps/<name>.json. The truth about a run is in its own directory."""

from pathlib import Path
from typing import Any

from vlae.attempts import now
from vlae.files import StrPath, json_bytes, make_directory, read_json, write_atomically

SWEEPS = ".sweeps"  # in runs_dir


def remember(runs_dir: StrPath, name: str, labels: dict[str, str], command: list[str]) -> None:
    """``labels``: what distinguishes each run. A sweep of this name is replaced."""
    place = make_directory(Path(runs_dir) / SWEEPS) / f"{name}.json"
    write_atomically(place, json_bytes({"name": name, "launched": now(), "command": command, "runs": labels}))


def recall(runs_dir: StrPath, name: str) -> dict[str, Any] | None:
    """``runs``: their ids with what distinguishes each; None: no such sweep."""
    if Path(name).name != name or not name:
        return None
    return read_json(Path(runs_dir) / SWEEPS / f"{name}.json")


def names(runs_dir: StrPath) -> list[str]:
    """Every sweep that was launched here."""
    return sorted(file.stem for file in (Path(runs_dir) / SWEEPS).glob("*.json"))
