"""Train, evaluate and compare latent-variable models.

Axes of tensors, everywhere: ``samples batch latent hidden pixels``; pixels = channels x height x width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlae.experiment.trained_model import TrainedModel

__all__ = ["load", "run"]


def run(overrides: Sequence[str] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Do what ``python launch.py <overrides>`` does for one run, and return the contents of results.json.

    Choices of your own, DIR/model/mine.yaml: ``"hydra.searchpath=[DIR]"``.
    Bad input raises ``vlae.config.ConfigError``; a signal raises ``vlae.system.interruption.Interrupted`` after the
    checkpoint is written, and the same call goes on from there.
    """
    from vlae.config import options
    from vlae.config.compose import compose
    from vlae.config.overrides import CONF, directories, unclear_files
    from vlae.config.problems import ConfigError
    from vlae.experiment.run import run

    checked = options.check_call(overrides)
    if problems := unclear_files([CONF, *directories(checked)]):
        raise ConfigError(problems)
    return run(compose(checked), quiet=quiet)


def load(run: str, runs_dir: str = "runs", device: str = "cpu") -> TrainedModel:
    """The trained model of a run: a directory, an id, or an unambiguous prefix of one."""
    from vlae.experiment import trained_model

    return trained_model.load(run, runs_dir, device)
