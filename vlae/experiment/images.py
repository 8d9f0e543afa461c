"""The images of a run in model space: those that select its best epoch, and those that are scored."""

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.checks import too_few_test_images
from vlae.config.problems import ConfigError
from vlae.config.schema import Config
from vlae.config.targets import build
from vlae.data.datasets import DataError, Preprocess, Splits
from vlae.seeding import generator


def test_set(preprocess: Preprocess, splits: Splits, cfg: Config) -> Float[Tensor, "images pixels"]:
    """All test images; with ``fixed_evaluation: false`` their noise depends on the run's seed."""
    return preprocess.evaluation_set(splits.test, "test", generator(splits.test.device, cfg.seed, "test set"))


def images_to_score(x_test: Float[Tensor, "images pixels"], cfg: Config) -> Float[Tensor, "scored pixels"]:
    """The first ``evaluate.num_images`` test images. ConfigError: there are fewer."""
    if problems := too_few_test_images(cfg.evaluate.num_images, len(x_test)):
        raise ConfigError(problems)
    return x_test[: cfg.evaluate.num_images]


def load_images_to_score(
    preprocess: Preprocess, cfg: Config, device: torch.device
) -> Float[Tensor, "scored pixels"]:
    """The same, from the dataset's files. DataError: they cannot be read."""
    splits = build(cfg.dataset).to(device)
    return images_to_score(test_set(preprocess, splits, cfg), cfg)


def selection_set(
    preprocess: Preprocess, splits: Splits, x_test: Float[Tensor, "images pixels"], cfg: Config
) -> Float[Tensor, "selection pixels"]:
    """The images that ``trainer.selection`` names. DataError: there are none."""
    if cfg.trainer.selection == "test":
        return x_test
    if not len(splits.validation):  # unknown before for datasets with their own validation array
        raise DataError("trainer.selection=validation needs a validation set, and this dataset has none")
    source = generator(splits.validation.device, cfg.seed, "validation set")
    return preprocess.evaluation_set(splits.validation, "validation", source)
