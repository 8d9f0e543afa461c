"""The configuration of a run: composed from conf/, resolved, checked as a whole.

Nothing here imports torch until a configuration is validated, so that help and composition stay quick.
"""

import copy
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, MissingMandatoryValue, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vlae.config.checks import missing_extra, problems_in
from vlae.config.overrides import CONF, assignments, choices, hydra_arguments
from vlae.config.problems import ConfigError, Problem, did_you_mean, format_value, join_words
from vlae.config.run_id import PATHS, section_of_key, with_added_fields
from vlae.config.schema import SCHEMA_VERSION, Config
from vlae.config.values import parse
from vlae.system.files import expand_path

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException)  # what Hydra raises where it cannot compose


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration that ``launch.py <overrides>`` runs, as a container; the same from any working directory."""
    return resolve(_compose(overrides))


def compose_unchecked(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The same, as far as it can be resolved: something to show, not to run."""
    return compose_with_choices(overrides)[0]


def compose_with_choices(overrides: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The same, and what was chosen of each group: of most groups one, of ``tracker`` one or several."""
    composed = _compose(overrides, return_hydra_config=True)
    chosen = {
        str(group): [str(name) for name in (names if isinstance(names, ListConfig) else [names])]
        for group, names in composed.hydra.runtime.choices.items()
    }
    with open_dict(composed):
        del composed["hydra"]
    return _plain(composed, "", []), chosen


def composition_error(error: Exception) -> ConfigError:
    """The refusal of Hydra itself, such as of a broken file in conf/, as one problem."""
    texts = [line.strip() for e in (error, error.__cause__) if e is not None for line in str(e).splitlines()]
    return ConfigError([Problem("composition", " ".join(text for text in texts if text))])


def _compose(overrides: Sequence[str], **how: bool) -> Any:
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra_compose("config", overrides=hydra_arguments(overrides), **how)
    except COMPOSITION_ERRORS as error:
        raise composition_error(error) from error


def resolve(composed: Any) -> dict[str, Any]:
    """The container of a composed configuration (a DictConfig): interpolations followed, files identified.

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
    if problems or problems_in(container, problems, deep=False):
        raise ConfigError([*problems, *problems_in(container, problems), *missing_extra(container)])
    return container


def validate(container: dict[str, Any], *, to_run: bool = True) -> Config:
    """The checked configuration; ConfigError with everything that is wrong with it.

    to_run: False for a run that is only looked at, maybe on a machine that could not mirror it.
    """
    container = with_added_fields(container)
    problems = [*problems_in(container, ()), *(missing_extra(container) if to_run else ())]
    if problems:
        raise ConfigError(problems)
    return Config.model_validate(container)


def override(container: dict[str, Any], arguments: Sequence[str], allowed: Sequence[str]) -> dict[str, Any]:
    """A frozen configuration with overrides of the ``allowed`` keys; ConfigError with everything that is wrong.

    An allowed key may be a group: ``evaluate=quick`` replaces its section, and overrides of its keys come on top.
    """
    composed = OmegaConf.create(with_added_fields(container))
    groups = {group: names for group, names in choices().items() if group in allowed}
    found, problems = assignments(arguments, groups)
    for key, value in sorted(found, key=lambda each: each[0] not in groups):
        if key in groups:
            # not resolved: what it takes from other sections is that of this run
            composed[key] = OmegaConf.to_container(_compose([f"{key}={value}"])[key])
            continue
        if key not in allowed:
            text = f"cannot be changed{did_you_mean(key, allowed)} (what can: {join_words(allowed)})"
            problems.append(Problem(key, text))
            continue
        try:
            OmegaConf.update(composed, key, value, force_add=True)
        except OmegaConfBaseException as error:
            problems.append(Problem(key, str(error).partition("\n")[0]))
    changed = _plain(composed, "", problems)
    problems += _expand_paths(changed, [key for key, _ in found if key in PATHS])
    problems += _identify_file(changed, problems)
    problems += problems_in(changed, problems)
    if problems:
        raise ConfigError(problems)
    return changed


def _plain(node: Any, place: str, problems: list[Problem]) -> Any:
    """A node without OmegaConf; what cannot be resolved is a problem and stands as None."""
    if isinstance(node, ListConfig):
        names = {i: f"{place}[{i}]" for i in range(len(node))}
    elif isinstance(node, DictConfig):
        names = {key: f"{place}.{key}" if place else str(key) for key in node}
    else:
        return node
    found = {str(k): _plain(_entry(node, k, name, problems), name, problems) for k, name in names.items()}
    return list(found.values()) if isinstance(node, ListConfig) else found


def _entry(node: Any, key: Any, name: str, problems: list[Problem]) -> Any:
    try:
        return node[key]
    except MissingMandatoryValue:
        problems.append(Problem(name, f"a value is needed: add {name}=..."))
    except OmegaConfBaseException as error:
        problems.append(Problem(name, _explain_resolution(str(error).partition("\n")[0])))
    return None


def _explain_resolution(text: str) -> str:
    """The words of OmegaConf, with what may have been meant: ${SCRATCH} is a variable of the shell, and a key here."""
    if match := re.match(r"Interpolation key '([A-Z_][A-Z0-9_]*)' not found", text):
        return f"{text}; an environment variable is ${match[1]} or ${{oc.env:{match[1]}}}"
    if match := re.search(r"Environment variable '(.*)' not found", text):
        return f"the environment variable {match[1]} is not set"
    return text


def _expand_paths(container: dict[str, Any], keys: Iterable[str]) -> list[Problem]:
    """Replace ~ and environment variables in the values of these keys."""
    problems = []
    for key in keys:
        section, last = section_of_key(container, key)
        if isinstance(section, dict) and isinstance(section.get(last), str):
            try:
                section[last] = expand_path(section[last])
            except ValueError as error:
                problems.append(Problem(key, str(error)))
    return problems


def with_absolute_paths(container: dict[str, Any]) -> dict[str, Any]:
    """The same configuration, as it is frozen."""
    changed = {**container, "dataset": dict(container["dataset"])}
    for key in PATHS:
        section, last = section_of_key(changed, key)
        if isinstance(section.get(last), str):
            section[last] = os.path.abspath(section[last])
    return changed


def _identify_file(container: dict[str, Any], already: Sequence[Problem]) -> list[Problem]:
    """A dataset that is a file of the user's is the file's content: fill dataset.sha256."""
    dataset = container.get("dataset")
    if not isinstance(dataset, dict) or not {"path", "sha256"} <= dataset.keys():
        return []
    path, stated = dataset["path"], dataset["sha256"]
    if any(problem.key == "dataset.path" for problem in already) or not isinstance(path, str | None):
        return []  # validation says so
    if path is None:
        return [Problem("dataset.path", "expected a file, got null: add dataset.path=/where/it/is.npz")]
    try:
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        return [Problem("dataset.path", f"{format_value(path)} cannot be read ({error.strerror})")]
    if stated not in (None, digest):
        text = f"{path} is another file: its digest is {digest}, got {format_value(stated)}"
        return [Problem("dataset.sha256", text)]
    dataset["sha256"] = digest
    return []


class Composer:
    """Compose what is chosen (model, dataset, experiment, ...) once for all runs that choose alike.

    Law: the same container as ``config.compose``. Hydra itself first merges the files that an entry of the defaults
    list chooses, and then applies the remaining overrides one by one; here the second step is done on a copy.
    """

    def __init__(self, load: Callable[[list[str]], Any], added: Sequence[Path] = ()) -> None:
        """load: the composed configuration, with its ``hydra`` section, of a list of overrides.

        added: directories with choices besides those in conf/.
        """
        self._load, self._bases = load, {}
        self._added, self._groups = added, choices([CONF, *added])

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """ConfigError: what is wrong, as far as it shows without importing a target."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        parsed = [parse(text) for text in hydra_arguments(overrides, self._added)]
        chosen = tuple(str(o.input_line) for o in parsed if self._chooses(o))
        try:
            if chosen not in self._bases:
                self._bases[chosen] = self._load(list(chosen))
                with open_dict(self._bases[chosen]) as base:
                    del base["hydra"]
            composed = copy.deepcopy(self._bases[chosen])
            # Hydra has no public function for its second step alone; its public ones repeat the first step
            ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if not self._chooses(o)], composed)
        except COMPOSITION_ERRORS as error:
            raise composition_error(error) from error
        return resolve(composed)

    def _chooses(self, override: Override) -> bool:
        """True if the override takes part in the defaults list."""
        key = override.key_or_group
        return key in self._groups or "/" in key or "@" in key or override.is_hydra_override()
