"""Values as Hydra reads them: the items and ranges of a sweep, and texts that YAML files read as something else."""

import dataclasses
import functools
import math
import operator
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from vlae.config.problems import ConfigError, Problem, format_value, join_words

MOST_RUNS = 100_000  # the most runs of a sweep: more are a slip, which is reported before they are expanded
Keys = tuple[str | int, ...]
_MERGE = "tag:yaml.org,2002:merge"
_YAML_ALONE = re.compile(r"|~|[-+]?\.(inf|nan)", re.IGNORECASE)
"""Values that have one meaning in YAML and none on the command line."""
_YAML_11 = re.compile(
    r"[-+]?0[0-9_]+|[-+]?0x[0-9a-f_]+|[-+]?0b[01_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|yes|no|on|off",
    re.IGNORECASE,
)
"""Texts that only YAML 1.1, in which Hydra reads conf/, takes for a number or for true and false."""


@functools.lru_cache(4096)  # the runs of a sweep have most of their overrides in common
def parse(text: str) -> Override:
    """An override as Hydra reads it. HydraException: it cannot."""
    try:
        return OverridesParser.create().parse_override(text)
    except ValueError as error:  # Python reads no number of thousands of digits
        raise HydraException("a number of too many digits") from error


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


def unclear_values(content: Any, node: yaml.Node | None) -> Iterator[Problem]:
    """The values of a sweep file that the command line reads as something else. node: ``content`` as it is written."""
    for keys, text in _plain_scalars(node):
        try:
            value = functools.reduce(operator.getitem, keys, content)
        except (LookupError, TypeError):
            continue
        if not isinstance(value, str | int | float | None) or _YAML_ALONE.fullmatch(text):
            continue
        if (other := _on_command_line(text, value)) is not None:
            yield Problem(_dotted_key(keys), _refusal(text, value, other))


def unclear_files(directories: Sequence[Path]) -> list[Problem]:
    """Values in configuration files that mean something else on the command line."""
    files = (file for directory in directories for file in sorted(directory.rglob("*.yaml")))
    return [problem for file in files for problem in _unclear_in(file, file.stat().st_mtime_ns)]


@functools.lru_cache(1024)
def _unclear_in(file: Path, changed: int) -> tuple[Problem, ...]:
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, ValueError, yaml.YAMLError):  # which Hydra says, where it reads the file
        return ()
    found = []
    for keys, text in _plain_scalars(node):
        if _YAML_11.fullmatch(text):
            refusal = _refusal(text, yaml.safe_load(text), f"the text {text!r}")
            found.append(Problem(f"{file.parent.name}/{file.name}: {_dotted_key(keys)}", refusal))
    return tuple(found)


def _plain_scalars(node: yaml.Node | None, keys: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """The unquoted values of a file with their keys; what is merged in stands in the place of its ``<<``."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _plain_scalars(value, keys if key.tag == _MERGE else (*keys, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _plain_scalars(value, (*keys, i))
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        yield keys, node.value


def _dotted_key(keys: Keys) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _on_command_line(text: str, value: Any) -> str | None:
    """The value that the command line reads, in words; None: it is ``value``, which YAML reads from ``text``."""
    try:
        override = parse(f"key={text}")
    except HydraException:
        return None if isinstance(value, str) else "no value"
    if override.is_sweep_override():
        return "several values"
    read = override.value()
    if isinstance(read, str):  # as text may have spaces around it, and escapes
        return None if isinstance(value, str) else f"the text {read!r}"
    return None if type(read) is type(value) and read == value else format_value(read)


def _refusal(text: str, in_file: Any, on_command_line: str) -> str:
    number = re.sub(r"^([+-]?)0[0_]*(?=[0-9])", r"\1", text)
    words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
    clear = words.get(text.lower(), number if number != text and number.isdecimal() else None)
    if on_command_line == "several values":
        clear = "a list for one run each"
    write = f"{clear}, or '{text}' for the text" if clear else f"'{text}' for the text"
    if isinstance(in_file, str):
        return f"got {text}, a text in a file and {on_command_line} on the command line; write {write}"
    return f"got {text}, {format_value(in_file)} in YAML and {on_command_line} on the command line; write {write}"
