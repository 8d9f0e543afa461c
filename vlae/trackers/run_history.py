"""The content of a run directory, in the order in which a mirror of it is made."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlae.config.run_id import OF_A_COMMAND
from vlae.config.schema import Tracker
from vlae.runs.directory import RunDirectory, metrics_of
from vlae.runs.rerun import RERUNS, run_to_replace
from vlae.system.disk import RecordError
from vlae.system.files import NewLines, make_directory, read_json, write_json

LONGEST_TAG = 64  # characters that Weights & Biases accepts
TRACKING = "tracking"  # the folder of a run directory where mirrors keep their own files
WANDB, OFFLINE, TENSORBOARD = "wandb", "wandb-offline", "tensorboard"
"""Names of their notes: on what Weights & Biases has, on what was logged offline since, on event files."""


class RunHistory:
    """A run for its mirrors: its description, and their notes. Its directory is read again at each call."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.config = directory.config()
        # checked before it was frozen; keys of another version are left out
        self.settings = Tracker.model_construct(**(self.config.get("tracker") or {}))

    @property
    def place(self) -> Path:
        """The folder in which its mirrors keep their files."""
        return self.directory.path / TRACKING

    @property
    def shown_config(self) -> dict[str, Any]:
        """The nested configuration, without the options of a single command."""
        return {key: value for key, value in self.config.items() if key not in (*OF_A_COMMAND, "tracker")}

    @property
    def tags(self) -> list[str]:
        """Its tags: those of the configuration, and its model, dataset and output distribution."""
        own = [self.config[section]["name"] for section in ("model", "dataset", "output_dist")]
        return [tag[:LONGEST_TAG] for tag in dict.fromkeys([*self.settings.tags, *own])]

    def describe(self, code: Mapping[str, Any]) -> str:
        """A line by which a person finds the run and its code."""
        parts = [f"run {self.directory.run_id}", f"code {code['hash']}"]
        if code.get("commit"):
            parts.append(f"commit {code['commit'][:12]}{' with changes' if code.get('changed') else ''}")
        if where := self.directory.status()["where"]:
            parts.append(where)
        return ", ".join(parts)

    def last_pictures(self) -> dict[str, Path]:
        """Pictures of the best epoch's model, by name."""
        return _pictures_in(self.directory.path / "images")

    def notes_of(self, mirror: str) -> dict[str, Any]:
        """The notes that a mirror has written for its next look."""
        return read_json(self.place / f"{mirror}.json") or {}

    def lacks_event_files(self) -> bool:
        """True if the run is done, and event files that its configuration asks for are incomplete."""
        complete = self.notes_of(TENSORBOARD).get("complete")
        return self.settings.tensorboard and not complete and self.directory.results() is not None

    def take_generation(self) -> None:
        """Give a rerun the generation after that of the run it replaces, mirrored now or later."""
        replaced = run_to_replace(self.directory.path)
        if replaced and not self.notes_of(WANDB) and (before := generation(replaced)):
            write_json(make_directory(self.place) / f"{WANDB}.json", {"generation": before + 1})


class Epochs:
    """The content of a run directory epoch by epoch, in steps: an epoch's metrics, then the pictures made after it.

    Each look reads only what is new. Pictures are written before the next epoch is, so a longer history begins with
    the same steps: the number of steps says what a mirror has, whichever process made it.
    """

    def __init__(self, run: Path) -> None:
        self.length = 0  # steps so far
        self._images, self._lines = run / "images", NewLines(run / "metrics.jsonl")
        self._last: int | None = None  # the epoch whose pictures may still be made

    def more(self) -> list[tuple[int, dict[str, Any]]]:
        """The new steps with their numbers, from 0; all of them if an attempt went back to a checkpoint.

        Pictures are paths under ``images/NAME``. RecordError: a line cannot be read.
        """
        replaced, lines = self._lines.more()
        if replaced:
            self.length, self._last = 0, None
        steps = [] if self._last is None else self._pictures(self._last)
        if steps:
            self._last = None
        for line in metrics_of(self._lines.path, lines):
            pictures = self._pictures(line["epoch"])
            steps += [line, *pictures]
            self._last = None if pictures else line["epoch"]
        self.length += len(steps)
        return list(enumerate(steps, self.length - len(steps)))

    def _pictures(self, epoch: int) -> list[dict[str, Any]]:
        pictures = _pictures_in(self._images / f"epoch-{epoch:06d}")
        step = {f"images/{name}": file for name, file in pictures.items()}
        return [{"epoch": epoch, **step}] if step else []


def wandb_id(run_id: str, generation: int) -> str:
    """The id on Weights & Biases, the same for all attempts of a run."""
    return run_id if generation == 1 else f"{run_id}-g{generation}"


def generation(run: Path) -> int:
    """The number of the mirror of this run directory on Weights & Biases; 0: there was none.

    A rerun, or a rebuilt mirror, gets another one: the history of an id there can neither be undone nor, once
    deleted, be used again.
    """
    file = run / TRACKING / f"{WANDB}.json"
    found = (read_json(file) or {}).get("generation", 0)
    if not isinstance(found, int):
        raise RecordError(f"{file}: expected a number as generation, got {found!r}")
    return found or int((file.parent / f"{OFFLINE}.json").exists())


def other_ids(run: Path) -> list[str]:
    """Other ids of this run directory on Weights & Biases: earlier mirrors, and that of a rerun under way."""
    own = generation(run)
    newest = max(own, generation(run.parent / RERUNS / run.name))
    return [wandb_id(run.name, number) for number in range(1, newest + 1) if number != own]


def _pictures_in(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in sorted(folder.glob("*.png"))}


def asks_for_wandb(settings: Tracker) -> bool:
    """True if these settings ask for a mirror on Weights & Biases."""
    return settings.wandb and settings.mode != "disabled"


def to_wandb(settings: Tracker) -> bool:
    """True if the run gets one while it runs: the environment may refuse ``auto``."""
    refused = settings.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled"
    return asks_for_wandb(settings) and not refused


def flat(results: Mapping[str, Any], prefix: str = "") -> dict[str, float | str]:
    """Every metric of results.json under one key, without lists and nulls.

    >>> flat({"test": {"log_likelihood": {"own": {"mean": -1.5, "k_hat": None}}}})
    {'test/log_likelihood/own/mean': -1.5}
    """
    found: dict[str, float | str] = {}
    for key, value in results.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}/")
        elif isinstance(value, str | bool) or (isinstance(value, int | float) and math.isfinite(value)):
            found[name] = value
    return found
