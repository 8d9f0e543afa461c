"""Trained models together with the test images that they were scored on."""

from vlae.config.run_id import exact_text
from vlae.config.targets import build
from vlae.data.splits import Splits
from vlae.experiment.build import use_threads
from vlae.experiment.images import images_to_score, test_set
from vlae.experiment.inspection import Inspection
from vlae.experiment.load import load
from vlae.system.files import StrPath


class Library:
    """Loads trained models with their test images; a dataset that several models share is read once."""

    def __init__(self) -> None:
        self._splits: dict[str, Splits] = {}

    def inspect(self, run: StrPath) -> Inspection:
        """The trained model of a run directory. RecordError: there is none; DataError: the images are not there."""
        trained = load(str(run))
        use_threads(trained.config)
        key = exact_text(trained.directory.config()["dataset"])
        if key not in self._splits:
            self._splits[key] = build(trained.config.dataset)
        x = test_set(trained.preprocess, self._splits[key], trained.config)
        return Inspection(trained, images_to_score(x, trained.config))
