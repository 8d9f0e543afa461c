"""Two runs side by side: the settings in which they differ, their metrics, and the paired difference of these."""

from typing import Any, NamedTuple

from vlae.errors import UserError
from vlae.report.metric_values import ELBO, IN_MODEL_SPACE, OWN, VALIDATION, array_of, what_and_estimator
from vlae.report.names import HOLE, word
from vlae.report.runs import LeftOut, Run
from vlae.report.tables.ranking import Unread, difference_of_images, image_settings, without_unknown
from vlae.report.tables.significance import Difference, difference
from vlae.runs.metrics import better

NUM_IMAGES = "evaluate.num_images"
ALSO = (VALIDATION, "epochs", "best_epoch", "cost.train_seconds", "cost.evaluate_seconds", "cost.parameters")


class Pair(NamedTuple):
    """One metric, or setting, of both runs."""

    key: str
    one: Any
    other: Any
    difference: Difference | None = None  # one minus the other, paired over test images


class Comparison(NamedTuple):
    """Two runs compared."""

    one: Run
    other: Run
    settings: tuple[Pair, ...]  # the settings that differ
    metrics: tuple[Pair, ...]  # the metrics of runs that are done; log-likelihoods and ELBOs first
    images: int | None  # number of test images that differences are paired over
    unread: tuple[LeftOut, ...]  # the runs whose results of each test image cannot be read


def compare_runs(one: Run, other: Run) -> Comparison:
    """The comparison of two runs. UserError: they are the same run, or are scored on different test images."""
    if one.id == other.id:
        raise UserError(f"RUN_A and RUN_B are the same run, {one.id}")
    _refuse_other_images(one, other)
    keys = dict.fromkeys((*one.settings, *other.settings))
    settings = [Pair(key, one.settings.get(key), other.settings.get(key)) for key in keys]
    unread: Unread = {}
    metrics = tuple(_pair(key, one, other, unread) for key in _metrics_to_compare(one, other))
    images = next((each.difference.freedom + 1 for each in metrics if each.difference), None)
    differing = tuple(each for each in settings if each.one != each.other)
    return Comparison(one, other, differing, metrics, images, tuple(unread.values()))


def _refuse_other_images(one: Run, other: Run) -> None:
    ours, others = image_settings(one, with_noise=True), image_settings(other, with_noise=True)
    scored = all(run.is_scored for run in (one, other) if run.metrics is not None)
    what = "scored on different test images" if scored else "of different images"
    if not scored:  # their validation images are the same whatever the number of test images
        ours, others = ({**each, NUM_IMAGES: None} for each in (ours, others))
    keys = [key for key in dict.fromkeys((*ours, *others)) if ours.get(key) != others.get(key)]
    values = [(key, *(setting_text(run.settings.get(key)) for run in (one, other))) for key in keys]
    if reasons := "".join(f"\n  {key}: {a} and {b}" for key, a, b in values):
        text = f"{one.id} and {other.id} are {what}, so their metrics cannot be compared"
        raise UserError(f"{text}; they differ in{reasons}")


def setting_text(value: Any) -> str:
    """The value of a setting, as text."""
    return HOLE if value is None else word(value)


def _metrics_to_compare(one: Run, other: Run) -> list[str]:
    """The metrics that say which run is better, and at what cost."""
    keys = {**(one.metrics or {}), **(other.metrics or {})}
    directed = [key for key in keys if key.startswith("test.") and better(key) and not _superfluous(key, one)]
    found = [key for key in (*directed, *ALSO) if not (one.value(key) is None and other.value(key) is None)]
    return sorted(found, key=lambda key: (array_of(key) is None, key in ALSO))


def _superfluous(key: str, run: Run) -> bool:
    """True if another metric has the same value, or contains it."""
    what, estimator = what_and_estimator(key)
    if what == IN_MODEL_SPACE:
        return not run.settings.get("dataset.logit_transform")
    return "standard_error" in what or (what == ELBO and estimator == OWN)


def _pair(key: str, one: Run, other: Run, unread: Unread) -> Pair:
    ours, others = one.value(key), other.value(key)
    images = difference_of_images(one, other, key, unread)
    if images is None or ours is None or others is None:
        return Pair(key, ours, others)
    known = without_unknown(images[None])  # of both runs
    return Pair(key, ours, others, difference(known.mean(1), known) if known.size else None)
