"""A model built from its configuration, on its device."""

import math

import torch

from vlae.config.checks import available_devices
from vlae.config.schema import Config
from vlae.config.targets import build
from vlae.models.base import LatentVariableModel
from vlae.nn.networks import adapt_to_input_variance, initialise
from vlae.seeding import generator


def select_device(name: str, precision: str) -> torch.device:
    """The device of a checked configuration; ``auto`` is the best there is."""
    return torch.device(available_devices(precision)[0] if name == "auto" else name)


def build_model(
    cfg: Config, image_shape: tuple[int, int, int], variance: float, device: torch.device, dtype: torch.dtype
) -> LatentVariableModel:
    """The untrained model: weights drawn from the run's seed on the CPU, so that every device starts alike.

    ``image_shape``: channels, height, width; ``variance`` is that of a pixel of the training images in model space.
    ConfigError: images for which the model cannot be built.
    """
    output = build(cfg.output_dist)
    output.initialise(variance)
    model = build(cfg.model, pixels=math.prod(image_shape), image_shape=image_shape, output=output)
    initialise(model, cfg.trainer.initialisation, generator("cpu", cfg.seed, "initialise"))
    if cfg.trainer.initialisation == "paper":
        adapt_to_input_variance(model.encoder, variance, model.latent_dim)
    return model.to(device=device, dtype=dtype)


def use_threads(cfg: Config) -> None:
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
