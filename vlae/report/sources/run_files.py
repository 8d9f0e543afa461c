"""The files of a run directory: its configuration, and the results of each test image."""

import io
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import yaml

from vlae.config.run_id import exact_text, id_of, newer_schema, scientific, settings
from vlae.system.disk import RecordError
from vlae.system.files import LARGEST_CONFIG, check_bounded, read_bytes
from vlae.system.npz import Archive

_SEED = re.compile(r"^seed: (0|[1-9][0-9]*)\n", re.MULTILINE)


class Config(NamedTuple):
    """The content of a run's config.yaml."""

    run_id: str
    settings: Mapping[str, Any]
    earlier: bool
    """The run was made under an earlier scheme of ids, so that its id does not follow from its settings."""


class Configs:
    """Reads frozen configurations; those that differ in their seed alone are parsed once."""

    def __init__(self) -> None:
        self._parsed: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = {}

    def read(self, place: str) -> Config:
        """The configuration of the run directory ``place``. RecordError: there is none, or it is not that of a run."""
        content = read_bytes(f"{place}/config.yaml", LARGEST_CONFIG)
        if content is None:
            there = os.path.isdir(place)
            raise RecordError("it is no run: it has no config.yaml" if there else "its directory is missing")
        try:
            return self._config(content.decode())
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise RecordError(f"config.yaml is not that of a run ({' '.join(str(error).split())})") from error

    def _config(self, text: str) -> Config:
        seed = _SEED.search(text)
        shared = text[: seed.start()] + text[seed.end() :] if seed else text
        if shared not in self._parsed:
            parsed = yaml.load(shared, yaml.CSafeLoader)
            check_bounded(parsed)
            if reason := newer_schema(parsed):
                raise RecordError(f"config.yaml was {reason}")
            texts = {key: exact_text(value) for key, value in scientific(parsed).items()}
            self._parsed[shared] = parsed, texts, settings(parsed)
        container, texts, found = self._parsed[shared]
        if seed:
            own = {"seed": int(seed[1])}
            container, texts, found = container | own, texts | {"seed": seed[1]}, found | own
        return Config(id_of(container, texts), found, "schema_version" not in container)


class PerImage(NamedTuple):
    """The arrays of test_log_likelihood.npz, with one entry per test image, read when they are asked for."""

    path: str

    def __call__(self, name: str) -> np.ndarray | None:
        """The array of this name: [images], NaN where an image has no value. None: there is no such array.

        RecordError: the file is missing, or cannot be read.
        """
        file = os.path.basename(self.path)
        if (content := read_bytes(self.path)) is None:
            raise RecordError(f"{file} is missing")
        try:
            found = Archive(io.BytesIO(content)).read([name]).get(name)
        except Exception as error:  # what numpy, zip and zlib raise depends on where the damage is
            raise RecordError(f"{file} cannot be read ({error})") from error
        if found is not None and (found.ndim != 1 or found.dtype.kind not in "fiu"):
            got = f"the shape {found.shape} and the type {found.dtype}"
            raise RecordError(f"{file}: expected a number for each image, {name} has {got}")
        return found
