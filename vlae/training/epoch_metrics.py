"""Metrics of a model at the end of an epoch, in nats per image of model space."""

import resource
import sys

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.models.base import LatentVariableModel
from vlae.seeding import batch_noise, generator
from vlae.system.console import note_progress
from vlae.training.objective import METRICS, posterior_terms, sample_terms

STAGE_IMAGES = 100
"""Number of images whose ELBO after each update is recorded."""


@torch.no_grad()
def mean_metrics(
    model: LatentVariableModel, x: Float[Tensor, "images pixels"], seed: int
) -> dict[str, float]:
    """ELBO and its two terms over a whole set, one sample per image, with the same noise at every call.

    Images are taken in order, ``model.validation_batch`` at a time.
    """
    total = torch.zeros(len(METRICS), dtype=torch.float64)
    for start in range(0, len(x), model.validation_batch):
        batch = x[start : start + model.validation_batch]
        noise = batch_noise(len(batch), generator(x.device, seed, "validation", start), x.dtype)
        note_progress()
        total += sample_terms(model, batch, noise, 1).metrics().cpu().double() * len(batch)
    return dict(zip(METRICS, (total / len(x)).tolist(), strict=True))


@torch.no_grad()
def stage_elbos(model: LatentVariableModel, x: Float[Tensor, "images pixels"], seed: int) -> list[float]:
    """The ELBO before and after each refinement of inference, all with the same noise; empty without refinement."""
    noise = batch_noise(len(x), generator(x.device, seed, "stages"), x.dtype)
    stages = model.stages(x, noise)
    eps = noise(1, stages[0].noise_dim) if stages else x.new_empty(0)
    return [posterior_terms(model, x, q, eps).log_weights.mean().item() for q in stages]


def gradient_norm(model: LatentVariableModel) -> float:
    """The norm of all gradients of the last step together."""
    norms = [g.norm() for q in model.parameters() if (g := q.grad) is not None]
    return torch.linalg.vector_norm(torch.stack(norms)).item()


def diagnostics(
    model: LatentVariableModel,
    x: Float[Tensor, "images pixels"],
    set_name: str,
    seed: int,
) -> dict[str, float]:
    """Values of a line of metrics.jsonl besides the objective: stages on the first images of x, output, memory."""
    elbos = stage_elbos(model, x[:STAGE_IMAGES], seed)
    line = {f"{set_name}/elbo_nats_after_{t}": value for t, value in enumerate(elbos)}
    line |= {f"output/{n}": q.item() for n, q in model.output.named_parameters() if q.numel() == 1}
    return {**line, "memory_bytes": peak_memory_bytes(x.device)}


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory in use at once so far: by the GPU's allocator, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
