"""How often the truth lies within the stated estimator error: ``python -m benchmarks estimator_error``.

Sets of images whose importance weights have a known mean are given to the code that states the error of a printed
log-likelihood. Made-up weights are lognormal, Pareto, or mostly small with a few that carry half of the mean, as where
a proposal hardly reaches a mode; alone and mixed. Those of real decoders have one or two latent variables, so that the
truth follows by quadrature. In at least ``ASKED`` of the sets of each kind the truth has to lie within the error.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vlae.distributions import GaussianOutput
from vlae.estimation.estimator_error import EstimatorError, estimator_error
from vlae.estimation.estimators.importance import evaluate
from vlae.estimation.log_weights import NOISE_BLOCK, LogWeights
from vlae.models.backbone import Backbone
from vlae.models.vae import VAE

ASKED = 0.95
SIZES = ((50, 200), (50, 5000), (50, 20_000), (200, 1000), (1000, 200), (1000, 5000))
"""Numbers of images and of samples per image."""
SETS = 100
REAL = ((1, 0.3), (1, 1.0), (2, 1.0))
"""Latent variables of decoders, and the standard deviation of their output distribution."""
OF_A_DECODER = 10
FEWEST_HITS = 3.0
"""Draws of a set that reach a missed mode, on average; of fewer a set may see none, and no error is known from it."""
SAY_EVERY = 10.0
"""Seconds between two lines of progress."""

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""Log-weights of mean weight 1 or ``truth``, from a generator and a shape."""


class Weights(NamedTuple):
    """The log-weights of an image, and the log of their mean."""

    draw: Draw
    truth: float = 0.0
    rare: float = 1.0  # the share of the draws that reach the mode which they may miss


def lognormal(sd: float) -> Weights:
    """Weights whose logarithms have this standard deviation."""
    return Weights(lambda generator, shape: sd * generator.standard_normal(shape) - sd**2 / 2)


def pareto(k: float) -> Weights:
    """Weights with a tail of shape k: a variance below 1/2, a mean below 1."""
    return Weights(lambda generator, shape: k * generator.standard_exponential(shape) + math.log1p(-k))


def missed_mode(share: float) -> Weights:
    """Weights of which this share carries half of the mean."""

    def draw(generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        log_w = 0.5 * generator.standard_normal(shape) - 0.125
        return log_w + math.log(1 / share - 1) * (generator.random(shape) < share)

    return Weights(draw, math.log(2 * (1 - share)), share)


ALONE = {
    **{f"lognormal, sd {sd}": lognormal(sd) for sd in (1, 2, 3)},
    **{f"Pareto, k {k}": pareto(k) for k in (0.5, 0.7, 0.9)},
    **{f"{share:.2%} carry half": missed_mode(share) for share in (0.005, 0.001, 0.0002)},
}
GOOD = "lognormal, sd 1"
MIXED = {
    "all of these alike": dict.fromkeys(ALONE, 1 / len(ALONE)),
    "97 % sd 1, 3 % Pareto 0.9": {GOOD: 0.97, "Pareto, k 0.9": 0.03},
    "90 % sd 1, 10 % Pareto 0.9": {GOOD: 0.9, "Pareto, k 0.9": 0.1},
    "90 % sd 1, 10 % 0.10% modes": {GOOD: 0.9, "0.10% carry half": 0.1},
    "98 % sd 1, 2 % 0.50% modes": {GOOD: 0.98, "0.50% carry half": 0.02},
}
KINDS: dict[str, dict[str, float]] = {name: {name: 1.0} for name in ALONE} | MIXED
"""The shares of the images of each kind of set."""


class Outcome(NamedTuple):
    """The errors of the sets of one kind."""

    covered: float  # the share of the sets in which the truth lies within the stated error
    unknown: float  # the share in which no error can be stated; it counts as covered
    low: float  # how much the estimates are too low, in nats
    stated: float  # the median of the errors that are stated; NaN: none is
    hits: float = math.inf  # draws of a set that reach a mode which may be missed
    sets: int = 1

    @property
    def fails(self) -> bool:
        """True if the truth lies outside in too many sets, by more than chance explains and their draws can show."""
        slack = 3 * math.sqrt(ASKED * (1 - ASKED) / self.sets)
        return self.hits >= FEWEST_HITS and self.covered < ASKED - slack

    @classmethod
    def of(cls, off: Sequence[float], errors: Sequence[EstimatorError], hits: float = math.inf) -> "Outcome":
        """off: the estimate of each set minus the truth."""
        totals = np.array([math.inf if e.total is None else e.total for e in errors])
        stated = totals[np.isfinite(totals)]
        covered = float((np.abs(off) <= totals).mean())
        median = float(np.median(stated)) if len(stated) else math.nan
        return cls(covered, 1 - len(stated) / len(totals), -float(np.mean(off)), median, hits, len(totals))


def images_of(kind: str, images: int) -> dict[str, int]:
    """The number of images with each kind of weights."""
    counts = {name: round(share * images) for name, share in KINDS[kind].items()}
    first = next(iter(counts))
    counts[first] += images - sum(counts.values())
    return counts


def made_up(kind: str, images: int, samples: int, sets: int, seed: int) -> Outcome:
    """The outcome of sets of made-up weights."""
    generator = np.random.default_rng([seed, list(KINDS).index(kind), images, samples])
    counts = images_of(kind, images)
    truth = sum(number * ALONE[name].truth for name, number in counts.items()) / images
    hits = min(number * samples * ALONE[name].rare for name, number in counts.items() if number)
    off, errors = [], []
    for _ in range(sets):
        weights = LogWeights(images, samples)
        for done in range(0, samples, NOISE_BLOCK):
            some = min(NOISE_BLOCK, samples - done)
            drawn = [ALONE[name].draw(generator, (some, number)) for name, number in counts.items()]
            weights.add(torch.from_numpy(np.concatenate(drawn, 1)), torch.arange(images))
        off.append(weights.log_mean.mean().item() - truth)
        errors.append(estimator_error(weights.blocks, weights.k_hat))
    return Outcome.of(off, errors, hits)


def decoder(latent_dim: int, noise: float, seed: int) -> VAE:
    """A model with a random ReLU decoder, and a Gaussian output with this standard deviation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = Backbone(latent_dim=latent_dim, hidden_dims=[16], pixels=8, output=GaussianOutput())
        model = VAE(backbone).double()
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter.normal_(std=0.5)
            model.output.initialise(noise**2)
    return model


@torch.no_grad()
def log_likelihood(
    model: VAE, x: Float[Tensor, "images pixels"], points: int = 400
) -> Float[Tensor, " images"]:
    """log p(x) by the trapezoidal rule, with points from -8 to 8 in each latent variable."""
    line = torch.linspace(-8, 8, points if model.latent_dim > 1 else points**2, dtype=torch.float64)
    z = torch.cartesian_prod(*[line] * model.latent_dim).reshape(-1, model.latent_dim)
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    log_area = model.latent_dim * (line[1] - line[0]).log()
    found = [
        (model.output.scorer(model.decoder)(one[None])(z[:, None])[:, 0] + log_prior).logsumexp(0)
        for one in x
    ]
    return torch.stack(found) + log_area


def real(latent_dim: int, noise: float, proposal: str, samples: int, sets: int, seed: int) -> Outcome:
    """The outcome of sets of 50 images that random decoders make; each decoder has ``OF_A_DECODER`` sets."""
    off, errors = [], []
    for first in range(0, sets, OF_A_DECODER):
        model, generator = (
            decoder(latent_dim, noise, seed + first),
            torch.Generator().manual_seed(seed + first),
        )
        z = torch.randn(50, latent_dim, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            mean = model.decoder(z)
        x = mean + noise * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        truth = log_likelihood(model, x)
        how = {"proposal": proposal, "num_samples": samples, "memory_budget": 256}
        for one in range(first, min(first + OF_A_DECODER, sets)):
            found = evaluate(model, x, **how, seed=seed + one)
            off.append((found.log_likelihood - truth).mean().item())
            errors.append(found.estimator_error)
    return Outcome.of(off, errors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if the truth lies outside the stated error in too many sets of a kind."""
    options = _parser().parse_args(arguments)
    work: dict[tuple[str, int, int], Callable[[], Outcome]] = {
        (kind, images, samples): partial(made_up, kind, images, samples, options.sets, options.seed)
        for kind in KINDS
        for images, samples in SIZES
    }
    for latent_dim, noise in REAL:
        for samples in (200, 1000, 5000):
            name = f"decoder, latent {latent_dim}, noise {noise}, {options.proposal}"
            how = latent_dim, noise, options.proposal, samples, options.sets, options.seed
            work[name, 50, samples] = partial(real, *how)
    found: dict[tuple[str, int, int], Outcome] = {}
    began = said = time.monotonic()
    for key, outcome_of in work.items():
        found[key] = outcome_of()
        if time.monotonic() - said > SAY_EVERY or len(found) == len(work):
            said = time.monotonic()
            print(f"{len(found)} of {len(work)} kinds of sets in {said - began:.0f} s", flush=True)
    Console(width=None if sys.stdout.isatty() else 140).print(_report(found))
    return int(any(each.fails for each in found.values()))


def _report(found: Mapping[tuple[str, int, int], Outcome]) -> Table:
    title = f"Sets in which the truth lies within the stated error (at least {ASKED:.0%}; unknown errors count as such)"
    table = Table(title=title, title_justify="left")
    table.add_column("log-weights")
    for name in ("images", "samples", "covered", "unknown", "too low by", "stated error"):
        table.add_column(name, justify="right")
    for (kind, images, samples), each in found.items():
        remark = " too few" if each.fails else " not seen" if each.hits < FEWEST_HITS else ""
        stated = "" if math.isnan(each.stated) else f"{each.stated:.4f}"
        shares = f"{each.covered:.0%}{remark}", f"{each.unknown:.0%}"
        table.add_row(kind, f"{images:,}", f"{samples:,}", *shares, f"{each.low:.4f}", stated)
    table.caption = f"not seen: on average fewer than {FEWEST_HITS:g} draws of a set reach the missed mode"
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks estimator_error",
        description="Sets of images whose log p(x) is known: how often it lies within the stated estimator error.",
    )
    parser.add_argument("--sets", type=int, default=SETS, help=f"sets of each kind (default {SETS})")
    parser.add_argument("--seed", type=int, default=0, help="what the weights depend on (default 0)")
    parser.add_argument(
        "--proposal", default="student_t", help="the proposal for real decoders (default student_t)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
