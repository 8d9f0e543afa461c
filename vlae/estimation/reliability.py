"""Reliability of estimates, and the sentences that state it."""

from typing import Any

MARK = "†"
MANY_UNRELIABLE = 0.05
"""Share of the images above which an estimate is marked because their k-hat is too large."""
LARGE_K_HAT = (
    f"the k-hat of the importance weights is too large on more than {MANY_UNRELIABLE:.0%} of the test images"
)
"""The reason why an estimate is unreliable, for captions and notes."""
TOO_LOW = "probably too low, by more than their standard error"
"""The error of such estimates, which a few samples dominate."""
FEW_EFFECTIVE_SAMPLES = 10
"""Effective samples of the median image below which an estimate without a known k-hat is marked."""
FEW_CHAINS = 2.0
"""Effective chains of annealed importance sampling below which one or two chains make up the average."""


def doubtful(proposal: dict[str, Any]) -> bool:
    """True if an estimate, a section of results.json, is unreliable: too many images have too heavy a tail.

    >>> doubtful({"k_hat_unreliable": 0.2}), doubtful({"k_hat_unreliable": None, "ess_median": 40.0})
    (True, False)
    """
    share = proposal.get("k_hat_unreliable")
    if share is None:
        return proposal["ess_median"] < FEW_EFFECTIVE_SAMPLES
    return share > MANY_UNRELIABLE


def marks_of(results: dict[str, Any]) -> dict[str, str]:
    """The mark of each unreliable estimate, by its proposal."""
    return {name: f" {MARK}" for name, p in proposals_of(results).items() if doubtful(p)}


def proposals_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of all proposals in results.json, without annealed importance sampling, which has fewer images.

    Empty for a run that was not scored.
    """
    test = results["test"]
    return {name: p for name, p in test["log_likelihood"].items() if name != "ais"} if test else {}


def reliability_warnings(results: dict[str, Any]) -> list[str]:
    """Cautions about the results of a run."""
    test, found = results["test"], []
    if not test:
        return found
    bad = {name: p for name, p in proposals_of(results).items() if doubtful(p)}
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
