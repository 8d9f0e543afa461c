"""The results of a run: its metrics, their cost and the machine."""

import platform
import socket
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from vlae.estimation.metrics import Scores, save_scores, test_set_metrics
from vlae.experiment.take_over import read_taken_over
from vlae.experiment.trained_model import TrainedModel
from vlae.runs.schema import TakenOver
from vlae.runs.snapshot import executed_code
from vlae.system.console import count_of
from vlae.training.epoch_metrics import peak_memory_bytes


def write_results(trained: TrainedModel, scores: Scores) -> dict[str, Any]:
    """Write the numbers of each image, if there are any, then results.json, last of all. Returns its content."""
    directory = trained.directory
    if scores.results:
        save_scores(directory.path / "test_log_likelihood.npz", scores)
    results = run_results(trained, scores)
    directory.write_results(results)
    return results


def run_results(trained: TrainedModel, scores: Scores) -> dict[str, Any]:
    """The content of results.json. Log-likelihoods and ELBOs are of pixels in [0, 1], in nats per image."""
    progress, run, taken = trained.progress, trained.config, read_taken_over(trained.directory)
    validation = None if run.trainer.selection == "test" else trained.best_elbo
    return {
        "run_id": trained.directory.run_id,
        **{
            section: getattr(run, section)["name"]
            for section in ("model", "dataset", "output_dist", "optimizer")
        },
        "seed": run.seed,
        "best_epoch": progress.best_epoch,
        "epochs": progress.epoch,
        "selection": run.trainer.selection,
        "test": test_set_metrics(scores),
        "validation": {"elbo": validation},
        "taken_over": {"training": training_taken_over(taken), "scores": scores.taken_over},
        "cost": cost(trained, scores, taken),
        "environment": environments(trained, scores, taken),
    }


def cost(trained: TrainedModel, scores: Scores, taken: TakenOver | None) -> dict[str, Any]:
    """Seconds, memory and parameters. Seconds add up all attempts, without work that was lost between checkpoints.

    They are those of the whole training and evaluation; ``_taken_over`` is the part that other runs have computed.
    """
    progress = trained.progress
    return {
        "train_seconds": progress.seconds,
        "train_seconds_taken_over": taken["seconds"] if taken else 0.0,
        "seconds_per_epoch": progress.seconds / max(1, progress.epoch),
        "evaluate_seconds": scores.seconds,
        "evaluate_seconds_taken_over": sum(taken["seconds"] for taken in scores.taken_over.values()),
        **scores.cost(),
        "peak_memory_bytes": peak_memory_bytes(trained.device),
        "parameters": sum(q.numel() for q in trained.model.parameters()),
    }


def training_taken_over(taken: TakenOver | None) -> dict[str, Any] | None:
    """The run that has trained the first epochs, how many, and in how many seconds; None: the run itself has."""
    return taken and {key: taken[key] for key in ("run", "epochs", "seconds")}


def environments(trained: TrainedModel, scores: Scores, taken: TakenOver | None) -> dict[str, Any]:
    """The environment of this process, and the code and the torch of all who have trained or scored the model."""
    trained_with = trained.progress.trained_with or (taken["trained_with"] if taken else [])
    scored_with = [code_and_torch(), *(each["scored_with"] for each in scores.taken_over.values())]
    return {
        **environment(trained.device),
        "training": _joined(trained_with or [code_and_torch()]),
        "scoring": _joined(scored_with),
    }


def _joined(pairs: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {key: ", ".join(dict.fromkeys(pair[key] for pair in pairs)) for key in ("code", "torch")}


def code_and_torch() -> dict[str, str]:
    """The hash of the code that this process executes, and its version of torch: results may depend on them."""
    return {"code": str(executed_code()["hash"]), "torch": str(torch.__version__)}


def environment(device: torch.device) -> dict[str, Any]:
    """Software and machine, which explain why two results of one configuration differ in their last digits."""
    return {
        "vlae": version("vlae"),
        "code": executed_code(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
    }


def device_name(device: torch.device) -> str:
    """The device with its hardware: ``cuda:0 (NVIDIA H200)``, ``cpu, 2 threads``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device}, {count_of(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else str(device)
