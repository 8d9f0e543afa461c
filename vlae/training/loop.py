"""The training loop: epochs of mini-batches, model selection, a checkpoint now and then."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vlae.config.schema import Trainer
from vlae.models.base import LatentVariableModel
from vlae.runs.directory import RunDirectory
from vlae.training.checkpoints import Checkpoints, Progress
from vlae.training.epoch_metrics import diagnostics, gradient_norm, mean_metrics
from vlae.training.learning_rate import CONSTANT, Schedule
from vlae.training.objective import kl_weight, select_objective
from vlae.training.training_set import TrainingSet

if TYPE_CHECKING:
    from vlae.system.interruption import Interruption


class Training:
    """One model, one optimiser, one training set, and their progress.

    The best epoch is the one of the highest ELBO on ``selection_set``. NonFiniteError: training diverged.
    """

    def __init__(
        self,
        *,
        model: LatentVariableModel,
        optimizer: torch.optim.Optimizer,
        training_set: TrainingSet,
        selection_set: Float[Tensor, "images pixels"],
        trainer: Trainer,
        seed: int,
        directory: RunDirectory,
        schedule: Mapping[str, Any] = CONSTANT,
        training_id: str | None = None,
        made_with: dict[str, str] | None = None,
    ) -> None:
        """schedule: that section of the configuration.

        training_id and made_with: what its checkpoints say of it, see `vlae.training.checkpoints.Checkpoints`.
        """
        self.model, self.optimizer, self.training_set = model, optimizer, training_set
        self.selection_set, self.selection_name = selection_set, trainer.selection
        self.trainer, self.seed, self.directory = trainer, seed, directory
        self.objective = select_objective(trainer.objective, trainer.kl)
        self.progress = Progress()
        self._learning_rate = optimizer.param_groups[0]["lr"]
        self.schedule = Schedule(schedule, optimizer, self.batches_per_epoch)
        self.average = None
        if trainer.average == "ema":
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(trainer.average_decay))
        parts = {"schedule": self.schedule} | ({"average": self.average} if self.average is not None else {})
        self.checkpoints = Checkpoints(
            directory, model, optimizer, training_set.preprocess, training_id, made_with, parts
        )

    @property
    def batches_per_epoch(self) -> int:
        """Number of steps of an epoch; the last batch may be smaller."""
        return -(-len(self.training_set) // self.trainer.batch_size)

    @property
    def result(self) -> LatentVariableModel:
        """The model that is validated, selected and kept: with the weights of the last step, or their average."""
        return self.model if self.average is None else cast(LatentVariableModel, self.average.module)

    def resume(self) -> list[str]:
        """Continue from the last good checkpoint, if there is one. Returns warnings about damaged ones."""
        self.progress, warnings = self.checkpoints.resume()
        return warnings

    @property
    def is_finished(self) -> bool:
        """True after ``trainer.epochs``, or ``trainer.patience`` epochs after the best one."""
        return self.trainer.is_over(self.progress.epoch, self.progress.best_epoch)

    def run(self, interruption: "Interruption", report: Callable[[dict[str, float] | None], None]) -> None:
        """Train until finished. After a signal: a checkpoint at the next step boundary, then ``Interrupted``."""
        saved = time.monotonic()
        while not self.is_finished:
            began = time.monotonic()
            batches = self.training_set.order(self.seed, self.progress.epoch).split(self.trainer.batch_size)
            means = self.selection_set.new_zeros(len(batches), len(self.objective.metrics))
            means[: self.progress.batch] = means.new_tensor(self.progress.means).view(-1, means.shape[1])
            for indices in batches[self.progress.batch :]:
                means[self.progress.batch] = self._step(indices)
                self.progress.batch += 1
                self.progress.step += 1
                report(None)
                overdue = time.monotonic() - saved > self.trainer.checkpoint_every
                if (overdue or interruption.requested) and self.progress.batch < len(batches):
                    self._store(means, time.monotonic() - began)
                    self.checkpoints.save(self.progress)
                    saved = began = time.monotonic()
                    interruption.check()
            self._store(means, time.monotonic() - began)
            report(self._end_epoch(batches, time.monotonic()))
            kept = self.checkpoints.keep_if_wanted(self.progress)
            overdue = not kept and time.monotonic() - saved > self.trainer.checkpoint_every
            if overdue or interruption.requested or self.is_finished:
                self.checkpoints.save(self.progress)
                saved = time.monotonic()
                interruption.check()

    def _step(self, indices: Tensor) -> Float[Tensor, " metrics"]:
        x, noise = self.training_set.batch(indices, self.seed, self.progress.step)
        weight = kl_weight(self.trainer, self.progress.step / self.batches_per_epoch)
        with self.checkpoints.locate_errors(f"at step {self.progress.step + 1}", self.progress):
            loss, metrics = self.objective.estimate(self.model, x, noise, self.trainer.num_samples, weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.trainer.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.clip_grad_norm)
        self.optimizer.step()
        self._learning_rate = self.optimizer.param_groups[0]["lr"]
        self.schedule.after_step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return metrics

    def _store(self, means: Float[Tensor, "steps metrics"], seconds: float) -> None:
        """Copy the epoch's metrics to the host. NonFiniteError: one is not finite."""
        p = self.progress
        done = means[: p.batch]
        p.means = done.tolist()
        p.seconds += seconds
        p.epoch_seconds += seconds
        bad = (~torch.isfinite(done.cpu())).nonzero()
        if len(bad):
            step, metric = bad[0].tolist()
            name, at = f"train/{self.objective.metrics[metric]}", p.step - p.batch + step + 1
            raise self.checkpoints.error(f"{name} became NaN or infinite at step {at}", p)

    def _end_epoch(self, batches: Sequence[Tensor], began: float) -> dict[str, float]:
        """Select the best epoch, record this one, and start the next. Returns the epoch's line of metrics."""
        p = self.progress
        with self.checkpoints.locate_errors(f"on the {self.selection_name} set after step {p.step}", p):
            selection = mean_metrics(self.result, self.selection_set, self.seed)
        if not math.isfinite(selection["elbo_nats"]):
            problem = f"{self.selection_name}/elbo_nats is NaN or infinite after step {p.step}"
            raise self.checkpoints.error(problem, p)
        p.epoch += 1
        if selection["elbo_nats"] > p.best_elbo:
            p.best_epoch, p.best_elbo = p.epoch, selection["elbo_nats"]
            p.best_model = {name: value.clone() for name, value in self.result.state_dict().items()}
        self.schedule.after_epoch(selection["elbo_nats"])
        spent = time.monotonic() - began
        p.seconds += spent
        line = {"epoch": p.epoch, "global_step": p.step}
        sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
        train = (sizes @ torch.tensor(p.means, dtype=torch.float64) / sizes.sum()).tolist()
        line |= {f"train/{metric}": mean for metric, mean in zip(self.objective.metrics, train, strict=True)}
        line |= {f"{self.selection_name}/{m}": value for m, value in selection.items()}
        line |= diagnostics(self.result, self.selection_set, self.selection_name, self.seed)
        line |= {"gradient_norm": gradient_norm(self.model), "learning_rate": self._learning_rate}
        line["seconds"] = p.epoch_seconds + spent
        self.directory.append_metrics(line)
        p.batch, p.means, p.epoch_seconds = 0, [], 0.0
        return line
