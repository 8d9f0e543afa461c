"""The id of a run, and the settings that determine it."""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from vlae.config.schema import PLUGINS, SCHEMA_VERSION, extras, fields


def newer_schema(container: dict[str, Any]) -> str:
    """Why a frozen configuration of a later scheme cannot be read; empty for one that can."""
    version = container.get("schema_version", 1)
    if not isinstance(version, int) or version <= SCHEMA_VERSION:
        return ""
    versions = f"schema_version {version}, this one reads up to {SCHEMA_VERSION}"
    return f"made by a newer vlae ({versions}): update vlae"


_FIELDS = {key: extras(field) for key, field in fields()}

OPERATIONAL = (
    *(key for key, field in _FIELDS.items() if field.get("operational")),
    # the content of a dataset file counts (dataset.sha256), not where it lies; sizes are only defaults of other keys
    *("dataset.root", "dataset.url", "dataset.path", "dataset.sizes"),
    *(f"{section}._target_" for section in PLUGINS),  # where the code lies
)
"""Keys that change how a run is carried out, and not what comes out."""

PATHS = ("dataset.root", "dataset.path", "runs_dir")
"""Keys whose values are paths: ~ and environment variables in them are replaced, and they are frozen as absolute paths,
because a worker need not start where the command was given."""

OF_A_COMMAND = ("force", "retry", "dry_run")
"""Keys of a single start: not settings of a run, and false in a frozen configuration."""

ADDED_FIELDS: dict[str, Any] = {
    **{key: field["before"] for key, field in _FIELDS.items() if "before" in field},
    "model.activation": "relu",
    "model.network": "mlp",
    "schedule": {
        "name": "constant",
        "_target_": "vlae.training.learning_rate.Constant",
        "every": "epoch",
    },
}
"""Keys added later, with the value that older runs implied. A key at this value is left out of the id."""

OF_LENGTH = ("trainer.epochs", "trainer.patience")
"""Keys that say only when a training ends: its epochs are the same until then."""

MISSING = object()  # what ``get`` returns for a key that is not there


def scientific(container: dict[str, Any]) -> dict[str, Any]:
    """The identity of a run: the configuration without operational keys, numbers in one spelling.

    Laws: the order of keys does not matter; 1 and 1.0 are the same; a field of ADDED_FIELDS at its default is
    absent; without schema_version, it is that of the present scheme; any other change changes the result.
    """
    kept = {"schema_version": SCHEMA_VERSION, **copy.deepcopy(container)}
    for key in OPERATIONAL:
        _drop(kept, key)
    for key, default in ADDED_FIELDS.items():
        if (value := get(kept, key)) is not MISSING and _comparable(value) == _comparable(default):
            _drop(kept, key)
    return _canonical(kept)


RUN_ID = re.compile(
    r"(?P<model>[^-.][^-]*)-(?P<dataset>[^-]+)-(?P<output_dist>[^-]+)-s(?P<seed>\d+)-[0-9a-f]{10}"
)
"""The pattern of the ids that `run_id` makes."""


def run_id(container: dict[str, Any]) -> str:
    """``vlae-digits-gaussian-s0-0123456789``: readable, and a hash of the full scientific configuration.

    >>> names = {section: {"name": "a"} for section in ("model", "dataset", "output_dist")}
    >>> run_id({**names, "seed": 3, "device": "cpu"}) == run_id({"seed": 3.0, "device": "cuda", **names})
    True
    """
    return id_of(container, {key: exact_text(value) for key, value in scientific(container).items()})


def training_id(container: dict[str, Any]) -> str:
    """The same for runs that share their training: a hash without its length and without how it is scored.

    >>> short, long = ({"trainer": {"epochs": n}, "evaluate": {"num_samples": n}} for n in (2, 3))
    >>> training_id(short) == training_id(long)
    True
    """
    kept = scientific(container)
    for key in ("evaluate", *OF_LENGTH):
        _drop(kept, key)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def exact_text(value: Any) -> str:
    """The same for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def id_of(container: dict[str, Any], texts: dict[str, str]) -> str:
    """The id of a configuration, of which ``texts`` are the exact texts of what `scientific` keeps."""
    text = "{" + ",".join(f"{json.dumps(key)}:{texts[key]}" for key in sorted(texts)) + "}"
    names = [container[section]["name"] for section in ("model", "dataset", "output_dist")]
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return "-".join([*names, f"s{_canonical(container['seed'])}", digest])


def settings(container: dict[str, Any]) -> dict[str, Any]:
    """All scientific keys, dotted, with their values: numbers in one spelling, lists as texts such as ``[500, 500]``.

    Laws: configurations of one id have the same settings; those of a part of the sections are a part of all.
    """
    full = with_added_fields(container)
    for key in (*OPERATIONAL, "schema_version"):
        _drop(full, key)
    found = {key: value for key, value in entries(_canonical(full)) if "[" not in key}
    leaves = {key: value for key, value in found.items() if not isinstance(value, dict)}
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in leaves.items()}


def with_added_fields(container: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with the fields that did not exist when it was frozen, at their defaults."""
    full = copy.deepcopy(container)
    for key, default in ADDED_FIELDS.items():
        section, last = section_of_key(full, key)
        if isinstance(section, dict):
            section.setdefault(last, copy.deepcopy(default))
    return full


def with_operational_keys_of(other: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """The run of ``container`` with the operational keys of ``other``."""
    changed = copy.deepcopy(container)
    for key in OPERATIONAL:
        (section, last), value = section_of_key(changed, key), get(other, key)
        if isinstance(section, dict) and value is not MISSING:
            section[last] = copy.deepcopy(value)
    return changed


def entries(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a section or a list with its dotted key, a section before what is in it."""
    if place:
        yield place, value
    pairs = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for key, entry in pairs:
        name = f"{place}[{key}]" if isinstance(value, list) else f"{place}.{key}" if place else str(key)
        yield from entries(entry, name)


def get(container: Any, key: str, default: Any = MISSING) -> Any:
    """The value at a dotted key, or ``default``.

    >>> get({"trainer": {"epochs": 3}}, "trainer.epochs")
    3
    """
    for part in key.split("."):
        if not isinstance(container, dict) or part not in container:
            return default
        container = container[part]
    return container


def section_of_key(container: dict[str, Any], key: str) -> tuple[Any, str]:
    """The section that a dotted key is in, and its name there."""
    place, _, last = key.rpartition(".")
    return (get(container, place) if place else container), last


def _drop(container: dict[str, Any], key: str) -> None:
    section, last = section_of_key(container, key)
    if isinstance(section, dict):
        section.pop(last, None)


def _comparable(value: Any) -> str:
    """Equal for equal values alone: Python takes 0 for False. Where code lies does not count."""
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key != "_target_"}
    return json.dumps(_canonical(value), sort_keys=True, default=repr)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
