"""A trained model, loaded back from its run directory."""

import warnings

import torch

from vlae.config.compose import validate
from vlae.config.targets import build, check_targets
from vlae.data.preprocess import Preprocess
from vlae.experiment.build import build_model
from vlae.experiment.prepare import select_device
from vlae.experiment.trained_model import TrainedModel
from vlae.runs.directory import RecordError, find
from vlae.training import checkpoints


def load(run: str, runs_dir: str = "runs", device: str = "cpu") -> TrainedModel:
    """The best epoch's model of a run, finished or not, without its data.

    RecordError: no such run, no checkpoint yet, a damaged one, or one that would execute code.
    """
    directory = find(runs_dir, run)
    config = directory.config()
    check_targets(config, directory.path / "config.yaml")
    cfg = validate({**config, "device": device}, to_run=False)
    state, damages = checkpoints.read_checkpoint(directory)
    for text in damages:
        warnings.warn(text, stacklevel=3)
    if state is None or not state["progress"]["best_model"]:
        raise RecordError(f"{directory.path} has no trained model yet (state: {directory.state()})")
    where, dtype = select_device(device, cfg.trainer.precision), getattr(torch, cfg.trainer.precision)
    support = build(cfg.output_dist).support
    preprocess = Preprocess(cfg.dataset, support, state["preprocess"], dtype=dtype, device=where)
    model = build_model(cfg, preprocess.shape, preprocess.variance, where, dtype)
    model.load_state_dict(state["progress"]["best_model"])
    progress = checkpoints.Progress(**state["progress"])
    return TrainedModel(model, preprocess, cfg, directory, progress, None)
