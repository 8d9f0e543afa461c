"""Importance-sampled log-likelihood of a test set, image by image, in bounded memory and resumable."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.estimation.log_weights import (
    BLOCKS,
    NOISE_BLOCK,
    BlockStatistics,
    EstimatorError,
    LogWeights,
    draw_log_weights,
    estimator_error,
    log_mean_standard_error,
    samples_by_pilot,
)
from vlae.estimation.pareto import is_heavy, unreliable_above
from vlae.estimation.parts import Part, Subject, results_below
from vlae.estimation.per_image import (
    Advance,
    Estimates,
    Report,
    Values,
    check_finite,
    in_groups,
    level,
    naming_images,
    with_error,
)
from vlae.estimation.proposals import (
    Proposed,
    common_proposal,
    of_decoder,
    proposal_module,
    propose_for,
)
from vlae.models.base import LatentVariableModel
from vlae.nn.networks import largest_layer
from vlae.seeding import generator

CACHED_ROWS = 3072
"""On a CPU, more rows (images x samples) at once leave the cache and are slower."""
MAX_GROUP = 64
"""Images whose posteriors are inferred together."""
EXTRA_NOISE = 10
"""Most numbers that a sample of any proposal needs beside latent_dim: the degrees of freedom of student_t."""

TENTH = 0.1
"""Nats: the standard error at which the costs of proposals are compared."""

MOST_NAMED = 20
"""Images that are named as unreliable; k-hats of all of them are in test_log_likelihood.npz."""


@dataclass
class Evaluation(Estimates):
    """Importance-sampled estimates of log p(x) by one proposal, in nats per test image."""

    elbo: Float[Tensor, " images"]
    """Mean log w: the evidence lower bound of this proposal."""
    log_likelihood: Float[Tensor, " images"]
    """log mean w."""
    ess: Float[Tensor, " images"]
    """Effective sample size (sum w)^2 / sum w^2, between 1 and the number of samples."""
    k_hat: Float[Tensor, " images"]
    """Shape of the weights' tail, see ``vlae.estimation.pareto``."""
    samples: Float[Tensor, " images"]
    """Number of samples averaged; those of a pilot are not."""
    block_error: Float[Tensor, " images"]
    """Standard error of ``log_likelihood``, in nats, by blocks of the samples; NaN if they are too few for this."""
    rise: Float[Tensor, " images"]
    """Rise of ``log_likelihood`` from half of the samples to all, in nats; NaN as above."""
    rise_before: Float[Tensor, " images"]
    """Rise from a quarter of the samples to half."""
    steps: Float[Tensor, " images"]
    """Steps of the search for the mode; like the next two, NaN if the proposal has none."""
    converged: Float[Tensor, " images"]
    stalled: Float[Tensor, " images"]
    components: Float[Tensor, " images"]
    """Modes that have a part in the proposal; like the next three, NaN if it is not fitted."""
    fit_seconds: Float[Tensor, " images"]
    """Time of the first fit and its pilot."""
    longer_seconds: Float[Tensor, " images"]
    """Time of the second, longer fit; NaN where the first sufficed."""
    annealed_seconds: Float[Tensor, " images"]
    """Time of annealed samples; NaN where those of a fit sufficed."""

    @property
    def monte_carlo_error(self) -> Float[Tensor, " images"]:
        """Standard error of each image's own estimate, in nats."""
        return log_mean_standard_error(self.ess, self.samples)

    @property
    def estimator_error(self) -> EstimatorError:
        """The error of the mean log-likelihood of these images that is due to the samples."""
        return estimator_error(BlockStatistics(self.block_error, self.rise, self.rise_before), self.k_hat)

    @property
    def unreliable(self) -> list[bool | None]:
        """True if the weights have too heavy a tail, see `is_heavy`; None if they are too few for a k-hat."""
        images = zip(self.k_hat.tolist(), self.ess.tolist(), self.samples.tolist(), strict=True)
        return [None if math.isnan(k) else is_heavy(k, effective, int(n)) for k, effective, n in images]

    @property
    def stages(self) -> dict[str, Float[Tensor, " images"]]:
        """Seconds of each stage of a fitted proposal, in order; NaN where an image did not need it."""
        return {"fit": self.fit_seconds, "longer": self.longer_seconds, "annealed": self.annealed_seconds}

    @property
    def last_stage(self) -> Float[Tensor, " images"]:
        """The position of the last stage that each image reached."""
        last = torch.full_like(self.fit_seconds, math.nan)
        for position, seconds in enumerate(self.stages.values()):
            last[~seconds.isnan()] = position
        return last

    @property
    def seconds_by_stage(self) -> dict[str, float]:
        """The time of all images in each stage."""
        return {name: seconds.nansum().item() for name, seconds in self.stages.items()}

    @property
    def is_fitted(self) -> bool:
        """True if the proposal was made in these stages."""
        return not self.components.isnan().any()


@dataclass(frozen=True)
class Chunks:
    """Numbers of images and samples per batch; they change a result only by rounding."""

    images: int
    samples: int

    @classmethod
    def for_proposal(
        cls, proposal: str, memory_budget: int, model: LatentVariableModel, num_samples: int, x: Tensor
    ) -> "Chunks":
        """Those that fit; of a proposal that is of the decoder alone, the same for every encoder and every budget."""
        if not of_decoder(proposal):
            return cls.within(memory_budget, model, num_samples, x)
        images, width = proposal_module(proposal).GROUP, largest_layer(model.decoder)
        rows = memory_budget * 2**20 // (8 * width * x.element_size())
        if x.device.type == "cpu":
            rows = min(rows, CACHED_ROWS)
        return cls(images, max(1, min(num_samples, rows // images)))

    @classmethod
    def within(cls, memory_budget: int, model: LatentVariableModel, num_samples: int, x: Tensor) -> "Chunks":
        """Half of ``memory_budget`` (MiB) is for arrays that grow with the group's images, half for activations.

        The former are noise or, before it, the Jacobians of inference: three copies, of the widest layer at most.
        """
        half, size = memory_budget * 2**20 // 2, x.element_size()
        most = 1 if model.batch_dependent else MAX_GROUP
        width = largest_layer(model)
        noise = 2 * min(num_samples, NOISE_BLOCK) * (model.latent_dim + EXTRA_NOISE)
        an_image = max(noise, 3 * width * model.latent_dim)
        images = max(1, min(most, half // (an_image * size)))
        rows = half // (4 * width * size)
        if x.device.type == "cpu":
            rows = min(rows, CACHED_ROWS)
        return cls(images, max(1, min(num_samples, rows // images)))


@torch.no_grad()
def evaluate(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    *,
    proposal: str = "own",
    num_samples: int,
    target_standard_error: float | None = None,
    memory_budget: int,
    seed: int,
    result: Evaluation | None = None,
    report: Report = lambda images: None,
) -> Evaluation:
    """log p(x) >= E log (1/S) sum_s p(x, z_s) / q(z_s | x), z_s ~ q, and the ELBO, for each image.

    q is the proposal of that name. S is ``num_samples``; with ``target_standard_error`` (nats) a pilot of other samples
    says how many an image takes, see ``samples_by_pilot``, so that E mean w = p(x) holds. Image i's noise is a
    function of (seed, proposal, i) alone, so neither chunking nor a restart changes a number. Continues ``result`` if
    given. ``report``, see ``vlae.estimation.per_image``, is called after every group; ``memory_budget`` in MiB.
    Errors: NonFiniteError, an estimate is NaN or infinite; TypeError, the proposal needs a density that q lacks.

    >>> from vlae.distributions import GaussianOutput
    >>> from vlae.models.backbone import Backbone
    >>> from vlae.models.vae import VAE
    >>> model = VAE(Backbone(latent_dim=2, hidden_dims=[8], pixels=16, output=GaussianOutput()))
    >>> how = {"proposal": "laplace", "num_samples": 50, "memory_budget": 64, "seed": 0}
    >>> found = evaluate(model, torch.randn(3, 16), **how)
    >>> found.log_likelihood.shape, bool((found.log_likelihood >= found.elbo).all())  # Jensen's inequality
    (torch.Size([3]), True)
    """
    result = Evaluation.empty(len(x)) if result is None else result
    chunks = Chunks.for_proposal(proposal, memory_budget, model, num_samples, x)
    scorer, at_once = model.output.scorer(model.decoder), chunks.samples * chunks.images

    def measure(group: range, progress: Advance) -> None:
        batch = x[group.start : group.stop]
        with naming_images(group, f"the proposal {proposal}"):
            how = proposal, model, scorer, batch, seed, at_once
            proposed = propose_for(group, *how, lambda: progress(0.0))
        for part in proposed:
            began, images = time.monotonic(), part.images.cpu() + group.start
            # with fewer samples than blocks no error is known
            samples = max(num_samples // part.samples_of, min(num_samples, BLOCKS))
            weights = draw(part, images, samples)
            result.put(images, elbo=weights.mean, log_likelihood=weights.log_mean, samples=weights.count)
            result.put(images, ess=weights.effective_sample_size, k_hat=weights.k_hat, **part.notes)
            blocks = weights.blocks
            result.put(images, block_error=blocks.error, rise=blocks.rise, rise_before=blocks.rise_before)
            if part.samples_of > 1:
                seconds = (time.monotonic() - began) / len(images)
                result.put(images, annealed_seconds=part.notes["annealed_seconds"] + seconds)
        values = result.log_likelihood[group.start : group.stop] + result.elbo[group.start : group.stop]
        check_finite(values, group, "the log-likelihood of test image")

    def draw(part: Proposed, images: Tensor, samples: int) -> LogWeights:
        batch, counts = x[images.to(x.device)], None
        if target_standard_error is not None and part.samples_of == 1:  # others are few already
            others = [generator(x.device, seed, "pilot", proposal, i) for i in images.tolist()]
            how = (samples, at_once, target_standard_error)
            counts = samples_by_pilot(part.q, scorer, batch, others, *how)
        return draw_log_weights(part.q, scorer, batch, part.sources, samples, at_once, counts)

    in_groups(result, chunks.images, measure, report)
    return result


def parts(subject: Subject) -> Iterator[Part]:
    """All images by each of ``evaluate.proposals``."""
    for name in subject.evaluate.proposals:
        yield importance_part(subject, f"proposals.{name}", "evaluating image", subject.x, name)


def importance_part(subject: Subject, key: str, doing: str, x: Tensor, name: str) -> Part:
    """The part that estimates log p(x) of images x [images, pixels] by the proposal of this name."""
    run = partial(evaluate, subject.model, x, proposal=name, **subject.options(key), **subject.limits)
    doing += f" by {name}" if len(subject.evaluate.proposals) > 1 else ""
    return subject.part(key, doing, Evaluation.empty(len(x)), run, by=name)


def metrics(results: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    """Metrics of all images, in nats per image; ``log_likelihood`` has a section for each proposal.

    Densities are over pixels in [0, 1], so the Jacobian of a logit transform is in them; the released code leaves
    it out, which is ``mean_in_model_space``. ELBO and bits/dim are those of the proposal ``own``; ``bits_per_dim`` is
    on the scale of the integer pixels, where they were dequantised, else None.
    """
    proposals, preprocess = results_below(results, "proposals."), subject.preprocess
    own, log_jacobian = proposals["own"], subject.log_jacobian
    of_integers = own.log_likelihood + log_jacobian - preprocess.log_scale
    bits = -of_integers / (preprocess.pixels * math.log(2))
    samples = subject.evaluate.num_samples
    return {
        **with_error("elbo", own.elbo + log_jacobian),
        "log_likelihood": {
            name: proposal_metrics(evaluation, log_jacobian, samples) | beside_common(name, proposals)
            for name, evaluation in proposals.items()
        },
        "bits_per_dim": bits.mean().item() if preprocess.bits_per_dim_defined else None,
        "uniform_bits_per_dim": math.log2(preprocess.levels) if preprocess.levels else None,
    }


def proposal_metrics(evaluation: Evaluation, log_jacobian: Values, num_samples: int) -> dict[str, Any]:
    """Metrics of one proposal. ``standard_error`` is over images; ``monte_carlo_error`` that of one image's estimate.

    ``k_hat_unreliable`` is a share of the images whose k-hat is known; with too few samples it is unknown.
    ``samples_for_a_tenth``: the number of samples that the median image needs for a Monte Carlo error of 0.1 nats,
    (S/ESS - 1) / 0.1^2: the cost of equal accuracy by each proposal.
    """
    bad, errors = evaluation.unreliable, evaluation.monte_carlo_error
    known = [doubt for doubt in bad if doubt is not None]
    needed = (evaluation.samples / evaluation.ess - 1).clamp(min=0) / TENTH**2
    found: dict[str, Any] = {
        **level(evaluation.log_likelihood + log_jacobian),
        "estimator_error": evaluation.estimator_error._asdict(),
        "num_samples": num_samples,
        "num_images": len(bad),
        **with_error("elbo", evaluation.elbo + log_jacobian),
        "ess_median": evaluation.ess.median().item(),
        "ess_min": evaluation.ess.min().item(),
        "k_hat_limit": unreliable_above(num_samples),
        "k_hat_unreliable": sum(known) / len(known) if known else None,
        "k_hat_unknown": len(bad) - len(known),
        "monte_carlo_error_median": errors.median().item() if num_samples > 1 else None,
        "samples_mean": evaluation.samples.mean().item(),
        "samples_for_a_tenth": needed.median().item() if num_samples > 1 else None,
        "mean_in_model_space": evaluation.log_likelihood.mean().item(),
    }
    if not evaluation.steps.isnan().any():
        found["mode_search"] = mode_search_metrics(evaluation)
    if evaluation.is_fitted:
        found |= fit_metrics(evaluation)
    return found


def beside_common(name: str, proposals: Mapping[str, Evaluation]) -> dict[str, Any]:
    """How far a proposal's log-likelihood is from that of the common proposal, image by image; empty for that one."""
    common = common_proposal(list(proposals))
    if name == common:
        return {}
    difference = proposals[name].log_likelihood - proposals[common].log_likelihood
    return {"difference_from": common, **with_error("difference", difference)}


def mode_search_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Steps of the searches for the mode, and numbers of images by how they ended."""
    settled = evaluation.converged + evaluation.stalled
    return {
        "steps_mean": evaluation.steps.mean().item(),
        "steps_max": int(evaluation.steps.max().item()),
        "converged": int(evaluation.converged.sum().item()),
        "stalled": int(evaluation.stalled.sum().item()),
        "unconverged": len(settled) - int(settled.sum().item()),
    }


def fit_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Modes, the number of images that reached each stage, and the images left unreliable.

    ``positions`` names the first ``MOST_NAMED`` of these, as text. Seconds of stages are no metrics of the test set,
    see `Evaluation.seconds_by_stage`.
    """
    bad = [str(position) for position, doubt in enumerate(evaluation.unreliable) if doubt]
    return {
        "components_mean": evaluation.components.mean().item(),
        "stages": {name: int((~seconds.isnan()).sum()) for name, seconds in evaluation.stages.items()},
        "unreliable_images": {"number": len(bad), "positions": ", ".join(bad[:MOST_NAMED]) or None},
    }


def proposals_beside(other: Any, proposals: Mapping[str, Evaluation], log_jacobian: Values) -> dict[str, Any]:
    """Each proposal on the images of another estimator, the first that the proposals have.

    ``difference``: its log-likelihood minus that of ``other``, image by image.
    """
    images, found = len(other), {}
    for name, evaluation in proposals.items():
        own = evaluation.log_likelihood[:images]
        difference = with_error("difference", own - other.log_likelihood)
        found[name] = level(own + log_jacobian) | difference
    return found


def arrays(results: Mapping[str, Any], subject: Subject) -> dict[str, Tensor]:
    """``log_likelihood``, ``elbo``, ``ess``, ``k_hat`` and ``samples`` of each proposal.

    Also ``block_error``, ``rise`` and ``rise_before``, from which `estimator_error` follows for any images together.
    Those of the proposal ``own`` have these names, those of others end in theirs: ``log_likelihood_laplace``.
    A fitted proposal has ``components`` as well, its number of modes, and ``stage``: 0 where the first fit sufficed, 1
    after longer chains, 2 for annealed samples.
    """
    found: dict[str, Tensor] = {}
    for proposal, evaluation in results_below(results, "proposals.").items():
        end = "" if proposal == "own" else f"_{proposal}"
        found[f"log_likelihood{end}"] = evaluation.log_likelihood + subject.log_jacobian
        found[f"elbo{end}"] = evaluation.elbo + subject.log_jacobian
        for name in ("ess", "k_hat", "samples", "block_error", "rise", "rise_before"):
            found[f"{name}{end}"] = getattr(evaluation, name)
        if evaluation.is_fitted:
            found[f"components{end}"] = evaluation.components
            found[f"stage{end}"] = evaluation.last_stage
    return found
