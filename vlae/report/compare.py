"""Two runs side by side: what differs in their settings, their figures, and the paired difference of these."""

from dataclasses import dataclass
from typing import Any

from vlae.errors import UserError
from vlae.report.metric_values import ELBO, IN_MODEL_SPACE, OWN, array_of, what_and_estimator
from vlae.report.names import word
from vlae.report.runs import LeftOut, Run
from vlae.report.tables.ranking import Tell, difference_of_images, scored_on, without_unknown
from vlae.report.tables.significance import Difference, difference
from vlae.runs.metrics import better

ABSENT = "–"
"""Of a run without the setting or the figure."""
ALSO = ("epochs", "best_epoch", "cost.train_seconds", "cost.evaluate_seconds", "cost.parameters")


@dataclass(frozen=True)
class Beside:
    """One figure, or setting, of both."""

    key: str
    one: Any
    other: Any
    paired: Difference | None = None
    """Of one minus the other, over test images."""


@dataclass(frozen=True)
class Comparison:
    """All that is told of two runs."""

    one: Run
    other: Run
    settings: tuple[Beside, ...]
    """Those that differ."""
    figures: tuple[Beside, ...]
    """Of those that are done; log-likelihoods and ELBOs first."""
    images: int | None
    """That differences are paired over."""
    unread: tuple[LeftOut, ...]
    """Of both, those whose figures of test images are damaged."""


def compared(one: Run, other: Run) -> Comparison:
    """UserError: they are the same run, or are scored on different test images."""
    if one.id == other.id:
        raise UserError(f"RUN_A and RUN_B are the same run, {one.id}")
    _refuse_other_images(one, other)
    keys = dict.fromkeys((*one.settings, *other.settings))
    settings = [Beside(key, one.settings.get(key), other.settings.get(key)) for key in keys]
    unread: dict[str, LeftOut] = {}
    figures = [
        _beside(key, one, other, lambda left: unread.setdefault(left.name, left))
        for key in _figures(one, other)
    ]
    paired = next((each.paired for each in figures if each.paired), None)
    return Comparison(
        one,
        other,
        tuple(each for each in settings if each.one != each.other and not _follows(each.key, one, other)),
        tuple(figures),
        paired.freedom + 1 if paired else None,
        tuple(unread.values()),
    )


def _refuse_other_images(one: Run, other: Run) -> None:
    ours, others = _images(one), _images(other)
    keys = [key for key in dict.fromkeys((*ours, *others)) if ours.get(key) != others.get(key)]
    if keys:
        reasons = "".join(
            f"\n  {key}: {_told(one.settings.get(key))} and {_told(other.settings.get(key))}" for key in keys
        )
        raise UserError(
            f"{one.id} and {other.id} are scored on different test images, and their figures cannot be compared; they "
            f"differ in{reasons}"
        )


def _images(run: Run) -> dict[str, object]:
    """What decides on which images a run is scored, the noise of its own included."""
    found = scored_on(run)
    if run.settings.get("dataset.fixed_evaluation") is False:  # then the noise of test images follows from it
        found["seed"] = run.settings["seed"]
    return found


def _follows(key: str, one: Run, other: Run) -> bool:
    """The code of a section that has another name."""
    section, _, last = key.rpartition(".")
    return last == "_target_" and one.settings.get(f"{section}.name") != other.settings.get(f"{section}.name")


def _told(value: Any) -> str:
    return ABSENT if value is None else word(value)


def _figures(one: Run, other: Run) -> list[str]:
    """What says which of them is better, and at what price."""
    keys = {**(one.figures or {}), **(other.figures or {})}
    judging = [key for key in keys if key.startswith("test.") and better(key) and not _superfluous(key, one)]
    found = [key for key in (*judging, *ALSO) if not (one.value(key) is None and other.value(key) is None)]
    return sorted(found, key=lambda key: (array_of(key) is None, key in ALSO))


def _superfluous(key: str, run: Run) -> bool:
    """Told under another name, or as a part of another figure."""
    what, estimator = what_and_estimator(key)
    if what == IN_MODEL_SPACE:
        return not run.settings.get("dataset.logit_transform")
    return "standard_error" in what or (what == ELBO and estimator == OWN)


def _beside(key: str, one: Run, other: Run, tell: Tell) -> Beside:
    ours, others = one.value(key), other.value(key)
    images = difference_of_images(one, other, key, tell)
    if images is None or ours is None or others is None:
        return Beside(key, ours, others)
    known = without_unknown(images[None])
    if not known.size:  # no image is known of both
        return Beside(key, ours, others)
    return Beside(key, ours, others, difference(known.mean(1), known))
