"""Keys as a person types them, and names as the field spells them."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from vlae.config.problems import format_value
from vlae.errors import UserError

SECTIONS = ("model", "dataset", "output_dist", "optimizer", "schedule")  # each may stand for its name
USUAL = (*SECTIONS, "T", "seed")  # the usual keys of rows and columns
NAMES = {
    "vae": "VAE",
    "savae": "SA-VAE",
    "savae_original": "SA-VAE (original)",
    "hf": "HF",
    "iaf": "IAF",
    "iaf_original": "IAF (original)",
    "vlae": "VLAE",
    "vlae_newton": "VLAE (Newton)",
    "fullcov": "VAE (full covariance)",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "omniglot": "OMNIGLOT",
    "svhn": "SVHN",
    "cifar10": "CIFAR10",
    "bernoulli": "Bernoulli",
    "gaussian": "Gaussian",
}
"""Names in the order of tables: baselines first."""
Values = tuple[Any, ...]  # the values of several keys: they name a row, or a column
HOLE = "–"  # stands for what is missing
NEAR = 5
CHOICES = 12


def key_of(given: str, known: Sequence[str], option: str) -> str:
    """The key that ``given`` means: itself, or ``model.name`` for ``model``. UserError: no run has it; near ones."""
    key = f"{given}.name" if given in SECTIONS else given
    if key in known:
        return key
    names = sorted(map(short, known), key=lambda name: name not in USUAL)
    raise UserError(f"{option}: no run has {given!r}{near_or_some(given, names)}")


def short(key: str) -> str:
    """The key as a person may write it: ``model`` for ``model.name``."""
    section = key.removesuffix(".name")
    return section if section in SECTIONS else key


def near(given: str, known: Iterable[str]) -> str:
    """A question for names of similar spelling, and for those that contain the given text; empty: there are none.

    >>> near("seeed", ["seed", "T"])
    '; did you mean seed?'
    """
    known = list(known)
    likely, possible = (difflib.get_close_matches(given, known, NEAR, cutoff) for cutoff in (0.75, 0.5))
    found = [*likely, *(key for key in known if given and given.lower() in key.lower()), *possible]
    names = " or ".join(list(dict.fromkeys(found))[:NEAR])
    return f"; did you mean {names}?" if names else ""


def near_or_some(given: str, known: Sequence[str]) -> str:
    """Names that are near, else some of all names, and the command that lists them."""
    if found := near(given, known):
        return found
    lists = "; `vlae metrics` lists metrics, `python launch.py --help` settings"
    return f" (choices: {some(known, CHOICES)}{lists if len(known) > CHOICES else ''})"


def some(texts: Sequence[str], most: int) -> str:
    """The first texts, and the number of others.

    >>> some(["a", "b", "c"], 2)
    'a, b, and 1 more'
    """
    more = len(texts) - most
    return ", ".join(texts[:most]) + (f", and {more} more" if more > 0 else "")


def spelling(key: str, value: Any) -> str:
    """A value as a table spells it.

    >>> spelling("model.name", "vlae"), spelling("T", 4)
    ('VLAE', 'T = 4')
    """
    if key.endswith(".name") and isinstance(value, str):
        return NAMES.get(value, value)
    return f"{key} = {word(value)}"


def group_name(keys: Sequence[str], values: Values) -> str:
    """The name of a row or column; keys without a value are skipped.

    >>> group_name(["model.name", "T"], ("vlae", 4))
    'VLAE, T = 4'
    """
    return ", ".join(spelled(keys, values)) or (HOLE if keys else "")


def spelled(keys: Sequence[str], values: Values) -> list[str]:
    """The values of a row or column as a table spells them, without those that it lacks."""
    return [spelling(key, value) for key, value in zip(keys, values, strict=True) if value is not None]


def word(value: Any) -> str:
    """A value as a command has it."""
    return value if isinstance(value, str) else format_value(value)


def sort_key(value: Any) -> tuple[int, Any]:
    """A key to sort by: missing values first, then numbers by size, names in the order of NAMES, and other texts."""
    if value is None:
        return (0, 0)
    if isinstance(value, int | float):
        return (1, value)
    order = list(NAMES)
    return (2, order.index(value)) if value in order else (3, str(value))


def sort_keys(values: Values) -> list[tuple[int, Any]]:
    """A key to sort rows by."""
    return [sort_key(value) for value in values]
