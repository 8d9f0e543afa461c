"""Completion of a shell behind launch.py: options, groups with their choices, keys with values."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from vlae.config.compose import compose_unchecked
from vlae.config.help import SWEEPS, documented_keys
from vlae.config.options import OPTIONS
from vlae.config.overrides import CONF, choices, directories, overrides_of, split_arguments, top_level
from vlae.config.problems import ConfigError
from vlae.config.run_id import MISSING, get
from vlae.config.schema import FIXED_SECTIONS

PLAIN = re.compile(r"[^\s'\"\\$`]+")  # words that a shell takes unquoted


def query(shell: str) -> str:
    """The answer to Hydra's completion script for the shell: candidates for the last word of $COMP_LINE."""
    found = [word for word in candidates(os.environ.get("COMP_LINE", "")) if PLAIN.fullmatch(word)]
    return ("\n" if shell == "fish" else " ").join(found)


def candidates(line: str) -> list[str]:
    """All completions of the last word of a command line, in the order of conf/."""
    words = line.split()
    script = next((i for i, word in enumerate(words) if word == "launch" or word.endswith(".py")), 0)
    words = words[script + 1 :]
    last = "" if line[-1:].isspace() or not words else words.pop()
    if last.startswith("-"):
        return [option for option in OPTIONS if option.startswith(last)]
    sign = re.sub(r"^(\+{0,2}).*", r"\1", last)
    typed = last.removeprefix(sign)
    return [sign + word for word in _candidates(typed, words) if word.startswith(typed)]


def _candidates(word: str, before: Sequence[str]) -> Iterator[str]:
    added = [place for place in directories(before) if place.is_dir()]
    groups = choices([CONF, *added])
    try:
        container = compose_unchecked(
            [o for o in overrides_of(before) if "=" in o and not o.startswith("sweeps=")]
        )
    except ConfigError:
        container = compose_unchecked()
    key, equals, value = word.partition("=")
    if equals:
        done, comma, _ = value.rpartition(",")
        for each in _values_of(key, groups, container):
            yield f"{key}={done}{comma}{each}"
        return
    yield from (f"{group}=" for group in top_level(groups))
    yield from ("sweeps=", "hydra/launcher=", "hydra.sweeper.name=")
    yield from _keys_beside(container, word)
    overrides, _ = split_arguments(before)
    chosen = next((o.partition("=")[2] for o in overrides if o.startswith("hydra/launcher=")), "local")
    file = CONF / "hydra" / "launcher" / f"{chosen}.yaml"
    if word.startswith("hydra.") and file.is_file():
        yield from (f"hydra.launcher.{name}=" for name in documented_keys(file) if name[0] != "_")


def _values_of(key: str, groups: dict[str, list[str]], container: dict[str, Any]) -> Sequence[str]:
    if key in groups:
        return groups[key]
    if key == "sweeps":
        return sorted(file.stem for file in SWEEPS.glob("*.yaml"))
    value = get(container, key)
    if value is MISSING or isinstance(value, dict):
        return []
    if isinstance(value, bool):
        return ["true", "false"]
    place, _, name = key.rpartition(".")
    section = FIXED_SECTIONS.get(place)
    if section is not None and get_origin(hint := section.model_fields[name].annotation) is Literal:
        return get_args(hint)
    return [str(value).replace(" ", "") if value is not None else "null"]


def _keys_beside(container: dict[str, Any], word: str) -> Iterator[str]:
    """The keys beside the one that is being typed; sections end in a dot."""
    place = word.rpartition(".")[0]
    section = get(container, place) if place else container
    for key, value in section.items() if isinstance(section, dict) else ():
        if key not in ("name", "_target_"):
            name = f"{place}.{key}" if place else key
            yield f"{name}." if isinstance(value, dict) else f"{name}="
