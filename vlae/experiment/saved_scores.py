"""Scores on disk: those of an evaluation that was interrupted, and those that other runs of the training share."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from vlae.estimation.parts import Part
from vlae.runs import checkpoint
from vlae.runs.directory import RunDirectory
from vlae.system.console import Reporter, count_of
from vlae.system.disk import RecordError
from vlae.system.files import check_inside

NAME, FORMAT = "evaluation", 5
"""Name of the checkpoint of an evaluation; number of its format, raised where its contents change, or a constant of an
estimator that is no setting: scores of other constants must not be taken over."""


class SavedScores:
    """The results of an evaluation, each part begun from what is on disk.

    Results are shared by runs of the same weights: an estimator's numbers for an image depend on nothing else but its
    own settings. So each part is stored with its settings, and the whole with a digest of the weights.
    """

    def __init__(
        self,
        directory: RunDirectory,
        model: torch.nn.Module,
        others: Sequence[RunDirectory],
        reporter: Reporter,
        scored_with: dict[str, str],
    ) -> None:
        """others: runs of the same training; scored_with: the code and the torch of this process.

        RecordError: the run's own checkpoint is damaged.
        """
        self.scored_with = scored_with
        self.place, self.reporter = check_inside(directory.path, "checkpoints"), reporter
        self.digest = weights_digest(model)
        self.results: dict[str, Any] = {}
        """By the key of each part that has begun."""
        self.taken_over: dict[str, dict[str, Any]] = {}
        """By the key of a part: the ``run`` that measured some of it, how many ``images``, in how many ``seconds``."""
        self._settings: dict[str, Any] = {}
        state = self._load_own()
        self.seconds_before: float = state["seconds"]
        """Seconds that earlier attempts of this run have spent."""
        self._saved: dict[str, Any] = state["parts"]
        self._known = [("", self._saved), *((run.path.name, self._load_other(run)) for run in others)]

    def begin(self, part: Part) -> Any:
        """The result of a part, with the images that this run or another one has measured."""
        best = part.result
        for run, parts in self._known:
            saved = parts.get(part.key)
            if saved is None or saved["settings"] != part.settings:
                continue
            found = part.result.with_first_of(type(part.result)(**saved["result"]))
            if found.done > best.done:
                best = found
                of_other = {"run": run, "images": found.done, "seconds": found.seconds}
                of_other["scored_with"] = saved["scored_with"]
                self._note(part.key, of_other if run else saved["taken_over"])
        self._settings[part.key] = part.settings
        self.results[part.key] = best
        if taken := self.taken_over.get(part.key):
            images, name = count_of(taken["images"], "image"), part.key.removeprefix("proposals.")
            self.reporter.line(f"{name}: {images} scored already, by {taken['run']}")
            if taken["scored_with"] != self.scored_with:
                self.reporter.warn(f"{taken['run']} has scored {name} with other code or another torch")
        return best

    def _note(self, key: str, taken: dict[str, Any] | None) -> None:
        self.taken_over.pop(key, None)
        if taken:
            self.taken_over[key] = taken

    def save(self, seconds: float) -> None:
        """Write what is measured. seconds: that this run has spent."""
        parts = {key: self._saved_part(key) for key in self.results}
        state = {"parts": self._saved | parts, "seconds": seconds, "weights": self.digest, "format": FORMAT}
        checkpoint.save(self.place, state, NAME)

    def _saved_part(self, key: str) -> dict[str, Any]:
        taken = self.taken_over.get(key)
        return {
            "settings": self._settings[key],
            "result": vars(self.results[key]),
            "taken_over": taken,
            # of what was taken over, so that a run that takes it from here knows, too
            "scored_with": taken["scored_with"] if taken else self.scored_with,
        }

    def _load_own(self) -> dict[str, Any]:
        """The state of an evaluation of the same weights that was interrupted, else an empty one."""
        state, warnings = checkpoint.load(self.place, NAME)
        for text in warnings:
            self.reporter.warn(text)
        if state is not None and not self._fits(state):
            other = "is of another version" if state.get("format") != FORMAT else "belongs to other weights"
            self.reporter.warn(f"the evaluation starts over: its checkpoint {other}")
            state = None
        return state or {"parts": {}, "seconds": 0.0}

    def _load_other(self, run: RunDirectory) -> dict[str, Any]:
        """The parts that another run has measured with the same weights."""
        try:
            state, _ = checkpoint.load(check_inside(run.path, "checkpoints"), NAME)
        except RecordError as error:
            reason = str(error).partition(". Delete them")[0]  # it is another run's
            self.reporter.warn(f"no scores are taken over from {run.path.name}: {reason}")
            return {}
        return state["parts"] if state is not None and self._fits(state) else {}

    def _fits(self, state: dict[str, Any]) -> bool:
        return state.get("format") == FORMAT and state["weights"] == self.digest


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights and their names, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
