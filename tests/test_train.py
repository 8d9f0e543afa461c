"""The training loop: its end, its selection, its records, its refusals, and equal results when it resumes."""

import json
import math
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OUTPUTS
from torch import Tensor

from vlae import seeding
from vlae.config.compose import compose, validate
from vlae.config.schema import Config, Trainer
from vlae.config.targets import build
from vlae.data.preprocess import Preprocess
from vlae.errors import NonFiniteError
from vlae.experiment.build import build_model
from vlae.runs.directory import RunDirectory
from vlae.seeding import batch_noise, generator, image_noise
from vlae.system.interruption import Interrupted, Interruption
from vlae.training import epoch_metrics, objective, training_set
from vlae.training.checkpoints import ask_for
from vlae.training.epoch_metrics import mean_metrics, stage_elbos
from vlae.training.loop import Training
from vlae.training.objective import sample_terms
from vlae.training.training_set import TrainingSet

MODELS = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))
TRAIN, BATCH = 50, 20  # the last batch of an epoch is smaller
STEPS = 3  # an epoch
TRAINER = {"epochs": 2, "batch_size": BATCH, "checkpoint_every": 1e9}
TINY = ("dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]")

every_model = pytest.mark.parametrize("model", MODELS)
every_output = pytest.mark.parametrize("output", OUTPUTS)


@cache
def settings(*overrides: str) -> Config:
    return validate(compose([*TINY, *overrides]))


@cache
def digits():
    splits = build(settings().dataset)
    return replace(splits, train=splits.train[:TRAIN], validation=splits.validation[:30])


def make(
    place: Path,
    model: str = "vae",
    output: str = "gaussian",
    *,
    dtype: torch.dtype = torch.float64,
    optimizer: str = "adam",
    lr: float = 1e-2,
    seed: int = 0,
    schedule: Sequence[str] | dict[str, Any] = (),
    **keys: Any,
) -> Training:
    """A training on a few digits; ``keys`` change TRAINER."""
    cfg = settings(f"model={model}", f"output_dist={output}", f"seed={seed}")
    preprocess = Preprocess.fit(cfg.dataset, digits(), build(cfg.output_dist).support, dtype=dtype)
    network = build_model(cfg, preprocess.shape, preprocess.variance, torch.device("cpu"), dtype)
    section = settings(f"optimizer={optimizer}", f"optimizer.lr={lr!r}").optimizer
    place.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(**{**TRAINER, **keys})

    def chosen(*overrides: str) -> dict[str, Any]:
        return settings(f"trainer.epochs={trainer.epochs}", f"optimizer.lr={lr!r}", *overrides).schedule

    return Training(
        model=network,
        optimizer=build(section, params=network.parameters()),
        training_set=TrainingSet(preprocess.training_images(digits()), preprocess),
        selection_set=preprocess.evaluation_set(digits().validation, "validation"),
        trainer=trainer,
        schedule=schedule if isinstance(schedule, dict) else chosen(*schedule),
        seed=seed,
        directory=RunDirectory(place),
    )


def silent(line: object) -> None:
    pass


def run(training: Training, stop_at: int | None = None) -> Training:
    """Train to the end, or until a signal during step ``stop_at``."""
    interruption = Interruption()

    def report(line: object) -> None:
        if training.progress.step == stop_at and line is None:
            interruption.number = signal.SIGTERM

    if stop_at is None:
        training.run(interruption, silent)
    else:
        with pytest.raises(Interrupted):
            training.run(interruption, report)
        assert training.progress.step == stop_at
    return training


def metrics(place: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]


def checkpoint(place: Path) -> dict[str, object]:
    return torch.load(place / "checkpoints" / "last.pt", weights_only=True)


def flat(value: object, name: str = "") -> dict[str, object]:
    """Every leaf of nested mappings and lists; tensors as bytes, so that equal means bit for bit."""
    if isinstance(value, Tensor):
        return {name: value.detach().numpy().tobytes()}
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for k, item in items for key, leaf in flat(item, f"{name}/{k}").items()}
    return {name: value}


def without_time(leaves: dict[str, object]) -> dict[str, object]:
    # the lines of metrics hold seconds, whose length changes the file's
    return {k: v for k, v in leaves.items() if "seconds" not in k and "metrics" not in k}


def lines_without_time(place: Path) -> list[dict[str, float]]:
    cost = ("seconds", "memory_bytes")
    return [{key: value for key, value in line.items() if key not in cost} for line in metrics(place)]


# --- how long, and what is selected ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("patience", [1, 3])
def test_patience_counts_epochs_without_improvement(patience, tmp_path):
    # steps too small for a weight to change: the first epoch stays the best
    training = run(make(tmp_path, optimizer="sgd", lr=1e-300, epochs=9, patience=patience))
    assert (training.progress.best_epoch, training.progress.epoch) == (1, 1 + patience)
    assert len(metrics(tmp_path)) == 1 + patience
    again = make(tmp_path, optimizer="sgd", lr=1e-300, epochs=9, patience=patience)
    again.resume()
    assert again.is_finished


@pytest.mark.slow
def test_the_state_that_another_run_waits_for_is_kept(tmp_path):
    """It is the checkpoint of a training of that length, and the training continues."""
    long = make(tmp_path / "long", epochs=3)
    ask_for(long.directory, 1)
    run(long)
    run(make(tmp_path / "short", epochs=1))
    folder = tmp_path / "long" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-1.pt", "last.pt", "previous.pt"]
    kept = torch.load(folder / "epoch-1.pt", weights_only=True)
    assert without_time(flat(kept)) == without_time(flat(checkpoint(tmp_path / "short")))
    assert checkpoint(tmp_path / "long")["progress"]["epoch"] == 3


@pytest.mark.slow
def test_an_improvement_renews_the_patience(tmp_path):
    training = run(make(tmp_path, lr=1e-3, epochs=6, patience=1))
    elbos = [line["validation/elbo_nats"] for line in metrics(tmp_path)]
    assert elbos == sorted(elbos)  # each epoch is the best so far
    assert training.progress.epoch == 6


@pytest.mark.slow
def test_the_best_model_is_that_of_the_epoch_with_the_best_validation_elbo(tmp_path):
    training = run(make(tmp_path, lr=0.1, epochs=12))
    elbos = [line["validation/elbo_nats"] for line in metrics(tmp_path)]
    best = max(range(12), key=elbos.__getitem__)
    assert best != 11, "the last epoch must not be the best, or the test says nothing"
    assert training.progress.best_epoch == best + 1
    assert training.progress.best_elbo == elbos[best]
    last = mean_metrics(training.model, training.selection_set, 0)["elbo_nats"]
    assert last == pytest.approx(elbos[-1], rel=1e-12)
    training.model.load_state_dict(training.progress.best_model)
    again = mean_metrics(training.model, training.selection_set, 0)["elbo_nats"]
    assert again == pytest.approx(elbos[best], rel=1e-12)


@pytest.mark.slow
def test_clip_grad_norm_bounds_the_step(tmp_path):
    moved = {}
    for limit in (None, 0.01):
        training = make(tmp_path / str(limit), optimizer="sgd", lr=1.0, clip_grad_norm=limit)
        before = [q.detach().clone() for q in training.model.parameters()]
        run(training, stop_at=1)
        change = torch.stack(
            [(q - p).norm() for p, q in zip(before, training.model.parameters(), strict=True)]
        )
        moved[limit] = change.norm().item()
    assert moved[None] > 1
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)
    training = run(make(tmp_path / "recorded", clip_grad_norm=0.01))
    assert all(line["gradient_norm"] <= 0.01 * (1 + 1e-9) for line in metrics(training.directory.path))


def test_every_epoch_visits_every_image_once_in_a_new_order(tmp_path):
    def visits(place: Path, seed: int) -> list[list[bytes]]:
        training = make(place, seed=seed)
        images = torch.arange(TRAIN, dtype=torch.uint8).view(TRAIN, 1, 1, 1).expand(TRAIN, 1, 8, 8)
        preprocess = training.training_set.preprocess
        training.training_set = TrainingSet(images, preprocess)
        seen: list[int] = []
        seeds: set[int] = set()
        forward = preprocess.forward

        def spy(images: Tensor, source: torch.Generator) -> Tensor:
            seen.extend(images[:, 0, 0, 0].tolist())
            seeds.add(source.initial_seed())
            return forward(images % 17, source)

        preprocess.forward = spy
        run(training)
        assert len(seeds) == 2 * STEPS  # noise is never used twice
        return [seen[:TRAIN], seen[TRAIN:]]

    first, second = visits(tmp_path / "0", 0)
    assert sorted(first) == sorted(second) == list(range(TRAIN))
    assert len({tuple(order) for order in (first, second, range(TRAIN))}) == 3
    assert visits(tmp_path / "again", 0) == [first, second]
    assert visits(tmp_path / "1", 1)[0] not in (first, second)


# --- every model -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@every_model
@every_output
def test_two_steps_change_every_parameter(model, output, tmp_path):
    training = make(tmp_path, model, output)
    before = {name: q.detach().clone() for name, q in training.model.named_parameters()}
    run(training, stop_at=2)
    same = [name for name, q in training.model.named_parameters() if torch.equal(q, before[name])]
    assert same == []


@pytest.mark.slow
@every_model
@every_output
def test_a_stopped_training_resumes_bit_for_bit(model, output, tmp_path):
    """Stopped by a signal in an epoch, then by its length at an epoch's end, and resumed each time."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(make(whole, model, output, epochs=4))
    run(make(parts, model, output, epochs=2), stop_at=STEPS + 1)
    for epochs, steps in ((2, STEPS + 1), (4, 2 * STEPS)):
        training = make(parts, model, output, epochs=epochs)
        assert training.resume() == []
        assert training.progress.step == steps
        run(training)
    assert lines_without_time(parts) == lines_without_time(whole)
    assert without_time(flat(checkpoint(parts))) == without_time(flat(checkpoint(whole)))


def test_records_after_the_last_checkpoint_are_removed(tmp_path):
    """A kill leaves such a record: the epoch is repeated, its line must not be."""
    run(make(tmp_path))
    before = (tmp_path / "metrics.jsonl").read_text()
    training = make(tmp_path)
    training.directory.append_metrics({"epoch": 3})
    training.resume()
    assert (tmp_path / "metrics.jsonl").read_text() == before
    shutil.rmtree(tmp_path / "checkpoints")
    make(tmp_path).resume()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.slow
@every_output
def test_an_epoch_is_recorded_with_finite_metrics(output, tmp_path):
    run(make(tmp_path, "vlae", output))
    terms = ("elbo_nats", "reconstruction_nats", "kl_nats")
    keys = {"epoch", "global_step", "gradient_norm", "learning_rate", "seconds", "memory_bytes"}
    keys |= {
        f"validation/elbo_nats_after_{t}" for t in range(settings("model=vlae").model["num_updates"] + 1)
    }
    keys |= {f"{name}/{term}" for name in ("train", "validation") for term in terms}
    keys |= {"output/log_variance"} if output == "gaussian" else set()
    lines = metrics(tmp_path)
    assert [(line["epoch"], line["global_step"]) for line in lines] == [(1, STEPS), (2, 2 * STEPS)]
    for line in lines:
        assert line.keys() == keys
        assert all(math.isfinite(value) for value in line.values())
        for name in ("train", "validation"):
            elbo, reconstruction, kl = (line[f"{name}/{term}"] for term in terms)
            assert elbo == pytest.approx(reconstruction - kl, rel=1e-9)
        assert line["learning_rate"] == 1e-2


@torch.no_grad()
def elbo_in_batches(model, x, size, noise_of):
    """Mean ELBO over x, one sample per image, in batches of this size and in order."""
    batches = torch.arange(len(x)).split(size)
    sums = [sample_terms(model, x[images], noise_of(images), 1).log_weights.sum() for images in batches]
    return (torch.stack(sums).sum() / len(x)).item()


@pytest.mark.parametrize(("name", "size"), [("savae_original", 128), ("savae", 500)])
def test_the_released_savae_is_validated_in_batches_of_128(name, size, tmp_path):
    """As released. Its step depends on the batch, so with the same noise other batches give another ELBO."""
    training = make(tmp_path, name)
    model, x = training.model, training.selection_set.repeat(20, 1)
    model.step = model.make_step(step_size=0.5, clip_norm=5.0)

    def of_batch(images):
        return batch_noise(len(images), generator("cpu", 3, "validation", int(images[0])), x.dtype)

    def of_image(images):
        return image_noise([generator("cpu", 3, i) for i in images.tolist()], x.dtype)

    expected = elbo_in_batches(model, x, size, of_batch)
    assert mean_metrics(model, x, seed=3)["elbo_nats"] == pytest.approx(expected, rel=1e-12)
    one, other = (elbo_in_batches(model, x, batch, of_image) for batch in (128, 100))
    assert (one == pytest.approx(other, rel=1e-10)) == (name == "savae")


def test_a_stage_has_the_elbo_of_a_model_that_stops_there(tmp_path):
    training = run(make(tmp_path, "vlae"))
    x, model = training.selection_set, training.model
    found, updates = stage_elbos(model, x, 7), model.num_updates
    assert len(found) == updates + 1
    for t in range(updates + 1):
        model.num_updates = t
        noise = batch_noise(len(x), generator(x.device, 7, "stages"), x.dtype)
        with torch.no_grad():
            expected = sample_terms(model, x, noise, 1).log_weights.mean().item()
        assert found[t] == pytest.approx(expected, rel=1e-10)
    assert stage_elbos(make(tmp_path / "vae", "vae").model, x, 7) == []


@pytest.mark.slow
@every_model
def test_training_by_the_bound_still_selects_by_the_elbo(model, tmp_path):
    training = run(make(tmp_path, model, objective="iwae", num_samples=5))
    lines = metrics(tmp_path)
    for line in lines:
        assert line["train/iwae_bound_nats"] > line["train/elbo_nats"]
        assert line["train/elbo_nats"] == pytest.approx(
            line["train/reconstruction_nats"] - line["train/kl_nats"], rel=1e-9
        )
    assert training.progress.best_elbo == max(line["validation/elbo_nats"] for line in lines)


@pytest.mark.slow
def test_a_stopped_training_by_the_bound_resumes_bit_for_bit(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = {"objective": "iwae", "num_samples": 3}
    run(make(whole, "vlae", **settings))
    run(make(parts, "vlae", **settings), stop_at=STEPS + 1)
    training = make(parts, "vlae", **settings)
    training.resume()
    run(training)
    assert without_time(flat(checkpoint(parts))) == without_time(flat(checkpoint(whole)))


@pytest.mark.slow
@every_model
def test_closed_form_divergence_trains_every_model_with_it(model, tmp_path):
    training = make(tmp_path, model, kl="analytic")
    if not training.model.analytic_kl:
        with pytest.raises(TypeError, match="no closed form"):
            run(training)
        return
    run(training)
    for line in metrics(tmp_path):
        assert line["train/elbo_nats"] == pytest.approx(
            line["train/reconstruction_nats"] - line["train/kl_nats"], rel=1e-9
        )
        assert line["train/kl_nats"] > 0


@pytest.mark.slow
def test_more_samples_make_the_gradient_less_noisy(tmp_path):
    """The mean of K samples: a K-th of the variance, over steps of a model that stays as it is."""
    spread = {}
    for samples in (1, 16):
        training = make(tmp_path / str(samples), optimizer="sgd", lr=1e-300, num_samples=samples)
        gradients = []
        for step in range(60):
            training.progress.step = step
            training._step(torch.arange(TRAIN))
            gradients.append(training.model.amortised.mu.weight.grad.flatten().clone())
        spread[samples] = torch.stack(gradients).var(0).sum().item()
    assert spread[1] / spread[16] == pytest.approx(16, rel=0.4)


def test_the_training_elbo_is_the_mean_over_images(tmp_path):
    training = make(tmp_path, optimizer="sgd", lr=1e-300, epochs=1)
    total = 0.0
    images = training.training_set
    order = torch.randperm(TRAIN, generator=generator("cpu", 0, "order", 0))
    for step, indices in enumerate(order.split(BATCH)):
        source = generator("cpu", 0, "train", step)
        x = images.preprocess.forward(images.images[indices], source)
        noise = seeding.batch_noise(len(x), source, x.dtype)
        total += objective.sample_terms(training.model, x, noise, 1).log_weights.sum().item()
    run(training)
    assert metrics(tmp_path)[0]["train/elbo_nats"] == pytest.approx(total / TRAIN, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae", "vlae", "iaf"])
@every_output
def test_single_and_double_precision_agree_to_rounding(model, output, tmp_path, monkeypatch):
    def same_noise(batch: int, source: torch.Generator, dtype: torch.dtype):
        return lambda samples, dim: torch.randn(
            samples, batch, dim, generator=source, dtype=torch.float64
        ).to(dtype)

    for module in (training_set, epoch_metrics):
        monkeypatch.setattr(module, "batch_noise", same_noise)
    single, double = (
        run(make(tmp_path / str(dtype), model, output, dtype=dtype, lr=1e-3, optimizer="sgd", epochs=1))
        for dtype in (torch.float32, torch.float64)
    )
    for name, q in single.model.named_parameters():
        assert q.dtype == torch.float32
        expected = dict(double.model.named_parameters())[name]
        torch.testing.assert_close(q.double(), expected, rtol=1e-3, atol=1e-4)
    assert single.progress.best_elbo == pytest.approx(double.progress.best_elbo, rel=1e-4)


# --- NaN ---------------------------------------------------------------------------------------------------------


def assert_finite_checkpoint(place: Path) -> None:
    state = checkpoint(place)
    for weights in (state["model"], state["progress"]["best_model"]):
        assert all(torch.isfinite(value).all() for value in weights.values())


@pytest.mark.slow
@every_model
@every_output
def test_divergence_fails_with_metric_and_step(model, output, tmp_path):
    training = make(tmp_path, model, output, dtype=torch.float32, optimizer="sgd", lr=1e30)
    with pytest.raises(NonFiniteError, match=r"step [23]\b") as failure:
        run(training)
    message = str(failure.value)
    assert (
        "elbo_nats" in message
        or "reconstruction_nats" in message
        or "kl_nats" in message
        or "precision" in message
    )
    assert "There is no checkpoint yet." in message
    assert "last.pt" not in message
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.slow
def test_a_failure_names_and_keeps_the_last_good_checkpoint(tmp_path):
    run(make(tmp_path))
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    training = make(tmp_path, epochs=4)
    training.resume()
    training.optimizer.param_groups[0]["lr"] = 1e300
    with pytest.raises(NonFiniteError, match=rf"step {2 * STEPS + 2}\b") as failure:
        run(training)
    assert f"The last good checkpoint is {tmp_path / 'checkpoints' / 'last.pt'}" in str(failure.value)
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before
    assert len(metrics(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("lr", [1e30, 1e38])
def test_weights_that_are_not_finite_are_never_saved(lr, tmp_path):
    training = make(tmp_path, dtype=torch.float32, optimizer="sgd", lr=lr, checkpoint_every=1e-9)
    with pytest.raises(NonFiniteError):
        run(training)
    if (tmp_path / "checkpoints" / "last.pt").exists():
        assert_finite_checkpoint(tmp_path)
    else:
        assert lr == 1e38  # its first step already leaves the range of float32
