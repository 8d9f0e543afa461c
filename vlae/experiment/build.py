"""A model built from its configuration, and whether its posteriors have what the configuration asks for."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.config.problems import ConfigError, Problem
from vlae.config.schema import Config
from vlae.config.targets import build
from vlae.distributions.posteriors import require_closed_form_kl, require_family_member
from vlae.estimation.proposals import needs_density
from vlae.models.base import LatentVariableModel
from vlae.nn.networks import adapt_to_input_variance, initialise
from vlae.seeding import batch_noise, generator


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


@torch.no_grad()
def check_posterior(cfg: Config, model: LatentVariableModel, x: Float[Tensor, "images pixels"]) -> None:
    """ConfigError: a key needs a density or a closed-form KL that the model's posteriors lack."""
    evaluation = cfg.evaluate
    needs = {
        "trainer.objective": "iwae" if cfg.trainer.objective == "iwae" else None,
        "evaluate.proposals": next(filter(needs_density, evaluation.proposals), None),
        "evaluate.target_standard_error": evaluation.target_standard_error,
        "trainer.kl": "analytic" if cfg.trainer.kl == "analytic" else None,
    }
    asked = {key: value for key, value in needs.items() if value is not None}
    if not asked:
        return
    posterior, problems = model.posterior(x[:1], batch_noise(1, generator(x.device, 0, "check"), x.dtype)), []
    for key, value in asked.items():
        try:
            (require_closed_form_kl if key == "trainer.kl" else require_family_member)(posterior, str(value))
        except TypeError as error:
            problems.append(Problem(key, str(error)))
    if problems:
        raise ConfigError(problems)
