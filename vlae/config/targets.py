"""Sections that name a target (model, dataset, optimizer, ...): checked against its signature, built."""

import functools
import importlib
import inspect
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from vlae.config.preprocessing import Preprocessing
from vlae.config.problems import ConfigError, Problem, format_value, problems_of, section_of
from vlae.config.run_id import ADDED_FIELDS, MISSING, exact_text
from vlae.config.schema import Count, Section

BESIDE = {"schedule": ("every",)}
"""Keys of a section that are no arguments of its target."""
NAME = re.compile(r"[A-Za-z0-9_]+")  # names become part of run ids, and so of directories


class Sizes(Section):
    """``dataset.sizes``: what other groups interpolate."""

    latent_dim: Count
    hidden_dims: Annotated[list[Count], Field(min_length=1)]
    epochs: Count
    quick_images: Count | None = None  # test images that evaluate=quick scores; None: all


@dataclass(frozen=True)
class TargetRule:
    """The classes that ``_target_`` of a section may name, and the arguments that are known only at run time."""

    modules: tuple[str, ...]
    what: str
    base: str
    """The class it derives from, or returns: named as text, for this package lies below those that define it."""
    runtime: tuple[str, ...] = ()


TARGETS = {
    "model": TargetRule(
        ("vlae.models",),
        "a model class below vlae.models",
        "vlae.models.base.LatentVariableModel",
        ("pixels", "image_shape", "output"),
    ),
    "output_dist": TargetRule(
        ("vlae.distributions",),
        "an output distribution of vlae.distributions",
        "vlae.distributions.outputs.OutputDistribution",
    ),
    "optimizer": TargetRule(
        ("torch.optim",), "an optimizer of torch.optim", "torch.optim.Optimizer", ("params",)
    ),
    "schedule": TargetRule(
        ("torch.optim.lr_scheduler", "vlae.training.learning_rate"),
        "a scheduler of torch.optim.lr_scheduler, or of vlae.training.learning_rate",
        "torch.optim.lr_scheduler.LRScheduler",
        ("optimizer", "steps_per_epoch", "total_steps", "last_epoch"),
    ),
    "dataset": TargetRule(
        ("vlae",),
        "a function below vlae that returns Splits, such as vlae.data.mnist",
        "vlae.data.splits.Splits",
    ),
}


def check_section(section: str, values: Mapping[str, Any]) -> list[Problem]:
    """All that is wrong with one section."""
    problems = check_name(section, values)
    target, refused = _find_target(section, values.get("_target_"))
    if refused is not None:
        return [*problems, refused]
    own = _arguments(section, values, _parameters(target, TARGETS[section].runtime))
    if section == "optimizer":
        return problems + _check_optimizer(target, own)
    own |= {key: values[key] for key in BESIDE.get(section, ()) if key in values}
    return problems + problems_of(_section_of(section, target), own, section)


@functools.cache  # making one takes longer than its use
def _section_of(section: str, target: Callable[..., Any]) -> type[BaseModel]:
    """The keys that the target of a section takes, as a schema."""
    parameters = _parameters(target, TARGETS[section].runtime)
    if section == "optimizer":
        # torch's hints are too wide to check by; it adds keys from version to version, so that only lr is needed
        hints = {name: _RANGES.get(name, _hint_of_default(p.default)) for name, p in parameters.items()}
        return section_of(hints, optional=hints.keys() - {"lr"})
    hints: dict[str, Any] = {name: parameter.annotation for name, parameter in parameters.items()}
    if section == "schedule":
        hints = {name: _RANGES.get(name, _hint_of(p)) for name, p in parameters.items()}
        optional = {name for name, p in parameters.items() if p.default is not p.empty}
        return section_of(hints | {"every": Literal["epoch", "step"]}, optional=optional)
    if section == "dataset":
        fields = Preprocessing.model_fields.items()
        hints |= {field.alias or name: field.rebuild_annotation() for name, field in fields}
        hints["sizes"] = Sizes
    return section_of(hints)


def load_target(section: str, target: Any) -> Any:
    """The class or function that ``_target_`` names; ConfigError if it may not stand there."""
    found, problem = _find_target(section, target)
    if problem:
        raise ConfigError([problem])
    return found


def _find_target(section: str, target: Any) -> tuple[Any, Problem | None]:
    """(target, None) or (None, what is wrong). Nothing outside the rule's package is even imported."""
    rule, key = TARGETS[section], f"{section}._target_"
    refused = Problem(key, f"expected {rule.what}, got {format_value(target)}")
    modules = "|".join(map(re.escape, rule.modules))
    if not isinstance(target, str) or not re.fullmatch(rf"({modules})(\.\w+)+", target):
        return None, refused
    try:
        found = _import(target)
    except (ImportError, AttributeError) as error:
        text = f"{format_value(target)} cannot be imported: this code has no such name ({error})"
        return None, Problem(key, text)
    return (found, None) if _fits(section, found) else (None, refused)


def _import(dotted: str) -> Any:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def check_targets(container: Mapping[str, Any], file: Path) -> None:
    """ConfigError, with the file that freezes the configuration: it names a class that this code does not have.

    A section that is missing is left to the checks of the configuration.
    """
    sections = {name: container[name] for name in TARGETS if isinstance(container.get(name), Mapping)}
    found = [_find_target(name, section.get("_target_"))[1] for name, section in sections.items()]
    if problems := [f"{problem}; {file} names it" for problem in found if problem]:
        raise ConfigError(problems)


def build(section: Mapping[str, Any], **runtime: Any) -> Any:
    """The object that a section describes: its target, called with its keys and the runtime arguments it takes."""
    target = str(section.get("_target_"))
    # the narrowest: a package may hold others
    modules = {module: name for name, rule in TARGETS.items() for module in rule.modules}
    fitting = [module for module in modules if target.startswith(f"{module}.")]
    group = modules[max(fitting, key=len)] if fitting else "model"
    make = load_target(group, target)
    beside = {"sizes", *Preprocessing.keys()} if group == "dataset" else set()
    taken = _parameters(make)
    keys = {key: value for key, value in _arguments(group, section, taken).items() if key not in beside}
    keys |= {key: value for key, value in runtime.items() if key in taken}
    for name, (shared, _) in _dataclass_parameters(make).items():
        keys[name] = shared(**{key: keys.pop(key) for key in _parameters(shared) if key in keys})
    return make(**keys)


def _arguments(section: str, values: Mapping[str, Any], taken: Iterable[str]) -> dict[str, Any]:
    """The keys of a section that its target is given.

    A target from before a key of ``run_id.ADDED_FIELDS`` does not take it, and does what its default says.
    """
    own = {
        key: value
        for key, value in values.items()
        if key not in ("name", "_target_", *BESIDE.get(section, ()))
    }
    default = {key: ADDED_FIELDS.get(f"{section}.{key}", MISSING) for key in own}
    return {key: value for key, value in own.items() if key in taken or value != default[key]}


def _fits(section: str, found: Any) -> bool:
    base = _import(TARGETS[section].base)
    if section == "dataset":
        return inspect.isfunction(found) and inspect.signature(found, eval_str=True).return_annotation is base
    is_class = inspect.isclass(found) and not inspect.isabstract(found)
    return is_class and issubclass(found, base) and found is not base


def _parameters(target: Callable[..., Any], runtime: tuple[str, ...] = ()) -> dict[str, inspect.Parameter]:
    """The parameters that are keys; a dataclass stands for its fields."""
    shared = _dataclass_parameters(target)
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in _signature(target).items():
        if name in shared:
            fields, narrower = shared[name]
            for n, p in _parameters(fields).items():
                found[n] = p.replace(annotation=narrower.get(n, p.annotation))
        elif parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
            found[name] = parameter
    return {name: parameter for name, parameter in found.items() if name not in runtime}


def _dataclass_parameters(target: Callable[..., Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The parameters that are dataclasses: the class, and narrower hints of its fields, given by Annotated."""
    found = {}
    for name, parameter in _signature(target).items():
        hint = parameter.annotation
        shared = getattr(hint, "__origin__", hint)
        if inspect.isclass(shared) and is_dataclass(shared):
            found[name] = shared, next(iter(getattr(hint, "__metadata__", ())), {})
    return found


def _signature(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target, eval_str=True).parameters
    except NameError:  # a hint imported for type checkers only
        return inspect.signature(target).parameters


def check_name(section: str, values: Mapping[str, Any]) -> list[Problem]:
    """``name`` becomes part of the run's id."""
    name = values.get("name")
    if isinstance(name, str) and NAME.fullmatch(name):
        return []
    return [Problem(f"{section}.name", f"expected letters, digits and _, got {format_value(name)}")]


def _check_optimizer(target: Any, values: dict[str, Any]) -> list[Problem]:
    """Problems of an optimizer's values: a default says more than torch's hints, the constructor knows the ranges."""
    step = inspect.signature(target.step).parameters.get("closure")
    if step is not None and step.default is inspect.Parameter.empty:
        text = f"{target.__name__} needs a closure, which training does not give"
        return [Problem("optimizer._target_", text)]
    problems = problems_of(_section_of("optimizer", target), values, "optimizer")
    if not problems:
        try:
            _try_optimizer(target, values)
        except (TypeError, ValueError, RuntimeError) as error:
            refused = "cannot train a model" if isinstance(error, RuntimeError) else "does not take them"
            text = f"{target.__name__} {refused}: {' '.join(str(error).split())}"
            problems.append(Problem("optimizer", text))
    return problems


def _try_optimizer(target: Any, values: dict[str, Any]) -> None:
    """One step on a matrix and a vector with dense gradients, which every model has."""
    import torch

    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in ((2, 2), (2,))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    # tried on the CPU, where torch captures no graphs
    target(parameters, **{key: value for key, value in values.items() if key != "capturable"}).step()


_RANGES = {
    "lr": Annotated[float, Field(gt=0)],
    "weight_decay": Annotated[float, Field(ge=0)],
    **dict.fromkeys(("gamma", "factor", "power"), Annotated[float, Field(gt=0)]),
    **dict.fromkeys(("step_size", "T_max", "T_0", "total_iters", "epochs"), Count),
}


def _hint_of(parameter: inspect.Parameter) -> Any:
    """The type of an argument without a default, if it is a plain one; else that of its default."""
    if parameter.default is parameter.empty:
        return parameter.annotation if parameter.annotation in (int, float) else Any
    return _hint_of_default(parameter.default)


def _wrong_unit(section: Mapping[str, Any], epochs: int) -> Problem | None:
    """The problem of a schedule whose numbers count something else than ``every`` says, or that watches it wrongly."""
    every, name = section["every"], str(section["_target_"]).rpartition(".")[2]
    if name == "ReduceLROnPlateau":
        expected = {"every": "epoch", "mode": "max", "threshold_mode": "abs"}
        if any(section.get(key) != value for key, value in expected.items()):
            asked = ", ".join(f"{key}: {value}" for key, value in expected.items())
            return Problem(
                "schedule", f"{name} watches the ELBO, which grows and may be negative: expected {asked}"
            )
    if "steps_per_epoch" in _parameters(load_target("schedule", section["_target_"])) and every != "step":
        return Problem("schedule.every", f"expected step, by which {name} changes the rate, got {every}")
    if every == "step" and section.get("T_max") == epochs:
        text = f"expected epoch, or T_max as a number of steps: {epochs} is that of epochs"
        return Problem("schedule.every", text)
    return None


TRIED_EPOCHS = 1000
"""Most epochs that a schedule is tried for."""


def schedule_problems(section: Mapping[str, Any], optimizer: Mapping[str, Any], epochs: int) -> list[Problem]:
    """What a schedule that is right by itself cannot do, by a try on an optimizer of one number."""
    return _try_schedule(exact_text(section), exact_text(optimizer), epochs)


@functools.cache  # the runs of a sweep have few different schedules
def _try_schedule(schedule: str, optimizer: str, epochs: int) -> list[Problem]:
    import torch

    section = json.loads(schedule)
    made = build(json.loads(optimizer), params=[torch.nn.Parameter(torch.zeros(1))])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer makes no steps
            scheduler = build(section, optimizer=made, steps_per_epoch=1)
            watched = (0.0,) if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else ()
            if wrong := _wrong_unit(section, epochs):
                return [wrong]
            for _ in range(min(epochs, TRIED_EPOCHS)):
                rates = [group["lr"] for group in made.param_groups]
                if wrong := [rate for rate in rates if not (math.isfinite(rate) and rate >= 0)]:
                    return [Problem("schedule", f"it leads to a learning rate of {wrong[0]:g}")]
                scheduler.step(*watched)
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, ZeroDivisionError) as error:
        name = str(section["_target_"]).rpartition(".")[2]
        return [Problem("schedule", f"{name} does not take them: {' '.join(str(error).split())}")]
    return []


def _hint_of_default(default: Any) -> Any:
    if isinstance(default, bool):
        return bool
    if isinstance(default, float | int):
        return float
    if isinstance(default, tuple):
        return Annotated[list[float], Field(min_length=len(default), max_length=len(default))]
    return bool | float | None if default is None else Any
