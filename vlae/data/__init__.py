"""Datasets: each a function from its settings to `Splits`, which `Preprocess` brings into a model's space."""

from vlae.data.datasets import cifar10, digits, fashion_mnist, mnist, npz, omniglot, svhn
from vlae.data.download import DataError
from vlae.data.preprocess import Preprocess
from vlae.data.splits import Splits

__all__ = [
    "DataError",
    "Preprocess",
    "Splits",
    "cifar10",
    "digits",
    "fashion_mnist",
    "mnist",
    "npz",
    "omniglot",
    "svhn",
]
