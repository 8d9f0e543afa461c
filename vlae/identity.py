"""The identity of a run: what makes it the run it is, and the id made of that."""

import copy
import hashlib
import json
from typing import Any

SCHEMA_VERSION = 1
"""Raised when a change of meaning, not of a key, makes old results incomparable."""

OPERATIONAL = (
    "device",
    "num_threads",
    "runs_dir",
    "force",
    "retry",
    "dry_run",
    "trainer.checkpoint_every",
    "evaluate.memory_budget",
    "dataset.root",
    "dataset.url",
    "dataset.path",  # the content of a file counts (dataset.sha256), not where it lies
    "dataset.sizes",  # only a default of other keys
    "tracker",
)
"""Keys that change how a run is carried out, and not what comes out."""

OF_A_COMMAND = ("force", "retry", "dry_run")
"""How one start was asked for: no setting of a run, and false in what is frozen."""

ADDED_FIELDS: dict[str, Any] = {
    "evaluate.proposals": ["own"],
    "evaluate.target_standard_error": None,
    "evaluate.num_gap_images": 0,
    "evaluate.ais": {"num_images": 0, "num_chains": 16, "num_distributions": 1000, "num_leapfrog": 3},
    "evaluate.bdmc": False,
    "trainer.objective": "elbo",
    "trainer.num_samples": 1,
    "trainer.kl": "sampled",
    "model.activation": "relu",
    "model.network": "mlp",
    "retry": False,
    "dry_run": False,
    "tracker": {
        **{
            "wandb": False,
            "tensorboard": False,
            "project": "vlae",
            "entity": None,
            "group": None,
            "tags": [],
        },
        **{"name": None, "mode": "auto", "images_every": None, "artifacts": False},
    },
}
"""Keys added later, with what a run did that has them not: at it they count as absent, so old ids stay valid."""

MISSING = object()
"""What ``get`` returns for a key that is not there."""


def scientific(container: dict[str, Any]) -> dict[str, Any]:
    """What makes a run what it is: the configuration without operational keys, numbers in one spelling.

    Laws: the order of keys does not matter; 1 and 1.0 are the same; a field of ADDED_FIELDS at its default is
    absent; any other change changes the result.
    """
    kept = copy.deepcopy(container)
    for key in OPERATIONAL:
        _drop(kept, key)
    for key, default in ADDED_FIELDS.items():
        if _text(get(kept, key)) == _text(default):
            _drop(kept, key)
    return {**_canonical(kept), "schema": SCHEMA_VERSION}


def run_id(container: dict[str, Any]) -> str:
    """``vlae-digits-gaussian-s0-0123456789``: readable, and a hash of the full scientific configuration."""
    text = json.dumps(scientific(container), sort_keys=True, separators=(",", ":"), allow_nan=False)
    names = [container[section]["name"] for section in ("model", "dataset", "output_dist")]
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return "-".join([*names, f"s{_canonical(container['seed'])}", digest])


def with_added_fields(container: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with the fields that did not exist when it was frozen, at their defaults."""
    full = copy.deepcopy(container)
    for key, default in ADDED_FIELDS.items():
        place, _, last = key.rpartition(".")
        section = get(full, place) if place else full
        if isinstance(section, dict):
            section.setdefault(last, copy.deepcopy(default))
    return full


def carried_out_as(container: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The run of ``container`` with the operational keys of ``other``."""
    changed = copy.deepcopy(container)
    for key in OPERATIONAL:
        place, _, last = key.rpartition(".")
        section, value = get(changed, place) if place else changed, get(other, key)
        if isinstance(section, dict) and value is not MISSING:
            section[last] = copy.deepcopy(value)
    return changed


def get(container: Any, key: str, default: Any = MISSING) -> Any:
    """The value at a dotted key, or ``default``."""
    for part in key.split("."):
        if not isinstance(container, dict) or part not in container:
            return default
        container = container[part]
    return container


def _drop(container: dict[str, Any], key: str) -> None:
    place, _, last = key.rpartition(".")
    section = get(container, place) if place else container
    if isinstance(section, dict):
        section.pop(last, None)


def _text(value: Any) -> str:
    """Equal for equal values alone: Python takes 0 for False."""
    return json.dumps(_canonical(value), sort_keys=True, default=repr)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
