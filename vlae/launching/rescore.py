"""Runs scored again with other settings of ``evaluate``: new runs, which take over the training of the old ones.

``vlae evaluate SWEEP KEY=VALUE`` is the sweep launched again with these settings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vlae.config.compose import override
from vlae.config.overrides import assignments
from vlae.config.problems import ConfigError, Problem
from vlae.config.run_id import OF_A_COMMAND
from vlae.config.schema import FIXED_SECTIONS, SCHEMA_VERSION, fields
from vlae.launching.composed_runs import ComposedRuns
from vlae.system.locations import CONF

SETTINGS = tuple(key for key, _ in fields("evaluate") if key not in FIXED_SECTIONS)
CHANGEABLE = (
    "evaluate",  # a choice of the group
    *SETTINGS,
    *("device", "num_threads", "dataset.root", "dataset.path", "dataset.url", *OF_A_COMMAND),
)
"""Keys that scoring again may change."""


def with_other_scores(container: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run scored otherwise.

    ConfigError: an override of a key that is not CHANGEABLE, or nothing would be scored.
    The device is chosen again, because this machine may lack the one that the run was trained on.
    """
    changed = {**container, "device": "auto", "schema_version": SCHEMA_VERSION}
    changed = override(changed, overrides, CHANGEABLE)
    if not changed["evaluate"]["proposals"]:
        text = "expected own among them, got [], which scores nothing; add evaluate=default or another choice"
        raise ConfigError([Problem("evaluate.proposals", text)])
    return changed


def rescored_runs(
    configurations: Sequence[tuple[str, dict[str, Any]]], overrides: Sequence[str], note: str = ""
) -> ComposedRuns:
    """The runs of these labels and configurations with other scores. ConfigError: what is wrong with any of them."""
    changed = [text.lstrip("+").partition("=")[0] for text in overrides]
    labels = [
        [word for word in label.split() if not word.startswith(tuple(f"{key}=" for key in changed))]
        for label, _ in configurations
    ]
    containers = iter(container for _, container in configurations)  # composed in the order of the labels
    notes = [note] if note else []
    return ComposedRuns(labels, lambda label: with_other_scores(next(containers), overrides), notes=notes)


def split_words(words: Sequence[str]) -> tuple[str, dict[str, Any], list[str]]:
    """The name of the launcher, its settings, and the other overrides. ConfigError: there is no such launcher."""
    names = {text.partition("=")[2] for text in words if text.startswith("hydra/launcher=")}
    known = sorted(file.stem for file in (CONF / "hydra" / "launcher").glob("*.yaml"))
    if len(names) > 1 or not names <= set(known):
        text = f"expected one of {', '.join(known)}, got {', '.join(sorted(names))}"
        raise ConfigError([Problem("hydra/launcher", text)])
    name = next(iter(names), "local")
    content = yaml.safe_load(Path(CONF, "hydra", "launcher", f"{name}.yaml").read_text(encoding="utf-8"))
    settings = {key: value for key, value in content.items() if not key.startswith("_")}
    given, problems = assignments([text for text in words if text.startswith("hydra.launcher.")])
    if problems:
        raise ConfigError(problems)
    settings |= {key.removeprefix("hydra.launcher."): value for key, value in given}
    others = [text for text in words if not text.startswith(("hydra/launcher=", "hydra.launcher."))]
    return name, settings, others
