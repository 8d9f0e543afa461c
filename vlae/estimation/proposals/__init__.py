"""Proposals: the distributions that importance samples are drawn from, one file each.

A proposal's name, a value of ``evaluate.proposals``, is that of its file. The file has ``propose(model, x, own)``: the
proposal for each image and how the search for its mode ended, if there was one; ``own`` is the model's q(z | x).
``NEEDS_DENSITY = True`` in it says that q(z | x) must have a density at any z. A proposal that follows from the decoder
alone, and is made in steps that differ from image to image, has ``propose_from_decoder(group)`` instead.

If each model is scored by its own posterior, models are compared together with their estimators. A proposal that is a
function of the decoder, the image and the seed alone is the same estimator for all of them.
"""

import importlib
from collections.abc import Callable
from types import ModuleType

import torch

from vlae.config.schema import PROPOSALS
from vlae.distributions.laplace import Modes
from vlae.distributions.outputs import Scorer
from vlae.distributions.posteriors import Images, Posterior
from vlae.estimation.proposed import DecoderGroup, Proposed
from vlae.estimation.reliability import common_proposal as common_proposal
from vlae.models.base import LatentVariableModel
from vlae.seeding import Noise, generator, image_noise


def propose(name: str, model: LatentVariableModel, x: Images, noise: Noise) -> tuple[Posterior, Modes | None]:
    """The proposal of that name for each image, and how the search for its mode ended, if there was one.

    Errors: ValueError for an unknown name; TypeError where the proposal needs a density that the model's q lacks.
    """
    return proposal_module(name).propose(model, x, model.posterior(x, noise))


def propose_for(
    group: range,
    proposal: str,
    model: LatentVariableModel,
    scorer: Scorer,
    x: Images,
    seed: int,
    at_once: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Proposed]:
    """The proposals for images x at these positions of the test set.

    ``scorer``: ``model.output.scorer(model.decoder)``; ``at_once``: rows (images x samples) to compute together;
    ``progress``: called now and then.
    """
    if of_decoder(proposal):
        images = DecoderGroup(
            model.output, model.decoder, scorer, x, group, seed, proposal, at_once, progress
        )
        return proposal_module(proposal).propose_from_decoder(images)
    sources = [generator(x.device, seed, "evaluate", i) for i in group]
    q, modes = propose(proposal, model, x, image_noise(sources, x.dtype))
    if proposal != "own":  # own samples continue the noise of inference, with which every proposal begins
        sources = [generator(x.device, seed, "evaluate", proposal, i) for i in group]
    notes = {} if modes is None else {key: getattr(modes, key) for key in ("steps", "converged", "stalled")}
    return [Proposed(torch.arange(len(x)), q, sources, notes)]


def of_decoder(name: str) -> bool:
    """True if the proposal is a function of the decoder, the image and the seed alone.

    >>> of_decoder("fitted"), of_decoder("laplace")
    (True, False)
    """
    return hasattr(proposal_module(name), "propose_from_decoder")


def needs_density(name: str) -> bool:
    """True if the proposal evaluates the model's q(z | x) at any z.

    >>> needs_density("mixture"), needs_density("laplace")
    (True, False)
    """
    return getattr(proposal_module(name), "NEEDS_DENSITY", False)


def proposal_module(name: str) -> ModuleType:
    """The file of a proposal. ValueError: there is none of that name."""
    if name not in PROPOSALS:
        raise ValueError(f"proposal: expected one of {', '.join(PROPOSALS)}, got {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
