"""Whether an estimate can be believed, and the sentence that says so."""

from typing import Any

MARK = "†"


MANY_UNRELIABLE = 0.05
"""Of the images: a figure with more of them whose k-hat is too large is marked."""


FEW_EFFECTIVE_SAMPLES = 10
"""Of the median image: where no k-hat is known, a figure with fewer is marked."""


FEW_CHAINS = 2.0
"""Effective chains of annealed importance sampling, below which its average is that of a chain or two."""


def doubtful(proposal: dict[str, Any]) -> bool:
    """Whether the weights of too many images have a tail too heavy for their average, as far as can be told."""
    share = proposal.get("k_hat_unreliable")
    if share is None:
        return proposal["ess_median"] < FEW_EFFECTIVE_SAMPLES
    return share > MANY_UNRELIABLE


def marks_of(results: dict[str, Any]) -> dict[str, str]:
    return {name: f" {MARK}" for name, p in proposals_of(results).items() if doubtful(p)}


def proposals_of(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Without annealed importance sampling, which is of fewer images."""
    return {name: p for name, p in results["test"]["log_likelihood"].items() if name != "ais"}


def warnings(results: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know before believing them."""
    test, found = results["test"], []
    bad = {name: p for name, p in proposals_of(results).items() if doubtful(p)}
    by_k_hat = {name: p for name, p in bad.items() if p.get("k_hat_unreliable") is not None}
    if by_k_hat:
        shares = ", ".join(f"{p['k_hat_unreliable']:.0%} ({name})" for name, p in by_k_hat.items())
        limit = max(p["k_hat_limit"] for p in by_k_hat.values())
        found.append(
            f"{MARK} the weights' tail is too heavy (k-hat above {limit:.2f}) for {shares} of the images: there a "
            "few samples carry the estimate, which is probably too low, and further off than its standard error tells"
        )
    if few := [name for name in bad if name not in by_k_hat]:
        found.append(
            f"{MARK} half of the images have fewer than {FEW_EFFECTIVE_SAMPLES} effective samples "
            f"({', '.join(few)}): their log-likelihood is probably underestimated"
        )
    if (ais := test["log_likelihood"].get("ais")) and ais["ess_median"] < FEW_CHAINS:
        found.append(
            f"ais: at the median image only {ais['ess_median']:.1f} of {ais['num_chains']} chains count, so it is "
            "probably too low; try a larger evaluate.ais.num_distributions"
        )
    if test["bits_per_dim"] is not None and test["bits_per_dim"] > test["uniform_bits_per_dim"]:
        found.append(
            f"worse than uniform noise: {why_worse_than_noise(results['best_epoch'], results['epochs'])}"
        )
    return found


def why_worse_than_noise(best_epoch: float | None, epochs: float | None) -> str:
    """What the best epoch says: a model that was best in its last epoch was still learning, and has not diverged."""
    if best_epoch is None or epochs is None:
        return "trained too briefly, or diverged"
    if best_epoch >= epochs:
        return f"it was still improving in its last epoch ({epochs:g}); train longer (trainer.epochs)"
    return (
        f"it was best in epoch {best_epoch:g} of {epochs:g}, so the training diverged or is stuck; try a smaller "
        "optimizer.lr"
    )
