"""Schedules, the weight of the KL, averaged weights and weights of another run: against their formulas, and resumed."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import STEPS, checkpoint, flat, lines_without_time, make, metrics, run, without_time

import vlae
from vlae.config.compose import compose, validate
from vlae.config.problems import ConfigError
from vlae.config.run_id import run_id, training_id
from vlae.training.epoch_metrics import mean_metrics
from vlae.training.learning_rate import Schedule
from vlae.training.objective import analytic_elbo, sampled_elbo

SCHEDULES = sorted(path.stem for path in (Path(__file__).parents[1] / "conf" / "schedule").glob("*.yaml"))
LR, EPOCHS = 0.01, 4
TOTAL = STEPS * EPOCHS
OF_TORCH = {
    "multi_step": ("MultiStepLR", {"milestones": [1, 3], "gamma": 0.5}),
    "plateau": (
        "ReduceLROnPlateau",
        {"mode": "max", "threshold_mode": "abs", "threshold": 0.01, "patience": 0, "factor": 0.5},
    ),
    "polynomial": ("PolynomialLR", {"total_iters": 3, "power": 2.0}),
    "restarts": ("CosineAnnealingWarmRestarts", {"T_0": 2}),
    "cyclic": ("CyclicLR", {"base_lr": 0.001, "max_lr": 0.01, "step_size_up": 4, "cycle_momentum": False}),
}
"""Schedulers of torch without a file in conf/, the last one counted by steps."""


def of_torch(name: str) -> dict[str, Any]:
    """The section that a file of a user's own would hold."""
    target, keys = OF_TORCH[name]
    every = "step" if name == "cyclic" else "epoch"
    return {"name": name, "_target_": f"torch.optim.lr_scheduler.{target}", "every": every, **keys}


CHOICES = {
    **{name: (f"schedule={name}",) for name in SCHEDULES},
    "warmup_cosine": ("schedule=warmup_cosine", "schedule.warmup_epochs=1.5"),
    "step": ("schedule=step", "schedule.step_size=2"),
    **{name: of_torch(name) for name in OF_TORCH},
}


def half_cosine(share: float) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * share)


# the learning rate of step t, and of epoch e, both from 0
RATES = {
    "constant": lambda t, e: LR,
    "cosine": lambda t, e: LR * half_cosine(e / EPOCHS),
    "step": lambda t, e: LR * 0.1 ** (e // 2),
    "exponential": lambda t, e: LR * 0.99**e,
    "warmup_cosine": lambda t, e: (
        LR * ((t + 0.5) / 4.5 if t + 0.5 < 4.5 else half_cosine((t + 0.5 - 4.5) / (TOTAL - 4.5)))
    ),
    "multi_step": lambda t, e: LR * 0.5 ** ((e >= 1) + (e >= 3)),
    "polynomial": lambda t, e: LR * max(0, 1 - e / 3) ** 2,
    "restarts": lambda t, e: LR * half_cosine(e % 2 / 2),
    "cyclic": lambda t, e: 0.001 + 0.009 * (1 - abs(t / 4 % 2 - 1)),
}


def rates(place, schedule) -> list[float]:
    """The learning rate of each step of a training."""
    training = make(place, optimizer="sgd", lr=LR, epochs=EPOCHS, schedule=schedule)
    found, after_step = [], training.schedule.after_step

    def recorded():
        found.append(training.optimizer.param_groups[0]["lr"])
        after_step()

    training.schedule.after_step = recorded
    run(training)
    return found


@pytest.mark.parametrize("name", RATES)
def test_a_schedule_sets_the_rate_of_each_step(name, tmp_path):
    expected = [RATES[name](t, t // STEPS) for t in range(TOTAL)]
    assert rates(tmp_path, CHOICES[name]) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    recorded = [line["learning_rate"] for line in metrics(tmp_path)]
    assert recorded == pytest.approx(expected[STEPS - 1 :: STEPS], rel=1e-9, abs=1e-15)


def test_one_cycle_rises_once_and_falls_to_almost_nothing(tmp_path):
    found = rates(tmp_path, ("schedule=one_cycle",))
    top = found.index(max(found))
    assert max(found) == pytest.approx(LR, rel=0.2)
    assert all(a < b for a, b in pairwise(found[: top + 1]))
    assert all(a > b for a, b in pairwise(found[top:]))
    assert found[0] == pytest.approx(LR / 25)
    assert found[-1] == pytest.approx(LR / 25 / 10_000)


@pytest.mark.parametrize("elbo", [-128.95, 0.0, 700.0])
def test_plateau_lowers_the_rate_where_the_elbo_stands_still(elbo):
    """Also where it is negative: relative thresholds of torch take a smaller value for an improvement there."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Schedule(of_torch("plateau"), optimizer, steps_per_epoch=1)
    found = []
    for gain in (0, 1, 1, 1.005, 3, 3):
        optimizer.step()
        found.append(optimizer.param_groups[0]["lr"])
        schedule.after_epoch(elbo + gain)
    assert found == [1.0, 1.0, 1.0, 0.5, 0.25, 0.25]


WITH = {name: {"schedule": choice} for name, choice in CHOICES.items()} | {
    "ema": {"average": "ema", "average_decay": 0.7},
    "warmup": {"kl_warmup_epochs": 2.5, "kl_weight": 2.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH)
def test_a_stopped_training_resumes_bit_for_bit(name, tmp_path):
    """Stopped in the middle of an epoch, at its end, and again."""
    keys = {"lr": LR, "epochs": EPOCHS, "dtype": torch.float32, **WITH[name]}
    run(make(tmp_path / "whole", **keys))
    for stop_at in (1, STEPS, STEPS + 2, TOTAL - 1):
        training = make(tmp_path / "parts", **keys)
        training.resume()
        run(training, stop_at)
    last = make(tmp_path / "parts", **keys)
    last.resume()
    run(last)
    whole, parts = (without_time(flat(checkpoint(tmp_path / place))) for place in ("whole", "parts"))
    assert whole == parts
    assert lines_without_time(tmp_path / "whole") == lines_without_time(tmp_path / "parts")


def test_the_average_is_the_exponential_moving_one(tmp_path):
    """It is validated, selected and kept; the training itself is the same as without it."""
    training = make(tmp_path / "a", lr=LR, average="ema", average_decay=0.7)
    seen, update = [], training.average.update_parameters

    def recorded(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        update(model)

    training.average.update_parameters = recorded
    run(training)
    expected = seen[0]
    for weights in seen[1:]:
        expected = {name: 0.7 * expected[name] + 0.3 * weights[name] for name in expected}
    for name, value in training.result.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-12, atol=1e-14), name
    elbos = mean_metrics(training.result, training.selection_set, training.seed)
    assert metrics(tmp_path / "a")[-1]["validation/elbo_nats"] == elbos["elbo_nats"]
    alone = run(make(tmp_path / "b", lr=LR))
    assert all(
        torch.equal(a, b) for a, b in zip(training.model.parameters(), alone.model.parameters(), strict=True)
    )


@pytest.mark.parametrize("estimate", [sampled_elbo, analytic_elbo])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 4.0])
def test_the_loss_weighs_the_divergence_and_the_metrics_do_not(estimate, weight, tmp_path):
    training = make(tmp_path)
    x, noise = training.training_set.batch(torch.arange(20), 0, 0)
    loss, (elbo, reconstruction, kl) = estimate(training.model, x, noise, 3, weight)
    assert loss.item() == pytest.approx(-(reconstruction - weight * kl).item(), rel=1e-12)
    assert elbo.item() == pytest.approx((reconstruction - kl).item(), rel=1e-12)


def test_a_weight_changes_the_training_and_not_what_an_epoch_reports(tmp_path):
    kls = []
    for weight in (0.2, 1.0, 5.0):
        training = run(make(tmp_path / str(weight), lr=LR, epochs=8, kl_weight=weight))
        line = metrics(tmp_path / str(weight))[-1]
        kls.append(line["validation/kl_nats"])
        elbo = line["validation/reconstruction_nats"] - line["validation/kl_nats"]
        assert line["validation/elbo_nats"] == pytest.approx(elbo, rel=1e-9)
        assert training.progress.best_elbo == max(
            each["validation/elbo_nats"] for each in metrics(tmp_path / str(weight))
        )
    assert kls[0] > kls[1] > kls[2]


# --- ids ---------------------------------------------------------------------------------------------------------

TINY = (
    "dataset.sizes.latent_dim=3",
    "dataset.sizes.hidden_dims=[6,5]",
    "num_threads=1",
    "tracker=none",
    "evaluate=none",
)


def test_defaults_are_absent_from_ids():
    """Runs from before these keys keep their ids."""
    now = compose([])
    before = {key: value for key, value in now.items() if key not in ("schedule", "init_from")}
    added = ("kl_weight", "kl_warmup_epochs", "average", "average_decay")
    before["trainer"] = {key: value for key, value in now["trainer"].items() if key not in added}
    assert run_id(before) == run_id(now)


@pytest.mark.parametrize(
    "key",
    [
        "schedule=cosine",
        "trainer.kl_weight=2",
        "trainer.kl_warmup_epochs=1",
        "trainer.average=ema",
        "init_from=a",
    ],
)
def test_each_changes_the_id_and_the_training(key):
    other, default = compose([key]), compose([])
    assert run_id(other) != run_id(default)
    assert training_id(other) != training_id(default)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_with_a_horizon_belongs_to_a_training_of_its_length(name):
    ids = {training_id(compose([f"schedule={name}", f"trainer.epochs={epochs}"])) for epochs in (20, 30)}
    assert len(ids) == (2 if name in ("cosine", "one_cycle", "warmup_cosine") else 1)


# --- what is refused ---------------------------------------------------------------------------------------------

REFUSED = {
    "schedule=cosnie": ("schedule", "cosine"),
    "schedule._target_=os.system": ("schedule._target_: expected a scheduler of torch.optim.lr_scheduler",),
    "schedule._target_=torch.optim.Adam": ("schedule._target_: ", "a scheduler"),
    "schedule.every=week": ("schedule.every: expected one of 'epoch' or 'step'",),
    "+schedule.last_epoch=3": ("schedule.last_epoch: ", "unknown key"),
    "schedule=one_cycle +schedule.total_steps=30": ("schedule.total_steps: ", "unknown key"),
    "schedule=one_cycle schedule.every=epoch": (
        "schedule.every: expected step, by which OneCycleLR changes",
    ),
    "schedule=cosine schedule.every=step": ("schedule.every: expected epoch, or T_max as a number of steps",),
    "schedule=cosine schedule.T_max=0": ("schedule.T_max: expected 1 or more, got 0",),
    "schedule=step schedule.step_size=2.5": ("schedule.step_size: ", "2.5"),
    "schedule=exponential schedule.gamma=abc": ("schedule.gamma: expected", "'abc'"),
    "schedule=warmup_cosine schedule.warmup_epochs=abc": ("schedule.warmup_epochs: expected", "'abc'"),
    "schedule=warmup_cosine schedule.warmup_epochs=99": (
        "schedule: WarmupCosine",
        "expected warmup_epochs from 0 to",
    ),
    "schedule=exponential schedule.gamma=-1": ("schedule.gamma: expected more than 0, got -1",),
    "schedule=cosine schedule.eta_min=-1": ("schedule: it leads to a learning rate of -",),
    "trainer.average_decay=0.9": (
        "trainer.average_decay: expected 0.999 where trainer.average is none, got 0.9",
    ),
    "trainer.kl_weight=0": ("trainer.kl_weight: expected more than 0",),
    "trainer.objective=iwae trainer.kl_weight=2": (
        "trainer.kl_weight: expected 1 where trainer.objective is iwae",
    ),
    "trainer.average=swa": ("trainer.average: expected one of 'none' or 'ema'",),
    "trainer.average_decay=1": ("trainer.average_decay: ",),
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_cannot_be_trained_is_refused_before(overrides):
    with pytest.raises(ConfigError) as error:
        validate(compose(overrides.split()))
    for part in REFUSED[overrides]:
        assert any(part in problem for problem in error.value.problems), error.value.problems


@pytest.mark.parametrize("name", OF_TORCH)
def test_any_scheduler_of_torch_may_stand_in_a_file(name):
    container = {**compose([]), "schedule": of_torch(name)}
    assert validate(container).schedule["name"] == name


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mode": "min"}, "ReduceLROnPlateau watches the ELBO, which grows"),
        ({"threshold_mode": "rel"}, "ReduceLROnPlateau watches the ELBO, which grows and may be negative"),
        ({"every": "step"}, "ReduceLROnPlateau watches the ELBO, which grows"),
        ({"factor": 2.0}, "ReduceLROnPlateau does not take them: Factor should be < 1.0"),
        ({"_target_": "torch.optim.lr_scheduler.LambdaLR"}, "schedule.lr_lambda: "),
    ],
)
def test_a_scheduler_that_cannot_work_is_refused(changes, expected):
    with pytest.raises(ConfigError, match=expected):
        validate({**compose([]), "schedule": of_torch("plateau") | changes})


# --- weights of another run --------------------------------------------------------------------------------------


def train(place, *overrides):
    return vlae.run([*TINY, "model=vae", f"runs_dir={place}", *overrides], quiet=True)


@pytest.mark.slow
def test_a_training_starts_with_the_weights_of_another_run(tmp_path):
    source = train(tmp_path, "trainer.epochs=3")["run_id"]
    tuned = train(tmp_path, "trainer.epochs=1", "optimizer.lr=1e-30", f"init_from={source}")["run_id"]
    before, after = (vlae.load(str(tmp_path / name)).model.state_dict() for name in (source, tuned))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / tuned / "results.json").read_text())["taken_over"]["training"] is None


@pytest.mark.slow
def test_weights_of_another_model_or_of_no_run_are_refused(tmp_path):
    source = train(tmp_path, "trainer.epochs=1")["run_id"]
    for overrides, expected in (
        ([f"init_from={source}", "dataset.sizes.latent_dim=4"], "is another model: its weights amortised"),
        ([f"init_from={source[:-3]}"], f"expected a whole id, {source}"),
        (["init_from=nothing"], "init_from: no run 'nothing' in"),
    ):
        with pytest.raises(ConfigError, match=expected):
            train(tmp_path, "trainer.epochs=2", *overrides)
    assert len(list(tmp_path.glob("vae-*"))) == 1


@pytest.mark.slow
def test_a_training_that_has_begun_needs_its_source_no_more(tmp_path):
    """It is continued, scored and trained longer without it; another one is refused."""
    source = train(tmp_path, "trainer.epochs=1")["run_id"]
    tuned = train(tmp_path, "trainer.epochs=1", f"init_from={source}")["run_id"]
    (tmp_path / source).rename(tmp_path / "gone")
    longer = train(tmp_path, "trainer.epochs=2", f"init_from={source}")
    assert longer["taken_over"]["training"]["run"] == tuned
    scored = train(
        tmp_path, "trainer.epochs=1", f"init_from={source}", "evaluate=quick", "evaluate.num_samples=8"
    )
    assert scored["taken_over"]["training"]["run"] == tuned
    with pytest.raises(ConfigError, match=f"init_from: no run '{source}'"):
        train(tmp_path, "trainer.epochs=1", f"init_from={source}", "seed=1")
