"""The configuration of a run: composed from conf/, resolved, checked as a whole.

Nothing here imports torch until a configuration is validated, so that help and composition stay quick.
"""

import functools
import hashlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from vlae.config.checks import _conflicts, _missing_device, _missing_extra
from vlae.config.options import check_options
from vlae.config.overrides import (
    CONF,
    DIRECTORIES,
    INVALID_CHOICE,
    INVALID_OVERRIDE,
    MARKERS,
    assignments,
    commands,
    directories,
    is_multirun,
    lenient,
    overrides_of,
    split,
    unclear_files,
    unreadable,
    wrong_choices,
    wrong_overrides,
)
from vlae.config.problems import ConfigError, Problem, did_you_mean, listed, shown, with_suggestions
from vlae.config.run_id import MISSING, PATHS, get, with_added_fields
from vlae.config.schema import FIXED_SECTIONS, SCHEMA_VERSION, Config
from vlae.config.targets import KINDS, NAME, check_fields, check_name, check_section
from vlae.system.files import expanded

Composed = Any
"""An omegaconf.DictConfig; as a hint it makes beartype warn about the outdated class it derives from."""

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)
"""What Hydra raises where it cannot compose."""


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What ``launch.py <overrides>`` would run, as a plain container; the same from any working directory."""
    return resolve(_compose(overrides))


def compose_unchecked(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The same, as far as it can be resolved: something to show, not to run."""
    return _plain(_compose(overrides), "", [])


def check_command(arguments: Sequence[str]) -> None:
    """What can be refused before Hydra starts."""
    check_options(arguments)
    (overrides, options), asked = split(arguments), commands(arguments)
    if unclear := unclear_files([CONF, *directories(arguments)]):
        raise ConfigError(unclear)
    if is_multirun(arguments):
        return
    launchers = [
        text for text in overrides if text.lstrip("+~").startswith(("hydra/launcher", "hydra.launcher"))
    ]
    named = [text for text in overrides if text.lstrip("+").startswith("hydra.sweeper.name=")]
    if named and not asked:
        text = "names a sweep: add -m or sweeps=NAME; a single run is named by its settings"
        raise ConfigError(Problem(each, text) for each in named)
    if launchers and not asked:
        text = (
            "launchers start sweeps: add -m or sweeps=NAME; without them the run would be executed right here"
        )
        raise ConfigError(Problem(each, text) for each in launchers)
    if options and (problems_of_names := unreadable(arguments)):
        raise ConfigError(problems_of_names)


def composition_error(error: Exception, arguments: Sequence[str] = ()) -> ConfigError:
    """Hydra's own refusal (a deletion of nothing, a broken file in conf/) as one problem; arguments: the command."""
    if match := re.match(r"Could not delete from config\. '(.+)' does not exist", str(error)):
        return ConfigError([_nothing_to_delete(match[1], arguments)])
    if match := re.match(
        r"Could not delete from config\. The value of '(.+?)' is (.+) and not (.+)\.$", str(error), re.S
    ):
        key, value, given = match.groups()
        return ConfigError(
            [Problem(f"~{key}={given}", f"{key} is {value}, not {given}; {key}={given} sets it")]
        )
    texts = [line.strip() for e in (error, error.__cause__) if e is not None for line in str(e).splitlines()]
    return ConfigError([Problem("composition", " ".join(text for text in texts if text))])


def _nothing_to_delete(key: str, arguments: Sequence[str]) -> Problem:
    """Why ``~key`` cannot be done: Hydra takes a null for nothing, too."""
    others = [text for text in overrides_of(arguments) if text.partition("=")[0] != f"~{key}"]
    container = _plain(_compose([text for text in others if not text.startswith("~")]), "", [])
    if get(container, key) is MISSING:
        return Problem(f"~{key}", f"there is no such key{did_you_mean(key, _dotted_keys(container))}")
    return Problem(f"~{key}", f"{key} is null, and a run states every key: leave ~{key} out")


def _compose(overrides: Sequence[str]) -> Composed:
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=lenient(overrides))
    except COMPOSITION_ERRORS as error:
        raise composition_error(error, overrides) from error


def resolve(composed: Composed) -> dict[str, Any]:
    """The container that a composed configuration stands for: interpolations followed, files identified.

    Where something is wrong that shows without importing a target (so that the id of the container would mean
    nothing), ConfigError with everything that is wrong; ``validate`` finds the rest.
    """
    problems: list[Problem] = []
    container = _plain(composed, "", problems)
    if "schema_version" in container:
        problems.append(Problem("schema_version", "it is written by vlae and not set; remove it"))
    container["schema_version"] = SCHEMA_VERSION
    problems += _expand_paths(container, PATHS)
    problems += _identify_file(container, problems)
    # targets, and torch with them, are imported only for a complete report
    if problems or _problems_of(container, problems, deep=False):
        raise ConfigError([*problems, *_problems_of(container, problems), *_missing_extra(container)])
    return container


def validate(container: dict[str, Any], *, to_run: bool = True) -> Config:
    """The checked configuration; ConfigError with everything that is wrong with it.

    to_run: False for a run that is only looked at, maybe on a machine that could not mirror it.
    """
    container = with_added_fields(container)
    problems = [*_problems_of(container, ()), *(_missing_extra(container) if to_run else ())]
    if problems:
        raise ConfigError(problems)
    return Config.model_validate(container)


def override(container: dict[str, Any], arguments: Sequence[str], allowed: Sequence[str]) -> dict[str, Any]:
    """A frozen configuration with overrides of the ``allowed`` keys; ConfigError with everything that is wrong."""
    found, problems = assignments(arguments)
    composed = OmegaConf.create(with_added_fields(container))
    for key, value in found:
        if key not in allowed:
            text = f"cannot be changed{did_you_mean(key, allowed)} (what can: {listed(allowed)})"
            problems.append(Problem(key, text))
            continue
        try:
            OmegaConf.update(composed, key, value, force_add=True)
        except OmegaConfBaseException as error:
            problems.append(Problem(key, str(error).partition("\n")[0]))
    changed = _plain(composed, "", problems)
    problems += _expand_paths(changed, [key for key, _ in found if key in PATHS])
    problems += _identify_file(changed, problems)
    problems += _problems_of(changed, problems)
    if problems:
        raise ConfigError(problems)
    return changed


def _plain(node: Any, place: str, problems: list[Problem]) -> Any:
    """A node without OmegaConf; what cannot be resolved is a problem and stands as None."""
    if isinstance(node, ListConfig):
        return [
            _plain(_entry(node, i, f"{place}[{i}]", problems), f"{place}[{i}]", problems)
            for i in range(len(node))
        ]
    if not isinstance(node, DictConfig):
        return node
    entries = {}
    for key in node:
        name = f"{place}.{key}" if place else str(key)
        entries[str(key)] = _plain(_entry(node, key, name, problems), name, problems)
    return entries


def _entry(node: Any, key: Any, name: str, problems: list[Problem]) -> Any:
    try:
        return node[key]
    except MissingMandatoryValue:
        problems.append(Problem(name, f"a value is needed: add {name}=..."))
    except OmegaConfBaseException as error:
        problems.append(Problem(name, _unresolved(str(error).partition("\n")[0])))
    return None


def _unresolved(text: str) -> str:
    """OmegaConf's words, with what may have been meant: ${SCRATCH} is a variable of the shell, and a key here."""
    if match := re.match(r"Interpolation key '([A-Z_][A-Z0-9_]*)' not found", text):
        return f"{text}; an environment variable is ${match[1]} or ${{oc.env:{match[1]}}}"
    if match := re.search(r"Environment variable '(.*)' not found", text):
        return f"the environment variable {match[1]} is not set"
    return text


def _expand_paths(container: dict[str, Any], keys: Iterable[str]) -> list[Problem]:
    """Replace ~ and environment variables in the values of these keys."""
    problems = []
    for key in keys:
        section, last = _section_of(container, key)
        if isinstance(section, dict) and isinstance(section.get(last), str):
            try:
                section[last] = expanded(section[last])
            except ValueError as error:
                problems.append(Problem(key, str(error)))
    return problems


def with_absolute_paths(container: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, as it is frozen."""
    changed = {**container, "dataset": dict(container["dataset"])}
    for key in PATHS:
        section, last = _section_of(changed, key)
        if isinstance(section.get(last), str):
            section[last] = os.path.abspath(section[last])
    return changed


def _section_of(container: dict[str, Any], key: str) -> tuple[Any, str]:
    place, _, last = key.rpartition(".")
    return (get(container, place) if place else container), last


def _identify_file(container: dict[str, Any], already: Sequence[Problem]) -> list[Problem]:
    """A dataset that is a file of the user's is the file's content: fill dataset.sha256."""
    dataset = container.get("dataset")
    if any(problem.key == "dataset.path" for problem in already):
        return []
    if not isinstance(dataset, dict) or not {"path", "sha256"} <= dataset.keys():
        return []
    path, stated = dataset["path"], dataset["sha256"]
    if path is None:
        return [Problem("dataset.path", "expected a file, got null: add dataset.path=/where/it/is.npz")]
    if not isinstance(path, str):
        return []  # validation says so
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        return [Problem("dataset.path", f"{shown(path)} cannot be read ({error.strerror})")]
    if stated not in (None, digest.hexdigest()):
        text = f"{path} is another file: its digest is {digest.hexdigest()}, got {shown(stated)}"
        return [Problem("dataset.sha256", text)]
    dataset["sha256"] = digest.hexdigest()
    return []


def _problems_of(container: dict[str, Any], already: Sequence[Problem], deep: bool = True) -> list[Problem]:
    """All problems of a container, without those below keys that have one already."""
    marked = {marker: container.get(marker) or {} for marker in MARKERS}
    values = {key: value for key, value in container.items() if key not in MARKERS}
    problems = wrong_overrides(marked[INVALID_OVERRIDE]) + wrong_choices(
        marked[INVALID_CHOICE], marked[DIRECTORIES]
    )
    found = _problems_of_fixed_keys(values)
    for section in KINDS:
        if isinstance(values.get(section), dict):
            of_section = (
                check_section(section, values[section]) if deep else check_name(section, values[section])
            )
            found += _of_another_target(section, values[section], of_section)
    found += [p for p in wrong_numbers(values) if p.key not in {other.key for other in found}]
    if deep:
        found += _conflicts(values, [*problems, *found, *already])
    if deep and not any(p.within("device") for p in found):
        found += _missing_device(values)
    # a section whose choice was wrong stands at its default: its keys were meant for another
    hidden = [*marked[INVALID_CHOICE], *(problem.key for problem in already)]
    found = with_suggestions(found, _dotted_keys(values))
    return problems + [p for p in found if not any(p.within(key) for key in hidden)]


def _of_another_target(section: str, values: dict[str, Any], found: list[Problem]) -> list[Problem]:
    """The problems of a section; one instead, where its keys are those of another target than the one it names."""
    name, target = values.get("name"), values.get("_target_")
    usual = _target_of(section, name) if isinstance(name, str) else None
    keys = [p for p in found if p.key not in (f"{section}._target_", f"{section}.name")]
    if usual in (None, target) or not keys or len(keys) < len(found):
        return found
    wrong = f"{target} does not go with the keys of {section}={name} ({listed(p.key.rpartition('.')[2] for p in keys)})"
    files = (CONF / section).glob("*.yaml")
    if there := next((f.stem for f in sorted(files) if _target_of(section, f.stem) == target), None):
        return [Problem(f"{section}._target_", f"{wrong}; choose {section}={there}, which has its own")]
    own = str(target).rpartition(".")[2].lower()
    text = (
        f"{wrong}; give it a file {section}/{own}.yaml in conf/ or in a directory that --config-dir adds, with "
        f"name: {own}, _target_: {target} and its keys, and choose {section}={own}"
    )
    return [Problem(f"{section}._target_", text)]


@functools.cache
def _target_of(section: str, name: str) -> str | None:
    """What a choice in conf/ names."""
    file = CONF / section / f"{name}.yaml"
    if not NAME.fullmatch(name) or not file.is_file():
        return None
    content = OmegaConf.to_container(OmegaConf.load(file))
    return content.get("_target_") if isinstance(content, dict) else None


@functools.cache
def _hints(model: type[BaseModel]) -> dict[str, Any]:
    return get_type_hints(model, include_extras=True)


def _problems_of_fixed_keys(values: dict[str, Any]) -> list[Problem]:
    problems = []
    for place, model in {"": Config, **FIXED_SECTIONS}.items():
        section = get(values, place) if place else values
        if isinstance(section, dict):
            hints = _hints(model)
            inner = {name: dict for name in hints if _join(place, name) in FIXED_SECTIONS}
            problems += check_fields(place, section, {**hints, **inner})
    return problems


def fixed_keys(section: str) -> list[str]:
    """The dotted keys of a fixed section and of those inside it."""
    keys = [f"{section}.{name}" for name in FIXED_SECTIONS[section].model_fields]
    return [leaf for key in keys for leaf in (fixed_keys(key) if key in FIXED_SECTIONS else [key])]


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


SMALLEST, LARGEST = -(2**63), 2**64 - 1
"""Whole numbers of 64 bits, signed or not: torch, JSON readers and trackers take no others."""


def wrong_numbers(value: Any, place: str = "") -> list[Problem]:
    """Numbers that no run has, in a section or a value: nan, inf, whole numbers of more than 64 bits."""
    if isinstance(value, dict):
        return [p for k, v in value.items() for p in wrong_numbers(v, f"{place}.{k}" if place else str(k))]
    if isinstance(value, list):
        return [p for i, v in enumerate(value) for p in wrong_numbers(v, f"{place}[{i}]")]
    if isinstance(value, float) and not math.isfinite(value):
        return [Problem(place, f"expected a finite number, got {shown(value)}")]
    if isinstance(value, int) and not SMALLEST <= value <= LARGEST:
        bound = f"at most {LARGEST} (2^64 - 1)" if value > 0 else f"at least {SMALLEST} (-2^63)"
        return [Problem(place, f"expected a whole number of 64 bits, {bound}, got {shown(value)}")]
    return []


def _dotted_keys(values: dict[str, Any], place: str = "") -> set[str]:
    keys = set()
    for key, value in values.items():
        keys.add(f"{place}{key}")
        if isinstance(value, dict):
            keys |= _dotted_keys(value, f"{place}{key}.")
    return keys
