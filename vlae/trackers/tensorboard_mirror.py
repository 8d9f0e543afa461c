"""The mirror for TensorBoard: event files in the run directory, made again at every attempt."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlae.system.files import write_json
from vlae.trackers.run_history import TENSORBOARD, Epochs, RunHistory, flat

HPARAMS = ("model", "dataset", "output_dist", "optimizer", "schedule", "trainer", "seed")


class EventFiles:
    """Loss curves and images against epochs, and at the end the hyperparameters with the metrics of results.json."""

    def __init__(self, run_history: RunHistory) -> None:
        self.run_history, self._epoch = run_history, 0
        self._epochs = Epochs(run_history.directory.path)
        self._pictured = set[int]()

    def start(self) -> None:
        """Replace the event files of the attempt before."""
        from tensorboardX import SummaryWriter

        place = self.run_history.place / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)  # an attempt may begin before the end of the last one
        self._writer = SummaryWriter(str(place), flush_secs=5)

    def catch_up(self) -> None:
        """Write the epochs that are new."""
        for _, step in self._epochs.more():
            epoch = step["epoch"]
            pictures = {name: file for name, file in step.items() if isinstance(file, Path)}
            if not pictures and epoch > self._epoch:
                for name, value in step.items():
                    if isinstance(value, int | float) and name != "epoch":
                        self._writer.add_scalar(name, value, epoch)
                self._epoch = epoch
            if pictures and epoch not in self._pictured:
                for name, file in pictures.items():
                    self._writer.add_image(name, _pixels(file), epoch, dataformats="HWC")
                self._pictured.add(epoch)
        self._writer.flush()

    def finish(self) -> None:
        """Write the rest, and the metrics of results.json with the hyperparameters."""
        self.catch_up()
        if (results := self.run_history.directory.results()) is not None:
            found = flat({name: results.get(name) or {} for name in ("test", "validation")})
            metrics = {name: float(value) for name, value in found.items() if not isinstance(value, str)}
            self._add_hparams(metrics, results["epochs"])
            for name, file in self.run_history.last_pictures().items():
                self._writer.add_image(f"final/{name}", _pixels(file), results["epochs"], dataformats="HWC")
        self._writer.close()
        write_json(self.run_history.place / f"{TENSORBOARD}.json", {"complete": results is not None})

    def give_up(self, error: Exception) -> None:
        """Each epoch is on disk already."""

    def _add_hparams(self, metrics: dict[str, float], epoch: int) -> None:
        """Add them to the one file: the writer's own method opens another, of the same name within a second."""
        from tensorboardX.summary import hparams

        assert self._writer.file_writer is not None
        settings = flat({key: self.run_history.config[key] for key in HPARAMS})
        shown = {key: value for key, value in settings.items() if not key.endswith("_target_")}
        for part in hparams(shown, metrics):
            self._writer.file_writer.add_summary(part)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)


def _pixels(file: Any) -> Any:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
