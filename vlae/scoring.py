"""The evaluation of a trained model as a person meets it: with progress, interruptible, resumable."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vlae import checkpoint
from vlae.config import Config
from vlae.console import Reporter
from vlae.evaluate import Evaluation, evaluate
from vlae.interruption import Interruption
from vlae.trained import TrainedModel

NAME = "evaluation"
"""Of the checkpoint of an unfinished evaluation."""


def score(
    trained: TrainedModel,
    cfg: Config,
    x: Float[Tensor, "images pixels"],
    interruption: Interruption,
    reporter: Reporter,
    heartbeat: Callable[[dict[str, Any]], None] = lambda progress: None,
    *,
    resumable: bool = True,
) -> tuple[dict[str, Evaluation], float]:
    """The evaluation of ``x`` by each proposal of ``cfg``, and the seconds over all attempts.

    ``resumable``: it goes on from, and leaves, a checkpoint beside the training's.
    """
    place, digest = trained.directory.path / "checkpoints", weights_digest(trained.model)
    state = None
    if resumable:
        state, warnings = checkpoint.load(place, NAME)
        for text in warnings:
            reporter.warn(text)
    if state is not None and state["weights"] != digest:
        reporter.warn("the evaluation starts over: its checkpoint belongs to other weights")
        state = None
    before, began = state["seconds"] if state else 0.0, time.monotonic()
    saved = began

    evaluations = {name: Evaluation(**entry) for name, entry in state["evaluations"].items()} if state else {}
    proposals = cfg.evaluate.proposals
    for number, name in enumerate(proposals):

        def report(evaluation: Evaluation, name: str = name, before_this: int = number * len(x)) -> None:
            nonlocal saved
            mean = evaluation.log_likelihood[: evaluation.done].mean().item()
            text = f"log-likelihood {mean:.2f} nats{trained.space} by {name}"
            last = evaluation.done == len(x)
            done, total = before_this + evaluation.done, len(proposals) * len(x)
            reporter.advance("evaluating image", done, total, text, last=last)
            heartbeat({"image": done, "images": total})
            now = time.monotonic()
            if resumable and (interruption.requested or now - saved > cfg.trainer.checkpoint_every):
                entries = {name: vars(entry) for name, entry in evaluations.items()}
                seconds = before + now - began
                checkpoint.save(place, {"evaluations": entries, "seconds": seconds, "weights": digest}, NAME)
                saved = now

        evaluations.setdefault(name, Evaluation.empty(len(x)))
        evaluate(
            trained.model,
            x,
            proposal=name,
            num_samples=cfg.evaluate.num_samples,
            memory_budget=cfg.evaluate.memory_budget,
            seed=cfg.seed,
            evaluation=evaluations[name],
            interruption=interruption,
            report=report,
        )
    return evaluations, before + time.monotonic() - began


def weights_digest(model: torch.nn.Module) -> str:
    """One text for one set of weights."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()
