"""The options of launch.py: those of Hydra's that mean something here, the settings of a launch, added directories."""

import argparse
import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException

from vlae.config.overrides import (
    CONF,
    commands,
    directories,
    is_multirun,
    split_arguments,
    wrong_hydra_override,
    wrong_overrides,
)
from vlae.config.problems import ConfigError, Problem, did_you_mean, format_value, join_words
from vlae.config.values import parse, unclear_files

SHELLS = ("bash", "fish", "zsh")
VALUES = {
    "cfg": ("job", "hydra", "all"),
    "info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
OPTIONS = (
    *("--help", "--version", "--multirun", "--cfg", "--package", "--resolve", "--info", "--config-dir"),
    *("--run", "--shell-completion", "--hydra-help"),
)
"""The options of Hydra that work here."""
FIXED = "not supported: all runs are composed from conf/config.yaml; --config-dir DIR adds choices of yours"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        option, _, text = message.removeprefix("argument ").partition(": ")
        option = next((each for each in option.split("/") if each.startswith("--")), option)
        raise ConfigError([Problem(option, text or message)])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False, prog="launch.py")
    flags = ("--help -h", "--hydra-help", "--version", "--resolve", "--run -r", "--multirun -m")
    for flag in (*flags, "--shell-completion -sc"):
        parser.add_argument(*flag.split(), action="store_true")
    for option in ("--cfg -c", "--package -p", "--config-path -cp", "--config-name -cn", "--config-dir -cd"):
        parser.add_argument(*option.split())
    parser.add_argument("--experimental-rerun")
    parser.add_argument("--info", "-i", const="all", nargs="?")
    return parser


def check_command(arguments: Sequence[str]) -> None:
    """Refuse a wrong command before Hydra starts, where that is possible. ConfigError: what is wrong with it."""
    check_options(arguments)
    overrides, options = split_arguments(arguments)
    if unclear := unclear_files([CONF, *directories(arguments)]):
        raise ConfigError(unclear)
    if is_multirun(arguments):
        return
    add, problems = "add -m or sweeps=NAME", []
    for text in [] if commands(arguments) else overrides:
        if text.lstrip("+~").startswith("hydra.sweeper.name"):
            why = f"names a sweep: {add}; a single run is named by its settings"
            problems.append(Problem(text, why))
        elif text.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher")):
            why = f"launchers start sweeps: {add}; without them the run would be executed right here"
            problems.append(Problem(text, why))
    if problems := problems or (wrong_overrides(arguments) if options else []):
        raise ConfigError(problems)


def check_options(arguments: Sequence[str]) -> None:
    """ConfigError: everything that is wrong with the options of a command, and with its settings of a launch."""
    overrides, options = split_arguments(arguments)
    given, unknown = _parser().parse_known_args(options)
    choices = f"(options: {join_words(OPTIONS)})"
    problems = [Problem(o, f"unknown option{did_you_mean(o, OPTIONS)} {choices}") for o in unknown]
    for name in ("config_name", "config_path", "experimental_rerun"):
        if getattr(given, name) is not None:
            problems.append(Problem(f"--{name.replace('_', '-')}", FIXED))
    for name, values in VALUES.items():
        if (value := getattr(given, name)) not in (None, *values):
            text = f"expected one of {join_words(values)}, got {format_value(value)}"
            problems.append(Problem(f"--{name}", text))
    if len(asked := commands(arguments)) > 1:
        problems.append(Problem(" ".join(asked), "only one of them can be done at a time"))
    for name in ("package", "resolve"):
        if getattr(given, name) and given.cfg is None:
            problems.append(Problem(f"--{name}", "goes with --cfg job"))
    problems += wrong_directories(arguments)
    problems += wrong_settings_of_a_launch(overrides, directories(arguments))
    if problems:
        raise ConfigError(problems)


def wrong_directories(arguments: Sequence[str]) -> list[Problem]:
    """Directories of --config-dir and hydra.searchpath that are not there."""
    missing = [str(place) for place in directories(arguments) if not place.is_dir()]
    key = "--config-dir or hydra.searchpath"
    return [Problem(key, f"there is no directory {place!r}") for place in missing]


def wrong_settings_of_a_launch(overrides: Sequence[str], added: Sequence[Path]) -> list[Problem]:
    """Overrides of Hydra's own configuration that no launch has, or with several values."""
    return list(filter(None, (wrong_hydra_override(text, [CONF, *added]) for text in overrides)))


def check_call(overrides: object) -> list[str]:
    """The overrides of ``vlae.run``, which does one run. ConfigError: something else is asked for."""
    found: list[Any] = [None]
    if isinstance(overrides, Iterable) and not isinstance(overrides, str | Mapping):
        found = list(overrides)
    if not all(isinstance(text, str) for text in found):
        text = f"expected a list of texts such as ['model=vae', 'seed=1'], got {format_value(overrides)}"
        raise ConfigError([Problem("overrides", text)])
    problems = [Problem(text, why) for text in found if (why := _not_one_run(text))]
    added = directories(found)
    problems = problems or wrong_directories(found) or wrong_settings_of_a_launch(found, added)
    if problems := problems or unclear_files([CONF, *added]):
        raise ConfigError(problems)
    return found


def _not_one_run(text: str) -> str | None:
    """Why an argument of ``vlae.run`` is refused, if it is."""
    key, _, value = text.lstrip("+~").partition("=")
    if text.startswith(("--config-dir", "-cd")):
        return "vlae.run takes no options; write hydra.searchpath=[DIR]"
    if text.startswith("-"):
        return f"vlae.run does one run and takes no options; use python launch.py {text} ..."
    if key == "sweeps" or re.match(r"hydra(/launcher|\.(launcher|sweeper|mode))\b", key):
        return "vlae.run does one run; a sweep is started by python launch.py"
    if key == "dry_run" and value not in ("false", "False"):
        return "vlae.run starts the run; python launch.py dry_run=true shows what would be done"
    with contextlib.suppress(HydraException):  # reported with the other problems
        if parse(text).is_sweep_override():
            return f"several values: call vlae.run once for each, or write a list as [{value}]"
    return None


def completion(arguments: Sequence[str]) -> tuple[str, str] | None:
    """(install, uninstall or query; the shell) of ``--shell-completion``; None: the command does something else.

    ConfigError: it asks for something else than one of them.
    """
    if commands(arguments) != ["--shell-completion"]:
        return None
    overrides, _ = split_arguments(arguments)
    match = re.fullmatch(r"(install|uninstall|query)=(\w+)", overrides[0]) if len(overrides) == 1 else None
    if match is None or match[2] not in SHELLS:
        expected = f"install=SHELL or uninstall=SHELL, SHELL one of {join_words(SHELLS)}"
        text = f"expected {expected}, got {join_words(overrides)}"
        raise ConfigError([Problem("--shell-completion", text)])
    return match[1], match[2]
