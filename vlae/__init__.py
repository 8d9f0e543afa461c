"""Train, evaluate and compare latent-variable models.

Axes of tensors, everywhere: ``samples batch latent hidden pixels``; pixels = channels x height x width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlae.trained import TrainedModel

__all__ = ["load", "run"]


def run(overrides: Sequence[str] = (), *, quiet: bool = False) -> dict[str, Any]:
    """Do what ``python launch.py <overrides>`` does for one run, and return the contents of results.json.

    Choices of your own, DIR/model/mine.yaml: ``"hydra.searchpath=[DIR]"``.
    Bad input raises ``vlae.config.ConfigError``; a signal raises ``vlae.interruption.Interrupted`` after the
    checkpoint is written, and the same call goes on from there.
    """
    from vlae import config, flags, job
    from vlae.overrides import CONF, directories, unclear_files

    checked = flags.check_call(overrides)
    if problems := unclear_files([CONF, *directories(checked)]):
        raise config.ConfigError(problems)
    return job.run(config.compose(checked), quiet=quiet)


def load(run: str, runs_dir: str = "runs", device: str = "cpu") -> TrainedModel:
    """The trained model of a run: a directory, an id, or an unambiguous prefix of one."""
    from vlae import trained

    return trained.load(run, runs_dir, device)
