"""Command-line overrides, rewritten so that Hydra composes even where they are wrong.

Hydra stops at the first mistake. Here a wrong override becomes a message in the configuration, which Hydra accepts and
``vlae.config.compose`` reports, so that all mistakes of a command are reported together.
"""

import contextlib
import itertools
import math
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from hydra.core.override_parser.types import Glob, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from vlae.config.problems import Problem, did_you_mean, format_value, join_words
from vlae.config.run_id import PATHS
from vlae.config.values import items_of, numbers_of, parse, refuse_too_many, texts_of, wrong_sweep
from vlae.system.files import expand_path
from vlae.system.locations import CONF

WRONG = "_wrong_"
"""The key under which messages about wrong overrides stand in a composed configuration; no real one has it."""

Groups = dict[str, list[str]]  # every group with its choices
SEVERAL = ("tracker",)  # groups of which a run can have several choices: ``tracker=[wandb,tensorboard]``

_OPTIONS_WITH_VALUE = {
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun"),
}
_COMMANDS = {"--multirun": "-m", "--run": "-r", "--cfg": "-c", "--info": "-i", "--shell-completion": "-sc"}
LONGEST_SHOWN = 200  # characters of an override in a message


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(overrides, options): Hydra's options with their values, and all else; --config-dir is a hydra.searchpath."""
    overrides, options, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if not argument.startswith("-") or _looks_like_override(argument):
            overrides.append(argument)
        elif name in ("--config-dir", "-cd") and (equals or rest):
            overrides.append(_search([_absolute(value if equals else rest.pop(0))]))
        else:
            options.append(argument)
            is_info = argument in ("--info", "-i") and rest and rest[0][0] != "-" and "=" not in rest[0]
            if rest and (argument in _OPTIONS_WITH_VALUE or is_info):
                options.append(rest.pop(0))
    return overrides, options


def _looks_like_override(argument: str) -> bool:
    """``--trainer.epochs=3``: an override with dashes, which is no option of Hydra's."""
    option, equals, _ = argument.partition("=")
    return bool(equals) and not any(known.startswith(option) for known in _OPTIONS_WITH_VALUE | {"--info"})


def is_multirun(arguments: Sequence[str]) -> bool:
    """True if a command asks for one run of each combination of values."""
    overrides, _ = split_arguments(arguments)
    return "--multirun" in commands(arguments) or "hydra.mode=MULTIRUN" in overrides


def commands(arguments: Sequence[str]) -> list[str]:
    """The options that ask Hydra to do something; it does one at a time."""
    names = [option.partition("=")[0] for option in split_arguments(arguments)[1]]
    # argparse takes any unambiguous prefix of a long option
    return [
        long
        for long, short in _COMMANDS.items()
        if any(name == short or (len(name) > 3 and long.startswith(name)) for name in names)
    ]


def hydra_arguments(arguments: Sequence[str], added: Sequence[Path] | None = None) -> list[str]:
    """The same arguments, wrong ones rewritten so that Hydra composes; `messages_in` finds them in what it composed.

    A key becomes ``++key`` (an unknown one is then found in the container), a wrong override a message below `WRONG`.
    What is right keeps its meaning. Overrides come first: argparse stops reading them at an option in between.
    added: directories with choices besides those in conf/; None: those that the arguments name.
    """
    found = []
    for read in _rewrite_all(arguments, added):
        if isinstance(read, Problem):  # quoted: without the special characters of Hydra's grammar
            text = quote(f"{read.key}\n{read.text}")
            read = f"++{WRONG}.o{zlib.crc32(text.encode())}='{text}'"
        found.append(read)
    return found + split_arguments(arguments)[1]


def wrong_overrides(arguments: Sequence[str]) -> list[Problem]:
    """Problems of the overrides of a command that show before they are composed."""
    return [read for read in _rewrite_all(arguments) if isinstance(read, Problem)]


def _rewrite_all(arguments: Sequence[str], added: Sequence[Path] | None = None) -> list[str | Problem]:
    groups = choices([CONF, *(directories(arguments) if added is None else added)])
    multirun = is_multirun(arguments)
    return [_rewrite(text, groups, multirun) for text in overrides_of(arguments)]


def messages_in(container: Mapping[str, Any]) -> list[Problem]:
    """The messages of `hydra_arguments` in a container."""
    messages = container.get(WRONG) or {}
    return [Problem(*unquote(str(text)).split("\n", 1)) for text in messages.values()]


def expand(overrides: Sequence[str], added: Sequence[Path] = ()) -> list[list[str]]:
    """The overrides of every run of a --multirun, in Hydra's order: the product of all sweeps.

    added: directories with choices besides those in conf/.
    """
    groups, axes = choices([CONF, *added]), []
    for text in hydra_arguments([*overrides, "--multirun"], added)[:-1]:
        override = parse(text)
        key, known = override.get_key_element(), groups.get(override.key_or_group, ())
        values = texts_of(override, known) if override.is_sweep_override() else []
        axes.append([f"{key}={value}" for value in values] or [text])
    sizes = {axis[0].lstrip("+").partition("=")[0]: len(axis) for axis in axes}
    refuse_too_many(math.prod(map(len, axes)), axes=sizes)
    return [list(job) for job in itertools.product(*axes)]


def assignments(
    arguments: Sequence[str], groups: Groups | None = None
) -> tuple[list[tuple[str, Any]], list[Problem]]:
    """(key, value) of the overrides of a configuration that is composed already, and what is wrong with the others.

    groups: those of which a choice can be made again.
    """
    found, problems = [], []
    for read in (_rewrite(text, groups or {}, multirun=False) for text in arguments):
        if isinstance(read, Problem):
            problems.append(read)
        else:
            found.append((parse(read).key_or_group, parse(read).value()))
    return found, problems


def choices(directories: Sequence[Path] = (CONF,)) -> Groups:
    """Every group with its choices: the folders below conf/ and the files in them."""
    found: dict[str, set[str]] = {}
    for directory in directories:
        for file in directory.rglob("*.yaml"):
            group = file.parent.relative_to(directory).as_posix()
            if group not in (".", "hydra/sweeper"):
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(names) for group, names in sorted(found.items())}


def _wrong_choice(group: str, wrong: Sequence[str], known: Sequence[str]) -> Problem:
    near, names = did_you_mean(wrong[0], known), " or ".join(map(repr, wrong))
    return Problem(group, f"no choice {names}{near} (choices: {join_words(known)})")


def _no_group(key: str, group: str, known: Iterable[str]) -> Problem:
    known = list(known)
    return _problem(key, f"no group {group!r}{did_you_mean(group, known)} (groups: {join_words(known)})")


HYDRA_KEYS = ("hydra.launcher.KEY", "hydra.sweeper.name", "hydra.searchpath", "hydra.mode")
"""Keys of Hydra's own configuration that can be set; hydra.sweeper.file is sweeps=NAME."""
_HYDRA_KEY = re.compile(r"hydra\.(launcher(\.\w+)+|sweeper\.(name|file)|searchpath|mode)")


def wrong_hydra_override(text: str, places: Sequence[Path]) -> Problem | None:
    """The problem of an override of Hydra's own configuration: an unknown group, choice or key.

    None also for one that cannot be read, which is reported with the other problems.
    """
    if not re.match(r"[+~]{0,2}hydra\b", text):
        return None
    try:
        override = parse(text)
    except HydraException:
        return None
    key, value = override.key_or_group, override.value()
    groups = {
        "hydra/launcher": choices(places).get("hydra/launcher", []),
        **{"hydra/sweeper": ["grids"], "hydra/job_logging": ["none"], "hydra/hydra_logging": ["none"]},
    }
    if override.is_sweep_override():
        return Problem(text, "expected one value: it is a setting of the launch, not of a run")
    if key in groups:
        return None if value in groups[key] else _wrong_choice(key, [_choice_text(value)], groups[key])
    if "/" in key or key == "hydra":
        return _no_group(text, key, groups)
    if override.is_delete() or not _HYDRA_KEY.fullmatch(key):
        return Problem(text, f"no setting of a launch (settings: {join_words(HYDRA_KEYS)})")
    if key == "hydra.mode" and value not in ("RUN", "MULTIRUN"):
        return Problem(key, f"expected RUN or MULTIRUN, got {format_value(value)}")
    return None


def directories(arguments: Sequence[str]) -> list[Path]:
    """The directories that a command adds to conf/, by --config-dir or hydra.searchpath; they need not exist."""
    return [
        place for text in split_arguments(arguments)[0] if _is_search(text) for place in _directories_in(text)
    ]


def added_directories(composed: Any) -> list[Path]:
    """The directories beside conf/ that a configuration was composed from."""
    sources = composed.hydra.runtime.config_sources
    return [Path(s.path) for s in sources if s.schema == "file" and Path(s.path) != CONF]


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The overrides of a command, with one of hydra.searchpath for all directories that it adds."""
    overrides = [text for text in split_arguments(arguments)[0] if not _is_search(text)]
    return [*overrides, *([_search(added)] if (added := directories(arguments)) else [])]


def _is_search(text: str) -> bool:
    return text.lstrip("+").startswith("hydra.searchpath=")


def _search(places: Sequence[Path]) -> str:
    return f"hydra.searchpath=[{','.join(quote_text(str(place)) for place in places)}]"


def _directories_in(text: str) -> list[Path]:
    """The directories in an override of hydra.searchpath."""
    try:
        override = parse(text)
        value: Any = [] if override.is_sweep_override() else override.value()  # several values are refused
    except HydraException:
        value = text.partition("=")[2].strip("[]").split(",")  # such as ~/mine
    entries = value if isinstance(value, list) else [value]
    return [_absolute(str(_without_quotes(entry))) for entry in entries if entry is not None]


def _absolute(text: str) -> Path:
    """The directory that is meant; what ~ or a variable does not name stays as it is, and is not found."""
    text = text.strip().removeprefix("file://")
    with contextlib.suppress(ValueError):
        text = expand_path(text)
    return Path(text).absolute()


def _rewrite(text: str, groups: Groups, multirun: bool) -> str | Problem:
    """An override as Hydra is given it, or what is wrong with it."""
    if text.startswith("-"):
        return _problem(text, f"not an option; keys are written without dashes: {text.lstrip('-')}")
    if re.match(r"[+~]*=", text):
        return _problem(text, f"has no key; {_HOW_TO_WRITE}, without spaces around =")
    if "=" not in text and not text.startswith("~"):
        return _problem(text, f"has no value; {_HOW_TO_WRITE}, several values 0,1,2 with -m")
    if (named := _SWEEP_NAME.fullmatch(text)) and named["name"].lower() != "null":
        return f"hydra.sweeper.name={quote_text(named['name'])}"
    try:
        override = parse(text)
    except HydraException as error:
        return _rewrite_unreadable(text, error)
    return _rewrite_readable(text, override, groups, multirun)


def _rewrite_unreadable(text: str, error: HydraException) -> str | Problem:
    key, _, value = text.lstrip("+").partition("=")
    if key in PATHS:  # ~/runs and (1)/runs are no values in Hydra's grammar
        return f"++{key}={quote_text(value)}"
    slip = "there are spaces around =" if key != key.strip() else _slip(value)
    first_line = str(error).partition("\n")[0]
    why = f"cannot be read: {slip}" if slip else f"cannot be read ({first_line}); {_HOW_TO_WRITE}"
    return _problem(text, why)


def _rewrite_readable(text: str, override: Override, groups: Groups, multirun: bool) -> str | Problem:
    key, value = override.key_or_group, text.partition("=")[2]
    if key.startswith("hydra.launcher.") and not override.is_delete():
        return "++" + text.lstrip("+")
    if override.is_hydra_override():
        return text
    if override.is_delete():
        left_out = _problem(text, f"a run states every key: leave {text} out")
        return text if key.startswith("optimizer.") else left_out
    if "@" in override.get_key_element() and key in groups:
        return _problem(text, f"each group stands at its own place: write {key}={value}")
    if override.is_sweep_override() and not multirun:
        or_list = "" if key in groups else f", or write a list as [{value}]"
        if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", value):
            or_list += f", a decimal number as {value.replace(',', '.')}"
        return _problem(text, f"several values: add -m for one run each{or_list}")
    if override.is_sweep_override() and (wrong := wrong_sweep(override, groups.get(key))):
        return _problem(text, wrong)
    if key in groups:
        return _rewrite_choice(text, override, groups[key])
    if "/" in key or "@" in override.get_key_element():
        return _no_group(text, key, top_level(groups))
    return "++" + text.lstrip("+")


_FUNCTION = re.compile(r"(choice|sort|shuffle)\((?P<values>.*\b(range|interval|glob)\(.*)\)")
_TYPESET = "\u2212\u2010\u2011\u2013\u2014\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019\u201a\uff0c\uff1d\u00a0"
_LOOKALIKES = dict(zip(_TYPESET, '-----"""""\'\'\',= ', strict=True)) | {"\u2026": "..."}
"""Characters that word processors and web pages put in the place of those on a keyboard."""


def _slip(text: str) -> str | None:
    """The probable meaning of a text that Hydra cannot read, where it is clear."""
    if found := next((character for character in text if character in _LOOKALIKES), None):
        name = unicodedata.name(found, "a character").lower()
        return f"it has {found!r} ({name}), where {_LOOKALIKES[found]!r} is meant"
    if match := _FUNCTION.fullmatch(text):
        return f"a range cannot stand inside a function; write {match['values']}"
    if match := re.fullmatch(r"\((.*)\)", text):
        return f"a list has square brackets: [{match[1]}]"
    if match := re.search(r"\brange\(.*?(\)|$)", text):
        numbers = "range takes numbers, as in range(0,3) or range(0,1,0.1)"
        return numbers if match[1] else "a bracket is missing"
    if text.rstrip().endswith(","):
        return "it ends in a comma, after which a value is missing"
    if ";" in text:
        return f"values are separated by commas: {text.replace(';', ',')}"
    return None


_SWEEP_NAME = re.compile(r"\+{0,2}hydra\.sweeper\.name=(?P<name>(?!['\"]).*)", re.DOTALL)
"""A name is text as it is written: 20261128 and 1e5 are no numbers."""

_HOW_TO_WRITE = "overrides are key=value, a list is [500,500], a text with special characters \"key='text'\""


def top_level(groups: Groups) -> list[str]:
    """The groups that stand in no other one, such as model."""
    return [group for group in groups if "/" not in group]


def _rewrite_choice(text: str, override: Override, known: Sequence[str]) -> str | Problem:
    group, asked = override.key_or_group, _choices_in(override)
    if len(asked) == 1 and isinstance(asked[0], list):
        asked = [_without_quotes(choice) for choice in asked[0]]
        if group not in SEVERAL:
            each = ",".join(map(_choice_text, asked))
            text = f"expected one choice, got the list [{each}]; one run for each is {group}={each} with -m"
            return Problem(group, text)
    wrong = [_choice_text(choice) for choice in asked if not isinstance(choice, str) or choice not in known]
    if wrong:
        return _wrong_choice(group, wrong, known)
    if "none" in asked and len(asked) > 1 and not override.is_sweep_override():
        return Problem(group, f"expected none alone, or without it, got [{','.join(asked)}]")
    # a group of the defaults list is chosen without +, and `+model=vae` cannot mean anything else
    return text if "/" in group else text.lstrip("+")


def _choices_in(override: Override) -> list[Any]:
    """The choices that an override names: one, or a sweep of several."""
    values: list[Any] = []
    for item in items_of(override):
        if not isinstance(item, Glob):
            values += numbers_of(item) if isinstance(item, RangeSweep) else [_without_quotes(item)]
    return values


def _without_quotes(choice: Any) -> Any:
    return choice.text if isinstance(choice, QuotedString) else choice


def _choice_text(choice: Any) -> str:
    return choice if isinstance(choice, str) else format_value(choice)


def quote_text(text: str) -> str:
    """A text in Hydra's grammar, where backslashes count only before a quote and at the end."""
    doubled = re.sub(r"(\\+)(?='|\Z)", r"\1\1", text)
    return "'" + doubled.replace("'", r"\'") + "'"


def _problem(text: str, what: str) -> Problem:
    return Problem(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ...", what)
