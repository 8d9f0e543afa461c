"""Command-line overrides, rewritten so that Hydra composes even where they are wrong.

Hydra stops at the first mistake. Here a wrong override becomes one that Hydra accepts and ``config.validate``
finds, so that all mistakes of a command are reported together.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Override,
    QuotedString,
    RangeSweep,
    ValueType,
)
from hydra.errors import HydraException

from vlae.config.problems import ConfigError, Problem, did_you_mean, listed, shown
from vlae.config.run_id import PATHS
from vlae.system.files import expanded
from vlae.system.locations import CONF

INVALID_CHOICE = "_invalid_choice_"
INVALID_OVERRIDE = "_invalid_override_"
DIRECTORIES = "_directories_"
MARKERS = (INVALID_CHOICE, INVALID_OVERRIDE, DIRECTORIES)
"""Keys under which mistakes reach ``config.validate``; no real configuration has them."""

SEVERAL = ("tracker",)
"""Groups of which a run can have several choices: ``tracker=[wandb,tensorboard]``."""

MOST_RUNS = 100_000
"""The most runs of a sweep: more are a slip, which is reported before they are expanded."""

_OPTIONS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
}
_COMMANDS = {"--multirun": "-m", "--run": "-r", "--cfg": "-c", "--info": "-i", "--shell-completion": "-sc"}


@functools.lru_cache(4096)  # the runs of a sweep have most of their overrides in common
def parse(text: str) -> Override:
    """An override as Hydra reads it. HydraException: it cannot."""
    try:
        return OverridesParser.create().parse_override(text)
    except ValueError as error:  # Python reads no number of thousands of digits
        raise HydraException("a number of too many digits") from error


SEVERAL_VALUES = "several values"
LONGEST_SHOWN = 200
"""Characters of an override in a message."""


@dataclasses.dataclass(frozen=True)
class Unclear:
    """An unquoted value of a YAML file that means something else on the command line."""

    text: str
    in_file: Any
    on_command_line: str
    """In words."""

    def __str__(self) -> str:
        number = re.sub(r"^([+-]?)0[0_]*(?=[0-9])", r"\1", self.text)
        words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        clear = words.get(self.text.lower(), number if number != self.text and number.isdecimal() else None)
        if self.on_command_line == SEVERAL_VALUES:
            clear = "a list for one run each"
        write = f"{clear}, or '{self.text}' for the text" if clear else f"'{self.text}' for the text"
        if isinstance(self.in_file, str):
            return f"got {self.text}, a text in a file and {self.on_command_line} on the command line; write {write}"
        meaning = f"{shown(self.in_file)} in YAML and {self.on_command_line} on the command line"
        return f"got {self.text}, {meaning}; write {write}"


def unclear(value: Any, node: yaml.Node | None) -> Any:
    """The content of a YAML file with `Unclear` in place of what the command line reads as something else.

    node: the same content as it is written. What is quoted is text in both; ~, .inf and .nan have one meaning in YAML.
    """
    if isinstance(value, dict) and isinstance(node, yaml.MappingNode):
        written = _entries(node)
        return {key: unclear(entry, written.get(str(key))) for key, entry in value.items()}
    if isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        return [unclear(entry, part) for entry, part in zip(value, node.value, strict=True)]
    if not isinstance(node, yaml.ScalarNode) or node.style or not isinstance(value, str | int | float | None):
        return value
    return value if _YAML_ALONE.fullmatch(node.value) else _unless_unclear(node.value, value)


_YAML_ALONE = re.compile(r"|~|[-+]?\.(inf|nan)", re.IGNORECASE)


_YAML_11 = re.compile(
    r"[-+]?0[0-9_]+|[-+]?0x[0-9a-f_]+|[-+]?0b[01_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|yes|no|on|off",
    re.IGNORECASE,
)
"""What YAML 1.1, in which Hydra reads conf/, takes for a number or for true and false, and nobody else does."""


def unclear_files(directories: Sequence[Path]) -> list[Problem]:
    """Values in configuration files that mean something else on the command line."""
    files = (file for directory in directories for file in sorted(directory.rglob("*.yaml")))
    return [problem for file in files for problem in _unclear_values(file, file.stat().st_mtime_ns)]


@functools.lru_cache(1024)
def _unclear_values(file: Path, changed: int) -> tuple[Problem, ...]:
    try:
        content = yaml.compose(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, ValueError, yaml.YAMLError):  # which Hydra says, where it reads the file
        return ()
    found = []
    for key, text in _scalars(content):
        if _YAML_11.fullmatch(text):
            value = Unclear(text, yaml.safe_load(text), f"the text {text!r}")
            found.append(Problem(f"{file.parent.name}/{file.name}: {key}", str(value)))
    return tuple(found)


def _scalars(node: yaml.Node | None, place: str = "") -> Iterator[tuple[str, str]]:
    """The unquoted values of a file with their keys."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, f"{place}.{key.value}" if place else str(key.value))
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _scalars(value, f"{place}[{i}]")
    elif isinstance(node, yaml.ScalarNode) and not node.style:
        yield place, node.value


def _entries(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    """By their keys, those that are merged in (``<<``) below its own."""
    own, merged = {}, {}
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                merged = {**(_entries(part) if isinstance(part, yaml.MappingNode) else {}), **merged}
        elif isinstance(key, yaml.ScalarNode):
            own[key.value] = value
    return {**merged, **own}


def _unless_unclear(text: str, value: Any) -> Any:
    """``value``, which YAML reads from ``text``, or Unclear."""
    try:
        override = parse(f"key={text}")
    except HydraException:
        return value if isinstance(value, str) else Unclear(text, value, "no value")
    if override.is_sweep_override():
        return Unclear(text, value, SEVERAL_VALUES)
    read = override.value()
    if isinstance(value, str) and isinstance(read, str):  # as text may have spaces around it, and escapes
        return value
    if type(read) is type(value) and read == value:
        return value
    return Unclear(text, value, f"the text {read!r}" if isinstance(read, str) else shown(read))


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
            argument in ("--info", "-i") and bool(rest) and rest[0][0] != "-" and "=" not in rest[0]
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
    # argparse takes any unambiguous prefix of a long option
    return [
        long
        for long, short in _COMMANDS.items()
        if any(name == short or (len(name) > 3 and long.startswith(name)) for name in names)
    ]


def lenient(arguments: Sequence[str], added: Sequence[Path] | None = None) -> list[str]:
    """The same arguments, wrong ones rewritten so that Hydra composes and ``config.validate`` finds them.

    A key becomes ``++key`` (an unknown one is then found in the container), an unknown choice of a group
    ``++_invalid_choice_.group=choice``, an unreadable override a message under ``++_invalid_override_``. What is
    right keeps its meaning. Overrides come first: argparse stops reading them at an option in between.
    added: directories with choices besides those in conf/; None: those that the arguments name.
    """
    overrides, options = split(arguments)
    added = directories(arguments) if added is None else added
    groups = choices([CONF, *added])
    multirun = is_multirun(arguments)
    rewritten = [_rewrite(o, i, groups, multirun) for i, o in enumerate(overrides)]
    if added and any(text.startswith(f"++{INVALID_CHOICE}.") for text in rewritten):
        rewritten.append(f"++{DIRECTORIES}=[{','.join(quote_text(str(place)) for place in added)}]")
    return rewritten + _with_whole_paths(options)


def expand(overrides: Sequence[str], added: Sequence[Path] = ()) -> list[list[str]]:
    """The overrides of every run of a --multirun, in Hydra's order: the product of all sweeps.

    added: directories with choices besides those in conf/.
    """
    groups = choices([CONF, *added])
    values, axes = [], {}
    for text in lenient([*overrides, "--multirun"], added)[:-1]:
        override = parse(text)
        key = override.get_key_element().lstrip("+")
        if override.is_sweep_override():
            place = override.get_key_element()
            values.append(
                [f"{place}={value}" for value in _texts(override, groups.get(override.key_or_group, ()))]
            )
        else:
            values.append([text])
        axes[key] = len(values[-1])
    refuse_too_many(math.prod(map(len, values)), axes=axes)
    return [list(job) for job in itertools.product(*values)]


def refuse_too_many(runs: int, place: str = "sweep", axes: Mapping[str, int] | None = None) -> None:
    """ConfigError: a sweep is larger than anybody means. axes: how many values each of its keys has."""
    if runs > MOST_RUNS:
        several = listed(f"{key}: {count:,}" for key, count in (axes or {}).items() if count > 1)
        text = f"expected at most {MOST_RUNS:,} runs, got {runs:,}" + (f" ({several})" if axes else "")
        raise ConfigError([Problem(place, text)])


def _items(override: Override) -> list[Any]:
    """What stands between the commas of a sweep: values, ranges, globs, intervals."""
    swept: Any = override.value()
    return list(swept.list) if isinstance(swept, ChoiceSweep) else [swept]


def _texts(override: Override, known: Sequence[str]) -> list[str]:
    """The values of a sweep, in Hydra's grammar. known: the choices of a group, from which globs choose."""
    found: list[str] = []
    for item in _items(override):
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
    first, distance = _exact(start), _exact(step)
    return [float(first + i * distance) for i in range(int(_length(swept)))]


def _exact(number: float) -> Fraction:
    """The decimal number that was written."""
    return Fraction(repr(number))


def _length(swept: RangeSweep) -> float:
    """How many numbers a range has, without making them."""
    parts = (swept.start or 0, swept.stop or 0, swept.step)
    if not all(map(math.isfinite, parts)) or not swept.step:
        return math.inf
    start, stop, step = map(_exact, parts)
    return max(0, math.ceil((stop - start) / step))


def _wrong_sweep(override: Override, known: Sequence[str] | None) -> str | None:
    """What is wrong with the values that an override sweeps over, if anything is. known: the choices of a group."""
    items, number = _items(override), 0.0
    for item in items:
        if isinstance(item, IntervalSweep):
            return "an interval has no values to go through; expected a list such as 0,1 or range(0,5)"
        if isinstance(item, Glob):
            if known is None:
                return "glob() chooses from the files of a group, such as model; expected values such as 0,1"
            if not item.filter(list(known)):
                return f"glob() finds no choice (choices: {listed(known)})"
        if isinstance(item, RangeSweep) and not item.step:
            return "expected a step that is not 0, as in range(0,1,0.1)"
        number += _length(item) if isinstance(item, RangeSweep) else 1
    if number == 0:
        return "expected one value or more, got none"
    return f"expected at most {MOST_RUNS:,} values, got {number:,.0f}" if number > MOST_RUNS else None


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
        if marker == INVALID_CHOICE:
            problems += wrong_choices({key: override.value()}, map(str, directories(arguments)))
        elif marker == INVALID_OVERRIDE:
            problems += wrong_overrides({key: override.value()})
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


def wrong_choices(invalid: dict[str, Any], added: Iterable[str] = ()) -> list[Problem]:
    """The problems behind the entries of ``_invalid_choice_``; added: those of ``_directories_``."""
    groups = choices([CONF, *map(Path, added)])
    problems = []
    for group, given in invalid.items():
        known = groups.get(group, [])
        for choice in given if isinstance(given, list) else [given]:
            problems.append(_wrong_choice(group, unquote(str(choice)), known))
    return problems


def _wrong_choice(group: str, choice: str, known: Sequence[str]) -> Problem:
    return Problem(group, f"no choice {choice!r}{did_you_mean(choice, known)} (choices: {listed(known)})")


def launchers(places: Sequence[Path]) -> list[str]:
    """The launchers that can be chosen: files in conf/ and in added directories."""
    return sorted({file.stem for place in places for file in (place / "hydra" / "launcher").glob("*.yaml")})


HYDRA_KEYS = ("hydra.launcher.KEY", "hydra.sweeper.name", "hydra.searchpath", "hydra.mode")
"""What can be set of Hydra's own configuration; hydra.sweeper.file is sweeps=NAME."""
_HYDRA_KEY = re.compile(r"hydra\.(launcher(\.\w+)+|sweeper\.(name|file)|searchpath|mode)")


def wrong_hydra_override(text: str, places: Sequence[Path]) -> Problem | None:
    """What is wrong with an override of Hydra's own configuration: a group, a choice or a key that means nothing here.

    HydraException: it cannot be read.
    """
    if not re.match(r"[+~]{0,2}hydra\b", text):
        return None
    override = parse(text)
    key = override.key_or_group
    groups = {
        "hydra/launcher": launchers(places),
        **{"hydra/sweeper": ["grids"], "hydra/job_logging": ["none"], "hydra/hydra_logging": ["none"]},
    }
    if override.is_sweep_override():
        return Problem(text, "expected one value: it is a setting of the launch, not of a run")
    if key in groups:
        known = groups[key]
        return None if override.value() in known else _wrong_choice(key, _written(override.value()), known)
    if "/" in key or key == "hydra":
        return Problem(text, f"no group {key!r}{did_you_mean(key, groups)} (groups: {listed(groups)})")
    if override.is_delete() or not _HYDRA_KEY.fullmatch(key):
        return Problem(text, f"no setting of a launch (settings: {listed(HYDRA_KEYS)})")
    if key == "hydra.mode" and override.value() not in ("RUN", "MULTIRUN"):
        return Problem(key, f"expected RUN or MULTIRUN, got {shown(override.value())}")
    return None


def wrong_overrides(invalid: dict[str, Any]) -> list[Problem]:
    """The problems behind the entries of ``_invalid_override_``."""
    return [Problem(*unquote(str(text)).split("\n", 1)) for text in invalid.values()]


def directories(arguments: Sequence[str]) -> list[Path]:
    """The directories that a command adds to conf/, by --config-dir or hydra.searchpath; they need not exist."""
    overrides, options = split(arguments)
    added: list[str] = []
    for i, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name in ("--config-dir", "-cd"):
            added.append(value if equals else options[i + 1] if i + 1 < len(options) else ".")
    for text in overrides:
        if text.lstrip("+").startswith("hydra.searchpath="):
            added += _searchpath(text)
    return [_whole(text) for text in added]


def added_directories(composed: Any) -> list[Path]:
    """The directories beside conf/ that a configuration was composed from."""
    sources = composed.hydra.runtime.config_sources
    return [Path(s.path) for s in sources if s.schema == "file" and Path(s.path) != CONF]


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command, with the directory of --config-dir among them."""
    overrides = [o for o in split(arguments)[0] if not o.lstrip("+").startswith("hydra.searchpath=")]
    return [*overrides, *([_search(added)] if (added := directories(arguments)) else [])]


def _search(places: Sequence[Path]) -> str:
    return f"hydra.searchpath=[{','.join(quote_text(str(place)) for place in places)}]"


def _searchpath(text: str) -> list[str]:
    """The entries of an override of hydra.searchpath; none where it cannot be read."""
    try:
        override = parse(text)
        if override.is_sweep_override():
            return []  # which is refused
        value: Any = override.value()
    except HydraException:
        return text.partition("=")[2].strip("[]").split(",")  # such as ~/mine
    entries = value if isinstance(value, list) else [value]
    return [str(_unquoted(entry)) for entry in entries if entry is not None]


def _whole(text: str) -> Path:
    """The directory that is meant; what ~ or a variable does not name stays as it is, and is not found."""
    text = text.strip().removeprefix("file://")
    with contextlib.suppress(ValueError):
        text = expanded(text)
    return Path(text).absolute()


def _with_whole_paths(options: Sequence[str]) -> list[str]:
    """The same options; the shell leaves a ~ behind --config-dir= as it is."""
    return [
        f"--config-dir={_whole(option.partition('=')[2])}"
        if re.match(r"(--config-dir|-cd)=.*[~$]", option)
        else option
        for option in options
    ]


def _rewrite(text: str, index: int, groups: dict[str, list[str]], multirun: bool) -> str:
    """An override as `lenient` passes it on. index: its place in the command, which numbers the messages."""
    if text.startswith("-"):
        return _invalid(index, text, f"not an option; keys are written without dashes: {text.lstrip('-')}")
    if text.startswith("="):
        return _invalid(index, text, f"has no key; {_HOW_TO_WRITE}, without spaces around =")
    if "=" not in text and not text.startswith("~"):
        return _invalid(index, text, f"has no value; {_HOW_TO_WRITE}, several values 0,1,2 with -m")
    if (named := _SWEEP_NAME.fullmatch(text)) and named["name"].lower() != "null":
        return f"hydra.sweeper.name={quote_text(named['name'])}"
    if text.lstrip("+").startswith("hydra.searchpath="):
        return _search(list(map(_whole, _searchpath(text))))
    try:
        override = parse(text)
    except HydraException as error:
        return _rewrite_unreadable(text, index, error)
    return _rewrite_readable(text, override, index, groups, multirun)


def _rewrite_unreadable(text: str, index: int, error: HydraException) -> str:
    key, _, value = text.lstrip("+").partition("=")
    if key in PATHS:  # ~/runs and (1)/runs are no values in Hydra's grammar
        return f"++{key}={quote_text(value)}"
    slip = "there are spaces around =" if key != key.strip() else _slip(value)
    why = f"cannot be read: {slip}" if slip else f"cannot be read ({_first_line(error)}); {_HOW_TO_WRITE}"
    return _invalid(index, text, why)


def _rewrite_readable(
    text: str, override: Override, index: int, groups: dict[str, list[str]], multirun: bool
) -> str:
    key = override.key_or_group
    if override.is_delete() and key in groups and "/" not in key:
        return _invalid(index, key, f"every run has one (choices: {listed(groups[key])})")
    if key.startswith("hydra.launcher."):
        return "++" + text.lstrip("+")
    if override.is_hydra_override() or override.is_delete():
        return text
    if not key:
        return _invalid(index, text, f"has no key; {_HOW_TO_WRITE}")
    if "@" in override.get_key_element():
        return _invalid(index, text, _without_package(override, groups))
    if override.is_sweep_override() and not multirun:
        value = text.partition("=")[2]
        or_list = "" if key in groups else f", or write a list as [{value}]"
        if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", value):
            or_list += f", a decimal number as {value.replace(',', '.')}"
        return _invalid(index, text, f"several values: add -m for one run each{or_list}")
    if override.is_sweep_override() and (wrong := _wrong_sweep(override, groups.get(key))):
        return _invalid(index, text, wrong)
    if key in groups:
        return _rewrite_choice(text, override, groups[key], index)
    if "/" in key:
        near = did_you_mean(key, groups)
        return _invalid(index, text, f"no group {key!r}{near} (groups: {listed(top_level(groups))})")
    return "++" + text.lstrip("+")


_FUNCTION = re.compile(r"(choice|sort|shuffle)\((?P<values>.*\b(range|interval|glob)\(.*)\)")
_LOOKALIKES = {"\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-"} | dict.fromkeys(
    "\u201c\u201d\u201e\u00ab\u00bb", '"'
)
_LOOKALIKES |= dict.fromkeys("\u2018\u2019\u201a", "'") | {
    "\uff0c": ",",
    "\uff1d": "=",
    "\u00a0": " ",
    "\u2026": "...",
}
"""Characters that word processors and web pages put in the place of those on a keyboard."""


def _slip(text: str) -> str | None:
    """What was meant by a text that Hydra cannot read, where that is clear."""
    if found := next((character for character in text if character in _LOOKALIKES), None):
        name = unicodedata.name(found, "a character").lower()
        return f"it has {found!r} ({name}), where {_LOOKALIKES[found]!r} is meant"
    if match := _FUNCTION.fullmatch(text):
        return f"a range goes beside values without a function: {match['values']}"
    if match := re.fullmatch(r"\((.*)\)", text):
        return f"a list has square brackets: [{match[1]}]"
    if match := re.search(r"\brange\(.*?(\)|$)", text):
        return (
            "a bracket is missing"
            if not match[1]
            else "range takes numbers, as in range(0,3) or range(0,1,0.1)"
        )
    if text.rstrip().endswith(","):
        return "it ends in a comma, after which a value is missing"
    if ";" in text:
        return f"values are separated by commas: {text.replace(';', ',')}"
    return None


def _without_package(override: Override, groups: Mapping[str, Sequence[str]]) -> str:
    """Why a choice with a package (``model@other=vae``) is refused, and what to write."""
    group = override.key_or_group
    if group not in groups:
        known = [name for name in groups if "/" not in name]
        return f"no group {group!r}{did_you_mean(group, known)} (groups: {listed(known)})"
    chosen = override.input_line.partition("=")[2] if override.input_line else ""
    return f"each group stands at its own place: write {group}={chosen}"


_SWEEP_NAME = re.compile(r"\+{0,2}hydra\.sweeper\.name=(?P<name>(?!['\"]).*)", re.DOTALL)
"""A name is text as it is written: 20261128 and 1e5 are no numbers."""

_HOW_TO_WRITE = "overrides are key=value, a list is [500,500], a text with special characters \"key='text'\""


def top_level(groups: dict[str, list[str]]) -> list[str]:
    return [group for group in groups if "/" not in group]


def _rewrite_choice(text: str, override: Override, known: Sequence[str], index: int) -> str:
    group = override.key_or_group
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:
        return text
    asked = _asked(override)
    if group in SEVERAL and len(asked) == 1 and isinstance(asked[0], list):
        asked = [_unquoted(choice) for choice in asked[0]]
    if len(asked) == 1 and isinstance(asked[0], list):
        each = ",".join(_written(_unquoted(choice)) for choice in asked[0])
        text = f"expected one choice, got the list [{each}]; one run for each is {group}={each} with -m"
        return _invalid(index, group, text)
    wrong = [choice for choice in asked if not isinstance(choice, str) or choice not in known]
    if "none" in asked and len(asked) > 1 and not override.is_sweep_override():
        text = f"expected none alone, or without it, got [{','.join(map(_written, asked))}]"
        return _invalid(index, group, text)
    if not wrong:
        # a group of the defaults list is chosen without +, and `+model=vae` cannot mean anything else
        return text if "/" in group else text.lstrip("+")
    if "/" in group:
        return _invalid(index, group, _wrong_choice(group, _written(wrong[0]), known).text)
    texts = [c if isinstance(c, str) and c.isidentifier() else f"'{quote(_written(c))}'" for c in wrong]
    value = texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"
    return f"++{INVALID_CHOICE}.{group}={value}"


def _asked(override: Override) -> list[Any]:
    """The choices that an override names: one, or a sweep of several."""
    values: list[Any] = []
    for item in _items(override):
        if isinstance(item, RangeSweep):
            values += numbers_of(item)
        elif not isinstance(item, Glob):
            values.append(item)
    return [_unquoted(choice) for choice in values]


def _unquoted(choice: Any) -> Any:
    return choice.text if isinstance(choice, QuotedString) else choice


def _written(choice: Any) -> str:
    return choice if isinstance(choice, str) else shown(choice)


def quote_text(text: str) -> str:
    """A text in Hydra's grammar, where backslashes count only before a quote and at the end."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", text)
    return "'" + doubled.replace("'", r"\'") + "'"


def _invalid(index: int, key: str, text: str) -> str:
    """A message on its way through Hydra's grammar, whose special characters it must not contain."""
    key = key if len(key) <= LONGEST_SHOWN else f"{key[:LONGEST_SHOWN]} ..."
    return f"++{INVALID_OVERRIDE}.o{index}='{quote(f'{key}' + chr(10) + text)}'"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
