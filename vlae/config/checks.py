"""Checks of a whole configuration: each key, settings that contradict each other, and what this machine lacks."""

import functools
import importlib.util
import math
import re
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from vlae.config.overrides import CONF, WRONG, messages_in
from vlae.config.preprocessing import Preprocessing, conflicts
from vlae.config.problems import ConfigError, Problem, format_value, join_words, problems_of, with_suggestions
from vlae.config.run_id import MISSING, entries, get, section_of_key
from vlae.config.schema import Config, Evaluate, Trainer, fields
from vlae.config.targets import TARGETS, check_name, check_section, load_target, schedule_problems


def problems_in(
    container: dict[str, Any], already: Sequence[Problem] = (), *, deep: bool = True
) -> list[Problem]:
    """All that is wrong with a container, without problems of keys that have one already.

    deep: False for what shows without importing a target, and torch with it.
    """
    values = {key: value for key, value in container.items() if key != WRONG}
    problems = messages_in(container)
    found = problems_of(Config, values) + _missing_keys(values)
    check = check_section if deep else check_name
    for section in TARGETS:
        if isinstance(content := values.get(section), dict):
            found += _of_another_target(section, content, check(section, content))
    found += [p for p in wrong_leaves(values) if p.key not in {other.key for other in found}]
    if deep:
        found += _conflicts(values, [*problems, *found, *already])
    if deep and not any(p.within("device") for p in found):
        found += _missing_device(values)
    found = with_suggestions(found, [key for key, _ in entries(values) if "[" not in key])
    # a section whose choice was wrong stands at its default: its keys were meant for another
    return problems + [p for p in found if not any(p.within(other.key) for other in [*problems, *already])]


def _missing_keys(values: dict[str, Any]) -> list[Problem]:
    """Missing keys that have a default: a run sets them too, because its id is a hash of all its settings."""
    missing = [key for key, field in fields() if not field.is_required() and get(values, key) is MISSING]
    here = [key for key in missing if isinstance(section_of_key(values, key)[0], dict)]
    return [Problem(key, "missing; set this key") for key in here]


def _of_another_target(section: str, values: dict[str, Any], found: list[Problem]) -> list[Problem]:
    """The problems of a section; one instead, where its keys are those of another target than the one it names."""
    key, name, target = f"{section}._target_", values.get("name"), values.get("_target_")
    if not found or any(problem.key in (key, f"{section}.name") for problem in found):
        return found
    targets = _targets_of(section)
    if targets.get(str(name)) in (None, target):
        return found
    keys = join_words(problem.key.rpartition(".")[2] for problem in found)
    wrong = f"{target} does not go with the keys of {section}={name} ({keys})"
    if there := next((choice for choice, named in targets.items() if named == target), None):
        return [Problem(key, f"{wrong}; choose {section}={there}, which has its own")]
    own = str(target).rpartition(".")[2].lower()
    file = f"{section}/{own}.yaml in conf/ or in a directory that --config-dir adds"
    keys = f"name: {own}, _target_: {target} and its keys"
    return [Problem(key, f"{wrong}; give it a file {file}, with {keys}, and choose {section}={own}")]


@functools.cache
def _targets_of(section: str) -> dict[str, Any]:
    """The choices in conf/ with what they name."""
    files = sorted((CONF / section).glob("*.yaml"))
    return {file.stem: OmegaConf.select(OmegaConf.load(file), "_target_") for file in files}


SMALLEST, LARGEST = -(2**63), 2**64 - 1
"""Whole numbers of 64 bits, signed or not: torch, JSON readers and trackers take no others."""


def wrong_leaves(value: Any, place: str = "") -> list[Problem]:
    """Values that no key has, in a section or a value: nan, inf, whole numbers of more than 64 bits, the text None."""
    return [Problem(key, wrong) for key, leaf in entries(value, place) if (wrong := _wrong_leaf(leaf))]


def _wrong_leaf(value: Any) -> str | None:
    if value == "None":
        return "expected null where there is none, got the text 'None'"
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {format_value(value)}"
    if isinstance(value, int) and not SMALLEST <= value <= LARGEST:
        bound = f"at most {LARGEST} (2^64 - 1)" if value > 0 else f"at least {SMALLEST} (-2^63)"
        return f"expected a whole number of 64 bits, {bound}, got {format_value(value)}"
    return None


def available_devices(precision: str = "float32") -> list[str]:
    """The values that ``device`` takes on this machine besides auto, the best first."""
    import torch

    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    found = ["cuda", *(f"cuda:{i}" for i in cuda)] if cuda else []
    if torch.backends.mps.is_available() and precision != "float64":  # which mps does not have
        found.append("mps")
    return [*found, "cpu"]


def _missing_device(values: dict[str, Any]) -> list[Problem]:
    """A device that is named as it should be, but that this machine does not have."""
    name, precision = values.get("device"), get(values, "trainer.precision", "float32")
    choices = ["auto", *available_devices(precision)]
    if name is None or name in choices:
        return []
    why = "is not available on this machine"
    if name == "mps" and name in available_devices():
        why = "has no float64, which trainer.precision asks for"
    return [Problem("device", f"{name} {why}; choices: {join_words(choices)}")]


def missing_extra(values: dict[str, Any]) -> list[Problem]:
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
    if sound("evaluate.proposals", *BESIDE_PROPOSALS):
        problems += _nothing_to_measure_by(values)
    if sound("trainer.objective", "trainer.kl", "model._target_"):
        problems += _no_closed_form(values)
    if sound("trainer.objective", "trainer.kl_weight", "trainer.kl_warmup_epochs"):
        problems += _no_kl_to_weigh(values)
    if sound("trainer.average", "trainer.average_decay"):
        problems += _no_average(values)
    if sound("schedule", "optimizer", "trainer.epochs"):
        problems += schedule_problems(values["schedule"], values["optimizer"], values["trainer"]["epochs"])
    if sound("dataset._target_"):
        loader = load_target("dataset", values["dataset"]["_target_"])
        facts = getattr(loader, "known", {})  # what the loader knows of its data before it reads them
        if sound("dataset.validation_size"):
            problems += _no_training_images(values, facts.get("training_images"))
        if sound("evaluate.num_images"):
            problems += too_few_test_images(get(values, "evaluate.num_images"), facts.get("test_images"))
        if sound("output_dist._target_", *(f"dataset.{key}" for key in sorted(Preprocessing.keys()))):
            problems += _preprocessing_conflicts(values, facts)
    return problems


def _no_validation_images(values: dict[str, Any]) -> list[Problem]:
    no_validation = get(values, "dataset.validation_size") == 0
    brings_its_own = "path" in values["dataset"]  # a file of the user's may hold a validation array
    if values["trainer"]["selection"] != "validation" or not no_validation or brings_its_own:
        return []
    text = "expected test where dataset.validation_size is 0 (there is no validation split), got 'validation'"
    return [Problem("trainer.selection", text)]


BESIDE_PROPOSALS = (
    "evaluate.num_gap_images",
    *(
        f"evaluate.{name}.num_images"
        for name, section in Evaluate.sections().items()
        if "num_images" in section.model_fields
    ),
    "evaluate.bdmc",
)
"""Measurements that are compared with the estimates of the proposals; off at 0 or false."""


def _nothing_to_measure_by(values: dict[str, Any]) -> list[Problem]:
    """Gaps or annealing on test images that no proposal scores."""
    if values["evaluate"]["proposals"]:
        return []
    asked = [f"{key}={format_value(value)}" for key in BESIDE_PROPOSALS if (value := get(values, key))]
    if not asked:
        return []
    text = f"expected own among them beside {join_words(asked)}, got []; evaluate=none leaves all of them out"
    return [Problem("evaluate.proposals", text)]


def _no_closed_form(values: dict[str, Any]) -> list[Problem]:
    """trainer.kl=analytic where there is no divergence in the objective, or none in closed form."""
    if values["trainer"]["kl"] == "sampled":
        return []
    expected = "expected sampled where"
    if values["trainer"]["objective"] == "iwae":
        text = f"{expected} trainer.objective is iwae (its bound has no KL term), got 'analytic'"
        return [Problem("trainer.kl", text)]
    if not load_target("model", values["model"]["_target_"]).analytic_kl:
        name = values["model"]["name"]
        text = f"{expected} model is {name} (its KL(q || p) has no closed form), got 'analytic'"
        return [Problem("trainer.kl", text)]
    return []


def _no_kl_to_weigh(values: dict[str, Any]) -> list[Problem]:
    """A weight of KL(q || p) in an objective that has no such term."""
    trainer = values["trainer"]
    if trainer["objective"] != "iwae" or (trainer["kl_weight"] == 1 and not trainer["kl_warmup_epochs"]):
        return []
    key, neutral = ("kl_weight", 1) if trainer["kl_weight"] != 1 else ("kl_warmup_epochs", 0)
    text = (
        f"expected {neutral} where trainer.objective is iwae (its bound has no KL term), got {trainer[key]}"
    )
    return [Problem(f"trainer.{key}", text)]


def _no_average(values: dict[str, Any]) -> list[Problem]:
    """A decay of an average that is not made."""
    default, decay = Trainer.model_fields["average_decay"].default, values["trainer"]["average_decay"]
    if values["trainer"]["average"] != "none" or decay == default:
        return []
    return [
        Problem("trainer.average_decay", f"expected {default} where trainer.average is none, got {decay}")
    ]


def _no_training_images(values: dict[str, Any], there: int | None) -> list[Problem]:
    wanted = get(values, "dataset.validation_size")
    if there is None or not isinstance(wanted, int) or wanted < there:
        return []
    text = f"expected 0 to {there - 1} of the {there} training images, so that some are left, got {wanted}"
    return [Problem("dataset.validation_size", text)]


def too_few_test_images(wanted: int | None, there: int | None) -> list[Problem]:
    """The problem of ``evaluate.num_images`` with this number of test images; there=None: it is unknown."""
    if wanted is None or there is None or wanted <= there:
        return []
    text = f"expected 1 to {there}, the test images that there are, or null for all, got {wanted}"
    return [Problem("evaluate.num_images", text)]


def require_test_images(wanted: int | None, there: int) -> None:
    """ConfigError: ``evaluate.num_images`` is more than there are."""
    if problems := too_few_test_images(wanted, there):
        raise ConfigError(problems)


def _preprocessing_conflicts(values: dict[str, Any], facts: dict[str, Any]) -> list[Problem]:
    output = load_target("output_dist", values["output_dist"]["_target_"])
    facts = {name: facts.get(name) for name in ("channels", "integers")}
    clashes = conflicts(Preprocessing.of(values["dataset"]), output.support, **facts)
    return [Problem(*re.split(r": |=", clash, maxsplit=1)) for clash in clashes]
