"""The results of a run: its metrics, their cost and the machine."""

import platform
import socket
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from vlae.config.schema import Config
from vlae.estimation.metrics import Scores, save_scores, test_set_metrics
from vlae.experiment.take_over import read_taken_over
from vlae.experiment.trained_model import TrainedModel
from vlae.runs.snapshot import executed_code
from vlae.system.console import count_of
from vlae.training.epoch_metrics import peak_memory_bytes


def write_results(trained: TrainedModel, cfg: Config, scores: Scores, x: Tensor) -> dict[str, Any]:
    """Write the numbers of each image, if there are any, then results.json, last of all. Returns its content."""
    directory = trained.directory
    if scores.proposals:
        arrays = directory.path / "test_log_likelihood.npz"
        save_scores(arrays, scores, trained.preprocess.unit_log_jacobian(x))
    results = run_results(trained, cfg, scores, x)
    directory.write_results(results)
    return results


def run_results(trained: TrainedModel, cfg: Config, scores: Scores, x: Tensor) -> dict[str, Any]:
    """The content of results.json. Log-likelihoods and ELBOs are of pixels in [0, 1], in nats per image."""
    progress, run = trained.progress, trained.config
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
        "test": test_set_metrics(scores, trained.preprocess, x, cfg.evaluate.num_samples),
        "validation": {"elbo": validation},
        "taken_over": {"training": training_taken_over(trained), "scores": scores.taken_over},
        "cost": cost(trained, scores),
        "environment": {**environment(trained.device), "training": training_environment(trained)},
    }


def cost(trained: TrainedModel, scores: Scores) -> dict[str, Any]:
    """Seconds, memory and parameters. Seconds add up all attempts, without work that was lost between checkpoints.

    They are those of the whole training and evaluation; ``_taken_over`` is the part that other runs have computed.
    """
    progress, taken = trained.progress, read_taken_over(trained.directory)
    return {
        "train_seconds": progress.seconds,
        "train_seconds_taken_over": taken["seconds"] if taken else 0.0,
        "seconds_per_epoch": progress.seconds / max(1, progress.epoch),
        "evaluate_seconds": scores.seconds,
        "evaluate_seconds_taken_over": sum(taken["seconds"] for taken in scores.taken_over.values()),
        "seconds_by_proposal": {name: entry.seconds for name, entry in scores.proposals.items()},
        "ais_seconds": scores.ais.seconds if scores.ais else None,
        "bdmc_seconds": scores.bracket.seconds if scores.bracket else None,
        "peak_memory_bytes": peak_memory_bytes(trained.device),
        "parameters": sum(q.numel() for q in trained.model.parameters()),
    }


def training_taken_over(trained: TrainedModel) -> dict[str, Any] | None:
    """The run that has trained the first epochs, how many, and in how many seconds; None: the run itself has."""
    taken = read_taken_over(trained.directory)
    return taken and {key: taken[key] for key in ("run", "epochs", "seconds")}


def training_environment(trained: TrainedModel) -> dict[str, Any]:
    """The code and the torch that trained the model, which may be others than have scored it."""
    taken = read_taken_over(trained.directory)
    of_training = (taken and taken["environment"]) or environment(trained.device)
    return {"code": {"hash": of_training["code"]["hash"]}, "torch": of_training["torch"]}


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
