"""The cases: each is the same work done by the platform and by the reference.

To add a case, add an entry to ``CASES``; its ``prepare`` makes the two works from a ``Setting``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from benchmarks import reference
from benchmarks.timing import Pair, Work
from vlae.config.compose import compose
from vlae.config.schema import Trainer
from vlae.config.targets import build as build_target
from vlae.data.preprocess import Preprocess
from vlae.data.splits import Splits
from vlae.distributions.outputs import BernoulliOutput, GaussianOutput, OutputDistribution
from vlae.estimation.ais import Annealed, anneal
from vlae.estimation.estimators.importance import evaluate
from vlae.models.backbone import Backbone
from vlae.models.base import LatentVariableModel
from vlae.models.hf import HF
from vlae.models.iaf import IAF
from vlae.models.vae import VAE
from vlae.models.vlae import VLAE
from vlae.nn.networks import initialise
from vlae.runs.directory import RunDirectory
from vlae.seeding import Noise, batch_noise, generator, image_noise
from vlae.system.interruption import Interruption
from vlae.training.loop import Training
from vlae.training.objective import sample_terms
from vlae.training.training_set import TrainingSet

LATENT, HIDDEN, BATCH, SAMPLES, LEARNING_RATE = 50, (500, 500), 128, 5000, 5e-4
"""The setting of the released code; its T = 4 updates and 4 flows are the models' defaults."""
DEFAULTS = compose(["dataset=mnist"])
"""The defaults of a run of the platform: its optimiser, its memory budget."""
SHARE = 0.6
"""Least share of the machine's sgemm rate that every evaluation must reach."""
DEAREST = 1 / 1.5
"""The Laplace proposal may cost 1.5 times the own one: a ratio of times of at least this."""


@dataclass(frozen=True)
class Setting:
    """Device and sizes: a work of the platform is larger because it amortises over images."""

    device: torch.device
    rounds: int = 5
    platform_images: int = 64
    reference_images: int = 2
    annealed_images: int = 16
    epoch_images: int = 60_000


@dataclass(frozen=True)
class Case:
    """One line of the tables. ``asked`` is the least ratio of times to reach; None: nothing was asked."""

    name: str
    unit: str
    prepare: Callable[[Setting], Pair]
    asked: float | None = None
    asked_share: float | None = None
    memory: bool = False
    """True if the peak of memory is measured too."""
    asked_memory: float | None = None


def build(
    kind: type[Any], output_kind: type[OutputDistribution], pixels: int, device: torch.device
) -> LatentVariableModel:
    """The same model at every call: both works begin from equal parameters."""
    model = kind(Backbone(latent_dim=LATENT, hidden_dims=HIDDEN, pixels=pixels, output=output_kind()))
    initialise(model, "paper", generator("cpu", "benchmark", "weights"))
    model.output.initialise(1 / 12)  # the variance of the images below
    return model.to(device)


def images(output_kind: type[OutputDistribution], count: int, pixels: int, device: torch.device) -> Tensor:
    """Uniform noise: what an image shows does not change how long it takes."""
    u = torch.rand(count, pixels, generator=generator("cpu", "benchmark", "images")).to(device)
    return (u > 0.5).float() if output_kind.support == "binary" else u - 0.5


MakeOptimizer = Callable[[LatentVariableModel], torch.optim.Optimizer]


def reference_adam(model: LatentVariableModel) -> torch.optim.Optimizer:
    """The optimiser of the released code: torch's Adam with its defaults."""
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)


def platform_adam(model: LatentVariableModel) -> torch.optim.Optimizer:
    """conf/optimizer/adam.yaml."""
    return build_target(DEFAULTS["optimizer"], params=model.parameters())


def training_step(
    kind: type[Any], output_kind: type[OutputDistribution], pixels: int, setting: Setting
) -> Pair:
    """Forward, backward, Adam. Both see the same noise, so they take the same path through parameters."""
    device = setting.device
    x = images(output_kind, BATCH, pixels, device)

    def work(mean_elbo: Callable[[LatentVariableModel, int], Tensor], adam: MakeOptimizer) -> Work:
        model = build(kind, output_kind, pixels, device)
        optimizer, taken = adam(model), 0

        def step() -> Tensor:
            nonlocal taken
            loss = -mean_elbo(model, taken)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()  # here, so that the gradients count as memory of the step
            taken += 1
            return loss.detach().reshape(1)

        return Work(step, units=1)

    def noise(step: int) -> Noise:
        return batch_noise(BATCH, generator(device, "benchmark", "noise", step), x.dtype)

    return Pair(
        reference=work(lambda model, step: reference.elbo(model, x, noise(step)).mean(), reference_adam),
        platform=work(lambda model, step: sample_terms(model, x, noise(step), 1).metrics()[0], platform_adam),
    )


def evaluation(kind: type[Any], output_kind: type[OutputDistribution], pixels: int, setting: Setting) -> Pair:
    """The importance-sampled log-likelihood of each image, with the same noise for the same image."""
    device, seed, budget = setting.device, 0, DEFAULTS["evaluate"]["memory_budget"]
    model = build(kind, output_kind, pixels, device)
    x = images(output_kind, max(setting.platform_images, setting.reference_images), pixels, device)

    @torch.no_grad()
    def one_by_one() -> Tensor:
        found = []
        for i in range(setting.reference_images):
            noise = image_noise([generator(device, seed, "evaluate", i)], x.dtype)
            found.append(reference.log_likelihood(model, x[i : i + 1], noise, SAMPLES))
        return torch.stack(found)

    def in_chunks() -> Tensor:
        some = x[: setting.platform_images]
        done = evaluate(model, some, num_samples=SAMPLES, memory_budget=budget, seed=seed)
        return done.log_likelihood

    return Pair(Work(one_by_one, setting.reference_images), Work(in_chunks, setting.platform_images))


def beside_own(estimator: str, output_kind: type[OutputDistribution], pixels: int, setting: Setting) -> Pair:
    """The cost of another estimator of the same metric beside a VAE's own proposal, which stands for the reference."""
    model = build(VAE, output_kind, pixels, setting.device)
    x = images(output_kind, setting.platform_images, pixels, setting.device)
    settings = DEFAULTS["evaluate"]
    budget, ais = settings["memory_budget"], settings["ais"]

    def importance_sampling(proposal: str) -> Tensor:
        done = evaluate(model, x, proposal=proposal, num_samples=SAMPLES, memory_budget=budget, seed=0)
        return done.log_likelihood

    def annealing() -> Tensor:
        some = x[: setting.annealed_images]
        chains = {name: value for name, value in ais.items() if name != "num_images"}
        empty = Annealed.empty(len(some), **chains)
        done = anneal(model.output, model.decoder, some, empty, memory_budget=budget, seed=0)
        return done.log_likelihood

    if estimator == "ais":
        other = Work(annealing, min(len(x), setting.annealed_images))
    else:
        other = Work(partial(importance_sampling, estimator), len(x))
    return Pair(Work(partial(importance_sampling, "own"), len(x)), other, tolerance=math.inf)


class UnsavedTraining(Training):
    """Training without checkpoints, which are written every minute, not every epoch, and are not measured."""

    def save(self) -> None:
        pass


def epoch(kind: type[Any], setting: Setting) -> Pair:
    """A pass over uint8 images of MNIST's size, from where they lie to the optimiser's last step.

    Without the pass over a validation set. Orders and noise are each one's own, so mean losses agree only roughly.
    """
    device, side = setting.device, 28
    shape = setting.epoch_images, 1, side, side
    stored = torch.randint(
        0, 256, shape, generator=generator("cpu", "benchmark", "stored"), dtype=torch.uint8
    )
    splits = Splits(train=stored, validation=stored[:1], test=stored[:1], levels=256, seed=0)
    mean = stored.flatten(1).double().div(255).mean(0).float().to(device)
    return Pair(
        reference=_reference_epoch(build(kind, GaussianOutput, side**2, device), stored[:, 0], mean),
        platform=_platform_epoch(build(kind, GaussianOutput, side**2, device), splits.to(device)),
        tolerance=0.05,
    )


def _reference_epoch(model: LatentVariableModel, stored: Tensor, mean: Tensor) -> Work:
    """Batches through PIL and a DataLoader; as released, each loss is brought to the host and looked at."""
    device = mean.device
    optimizer = reference_adam(model)
    batches = reference.loader(stored, BATCH, device)
    source = generator(device, "benchmark", "epoch")

    def one_pass() -> Tensor:
        total = 0.0
        for batch in batches:
            x = batch.to(device).flatten(1) - mean
            optimizer.zero_grad()
            loss = -reference.elbo(model, x, batch_noise(len(x), source, x.dtype)).mean()
            loss.backward()
            value = loss.item()
            if math.isnan(value):
                raise RuntimeError("the reference's loss is NaN")
            total += value * len(x)
            optimizer.step()
        return torch.tensor([total / len(stored)])

    return Work(one_pass, units=1)


def _platform_epoch(model: LatentVariableModel, splits: Splits) -> Work:
    """The platform's own training loop over its own preprocessing, for one epoch at a time."""
    preprocess = Preprocess.fit({}, splits, model.output.support)
    optimizer = platform_adam(model)
    trainer = Trainer(epochs=1, batch_size=BATCH, checkpoint_every=1e9)
    folder = TemporaryDirectory()  # removed with the work

    def one_pass() -> Tensor:
        lines: list[dict[str, float]] = []
        training = UnsavedTraining(
            model=model,
            optimizer=optimizer,
            training_set=TrainingSet(splits.train, preprocess),
            selection_set=preprocess.evaluation_set(splits.validation, "validation"),
            trainer=trainer,
            seed=0,
            directory=RunDirectory(Path(folder.name)),
        )
        training.run(Interruption(), lambda line: lines.append(line) if line else None)
        return torch.tensor([-lines[-1]["train/elbo_nats"]])

    return Work(one_pass, units=1)


CASES = (
    Case(
        "vlae-step-gaussian-784", "step", partial(training_step, VLAE, GaussianOutput, 784), 3.9, memory=True
    ),
    Case(
        "vlae-step-gaussian-3072",
        "step",
        partial(training_step, VLAE, GaussianOutput, 3072),
        16,
        memory=True,
        asked_memory=10,
    ),
    Case("vlae-step-bernoulli-784", "step", partial(training_step, VLAE, BernoulliOutput, 784), 1.8),
    Case("hf-step-gaussian-784", "step", partial(training_step, HF, GaussianOutput, 784), 2),
    Case("vae-epoch-gaussian-784", "epoch", partial(epoch, VAE), 2.3),
    Case("vlae-evaluation-gaussian-784", "image", partial(evaluation, VLAE, GaussianOutput, 784), 9, SHARE),
    Case(
        "vlae-evaluation-gaussian-3072", "image", partial(evaluation, VLAE, GaussianOutput, 3072), 18, SHARE
    ),
    Case("vlae-evaluation-bernoulli-784", "image", partial(evaluation, VLAE, BernoulliOutput, 784), 6, SHARE),
    Case("vae-evaluation-gaussian-784", "image", partial(evaluation, VAE, GaussianOutput, 784), 1.8, SHARE),
    Case("vae-evaluation-gaussian-3072", "image", partial(evaluation, VAE, GaussianOutput, 3072), 7, SHARE),
    Case("hf-evaluation-gaussian-784", "image", partial(evaluation, HF, GaussianOutput, 784), 2, SHARE),
    Case("hf-evaluation-gaussian-3072", "image", partial(evaluation, HF, GaussianOutput, 3072), 6, SHARE),
    Case("iaf-evaluation-gaussian-784", "image", partial(evaluation, IAF, GaussianOutput, 784), 2, SHARE),
    Case("iaf-evaluation-gaussian-3072", "image", partial(evaluation, IAF, GaussianOutput, 3072), 6, SHARE),
    Case(
        "laplace-beside-own-gaussian-784",
        "image",
        partial(beside_own, "laplace", GaussianOutput, 784),
        DEAREST,
    ),
    Case(
        "laplace-beside-own-bernoulli-784",
        "image",
        partial(beside_own, "laplace", BernoulliOutput, 784),
        DEAREST,
    ),
    Case("ais-beside-own-bernoulli-784", "image", partial(beside_own, "ais", BernoulliOutput, 784)),
)
