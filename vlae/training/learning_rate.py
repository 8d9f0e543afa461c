"""Schedules of the learning rate: those of torch, and a warm-up that torch does not have."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from vlae.config.run_id import ADDED_FIELDS
from vlae.config.targets import build

CONSTANT: Mapping[str, Any] = ADDED_FIELDS["schedule"]
"""The section of a schedule that changes nothing."""


class Constant(LambdaLR):
    """The learning rate of the optimizer throughout."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer, lambda _: 1.0)


class WarmupCosine(LambdaLR):
    """The learning rate rises linearly for ``warmup_epochs``, then falls to ``final_share`` by half a cosine.

    In the middle of step t of T, (t + 1/2) / T of the way, so that neither the first nor the last rate is 0.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> schedule = WarmupCosine(optimizer, steps_per_epoch=2, warmup_epochs=1, epochs=2)
    >>> rates = []
    >>> for _ in range(4):
    ...     optimizer.step()
    ...     rates += schedule.get_last_lr()
    ...     schedule.step()
    >>> [round(rate, 3) for rate in rates]
    [0.25, 0.75, 0.854, 0.146]
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
        warmup_epochs: float,
        epochs: int,
        final_share: float = 0.0,
    ) -> None:
        """ValueError: the warm-up is longer than the training, or a number is negative."""
        if not 0 <= warmup_epochs <= epochs:
            raise ValueError(f"expected warmup_epochs from 0 to epochs, {epochs}, got {warmup_epochs}")
        if not 0 <= final_share <= 1:
            raise ValueError(f"expected final_share from 0 to 1, got {final_share}")
        warmup, length = warmup_epochs * steps_per_epoch, epochs * steps_per_epoch

        def share(step: int) -> float:
            middle = min(step + 0.5, length)
            if middle < warmup:
                return middle / warmup
            fallen = 0.5 - 0.5 * math.cos(math.pi * (middle - warmup) / (length - warmup or 1))
            return 1 - (1 - final_share) * fallen

        super().__init__(optimizer, share)


class Schedule:
    """The learning rate of each step of a training, by a scheduler of torch that advances by steps or by epochs.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> halves = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "every": "epoch", "gamma": 0.5}
    >>> schedule = Schedule(halves, optimizer, steps_per_epoch=100)
    >>> optimizer.step(); schedule.after_step(); schedule.after_epoch(elbo=-90.0)
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """

    def __init__(
        self, section: Mapping[str, Any], optimizer: torch.optim.Optimizer, steps_per_epoch: int
    ) -> None:
        self._scheduler: LRScheduler = build(section, optimizer=optimizer, steps_per_epoch=steps_per_epoch)
        self._every = section["every"]

    def after_step(self) -> None:
        """Call it after each step of the optimizer."""
        if self._every == "step":
            self._scheduler.step()

    def after_epoch(self, elbo: float) -> None:
        """Call it after each epoch, with the ELBO by which the best epoch is chosen."""
        if self._every != "epoch":
            return
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(elbo)
        else:
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Its state for a checkpoint, in plain types."""
        state = self._scheduler.state_dict()
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self._scheduler.load_state_dict(state)
