"""Preparation of a run: its data, its model, its images to score."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.schema import Config
from vlae.config.targets import build
from vlae.data.datasets import Preprocess, preprocess
from vlae.experiment.build import build_model, check_posterior, use_threads
from vlae.experiment.device import select_device
from vlae.experiment.images import images_to_score, selection_set, test_set
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


def prepare(cfg: Config) -> Prepared:
    """Device, data, preprocessing and model of a configuration. Errors: DataError, ConfigError."""
    device, dtype = select_device(cfg.device, cfg.trainer.precision), getattr(torch, cfg.trainer.precision)
    use_threads(cfg)
    torch.manual_seed(cfg.seed)  # only a user's own model might draw from the global generator
    splits, support = build(cfg.dataset).to(device), build(cfg.output_dist).support
    to_model_space = preprocess(cfg.dataset, splits, support, dtype)
    x_test = test_set(to_model_space, splits, cfg)
    scored = images_to_score(x_test, cfg)
    x_selection = selection_set(to_model_space, splits, x_test, cfg)
    model = build_model(cfg, to_model_space.shape, to_model_space.variance, device, dtype)
    check_posterior(cfg, model, scored)
    training_set = TrainingSet(to_model_space.training_images(splits), to_model_space)
    return Prepared(cfg, model, to_model_space, training_set, x_selection, scored)
