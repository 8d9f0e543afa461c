"""Preparation of a run: its device, its images in model space, its model."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.checks import available_devices, require_test_images
from vlae.config.schema import Config
from vlae.config.targets import build
from vlae.data import DataError, Preprocess, Splits
from vlae.experiment.build import build_model, check_posterior
from vlae.experiment.initial_weights import check_source as check_source
from vlae.experiment.initial_weights import start_from_run
from vlae.models.base import LatentVariableModel
from vlae.training.training_set import TrainingSet


@dataclass
class Prepared:
    """A run that is ready for its first step, with nothing on disk yet."""

    config: Config
    model: LatentVariableModel
    preprocess: Preprocess
    training_set: TrainingSet
    selection_set: Float[Tensor, "selection pixels"]
    test_set: Float[Tensor, "test pixels"]
    """The images to score, in model space."""
    lacking: Exception | None = None
    """Why the model has not the weights of the run that ``init_from`` names; then no training can begin."""


def prepare(cfg: Config) -> Prepared:
    """Device, data, preprocessing and model of a configuration. Errors: DataError, ConfigError."""
    device, dtype = select_device(cfg.device, cfg.trainer.precision), getattr(torch, cfg.trainer.precision)
    use_threads(cfg)
    torch.manual_seed(cfg.seed)  # only a user's own model might draw from the global generator
    splits, support = build(cfg.dataset).to(device), build(cfg.output_dist).support
    to_model_space = Preprocess.fit(cfg.dataset, splits, support, dtype=dtype)
    x_test = test_set(to_model_space, splits, cfg)
    scored = images_to_score(x_test, cfg)
    x_selection = selection_set(to_model_space, splits, x_test, cfg)
    model = build_model(cfg, to_model_space.shape, to_model_space.variance, device, dtype)
    lacking = start_from_run(model, cfg)
    check_posterior(cfg, model, scored)
    training_set = TrainingSet(to_model_space.training_images(splits), to_model_space)
    return Prepared(cfg, model, to_model_space, training_set, x_selection, scored, lacking)


def select_device(name: str, precision: str) -> torch.device:
    """The device of a checked configuration; ``auto`` is the best there is."""
    return torch.device(available_devices(precision)[0] if name == "auto" else name)


def use_threads(cfg: Config) -> None:
    """Give torch the CPU threads of ``num_threads``, if it is set."""
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)


def test_set(preprocess: Preprocess, splits: Splits, cfg: Config) -> Float[Tensor, "images pixels"]:
    """All test images; with ``fixed_evaluation: false`` their noise depends on the run's seed."""
    return preprocess.evaluation_set(splits.test, "test", cfg.seed)


def images_to_score(x_test: Float[Tensor, "images pixels"], cfg: Config) -> Float[Tensor, "scored pixels"]:
    """The first ``evaluate.num_images`` test images. ConfigError: there are fewer."""
    require_test_images(cfg.evaluate.num_images, len(x_test))
    return x_test[: cfg.evaluate.num_images]


def selection_set(
    preprocess: Preprocess, splits: Splits, x_test: Float[Tensor, "images pixels"], cfg: Config
) -> Float[Tensor, "selection pixels"]:
    """The images that ``trainer.selection`` names. DataError: there are none."""
    if cfg.trainer.selection == "test":
        return x_test
    if not len(splits.validation):  # unknown before for datasets with their own validation array
        raise DataError("trainer.selection=validation needs a validation set, and this dataset has none")
    return preprocess.evaluation_set(splits.validation, "validation", cfg.seed)
