"""Proposals: the distributions that importance samples are drawn from, one file each.

A proposal's name, a value of ``evaluate.proposals``, is that of its file. The file has ``propose(model, x, own)``: the
proposal for each image and how the search for its mode ended, if there was one; ``own`` is the model's q(z | x).
``NEEDS_DENSITY = True`` in it says that q(z | x) must have a density at any z.

If each model is scored by its own posterior, models are compared together with their estimators. The Laplace
approximation at a model's own decoder is the same estimator for all of them.
"""

import importlib
from types import ModuleType

import torch
from jaxtyping import Bool
from torch import Tensor

from vlae.config.schema import PROPOSALS
from vlae.distributions.laplace import Modes
from vlae.distributions.posteriors import Images, Posterior, require_family_member
from vlae.estimation.reliability import common_proposal as common_proposal
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise, generator, image_noise


def propose(name: str, model: LatentVariableModel, x: Images, noise: Noise) -> tuple[Posterior, Modes | None]:
    """The proposal of that name for each image, and how the search for its mode ended, if there was one.

    Errors: ValueError for an unknown name; TypeError where the proposal needs a density that the model's q lacks.
    """
    return _module(name).propose(model, x, model.posterior(x, noise))


def propose_for(
    group: range, proposal: str, model: LatentVariableModel, x: Images, seed: int
) -> tuple[Posterior, Modes | None, list[torch.Generator]]:
    """The proposal for images at these positions, the end of its search, and each image's source of noise."""
    sources = [generator(x.device, seed, "evaluate", i) for i in group]
    q, modes = propose(proposal, model, x, image_noise(sources, x.dtype))
    if proposal != "own":  # own samples continue the noise of inference, with which every proposal begins
        sources = [generator(x.device, seed, "evaluate", proposal, i) for i in group]
    return q, modes, sources


def needs_density(name: str) -> bool:
    """True if the proposal evaluates the model's q(z | x) at any z.

    >>> needs_density("mixture"), needs_density("laplace")
    (True, False)
    """
    return getattr(_module(name), "NEEDS_DENSITY", False)


def _module(name: str) -> ModuleType:
    if name not in PROPOSALS:
        raise ValueError(f"proposal: expected one of {', '.join(PROPOSALS)}, got {name!r}")
    return importlib.import_module(f"{__name__}.{name}")


def select_images(q: Posterior, chosen: Bool[Tensor, " batch"]) -> Posterior:
    """The proposal for the chosen images alone. TypeError where q has no parameters per image."""
    member = require_family_member(q, "evaluate.target_standard_error")
    return member.with_parameters(*(p[chosen] for p in member.parameters()))
