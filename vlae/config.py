"""The configuration of a run: composed from conf/, resolved, checked as a whole.

Nothing here imports torch until a configuration is validated, so that help and composition stay quick.
"""

import functools
import hashlib
import importlib.util
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from vlae.files import expanded
from vlae.flags import check_options
from vlae.identity import LONGEST_NAME, MISSING, PATHS, get, run_id, with_added_fields, wrong_name
from vlae.overrides import (
    CONF,
    DIRECTORIES,
    INVALID_CHOICE,
    INVALID_OVERRIDE,
    MARKERS,
    assignments,
    commands,
    directories,
    folded,
    is_multirun,
    lenient,
    split,
    unclear_files,
    unreadable,
    wrong_choices,
    wrong_overrides,
)
from vlae.plugins import KINDS, NAME, build, check, check_fields, check_name, load_target
from vlae.preprocessing import Preprocessing, conflicts
from vlae.problems import ConfigError, Problem, did_you_mean, listed, shown, with_suggestions

__all__ = [
    "COMPOSITION_ERRORS",
    "CONF",
    "Ais",
    "Config",
    "ConfigError",
    "Evaluate",
    "Problem",
    "available_devices",
    "build",
    "check_command",
    "compose",
    "compose_unchecked",
    "composition_error",
    "fixed_keys",
    "lenient",
    "override",
    "resolve",
    "run_id",
    "too_few_test_images",
    "validate",
    "with_absolute_paths",
    "wrong_numbers",
]


def _device(name: Any) -> str:
    kind, colon, index = str(name).partition(":")
    if name in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and colon and index.isdecimal()):
        return name
    raise PydanticCustomError("device", "auto, cpu, cuda, cuda:N or mps")


Count = Annotated[int, Field(ge=1)]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Proposal = Literal["own", "laplace", "student_t", "mixture"]
"""The names of ``vlae.proposals``, which needs torch."""


def _proposals(names: list[str]) -> list[str]:
    if "own" not in names or len(set(names)) < len(names):
        raise PydanticCustomError("proposals", "each name once, and own among them: the ELBO is its")
    return names


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Trainer(_Section):
    """How training goes; conf/config.yaml explains each key."""

    epochs: Count
    batch_size: Count
    selection: Literal["validation", "test"]
    patience: Count | None
    clip_grad_norm: Annotated[float, Field(gt=0)] | None
    initialisation: Literal["paper", "original"]
    checkpoint_every: Annotated[float, Field(gt=0)]
    precision: Literal["float32", "float64"]
    objective: Literal["elbo", "iwae"]
    num_samples: Count
    kl: Literal["sampled", "analytic"]


class Ais(_Section):
    """Annealed importance sampling; conf/config.yaml explains each key."""

    num_images: Annotated[int, Field(ge=0)]
    num_chains: Annotated[int, Field(ge=2)]
    num_distributions: Count
    num_leapfrog: Count


class Evaluate(_Section):
    """How a model is scored; conf/config.yaml explains each key."""

    proposals: Annotated[list[Proposal], Field(min_length=1), AfterValidator(_proposals)]
    num_samples: Count
    target_standard_error: Annotated[float, Field(gt=0)] | None
    num_gap_images: Annotated[int, Field(ge=0)]
    ais: Ais
    bdmc: bool
    memory_budget: Annotated[int, Field(ge=16)]
    num_images: Count | None


def _project(name: str) -> str:
    if 1 <= len(name) <= 128 and name.isprintable() and not set(name) & set("/\\#?%:"):
        return name
    raise PydanticCustomError("project", "1 to 128 characters without / \\ # ? % :")


def _entity(name: str) -> str:
    if _project(name) and not any(c.isspace() for c in name):
        return name
    raise PydanticCustomError("entity", "a user or team, which has no spaces,")


def _name(longest: int) -> AfterValidator:
    def check_name(name: str) -> str:
        if wrong := wrong_name(name, longest):
            raise PydanticCustomError("name", "{wrong}", {"wrong": wrong})
        return name

    return AfterValidator(check_name)


class Tracker(_Section):
    """Where a run is mirrored, in lengths that Weights & Biases takes; conf/config.yaml explains each key."""

    wandb: bool
    tensorboard: bool
    project: Annotated[str, AfterValidator(_project)]
    entity: Annotated[str, AfterValidator(_entity)] | None
    group: Annotated[str, _name(LONGEST_NAME)] | None
    tags: list[Annotated[str, _name(64)]]
    name: Annotated[str, _name(LONGEST_NAME)] | None
    mode: Literal["auto", "online", "offline", "disabled"]
    images_every: Count | None
    artifacts: bool


class Config(_Section):
    """A run, completely described. The first four sections name a class or function and its arguments."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    output_dist: dict[str, Any]
    optimizer: dict[str, Any]
    trainer: Trainer
    evaluate: Evaluate
    tracker: Tracker
    seed: Annotated[int, Field(ge=0)]
    device: Annotated[str, BeforeValidator(_device)]
    num_threads: Count | None
    runs_dir: Annotated[str, Field(min_length=1)]
    force: bool
    retry: bool
    dry_run: bool


FIXED_SECTIONS: dict[str, type[BaseModel]] = {
    "trainer": Trainer,
    "evaluate": Evaluate,
    "evaluate.ais": Ais,
    "tracker": Tracker,
}


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
        key, value, came = match.groups()
        return ConfigError([Problem(f"~{key}={came}", f"{key} is {value}, not {came}; {key}={came} sets it")])
    texts = [line.strip() for e in (error, error.__cause__) if e is not None for line in str(e).splitlines()]
    return ConfigError([Problem("composition", " ".join(text for text in texts if text))])


def _nothing_to_delete(key: str, arguments: Sequence[str]) -> Problem:
    """Why ``~key`` cannot be done: Hydra takes a null for nothing, too."""
    others = [text for text in folded(arguments) if text.partition("=")[0] != f"~{key}"]
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


def available_devices(precision: str = "float32") -> list[str]:
    """What may stand as ``device`` on this machine besides auto, the best first."""
    import torch

    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    found = ["cuda", *(f"cuda:{i}" for i in cuda)] if cuda else []
    if torch.backends.mps.is_available() and precision != "float64":  # which mps does not have
        found.append("mps")
    return [*found, "cpu"]


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
        return [Problem("dataset.path", "expected a file, came null: add dataset.path=/where/it/is.npz")]
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
        text = f"{path} is another file: its digest is {digest.hexdigest()}, came {shown(stated)}"
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
            of_section = check(section, values[section]) if deep else check_name(section, values[section])
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
        return [Problem(place, f"expected a finite number, came {shown(value)}")]
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


def _missing_device(values: dict[str, Any]) -> list[Problem]:
    """A device that is named as it should be, but that this machine does not have."""
    name, precision = values.get("device"), get(values, "trainer.precision", "float32")
    choices = ["auto", *available_devices(precision)]
    if name is None or name in choices:
        return []
    if name == "mps" and name in available_devices():
        text = "mps has no float64, which trainer.precision asks for"
    else:
        text = f"{name} is not available on this machine"
    return [Problem("device", f"{text}; choices: {listed(choices)}")]


def _missing_extra(values: dict[str, Any]) -> list[Problem]:
    """A tracker whose library is not installed: its mirror would stay empty, beside a run of days."""
    if get(values, "tracker.tensorboard") is not True or importlib.util.find_spec("tensorboardX"):
        return []
    text = "needs tensorboardX, which is not installed: pip install 'vlae[tensorboard]', or choose another tracker"
    return [Problem("tracker.tensorboard", text)]


def _conflicts(values: dict[str, Any], found: Sequence[Problem]) -> list[Problem]:
    """Keys that are right by themselves and cannot go together; those of ``found`` are not right by themselves."""
    # an override that cannot be read begins with its key
    wrong = [Problem(problem.key.partition("=")[0], "") for problem in found]

    def sound(*keys: str) -> bool:
        return not any(p.within(key) or Problem(key, "").within(p.key) for p in wrong for key in keys)

    problems: list[Problem] = []
    if sound("trainer.selection", "dataset.validation_size"):
        problems += _no_validation_images(values)
    if sound("trainer.objective", "trainer.kl", "model._target_"):
        problems += _no_closed_form(values)
    if sound("dataset._target_"):
        loader = load_target("dataset", values["dataset"]["_target_"])
        facts = getattr(loader, "known", {})  # what the loader knows of its data before it reads them
        if sound("dataset.validation_size"):
            problems += _no_training_images(values, facts.get("training_images"))
        if sound("evaluate.num_images"):
            problems += too_few_test_images(get(values, "evaluate.num_images"), facts.get("test_images"))
        if sound("output_dist._target_", *_PREPROCESSING):
            problems += _preprocessing_conflicts(values, facts)
    return problems


def _no_validation_images(values: dict[str, Any]) -> list[Problem]:
    no_validation = get(values, "dataset.validation_size") == 0
    brings_its_own = "path" in values["dataset"]  # a file of the user's may hold a validation array
    if values["trainer"]["selection"] != "validation" or not no_validation or brings_its_own:
        return []
    text = (
        "expected test where dataset.validation_size is 0 (there is no validation split), came 'validation'"
    )
    return [Problem("trainer.selection", text)]


def _no_closed_form(values: dict[str, Any]) -> list[Problem]:
    """trainer.kl=analytic where there is no divergence in the objective, or none in closed form."""
    if values["trainer"]["kl"] == "sampled":
        return []
    expected = "expected sampled where"
    if values["trainer"]["objective"] == "iwae":
        text = f"{expected} trainer.objective is iwae (its bound has no KL term), came 'analytic'"
        return [Problem("trainer.kl", text)]
    if not load_target("model", values["model"]["_target_"]).analytic_kl:
        name = values["model"]["name"]
        text = f"{expected} model is {name} (its KL(q || p) has no closed form), came 'analytic'"
        return [Problem("trainer.kl", text)]
    return []


def _no_training_images(values: dict[str, Any], there: int | None) -> list[Problem]:
    wanted = get(values, "dataset.validation_size")
    if there is None or not isinstance(wanted, int) or wanted < there:
        return []
    text = f"expected 0 to {there - 1} of the {there} training images, so that some are left, came {wanted}"
    return [Problem("dataset.validation_size", text)]


def too_few_test_images(wanted: int | None, there: int | None) -> list[Problem]:
    """What is wrong with ``evaluate.num_images`` where there are so many test images; None: that is not known."""
    if wanted is None or there is None or wanted <= there:
        return []
    text = f"expected 1 to {there}, the test images that there are, or null for all, came {wanted}"
    return [Problem("evaluate.num_images", text)]


def _preprocessing_conflicts(values: dict[str, Any], facts: dict[str, Any]) -> list[Problem]:
    output = load_target("output_dist", values["output_dist"]["_target_"])
    clashes = conflicts(
        Preprocessing.of(values["dataset"]),
        output.support,
        channels=facts.get("channels"),
        integers=facts.get("integers"),
    )
    return [Problem(*re.split(r": |=", clash, maxsplit=1)) for clash in clashes]


_PREPROCESSING = tuple(f"dataset.{key}" for key in sorted(Preprocessing.keys()))
