"""The values of a sweep on the command line: its comma-separated items, ranges, and the largest number."""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep

from vlae.config.problems import ConfigError, Problem, join_words

MOST_RUNS = 100_000  # the most runs of a sweep: more are a slip, which is reported before they are expanded


def refuse_too_many(runs: int, place: str = "sweep", axes: Mapping[str, int] | None = None) -> None:
    """ConfigError: a sweep is too large to be meant. axes: the number of values of each of its keys."""
    if runs > MOST_RUNS:
        several = join_words(f"{key}: {count:,}" for key, count in (axes or {}).items() if count > 1)
        text = f"expected at most {MOST_RUNS:,} runs, got {runs:,}" + (f" ({several})" if axes else "")
        raise ConfigError([Problem(place, text)])


def items_of(override: Override) -> list[Any]:
    """The comma-separated items of a sweep: values, ranges, globs, intervals."""
    swept: Any = override.value()
    return list(swept.list) if isinstance(swept, ChoiceSweep) else [swept]


def texts_of(override: Override, known: Sequence[str]) -> list[str]:
    """The values of a sweep, in Hydra's grammar. known: the choices of a group, from which globs choose."""
    found: list[str] = []
    for item in items_of(override):
        if isinstance(item, RangeSweep):
            found += map(repr, numbers_of(item))
        elif isinstance(item, Glob):
            found += item.filter(list(known))
        else:
            alone = ChoiceSweep(list=[item], simple_form=True)
            found += dataclasses.replace(override, _value=alone).sweep_string_iterator()
    if getattr(override.value(), "shuffle", False):
        random.shuffle(found)
    return found


def numbers_of(swept: RangeSweep) -> list[int] | list[float]:
    """The numbers of a range, without its end.

    Law: those of decimal arithmetic. range(0,1,0.1) is 0.0, 0.1, ..., 0.9, with 0.3 and not 0.30000000000000004.
    """
    start, stop, step = swept.start or 0, swept.stop or 0, swept.step
    if isinstance(start, int) and isinstance(stop, int) and isinstance(step, int):
        return list(range(start, stop, step))
    first, distance = Fraction(repr(start)), Fraction(repr(step))  # the decimal numbers that were written
    return [float(first + i * distance) for i in range(int(_length(swept)))]


def _length(swept: RangeSweep) -> float:
    """The number of values of a range, without making them."""
    parts = (swept.start or 0, swept.stop or 0, swept.step)
    if not all(map(math.isfinite, parts)) or not swept.step:
        return math.inf
    start, stop, step = (Fraction(repr(part)) for part in parts)
    return max(0, math.ceil((stop - start) / step))


def wrong_sweep(override: Override, known: Sequence[str] | None) -> str | None:
    """The problem of the values that an override sweeps over, if there is one. known: the choices of a group."""
    items, number = items_of(override), 0.0
    for item in items:
        if isinstance(item, IntervalSweep):
            return "an interval has no values to go through; expected a list such as 0,1 or range(0,5)"
        if isinstance(item, Glob):
            if known is None:
                return "glob() chooses from the files of a group, such as model; expected values such as 0,1"
            if not item.filter(list(known)):
                return f"glob() finds no choice (choices: {join_words(known)})"
        if isinstance(item, RangeSweep) and not item.step:
            return "expected a step that is not 0, as in range(0,1,0.1)"
        number += _length(item) if isinstance(item, RangeSweep) else 1
    if number == 0:
        return "expected one value or more, got none"
    return f"expected at most {MOST_RUNS:,} values, got {number:,.0f}" if number > MOST_RUNS else None
