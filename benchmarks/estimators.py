"""Cost and accuracy of the proposals on trained models: ``python -m benchmarks estimators RUN [RUN ...]``.

The proposals score the same test images in turn, round after round, so that other work on the machine slows them alike.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

import vlae
from vlae.config.targets import build
from vlae.estimation.estimators.importance import Evaluation, evaluate
from vlae.experiment.prepare import test_set
from vlae.experiment.trained_model import TrainedModel

PROPOSALS = ("own", "laplace", "fitted")
BEST = "fitted"
BAD_K_HAT = 0.7
GOALS = {"gaussian": 4.0, "bernoulli": 3.0}
"""Largest cost of ``fitted`` beside ``own``, by output distribution."""
FASTER = {"own": 5.0, "laplace": 3.0}
"""How many times faster ``fitted`` has to reach the same standard error of the mean."""


@dataclass
class Measured:
    """One proposal on the images of one run."""

    result: Evaluation
    seconds: list[float] = field(default_factory=list)
    """CPU seconds of each round, per image."""

    @property
    def variance(self) -> float:
        """Variance of the mean log-likelihood by the delta method, which is too small where few samples dominate."""
        return self.result.monte_carlo_error.square().sum().item() / len(self.result) ** 2


def compare(
    trained: TrainedModel, x: Float[Tensor, "images pixels"], samples: int, rounds: int
) -> dict[str, Measured]:
    """Each proposal on the same images, in turn."""
    found: dict[str, Measured] = {}
    for _ in range(rounds):
        for name in PROPOSALS:
            began = time.process_time()
            budget = trained.config.evaluate.memory_budget
            result = evaluate(
                trained.model, x, proposal=name, num_samples=samples, memory_budget=budget, seed=0
            )
            measured = found.setdefault(name, Measured(result))
            measured.seconds.append((time.process_time() - began) / len(x))
    return found


def ratio(found: dict[str, Measured], name: str, other: str) -> float:
    """Median over rounds of the cost of a proposal beside that of another in the same round."""
    pairs = zip(found[name].seconds, found[other].seconds, strict=True)
    return statistics.median(mine / its for mine, its in pairs)


def speed_up(found: dict[str, Measured], other: str) -> float:
    """How many times faster the best proposal reaches the same standard error of the mean log-likelihood."""
    return found[other].variance / found[BEST].variance / ratio(found, BEST, other)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; a missed goal is said in the table and is no failure: it depends on the machine."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    for path in options.run:
        trained = vlae.load(path.name, runs_dir=str(path.parent))
        splits = build(trained.config.dataset).to(trained.device)
        x = test_set(trained.preprocess, splits, trained.config)[: options.images]
        found = compare(trained, x, options.samples, options.rounds)
        Console(width=None if sys.stdout.isatty() else 140).print(_report(trained, found))
    return 0


def _report(trained: TrainedModel, found: dict[str, Measured]) -> Table:
    goal = GOALS.get(trained.config.output_dist["name"])
    images = len(found[BEST].result)
    table = Table(title=f"{trained.directory.run_id}, {images} test images", title_justify="left")
    for name in (
        "proposal",
        "mean",
        "its MC error",
        "bad k-hat",
        "ESS, median",
        "ms per image",
        "beside own",
        BEST,
    ):
        table.add_column(name, justify="left" if name == "proposal" else "right")
    for name, measured in found.items():
        result, beside = measured.result, ratio(found, name, "own")
        said = f"{beside:.2f}x"
        if name == BEST and goal:
            said += f" (goal {goal:g}x {'met' if beside <= goal else 'missed'})"
        faster = "" if name == BEST else f"{speed_up(found, name):.1f}x faster"
        if name in FASTER:
            faster += (
                f" (goal {FASTER[name]:g}x {'met' if speed_up(found, name) >= FASTER[name] else 'missed'})"
            )
        table.add_row(
            name,
            f"{result.log_likelihood.mean():.3f}",
            f"{measured.variance**0.5:.4f}",
            f"{(result.k_hat > BAD_K_HAT).double().mean():.1%}",
            f"{result.ess.median():.0f}",
            f"{1000 * statistics.median(measured.seconds):.1f}",
            said,
            faster,
        )
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks estimators",
        description="Cost and accuracy of the proposals on the test images of trained models, with one thread. The "
        "last column says how many times faster the fitted proposal reaches the same standard error of the mean.",
    )
    parser.add_argument("run", type=Path, nargs="+", help="the directory of a run that is trained")
    parser.add_argument("--images", type=int, default=128, help="test images (default 128)")
    parser.add_argument("--samples", type=int, default=5000, help="samples for each image (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default 3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
