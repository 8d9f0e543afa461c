"""Configurations of many runs, at a fraction of the price of composing each."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import open_dict

from vlae.config.compose import COMPOSITION_ERRORS, composition_error, resolve
from vlae.config.overrides import CONF, choices, hydra_arguments, parse


class Composer:
    """Composes what is chosen (model, dataset, experiment, ...) once for all runs that choose alike.

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
        parsed = [parse(text) for text in hydra_arguments(overrides, self._added)]
        chosen = tuple(str(o.input_line) for o in parsed if self._chooses(o))
        try:
            if chosen not in self._bases:
                self._bases[chosen] = self._base(chosen)
            composed = copy.deepcopy(self._bases[chosen])
            _apply([o for o in parsed if not self._chooses(o)], composed)
        except COMPOSITION_ERRORS as error:
            raise composition_error(error) from error
        return resolve(composed)

    def _base(self, chosen: Sequence[str]) -> Any:
        base = self._load(list(chosen))
        with open_dict(base):
            del base["hydra"]
        return base

    def _chooses(self, override: Override) -> bool:
        """Whether it takes part in the defaults list."""
        key = override.key_or_group
        return key in self._groups or "/" in key or "@" in key or override.is_hydra_override()


def _apply(overrides: Sequence[Override], composed: Any) -> None:
    """Set the values of overrides in a composed configuration, in place.

    Hydra has no public function for its second step alone; its public ones repeat the first step for every run.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), composed)
