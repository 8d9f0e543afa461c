"""Checks of a whole configuration: settings that contradict each other, and what this machine lacks."""

import importlib.util
import re
from collections.abc import Sequence
from typing import Any

from vlae.config.preprocessing import Preprocessing, conflicts
from vlae.config.problems import Problem, listed
from vlae.config.run_id import get
from vlae.config.targets import load_target


def available_devices(precision: str = "float32") -> list[str]:
    """What may stand as ``device`` on this machine besides auto, the best first."""
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
    text = "expected test where dataset.validation_size is 0 (there is no validation split), got 'validation'"
    return [Problem("trainer.selection", text)]


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


def _no_training_images(values: dict[str, Any], there: int | None) -> list[Problem]:
    wanted = get(values, "dataset.validation_size")
    if there is None or not isinstance(wanted, int) or wanted < there:
        return []
    text = f"expected 0 to {there - 1} of the {there} training images, so that some are left, got {wanted}"
    return [Problem("dataset.validation_size", text)]


def too_few_test_images(wanted: int | None, there: int | None) -> list[Problem]:
    """What is wrong with ``evaluate.num_images`` where there are so many test images; None: that is not known."""
    if wanted is None or there is None or wanted <= there:
        return []
    text = f"expected 1 to {there}, the test images that there are, or null for all, got {wanted}"
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
