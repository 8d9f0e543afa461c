"""student_t: as laplace, with the tails of a Student t with 10 degrees of freedom."""

from vlae.distributions.laplace import Modes
from vlae.distributions.posteriors import Images, Posterior, PrecisionStudentT
from vlae.estimation.proposals import laplace
from vlae.models.base import LatentVariableModel

DEGREES = 10
"""Degrees of freedom; a sample takes as many standard normal numbers beside its latent_dim."""


def propose(model: LatentVariableModel, x: Images, own: Posterior) -> tuple[Posterior, Modes | None]:
    """A Student t with the location and scale of the Laplace approximation."""
    gaussian, modes = laplace.propose(model, x, own)
    return PrecisionStudentT(gaussian, DEGREES), modes
