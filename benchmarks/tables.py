"""How often a table is wrong about equal models, and how often it finds a worse one: ``python -m benchmarks tables``.

Made-up scores of models by seeds by test images are given to the code that decides what is bold in a table. Where all
models are equal, at most LEVEL of the tables may have one that is not bold.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table

from vlae.report.metric_values import array_of
from vlae.report.runs import Run
from vlae.report.tables.cells import cell
from vlae.report.tables.ranking import Group, rank
from vlae.report.tables.significance import LEVEL

METRIC = "test.log_likelihood.fitted.mean"
MODELS = (3, 5, 10)
SEEDS = (3, 4, 5, 10)
FACTOR = 4.0
SPREADS = ("equal", "one larger", "half larger", "all different")
"""Standard deviations over seeds: 1 for all models, FACTOR for one or for half of them, or from 1 to FACTOR."""
IMAGES = 20
OF_IMAGES = 0.5
"""Standard deviations over images: of what a model is better at, and of what is due to neither seed nor image."""
COUNT = 3000
WORSE = (2.0, 4.0, 8.0)
"""How much worse one model is, in standard deviations over seeds of the models with the smallest."""
SAY_EVERY = 10.0
"""Seconds between two lines of progress."""


class Tables(NamedTuple):
    """The tables of one kind."""

    models: int
    seeds: int
    spread: str

    def standard_deviations(self) -> Float[np.ndarray, " models"]:
        """The standard deviation over seeds of each model. The first one is the one that may be worse."""
        found = np.ones(self.models)
        if self.spread == "one larger":
            found[-1] = FACTOR
        elif self.spread == "half larger":
            found[self.models // 2 :] = FACTOR
        elif self.spread == "all different":
            found = np.geomspace(1, FACTOR, self.models)
        return found

    def scores(
        self, generator: np.random.Generator, worse: float = 0.0
    ) -> Float[np.ndarray, "models seeds images"]:
        """The scores of one table. worse: by how much the first model is worse than the others."""
        size = self.models, self.seeds, IMAGES
        of_seeds = self.standard_deviations()[:, None] * generator.normal(size=size[:2])
        of_images = OF_IMAGES * generator.normal(size=(self.models, 1, IMAGES))
        found = of_seeds[..., None] + of_images + OF_IMAGES * generator.normal(size=size)
        found[0] -= worse
        return found


class Shares(NamedTuple):
    """Shares of the tables of one kind."""

    wrong: float  # with a model that is not bold, although all are equal
    found: tuple[float, ...]  # in which the worse model is not bold, for each of WORSE
    tables: int

    @property
    def standard_error(self) -> float:
        """The standard error of ``wrong`` if it is LEVEL."""
        return math.sqrt(LEVEL * (1 - LEVEL) / self.tables)

    @property
    def too_large(self) -> bool:
        """True if more tables are wrong than chance explains."""
        return self.wrong > LEVEL + 3 * self.standard_error


def bold(scores: Float[np.ndarray, "models seeds images"]) -> list[bool]:
    """True for each model that a table prints in bold."""
    column: list[Group] = []
    for model, of_seeds in enumerate(scores):
        runs = [_run(model, seed, values) for seed, values in enumerate(of_seeds)]
        column.append((cell((model,), (), runs, runs, METRIC), runs))
    return [ranked.as_good for ranked in rank(column, METRIC, {})]


def _run(model: int, seed: int, values: Float[np.ndarray, " images"]) -> Run:
    arrays, settings = {array_of(METRIC): values}, {"model.name": str(model), "seed": seed}
    return Run(f"{model}-{seed}", "", settings, "done", "", {METRIC: float(values.mean())}, arrays.get)


def shares(kind: Tables, count: int, seed: int) -> Shares:
    """The shares among ``count`` tables each, which ``seed`` determines."""
    generator, few = np.random.default_rng([seed, *kind[:2], SPREADS.index(kind.spread)]), max(1, count // 8)
    wrong = sum(not all(bold(kind.scores(generator))) for _ in range(count))
    found = (sum(not bold(kind.scores(generator, worse))[0] for _ in range(few)) for worse in WORSE)
    return Shares(wrong / count, tuple(number / few for number in found), count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if more than LEVEL of the tables of a kind are wrong, by more than three standard errors."""
    options = _parser().parse_args(arguments)
    kinds = [Tables(models, seeds, spread) for spread in SPREADS for models in MODELS for seeds in SEEDS]
    found: dict[Tables, Shares] = {}
    began = said = time.monotonic()
    for kind in kinds:
        found[kind] = shares(kind, options.count, options.seed)
        if time.monotonic() - said > SAY_EVERY or kind == kinds[-1]:
            said = time.monotonic()
            print(f"{len(found)} of {len(kinds)} kinds of tables in {said - began:.0f} s", flush=True)
    Console(width=None if sys.stdout.isatty() else 140).print(_report(found))
    return int(any(each.too_large for each in found.values()))


def _report(found: dict[Tables, Shares]) -> Table:
    error = next(iter(found.values())).standard_error
    table = Table(
        title=f"Tables in which a model that equals the others is not bold (at most {LEVEL:.0%}, standard error "
        f"{error:.1%}), and tables in which one model that is worse is not bold",
        title_justify="left",
    )
    for name in ("standard deviations of seeds", "models", "seeds", "wrong"):
        table.add_column(name, justify="left" if name.startswith("standard") else "right")
    for worse in WORSE:
        table.add_column(f"worse by {worse:g}", justify="right")
    for kind, each in found.items():
        wrong = f"{each.wrong:.1%}" + (" too many" if each.too_large else "")
        shares_found = (f"{share:.0%}" for share in each.found)
        table.add_row(kind.spread, str(kind.models), str(kind.seeds), wrong, *shares_found)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tables",
        description="Made-up tables of equal models, and of models of which one is worse: how often a table is wrong, "
        "and how often it finds the worse one.",
    )
    parser.add_argument(
        "--count", type=_positive, default=COUNT, help=f"tables of each kind (default {COUNT})"
    )
    parser.add_argument("--seed", type=int, default=0, help="what the scores depend on (default 0)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


if __name__ == "__main__":  # without torch, which `python -m benchmarks` imports
    sys.exit(main())
