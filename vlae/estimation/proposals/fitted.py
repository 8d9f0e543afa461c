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
from jaxtyping import Bool, Int
from torch import Tensor

from vlae.distributions.posteriors import Posterior
from vlae.distributions.student_t_mixture import StudentTMixture
from vlae.estimation.annealed import AnnealedProposal, ends_from_prior
from vlae.estimation.chains import Fits, fit_components
from vlae.estimation.log_weights import draw_log_weights
from vlae.estimation.modes import Components, find_components
from vlae.estimation.proposed import DecoderGroup, Proposed
from vlae.seeding import image_noise

GROUP = 128
"""Images at once, for all models, memories and devices: moves magnify rounding, which depends on it. Longer chains take
almost as long for one image as for several, so the group is not small."""
DEGREES = 10
"""Degrees of freedom of each Student t; on trained models of MNIST 3 to 10 have equally good k-hats."""
LEAST_SHARE = 0.02
"""Share of the samples that each mode gets at least."""
FEWEST_EFFECTIVE = 0.06
"""Share of a pilot's samples that have to be effective: a k-hat of a thousand weights often misses a heavy tail."""
HOPELESS = 30
"""Effective samples of the pilot below which longer chains are left out: a model that has hardly been trained has
posteriors that no few Student t resemble, and annealing alone costs half as much."""
ANNEALED_SAMPLES_OF = 20
"""So many times fewer annealed samples are drawn than others; an image still takes 12 times as long as by ``own``."""
DISTRIBUTIONS, MORE_DISTRIBUTIONS = 32, 512
"""Steps of annealing: of most images, and of those whose pilot has fewer than ``ANNEALED_EFFECTIVE`` effective samples."""
ANNEALED_PILOT, ANNEALED_EFFECTIVE = 64, 40
"""Annealed samples that decide, and are then thrown away; and how many of them have to be effective."""
MOVES_AT_ONCE = 512
"""Images times distributions of annealing at once: the noise of a sample's moves takes much memory."""


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


FIRST, LONGER = Effort("fit", 8, 0, 4, 4, 60, 1000), Effort("longer", 16, 8, 6, 10, 60, 5000)
"""For all images; for those whose weights still have too heavy a tail."""


def propose_from_decoder(group: DecoderGroup) -> list[Proposed]:
    """The proposals of a group's images: of most after the first effort."""
    found = Found(group)
    left, q, hopeless = found.fit(torch.arange(len(group.x), device=group.x.device), FIRST)
    found.anneal(left[hopeless], q.select(hopeless))
    if len(left := left[~hopeless]):
        left, q, _ = found.fit(left, LONGER)
        found.anneal(left, q)
    return found.proposed


class Found:
    """The proposals that are found so far, and what is noted of each image."""

    def __init__(self, group: DecoderGroup) -> None:
        self.group, self.proposed = group, list[Proposed]()
        names = ("components", "fit_seconds", "longer_seconds", "annealed_seconds")
        self._notes = {name: torch.full((len(group.x),), math.nan) for name in names}

    def fit(
        self, images: Int[Tensor, " some"], effort: Effort
    ) -> tuple[Int[Tensor, " left"], StudentTMixture, Bool[Tensor, " left"]]:
        """Propose what is fitted for these images, unless their weights have too heavy a tail.

        Returns those that are left, what is fitted for them, and which of them are hopeless.
        """
        group, began = self.group.select(images), time.monotonic()
        q = fit(group, effort)
        left, hopeless = judge(group, q, effort)
        self._notes["components"][images.cpu()] = q.components.cpu().float()
        self._notes[f"{effort.name}_seconds"][images.cpu()] = (time.monotonic() - began) / len(images)
        for same in q.components.unique():
            chosen = ~left & (q.components == same)
            self.add(images[chosen], q.select(chosen))
        return images[left], q.select(left), hopeless[left]

    def anneal(self, images: Int[Tensor, " some"], q: StudentTMixture) -> None:
        """Propose ends of annealing from q for these images, if there are any."""
        if not len(images):
            return
        for part in torch.arange(len(images), device=images.device).split(MOVES_AT_ONCE // DISTRIBUTIONS):
            some, began = self.group.select(images[part]), time.monotonic()
            sources = some.sources("annealed pilot")
            few = AnnealedProposal(some, q.select(part), DISTRIBUTIONS)
            pilot = draw_log_weights(few, some.scorer, some.x, sources, ANNEALED_PILOT, some.at_once)
            good = (pilot.effective_sample_size >= ANNEALED_EFFECTIVE).to(part.device)
            self._notes["annealed_seconds"][images[part].cpu()] = (time.monotonic() - began) / len(part)
            self._anneal(images, q, part[good], DISTRIBUTIONS)
            self._anneal(images, q, part[~good], MORE_DISTRIBUTIONS)

    def _anneal(
        self, images: Int[Tensor, " some"], q: StudentTMixture, chosen: Int[Tensor, " chosen"], distributions: int
    ) -> None:
        """The same for those at the ``chosen`` positions, in so many steps."""
        for part in chosen.split(MOVES_AT_ONCE // distributions):
            if len(part):
                annealed = AnnealedProposal(self.group.select(images[part]), q.select(part), distributions)
                self.add(images[part], annealed, samples_of=ANNEALED_SAMPLES_OF)

    def add(self, images: Int[Tensor, " some"], q: Posterior, samples_of: int = 1) -> None:
        """Propose q for these images, if there are any."""
        if len(images):
            notes = {name: values[images.cpu()] for name, values in self._notes.items()}
            sources = self.group.select(images).sources("samples")
            self.proposed.append(Proposed(images, q, sources, notes, samples_of))


def fit(group: DecoderGroup, effort: Effort) -> StudentTMixture:
    """One Student t for each mode of each image, with the mean and covariance of its chains."""
    latent = group.decoder.latent_dim
    noise = image_noise(group.sources(f"{effort.name} starts"), group.x.dtype)
    draws = noise(effort.prior_starts // 2, latent)
    starts = torch.cat([group.x.new_zeros(1, len(group.x), latent), draws, -draws])
    if effort.annealed_starts:
        starts = torch.cat([starts, ends_from_prior(group, effort.annealed_starts)])
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


def judge(
    group: DecoderGroup, q: StudentTMixture, effort: Effort
) -> tuple[Bool[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """The images whose weights have too heavy a tail, and those among them that are hopeless, by a pilot."""
    sources = group.sources(f"{effort.name} pilot")
    pilot = draw_log_weights(q, group.scorer, group.x, sources, effort.pilot, group.at_once)
    effective = pilot.effective_sample_size
    heavy, few = pilot.unreliable | (effective < FEWEST_EFFECTIVE * effort.pilot), effective < HOPELESS
    return heavy.to(group.x.device), (heavy & few).to(group.x.device)
