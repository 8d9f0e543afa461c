"""Command-line overrides, rewritten so that Hydra composes even where they are wrong.

Hydra stops at the first mistake. Here a wrong override becomes one that Hydra accepts and ``config.validate``
finds, so that all mistakes of a command are reported together.
"""

import functools
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, RangeSweep, ValueType
from hydra.errors import HydraException

from vlae.identity import PATHS
from vlae.problems import ConfigError, Problem, did_you_mean, listed, shown

CONF = Path(__file__).resolve().parents[1] / "conf"

INVALID_CHOICE = "_invalid_choice_"
INVALID_OVERRIDE = "_invalid_override_"
MARKERS = (INVALID_CHOICE, INVALID_OVERRIDE)
"""Keys under which mistakes reach ``config.validate``; no real configuration has them."""

SEVERAL = ("tracker",)
"""Groups of which a run can have several choices: ``tracker=[wandb,tensorboard]``."""

MOST_RUNS = 100_000
"""Of a sweep: more are a slip, and it is told before they are expanded."""

_OPTIONS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
}
_COMMANDS = {"--multirun": "-m", "--run": "-r", "--cfg": "-c", "--info": "-i", "--shell-completion": "-sc"}
_INFO = {"all", "config", "defaults", "defaults-tree", "plugins", "searchpath"}


@functools.lru_cache(4096)  # the runs of a sweep have most of their overrides in common
def parse(text: str) -> Override:
    """An override as Hydra reads it. HydraException: it cannot."""
    try:
        return OverridesParser.create().parse_override(text)
    except ValueError as error:  # Python reads no number of thousands of digits
        raise HydraException("a number of too many digits") from error


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides, options): Hydra's options with their values, and everything else."""
    overrides, options = [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or _looks_like_override(argument):
            overrides.append(argument)
            continue
        options.append(argument)
        takes_next = argument in _OPTIONS_WITH_VALUE or (
            argument in ("--info", "-i") and bool(rest) and rest[0] in _INFO
        )
        if takes_next and rest:
            options.append(rest.pop(0))
    return overrides, options


def _looks_like_override(argument: str) -> bool:
    """``--trainer.epochs=3``: an override with dashes, which is no option of Hydra's."""
    option, equals, _ = argument.partition("=")
    return bool(equals) and not any(known.startswith(option) for known in _OPTIONS_WITH_VALUE | {"--info"})


def is_multirun(arguments: Sequence[str]) -> bool:
    overrides, _ = split(arguments)
    return "--multirun" in commands(arguments) or "hydra.mode=MULTIRUN" in overrides


def commands(arguments: Sequence[str]) -> list[str]:
    """What Hydra is asked to do, of which it can do one at a time."""
    names = [option.partition("=")[0] for option in split(arguments)[1]]
    # argparse takes any unambiguous beginning of a long option
    return [
        long
        for long, short in _COMMANDS.items()
        if any(name == short or (len(name) > 3 and long.startswith(name)) for name in names)
    ]


def lenient(arguments: Sequence[str]) -> list[str]:
    """The same arguments, wrong ones rewritten so that Hydra composes and ``config.validate`` finds them.

    A key becomes ``++key`` (an unknown one is then found in the container), an unknown choice of a group
    ``++_invalid_choice_.group=choice``, an unreadable override a message under ``++_invalid_override_``. What is
    right keeps its meaning. Overrides come first: argparse stops reading them at an option in between.
    """
    overrides, options = split(arguments)
    groups = choices(_config_directories(overrides, options))
    multirun = is_multirun(arguments)
    return [_rewrite(o, i, groups, multirun) for i, o in enumerate(overrides)] + options


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every run of a --multirun, in Hydra's order: the product of all sweeps."""
    groups = choices()
    values, axes = [], {}
    for text in lenient([*overrides, "--multirun"])[:-1]:
        override = parse(text)
        key = override.get_key_element().lstrip("+")
        if not override.is_sweep_override():
            values.append([text])
        elif override.value_type == ValueType.GLOB_CHOICE_SWEEP:
            known = groups.get(override.key_or_group, [])
            values.append(
                [f"{override.key_or_group}={name}" for name in cast(Glob, override.value()).filter(known)]
            )
        else:
            values.append(
                [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            )
        axes[key] = len(values[-1])
    refuse_too_many(math.prod(map(len, values)), axes=axes)
    return [list(job) for job in itertools.product(*values)]


def refuse_too_many(runs: int, place: str = "sweep", axes: Mapping[str, int] | None = None) -> None:
    """ConfigError: a sweep is larger than anybody means. axes: how many values each of its keys has."""
    if runs > MOST_RUNS:
        several = listed(f"{key}: {count:,}" for key, count in (axes or {}).items() if count > 1)
        text = f"expected at most {MOST_RUNS:,} runs, came {runs:,}" + (f" ({several})" if axes else "")
        raise ConfigError([Problem(place, text)])


def _number_of_values(override: Override) -> float:
    """Of a sweep, without making them. Of a glob: at least one."""
    swept: Any = override.value()
    if isinstance(swept, RangeSweep):
        start, stop, step = (float(part or 0) for part in (swept.start, swept.stop, swept.step))
        steps = (stop - start) / step if step else math.inf
        return max(0, math.ceil(steps)) if math.isfinite(steps) else math.inf
    return len(swept.list) if isinstance(swept, ChoiceSweep) else 1


def _wrong_sweep(override: Override) -> str | None:
    """What is wrong with the values that an override sweeps over, if anything is."""
    if override.is_interval_sweep():
        return "an interval has no values to go through; expected a list such as 0,1 or range(0,5)"
    number = _number_of_values(override)
    if number == 0:
        return "expected one value or more, came none"
    return f"expected at most {MOST_RUNS:,} values, came {number:,}" if number > MOST_RUNS else None


def assignments(arguments: Sequence[str]) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """(key, value) of the overrides of a configuration that is composed already, and what is wrong with the others."""
    found, problems = [], []
    for i, text in enumerate(arguments):
        override = parse(_rewrite(text, i, {}, multirun=False))
        key = override.key_or_group
        if key.startswith(f"{INVALID_OVERRIDE}."):
            problems += wrong_overrides({key: override.value()})
        elif override.is_delete():
            problems.append(Problem(text, "keys of a run cannot be removed"))
        else:
            found.append((key, override.value()))
    return found, problems


def unreadable(arguments: Sequence[str]) -> list[Problem]:
    """Unknown choices and overrides that cannot be read: what ``lenient`` has put under the markers."""
    rewritten = [text for text in lenient(arguments) if text.startswith(tuple(f"++{m}." for m in MARKERS))]
    problems = []
    for text in rewritten:
        override = parse(text)
        marker, _, key = override.key_or_group.partition(".")
        explain = wrong_choices if marker == INVALID_CHOICE else wrong_overrides
        problems += explain({key: override.value()})
    return problems


def choices(directories: Sequence[Path] = (CONF,)) -> dict[str, list[str]]:
    """Every group with its choices: the folders below conf/ and the files in them."""
    found: dict[str, set[str]] = {}
    for directory in directories:
        for file in directory.rglob("*.yaml"):
            group = file.parent.relative_to(directory).as_posix()
            if group != "." and not group.startswith("hydra"):
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(names) for group, names in sorted(found.items())}


def wrong_choices(invalid: dict[str, Any]) -> list[Problem]:
    """The problems behind the entries of ``_invalid_choice_``."""
    groups = choices()
    problems = []
    for group, came in invalid.items():
        known = groups.get(group, [])
        for choice in came if isinstance(came, list) else [came]:
            problems.append(_wrong_choice(group, unquote(str(choice)), known))
    return problems


def _wrong_choice(group: str, choice: str, known: Sequence[str]) -> Problem:
    return Problem(group, f"no choice {choice!r}{did_you_mean(choice, known)} (choices: {listed(known)})")


def wrong_launchers(overrides: Sequence[str]) -> list[Problem]:
    """A launcher that there is not, and several values of what a launch has one of."""
    problems, known = [], sorted(file.stem for file in (CONF / "hydra" / "launcher").glob("*.yaml"))
    for text in overrides:
        try:
            override = parse(text)
        except HydraException:  # which is told with the other problems
            continue
        if override.is_hydra_override() and override.is_sweep_override():
            problems.append(Problem(text, "expected one value: it is a setting of the launch, not of a run"))
        elif override.key_or_group == "hydra/launcher" and override.value() not in known:
            problems.append(_wrong_choice("hydra/launcher", _written(override.value()), known))
    return problems


def wrong_overrides(invalid: dict[str, Any]) -> list[Problem]:
    """The problems behind the entries of ``_invalid_override_``."""
    return [Problem(*unquote(str(text)).split("\n", 1)) for text in invalid.values()]


def _config_directories(overrides: Sequence[str], options: Sequence[str]) -> list[Path]:
    """conf/ and the directories that the command adds to Hydra's search path."""
    added = []
    for i, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name in ("--config-dir", "-cd"):
            added.append(value if equals else options[i + 1] if i + 1 < len(options) else ".")
    for override in overrides:
        if override.startswith("hydra.searchpath="):
            added += override.partition("=")[2].strip("[]").split(",")
    return [CONF, *(Path(path.strip().removeprefix("file://")) for path in added)]


def _rewrite(text: str, index: int, groups: dict[str, list[str]], multirun: bool) -> str:
    if text.startswith("-"):
        return _invalid(index, text, f"not an option; keys are written without dashes: {text.lstrip('-')}")
    if "=" not in text and not text.startswith("~"):
        return _invalid(index, text, f"has no value; {_HOW_TO_WRITE}")
    if (named := _SWEEP_NAME.fullmatch(text)) and named["name"].lower() != "null":
        return f"hydra.sweeper.name={quoted(named['name'])}"
    try:
        override = parse(text)
    except HydraException as error:
        key, _, value = text.lstrip("+").partition("=")
        if key in PATHS:  # ~/runs and (1)/runs are no values in Hydra's grammar
            return f"++{key}={quoted(value)}"
        return _invalid(index, text, f"cannot be read ({_first_line(error)}); {_HOW_TO_WRITE}")
    key = override.key_or_group
    if override.is_delete() and key in groups and "/" not in key:
        return _invalid(index, key, f"every run has one (choices: {listed(groups[key])})")
    if key.startswith("hydra.launcher."):
        return "++" + text.lstrip("+")
    if override.is_hydra_override() or override.is_delete():
        return text
    if not key:
        return _invalid(index, text, f"has no key; {_HOW_TO_WRITE}")
    if override.is_sweep_override() and not multirun:
        or_list = "" if key in groups else f", or write a list as [{text.partition('=')[2]}]"
        return _invalid(index, text, f"several values: add -m for one run each{or_list}")
    if override.is_sweep_override() and (wrong := _wrong_sweep(override)):
        return _invalid(index, text, wrong)
    if key in groups:
        return _rewrite_choice(text, override, groups[key], index)
    if "/" in key:
        near = did_you_mean(key, groups)
        return _invalid(index, text, f"no group {key!r}{near} (groups: {listed(top_level(groups))})")
    return "++" + text.lstrip("+")


_SWEEP_NAME = re.compile(r"\+{0,2}hydra\.sweeper\.name=(?P<name>(?!['\"]).*)", re.DOTALL)
"""A name is text as it is written: 20261128 and 1e5 are no numbers."""

_HOW_TO_WRITE = "overrides are key=value, a list is [500,500], a text with special characters \"key='text'\""


def top_level(groups: dict[str, list[str]]) -> list[str]:
    return [group for group in groups if "/" not in group]


def _rewrite_choice(text: str, override: Override, known: Sequence[str], index: int) -> str:
    group = override.key_or_group
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP or override.package is not None:
        return text
    asked = _asked(override)
    if group in SEVERAL and len(asked) == 1 and isinstance(asked[0], list):
        asked = [_unquoted(choice) for choice in asked[0]]
    wrong = [choice for choice in asked if not isinstance(choice, str) or choice not in known]
    if "none" in asked and len(asked) > 1 and not override.is_sweep_override():
        came = f"[{','.join(map(_written, asked))}]"
        return _invalid(index, group, f"expected none alone, or without it, came {came}")
    if not wrong:
        # a group of the defaults list is chosen without +, and `+model=vae` cannot mean anything else
        return text if "/" in group else text.lstrip("+")
    if "/" in group:
        return _invalid(index, group, _wrong_choice(group, _written(wrong[0]), known).text)
    quoted = [c if isinstance(c, str) and c.isidentifier() else f"'{quote(_written(c))}'" for c in wrong]
    came = quoted[0] if len(quoted) == 1 else f"[{','.join(quoted)}]"
    return f"++{INVALID_CHOICE}.{group}={came}"


def _asked(override: Override) -> list[Any]:
    """The choices that an override names: one, or a sweep of several."""
    values: list[Any] = (
        list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    )
    return [_unquoted(choice) for choice in values]


def _unquoted(choice: Any) -> Any:
    return choice.text if isinstance(choice, QuotedString) else choice


def _written(choice: Any) -> str:
    return choice if isinstance(choice, str) else shown(choice)


def quoted(text: str) -> str:
    """A text in Hydra's grammar, where backslashes count only before a quote and at the end."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", text)
    return "'" + doubled.replace("'", r"\'") + "'"


def _invalid(index: int, key: str, text: str) -> str:
    """A message on its way through Hydra's grammar, whose special characters it must not contain."""
    return f"++{INVALID_OVERRIDE}.o{index}='{quote(f'{key}' + chr(10) + text)}'"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
