"""Reliability of estimates, and the sentences that state it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlae.system.console import count_of

MARK = "†"
LARGE_ERROR = 0.1
"""Nats: an estimator error above this is marked."""
COMMON = ("fitted", "laplace", "student_t")
"""Proposals that are the same for all models; by default models are compared by the first that all runs have."""
BEST = COMMON[0]
"""The most reliable of them."""
MANY_SAMPLES = 20_000
"""Samples per image that are recommended where the proposal is the best one."""
MANY_UNRELIABLE = 0.05
"""Share of the images above which an estimate without an estimator error is marked because of their k-hat."""
LARGE_K_HAT = (
    f"the k-hat of the importance weights is too large on more than {MANY_UNRELIABLE:.0%} of the test images"
)
"""The reason why an estimate of an earlier version is unreliable, for captions and notes."""
TOO_LOW = "probably too low, by more than their standard error"
"""The error of such estimates, which a few samples dominate."""
FEW_EFFECTIVE_SAMPLES = 10
"""Effective samples of the median image below which an estimate without a known k-hat is marked."""
STAGES = {"fit": "fitted", "longer": "with longer chains", "annealed": "annealed"}
"""Stages of a fitted proposal, in order, and what an image is after it."""
FEW_CHAINS = 2.0
"""Effective chains of annealed importance sampling below which one or two chains make up the average."""


def error_of(proposal: Mapping[str, Any]) -> float | None:
    """The estimator error of a section of results.json, in nats; inf: it cannot be bounded; None: it was not computed.

    >>> error_of({"estimator_error": {"total": 0.02}}), error_of({"estimator_error": {"total": None}}), error_of({})
    (0.02, inf, None)
    """
    found = proposal.get("estimator_error")
    if found is None:
        return None
    total = found.get("total")
    return math.inf if total is None else total


def doubtful(proposal: Mapping[str, Any]) -> bool:
    """True if an estimate, a section of results.json, is unreliable: its estimator error is large or unknown.

    Of an earlier version, which computed none: too many images have too heavy a tail.

    >>> doubtful({"estimator_error": {"total": 0.02}}), doubtful({"k_hat_unreliable": 0.2})
    (False, True)
    """
    if (error := error_of(proposal)) is not None:
        return error > LARGE_ERROR
    share = proposal.get("k_hat_unreliable")
    if share is None:
        return proposal["ess_median"] < FEW_EFFECTIVE_SAMPLES
    return share > MANY_UNRELIABLE


def too_low(errors: Sequence[float]) -> str:
    """How far estimates with these errors may be off, in words.

    >>> too_low([0.42]), too_low([0.2, math.inf])
    ('may be too low by up to 0.42 nats', 'may be too low by an unknown amount')
    """
    worst = max(errors)
    return f"may be too low by {'an unknown amount' if math.isinf(worst) else f'up to {worst:.2g} nats'}"


def remedy(proposal: str, name: str, num_samples: int = 0) -> str:
    """The command that lowers the estimator error of a run or a sweep of this name, estimated by this proposal.

    num_samples: those that it has, of which four times as many halve the Monte Carlo error.

    >>> remedy("laplace", "smoke"), remedy("fitted", "smoke", num_samples=20_000)
    ("`vlae evaluate smoke 'evaluate.proposals=[own,fitted]'`", '`vlae evaluate smoke evaluate.num_samples=80000`')
    """
    samples = max(MANY_SAMPLES, 4 * num_samples)
    change = f"evaluate.num_samples={samples}" if proposal == BEST else "'evaluate.proposals=[own,fitted]'"
    return f"`vlae evaluate {name} {change}`"


def common_proposal(names: Sequence[str]) -> str:
    """The proposal by which a run is judged: the first of ``COMMON`` that it has, else ``own``."""
    return next((name for name in COMMON if name in names), "own")


def marks_of(results: dict[str, Any]) -> dict[str, str]:
    """The mark of each unreliable estimate, by its proposal.

    Beside a reliable estimate by the common proposal no other needs one: its shortfall is measured and shown.
    """
    proposals = proposals_of(results)
    common = proposals.get(common_proposal(list(proposals)))
    if common and error_of(common) is not None and not doubtful(common):
        return {}
    return {name: f" {MARK}" for name, p in proposals.items() if doubtful(p)}


def proposals_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of all proposals in results.json, without annealed importance sampling, which has fewer images.

    Empty for a run that was not scored.
    """
    test = results["test"]
    return {name: p for name, p in test["log_likelihood"].items() if name != "ais"} if test else {}


def reliability_warnings(results: dict[str, Any]) -> list[str]:
    """Cautions about the results of a run."""
    test = results["test"]
    if not test:
        return []
    proposals, marks = proposals_of(results), marks_of(results)
    bad = {name: proposals[name] for name in marks}
    errors = {name: error for name, p in bad.items() if (error := error_of(p)) is not None}
    found = [f"{MARK} {name} {too_low([error])}" for name, error in errors.items()]
    if found:
        common = common_proposal(list(proposals))
        command = remedy(common, results["run_id"], proposals[common]["num_samples"])
        found[-1] += f"; {command} lowers this"
    found += _warnings_by_k_hat({name: p for name, p in bad.items() if name not in errors})
    if (ais := test["log_likelihood"].get("ais")) and ais["ess_median"] < FEW_CHAINS:
        found.append(
            f"ais: only {ais['ess_median']:.1f} of {ais['num_chains']} chains are effective for the median image: "
            "probably too low; try a larger evaluate.ais.num_distributions"
        )
    if test["bits_per_dim"] is not None and test["bits_per_dim"] > test["uniform_bits_per_dim"]:
        found.append(
            f"worse than uniform noise: {why_worse_than_noise(results['best_epoch'], results['epochs'])}"
        )
    return found


def _warnings_by_k_hat(bad: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Cautions about estimates of an earlier version, which are unreliable."""
    found = []
    by_k_hat = {name: p for name, p in bad.items() if p.get("k_hat_unreliable") is not None}
    if by_k_hat:
        shares = ", ".join(f"{p['k_hat_unreliable']:.0%} ({name})" for name, p in by_k_hat.items())
        limit = max(p["k_hat_limit"] for p in by_k_hat.values())
        found.append(
            f"{MARK} the k-hat of the importance weights is too large (above {limit:.2f}) on {shares} of the images: "
            f"a few samples dominate these estimates, which are {TOO_LOW}"
        )
    if few := [name for name in bad if name not in by_k_hat]:
        found.append(
            f"{MARK} half of the images have fewer than {FEW_EFFECTIVE_SAMPLES} effective samples "
            f"({', '.join(few)}): their log-likelihood is probably underestimated"
        )
    return found


def fit_in_words(proposal: str, value: Callable[[str], Any]) -> str:
    """The stages of a fitted proposal, with images and seconds, and the images that it leaves unreliable.

    value: the metrics of a run by their names, None where there is none; empty if the proposal was not fitted.

    >>> about = "test.log_likelihood.fitted.{}".format
    >>> metrics = {about("stages.fit"): 9, about("components_mean"): 1.5, "cost.seconds_by_stage.fitted.fit": 2.0}
    >>> fit_in_words("fitted", metrics.get)
    '1.5 modes per image; 9 images fitted in 2.0 s'
    """
    about, done = f"test.log_likelihood.{proposal}.", []
    for stage, what in STAGES.items():
        if images := value(f"{about}stages.{stage}"):
            number = images if done else count_of(images, "image")
            done.append(f"{number} {what} in {value(f'cost.seconds_by_stage.{proposal}.{stage}'):.1f} s")
    if not done:
        return ""
    parts = [f"{value(f'{about}components_mean'):.1f} modes per image", ", ".join(done)]
    if bad := value(f"{about}unreliable_images.number"):
        positions = value(f"{about}unreliable_images.positions")
        more = ", ..." if bad > positions.count(",") + 1 else ""
        parts.append(f"k-hat is bad on {count_of(bad, 'image')}: {positions}{more}")
    return "; ".join(parts)


def why_worse_than_noise(best_epoch: float | None, epochs: float | None) -> str:
    """The reason why a model is worse than uniform noise: if its last epoch was the best, it was still learning."""
    if best_epoch is None or epochs is None:
        return "trained too briefly, or diverged"
    if best_epoch >= epochs:
        return f"it was still improving in its last epoch ({epochs:g}); train longer (trainer.epochs)"
    return (
        f"it was best in epoch {best_epoch:g} of {epochs:g}, so the training diverged or is stuck; try a smaller "
        "optimizer.lr"
    )
