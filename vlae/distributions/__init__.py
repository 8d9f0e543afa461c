"""Posteriors q(z | x) and output distributions p(x | z)."""

from vlae.distributions.outputs import BernoulliOutput, GaussianOutput, OutputDistribution

__all__ = ["BernoulliOutput", "GaussianOutput", "OutputDistribution"]
