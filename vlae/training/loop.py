"""The training loop: epochs of mini-batches, model selection, checkpoints, resumption bit for bit."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.data.preprocess import Preprocess
from vlae.errors import NonFiniteError
from vlae.models.base import LatentVariableModel
from vlae.runs import checkpoint
from vlae.runs.directory import RunDirectory
from vlae.seeding import batch_noise, generator
from vlae.system.interruption import Interruption
from vlae.system.peak_memory import peak_memory_bytes
from vlae.system.progress import advanced
from vlae.training.objective import METRICS, choose, sample_terms, terms_means, terms_of

VALIDATION_BATCH = 500
STAGE_IMAGES = 100
"""Whose ELBO after each update is recorded."""


@dataclass(frozen=True)
class Schedule:
    """How long and how carefully to train; the names are those of conf/config.yaml's ``trainer``."""

    epochs: int
    batch_size: int
    patience: int | None
    clip_grad_norm: float | None
    checkpoint_every: float
    objective: str = "elbo"
    num_samples: int = 1
    kl: str = "sampled"


@dataclass
class Progress:
    """All that a training has reached; with the model and the optimiser it is a checkpoint."""

    epoch: int = 0
    """Complete epochs."""
    batch: int = 0
    """Complete steps of the current epoch."""
    step: int = 0
    means: list[list[float]] = field(default_factory=list)
    """Of each step of the current epoch: the objective's metrics, averaged over its images."""
    best_epoch: int = 0
    best_elbo: float = -float("inf")
    best_model: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    epoch_seconds: float = 0.0


@torch.no_grad()
def mean_terms(model: LatentVariableModel, x: Float[Tensor, "images pixels"], seed: int) -> dict[str, float]:
    """ELBO and its two terms over a whole set, one sample an image, with the same noise at every call."""
    total = torch.zeros(len(METRICS), dtype=torch.float64)
    for start in range(0, len(x), VALIDATION_BATCH):
        batch = x[start : start + VALIDATION_BATCH]
        noise = batch_noise(len(batch), generator(x.device, seed, "validation", start), x.dtype)
        advanced()
        total += terms_means(sample_terms(model, batch, noise, 1)).cpu().double() * len(batch)
    return dict(zip(METRICS, (total / len(x)).tolist(), strict=True))


@torch.no_grad()
def stage_elbos(model: LatentVariableModel, x: Float[Tensor, "images pixels"], seed: int) -> list[float]:
    """The ELBO before and after each refinement of inference, all with the same sample's noise; empty without any."""
    noise = batch_noise(len(x), generator(x.device, seed, "stages"), x.dtype)
    stages = model.stages(x, noise)
    eps = noise(1, stages[0].noise_dim) if stages else x.new_empty(0)
    return [terms_of(model, x, q, eps).log_weights.mean().item() for q in stages]


class Training:
    """One model, one optimiser, one training set, and how far they have come."""

    def __init__(
        self,
        *,
        model: LatentVariableModel,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        preprocess: Preprocess,
        selection_set: Float[Tensor, "images pixels"],
        selection_name: str,
        schedule: Schedule,
        seed: int,
        directory: RunDirectory,
    ) -> None:
        self.model, self.optimizer, self.images, self.preprocess = model, optimizer, images, preprocess
        self.selection_set, self.selection_name = selection_set, selection_name
        self.schedule, self.seed, self.directory = schedule, seed, directory
        self.objective = choose(schedule.objective, schedule.kl)
        self.progress = Progress()
        self._checkpoints = directory.path / "checkpoints"

    @property
    def dtype(self) -> torch.dtype:
        return self.selection_set.dtype

    @property
    def batches_per_epoch(self) -> int:
        return -(-len(self.images) // self.schedule.batch_size)

    def save(self) -> None:
        """A checkpoint: with the seed it determines all that is still to come, bit for bit on a CPU."""
        if not all(torch.isfinite(q).all() for q in self.model.parameters()):
            raise self._failed(f"the weights became NaN or infinite by step {self.progress.step}")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
            "metrics_size": self.directory.metrics_size(),
            "preprocess": self.preprocess.state(),
        }
        checkpoint.save(self._checkpoints, state)

    def resume(self) -> list[str]:
        """Go back to the last good checkpoint, if there is one. Returns warnings about damaged ones."""
        state, warnings = checkpoint.load(self._checkpoints)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
        self.directory.truncate_metrics(state["metrics_size"] if state is not None else 0)
        return warnings

    @property
    def finished(self) -> bool:
        p, patience = self.progress, self.schedule.patience
        stopped_early = patience is not None and p.epoch - p.best_epoch >= patience and p.epoch > 0
        return p.epoch >= self.schedule.epochs or stopped_early

    def run(
        self, interruption: Interruption, report: Callable[[Progress, dict[str, float] | None], None]
    ) -> None:
        """Train until finished. On a signal: a checkpoint at the next step boundary, then ``Interrupted``."""
        saved = time.monotonic()
        while not self.finished:
            began = time.monotonic()
            batches = self._order().split(self.schedule.batch_size)
            width = len(self.objective.metrics)
            means = torch.zeros(len(batches), width, dtype=self.dtype, device=self.images.device)
            done = torch.tensor(self.progress.means, dtype=self.dtype).view(-1, width)
            means[: self.progress.batch] = done
            for indices in batches[self.progress.batch :]:
                means[self.progress.batch] = self._step(indices)
                self.progress.batch += 1
                self.progress.step += 1
                report(self.progress, None)
                overdue = time.monotonic() - saved > self.schedule.checkpoint_every
                if (overdue or interruption.requested) and self.progress.batch < len(batches):
                    self._store(means, time.monotonic() - began)
                    self.save()
                    saved = began = time.monotonic()
                    interruption.check()
            self._store(means, time.monotonic() - began)
            report(self.progress, self._end_epoch(batches, time.monotonic()))
            overdue = time.monotonic() - saved > self.schedule.checkpoint_every
            if overdue or interruption.requested or self.finished:
                self.save()
                saved = time.monotonic()
                interruption.check()

    def _order(self) -> Tensor:
        """This epoch's order of images: a function of seed and epoch, the same on every device."""
        source = generator("cpu", self.seed, "order", self.progress.epoch)
        return torch.randperm(len(self.images), generator=source).to(self.images.device)

    def _step(self, indices: Tensor) -> Float[Tensor, " metrics"]:
        source = generator(self.images.device, self.seed, "train", self.progress.step)
        x = self.preprocess.forward(self.images.index_select(0, indices), source)
        try:
            noise = batch_noise(len(x), source, x.dtype)
            loss, figures = self.objective.estimate(self.model, x, noise, self.schedule.num_samples)
        except NonFiniteError as error:
            raise self._failed(f"{error}, at step {self.progress.step + 1}") from error
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.schedule.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.clip_grad_norm)
        self.optimizer.step()
        return figures

    def _store(self, means: Float[Tensor, "steps metrics"], seconds: float) -> None:
        """Bring the epoch's figures to the host, and stop if one is not finite."""
        p = self.progress
        done = means[: p.batch]
        p.means = done.tolist()
        p.seconds += seconds
        p.epoch_seconds += seconds
        bad = (~torch.isfinite(done.cpu())).nonzero()
        if len(bad):
            step, metric = bad[0].tolist()
            name = f"train/{self.objective.metrics[metric]}"
            raise self._failed(f"{name} became NaN or infinite at step {p.step - p.batch + step + 1}")

    def _failed(self, what: str) -> NonFiniteError:
        last = self._checkpoints / "last.pt"
        good = f"The last good checkpoint is {last}." if last.exists() else "There is no checkpoint yet."
        return NonFiniteError(
            f"{what} (epoch {self.progress.epoch + 1}). {good} "
            "A smaller optimizer.lr or trainer.clip_grad_norm usually helps."
        )

    def _end_epoch(self, batches: Sequence[Tensor], began: float) -> dict[str, float]:
        """Select, record, and turn to the next epoch. Returns the epoch's line of metrics."""
        p = self.progress
        norm = torch.linalg.vector_norm(
            torch.stack([g.norm() for q in self.model.parameters() if (g := q.grad) is not None])
        )
        try:
            selection = mean_terms(self.model, self.selection_set, self.seed)
        except NonFiniteError as error:
            raise self._failed(f"{error}, on the {self.selection_name} set after step {p.step}") from error
        if not math.isfinite(selection["elbo_nats"]):
            raise self._failed(f"{self.selection_name}/elbo_nats is NaN or infinite after step {p.step}")
        p.epoch += 1
        if selection["elbo_nats"] > p.best_elbo:
            p.best_epoch, p.best_elbo = p.epoch, selection["elbo_nats"]
            p.best_model = {name: value.clone() for name, value in self.model.state_dict().items()}
        spent = time.monotonic() - began
        p.seconds += spent
        line = {"epoch": p.epoch, "global_step": p.step}
        sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.float64)
        train = (sizes @ torch.tensor(p.means, dtype=torch.float64) / sizes.sum()).tolist()
        line |= {f"train/{metric}": mean for metric, mean in zip(self.objective.metrics, train, strict=True)}
        line |= {f"{self.selection_name}/{m}": value for m, value in selection.items()}
        few = self.selection_set[:STAGE_IMAGES]
        elbos = enumerate(stage_elbos(self.model, few, self.seed))
        line |= {f"{self.selection_name}/elbo_nats_after_{t}": value for t, value in elbos}
        line |= {"gradient_norm": norm.item(), "learning_rate": self.optimizer.param_groups[0]["lr"]}
        line |= {f"output/{n}": q.item() for n, q in self.model.output.named_parameters() if q.numel() == 1}
        line["memory_bytes"] = peak_memory_bytes(self.images.device)
        line["seconds"] = p.epoch_seconds + spent
        self.directory.append_metrics(line)
        p.batch, p.means, p.epoch_seconds = 0, [], 0.0
        return line
