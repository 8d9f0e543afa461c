"""fitted: Student t distributions with the mean and covariance of short Hamiltonian chains around each mode.

The searches for modes begin at 0 and at draws of the prior, the noise is keyed by image, and no encoder is asked. So
models with the same decoder have the same figures. The proposal is frozen before the first sample that is averaged is
drawn: E w = p(x) holds exactly, whatever the chains did.

An image whose weights still have too heavy a tail, by a pilot run that is thrown away, gets longer chains around more
modes; if that does not help, its samples are annealed from there to p(z | x).

A change of these constants, or of those of modes, chains and annealing, raises `vlae.estimation.part_settings.FIT`.
"""

import math
import time
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vlae.distributions.posteriors import Posterior
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.estimation.annealed import AnnealedProposal, annealing_noise_dim, ends_from_prior
from vlae.estimation.chains import Fits, fit_components
from vlae.estimation.log_weights import NOISE_BLOCK, draw_log_weights
from vlae.estimation.modes import Components, find_components
from vlae.estimation.proposed import DecoderGroup, Proposed
from vlae.seeding import image_noise

GROUP = 128
"""Images at once, for all models, memories and devices: moves magnify rounding, which depends on it. Longer chains take
almost as long for one image as for several, so the group is not small."""
DEGREES = 5
"""Degrees of freedom of each Student t; on Frey faces half as many images as with 10 have a bad k-hat."""
LEAST_SHARE = 0.02
"""Share of the samples that each mode gets at least."""
FEWEST_EFFECTIVE = 0.06
"""Share of a pilot's samples that have to be effective: a k-hat of a thousand weights often misses a heavy tail."""
ANNEALED_SAMPLES_OF = 20
"""So many times fewer annealed samples are drawn than others; they still take 10 to 100 times as long."""
DISTRIBUTIONS, MORE_DISTRIBUTIONS = 32, 256
"""Steps of annealing: of most images, and of those whose pilot has too few effective samples."""
ANNEALED_PILOT, ANNEALED_EFFECTIVE = 64, 40
"""Annealed samples that decide, and are then thrown away; and how many of them have to be effective."""
ANNEALED_NUMBERS = 2**25
"""Most numbers of noise for a block of annealed samples, whose images are annealed together: 128 MiB in float32."""


@dataclass(frozen=True)
class Effort:
    """How much is done for the proposal of an image."""

    name: str
    prior_starts: int
    """Searches that begin at draws of the prior, beside the one at 0. Half of them are the others' mirror images, so
    that there are some on both sides of 0 in every direction."""
    annealed_starts: int
    """Searches that begin at ends of short annealing from the prior."""
    components: int
    """Most modes of an image that get chains."""
    draws: int
    """Effective draws per latent dimension after which chains end."""
    moves: int
    """Most moves of a chain after its burn-in."""
    pilot: int
    """Samples that decide whether an image needs more, and are then thrown away."""


FIRST, LONGER = Effort("fit", 8, 0, 4, 6, 60, 1000), Effort("longer", 16, 8, 6, 10, 60, 5000)
"""For all images; for those whose weights still have too heavy a tail."""


def propose_from_decoder(group: DecoderGroup) -> list[Proposed]:
    """The proposals of a group's images: of most after the first effort."""
    found = Found(group)
    left, q = found.fit(torch.arange(len(group.x), device=group.x.device), FIRST)
    if len(left):
        left, q = found.fit(left, LONGER, q.mu)
    if len(left):
        found.anneal(left, q)
    return found.proposed


class Found:
    """The proposals that are found so far, and what is noted of each image."""

    def __init__(self, group: DecoderGroup) -> None:
        self.group, self.proposed = group, list[Proposed]()
        names = ("components", "fit_seconds", "longer_seconds", "annealed_seconds")
        self._notes = {name: torch.full((len(group.x),), math.nan) for name in names}

    def fit(
        self,
        images: Int[Tensor, " some"],
        effort: Effort,
        known: Float[Tensor, "some modes latent"] | None = None,
    ) -> tuple[Int[Tensor, " left"], StudentTMixture]:
        """Propose what is fitted for these images, unless their weights have too heavy a tail.

        known: where an effort before has found modes of each. Returns the images that are left, and what is fitted for
        them.
        """
        group, began = self.group.select(images), time.monotonic()
        q = fit(group, effort, known)
        left = judge(group, q, effort)
        self._notes["components"][images.cpu()] = q.components.cpu().float()
        self._notes[f"{effort.name}_seconds"][images.cpu()] = (time.monotonic() - began) / len(images)
        for same in q.components.unique():
            chosen = ~left & (q.components == same)
            self.add(images[chosen], q.select(chosen))
        return images[left], q.select(left)

    def anneal(self, images: Int[Tensor, " some"], q: StudentTMixture) -> None:
        """Propose ends of annealing from q for these images, in few steps or, where a pilot asks for them, in many."""
        for part in self._at_once(torch.arange(len(images), device=images.device), q, DISTRIBUTIONS):
            group, began = self.group.select(images[part]), time.monotonic()
            few = AnnealedProposal(group, q.select(part), DISTRIBUTIONS)
            sources = group.sources("annealed pilot")
            pilot = draw_log_weights(few, group.scorer, group.x, sources, ANNEALED_PILOT, group.at_once)
            self._notes["annealed_seconds"][images[part].cpu()] = (time.monotonic() - began) / len(part)
            good = (pilot.effective_sample_size >= ANNEALED_EFFECTIVE).to(part.device)
            for chosen, distributions in ((part[good], DISTRIBUTIONS), (part[~good], MORE_DISTRIBUTIONS)):
                for some in self._at_once(chosen, q, distributions):
                    began = time.monotonic()
                    group = self.group.select(images[some])
                    annealed = AnnealedProposal(group, q.select(some), distributions)
                    seconds = (time.monotonic() - began) / len(some)
                    self._notes["annealed_seconds"][images[some].cpu()] += seconds
                    self.add(images[some], annealed, samples_of=ANNEALED_SAMPLES_OF)

    @staticmethod
    def _at_once(chosen: Tensor, q: StudentTMixture, distributions: int) -> tuple[Tensor, ...]:
        """The chosen images, in parts that are annealed together."""
        numbers = NOISE_BLOCK * annealing_noise_dim(q, distributions)
        return chosen.split(max(1, ANNEALED_NUMBERS // numbers)) if len(chosen) else ()

    def add(self, images: Int[Tensor, " some"], q: Posterior, samples_of: int = 1) -> None:
        """Propose q for these images, if there are any."""
        if len(images):
            notes = {name: values[images.cpu()] for name, values in self._notes.items()}
            sources = self.group.select(images).sources("samples")
            self.proposed.append(Proposed(images, q, sources, notes, samples_of))


def fit(
    group: DecoderGroup, effort: Effort, known: Float[Tensor, "batch modes latent"] | None = None
) -> StudentTMixture:
    """One Student t for each mode of each image, with the mean and covariance of its chains.

    known: further places where searches for modes begin.
    """
    latent = group.decoder.latent_dim
    noise = image_noise(group.sources(f"{effort.name} starts"), group.x.dtype)
    draws = noise(effort.prior_starts // 2, latent)
    starts = torch.cat([group.x.new_zeros(1, len(group.x), latent), draws, -draws])
    if effort.annealed_starts:
        starts = torch.cat([starts, ends_from_prior(group, effort.annealed_starts)])
    if known is not None:
        starts = torch.cat([starts, known.transpose(0, 1)])
    how = group.output, group.decoder, group.x
    components = find_components(*how, starts, effort.components, group.scorer)
    group.progress()
    sources = group.sources(f"{effort.name} chains", components.images, components.ranks)
    fits = fit_components(*how, components, sources, effort.draws, effort.moves, group.progress)
    return mixture(components, fits, len(group.x))


def mixture(components: Components, fits: Fits, images: int) -> StudentTMixture:
    """The fits of each image as one distribution, weighted by what they contribute to p(x), at least LEAST_SHARE."""
    shape, place = (images, int(components.ranks.max()) + 1), (components.images, components.ranks)
    latent = fits.mu.shape[-1]
    log_weights = fits.mu.new_full(shape, -math.inf)
    log_weights[place] = fits.log_evidence
    share = log_weights.softmax(-1)
    log_weights = torch.where(log_weights > -math.inf, share + LEAST_SHARE, 0.0).log()
    mu = fits.mu.new_zeros(*shape, latent)
    mu[place] = fits.mu
    L = torch.eye(latent).to(mu).repeat(*shape, 1, 1)
    L[place] = fits.cholesky
    return StudentTMixture(log_weights, mu, L, DEGREES)


def judge(group: DecoderGroup, q: StudentTMixture, effort: Effort) -> Bool[Tensor, " batch"]:
    """The images whose weights have too heavy a tail, by a pilot."""
    sources = group.sources(f"{effort.name} pilot")
    pilot = draw_log_weights(q, group.scorer, group.x, sources, effort.pilot, group.at_once)
    few = pilot.effective_sample_size < FEWEST_EFFECTIVE * effort.pilot
    return (pilot.unreliable | few).to(group.x.device)
