"""Datasets: each a function from its settings to `Splits`."""

from vlae.data.datasets import cifar10, digits, fashion_mnist, mnist, npz, omniglot, svhn
from vlae.data.splits import Splits

__all__ = ["Splits", "cifar10", "digits", "fashion_mnist", "mnist", "npz", "omniglot", "svhn"]
