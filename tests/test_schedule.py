"""The order of a launch, what each run computes itself, and when complete tables are reached."""

import itertools

import pytest

from vlae.config.compose import compose
from vlae.launching.composed_runs import ComposedRuns
from vlae.launching.estimate import FIT, complete_tables
from vlae.launching.plan import make_plan
from vlae.launching.schedule import make_schedule
from vlae.runs.directory import RunDirectory

IMAGES = 100
TINY = ("dataset.sizes.latent_dim=2", "dataset.sizes.hidden_dims=[3]", "trainer.epochs=2", "device=cpu")


@pytest.fixture
def plan(tmp_path):
    """``plan(axis, ...)``: of the runs of these axes, each a list of overrides."""

    def make(*axes):
        jobs = [[*TINY, f"runs_dir={tmp_path}", *job] for job in itertools.product(*axes)]
        return make_plan(ComposedRuns(jobs, compose))

    return make


def finish(run, epochs, seconds_per_epoch=1.0, evaluate_seconds=1.0):
    """The record of a run that is done, whose selection ELBO has risen in every epoch."""
    directory = RunDirectory.create(run.path.parent, run.run_id, run.container)
    directory.path.joinpath("checkpoints").mkdir()
    directory.path.joinpath("checkpoints", "last.pt").touch()
    for epoch in range(1, epochs + 1):
        directory.append_metrics({"epoch": epoch, "validation/elbo_nats": float(epoch)})
    cost = {
        "train_seconds": epochs * seconds_per_epoch,
        "evaluate_seconds": evaluate_seconds,
        "seconds_by_proposal": {"own": evaluate_seconds},
    }
    directory.write_results(
        {
            "run_id": run.run_id,
            "epochs": epochs,
            "best_epoch": epochs,
            "test": {"elbo": -1.0, "log_likelihood": {"own": {"num_images": IMAGES}}},
            "cost": cost,
            "taken_over": {},
        }
    )


def axis(key, *values):
    return [f"{key}={value}" for value in values]


def order_of(schedule):
    return [
        [(run.container["model"]["name"], run.container["seed"], run.container["trainer"]["epochs"]) for run in chain]
        for chain in schedule.chains
    ]  # fmt: skip


# --- chains -------------------------------------------------------------------------------------------------------


def test_runs_of_one_training_are_one_chain_by_length(plan):
    found = make_schedule(plan(axis("model", "vae"), axis("seed", 0, 1), axis("trainer.epochs", 6, 2, 4)))
    assert order_of(found) == [[("vae", seed, epochs) for epochs in (2, 4, 6)] for seed in (0, 1)]


def test_patience_is_a_length_too(plan):
    [chain] = make_schedule(plan(axis("model", "vae"), axis("trainer.patience", "null", 3, 1))).chains
    assert [run.container["trainer"]["patience"] for run in chain] == [1, 3, None]


# --- order --------------------------------------------------------------------------------------------------------


def test_runs_start_seed_by_seed_the_cheap_ones_first(plan):
    models = axis("model", "vlae", "vae", "hf")
    for run, seconds in zip(plan(models, axis("seed", 9)).runs, (3.0, 1.0, 2.0), strict=True):
        finish(run, 2, seconds)
    found = plan(models, axis("seed", 0, 1, 9))
    expected = [[(model, seed, 2)] for seed in (0, 1) for model in ("vae", "hf", "vlae")]
    assert order_of(make_schedule(found)) == expected
    by_cost = [[(model, seed, 2)] for model in ("vae", "hf", "vlae") for seed in (0, 1)]
    assert order_of(make_schedule(found, "cheap")) == by_cost
    given = [[(model, seed, 2)] for model in ("vlae", "vae", "hf") for seed in (0, 1)]
    assert order_of(make_schedule(found, "given")) == given


def test_without_runs_of_this_dataset_those_of_others_show_what_is_cheap(plan):
    models = axis("model", "vlae", "vae", "hf")
    elsewhere = plan(models, ["output_dist=bernoulli"])
    for run, seconds in zip(elsewhere.runs, (3.0, 1.0, 2.0), strict=True):
        finish(run, 2, seconds)
    schedule = make_schedule(plan(models))
    assert [chain[0].container["model"]["name"] for chain in schedule.chains] == ["vae", "hf", "vlae"]
    assert schedule.seconds == {}  # and no time is announced


def test_a_complete_table_needs_every_cell(plan):
    """Brute force over the order in which two workers end runs of one second each."""
    found = plan(axis("model", "vae", "hf", "vlae"), axis("seed", 0, 1))
    chains = make_schedule(found).chains
    for workers in (1, 2, 3):
        ends = [(1 + place // workers, chain[0]) for place, chain in enumerate(chains)]
        expected = []
        for n in (1, 2):
            for number in range(1, len(ends) + 1):
                models = [run.container["model"]["name"] for _, run in ends[:number]]
                if all(models.count(model) >= n for model in ("vae", "hf", "vlae")):
                    expected.append((number, float(ends[number - 1][0])))
                    break
        assert complete_tables(found, chains, {}, workers) == expected


def test_runs_that_are_done_count_in_tables(plan):
    models = axis("model", "vae", "hf")
    for run in plan(models, axis("seed", 0)).runs:
        finish(run, 2)
    found = plan(models, axis("seed", 0, 1))
    schedule = make_schedule(found)
    assert [runs for runs, _ in complete_tables(found, schedule.chains, schedule.seconds, 1)] == [0, 2]
    assert schedule.tables(1).startswith(
        "complete tables with 1 worker: n = 1 already, n = 2 after 2 runs (about "
    )


# --- work ---------------------------------------------------------------------------------------------------------


def work_of(schedule):
    return [str(schedule.work[run.run_id]) for chain in schedule.chains for run in chain]


def test_only_what_others_lack_is_trained(plan):
    [first] = plan(axis("model", "vae"), axis("trainer.epochs", 2)).runs
    finish(first, 2)
    found = make_schedule(plan(axis("model", "vae"), axis("trainer.epochs", 2, 5, 9)))
    five, nine = found.plan.starting
    assert work_of(found) == [
        f"trains 3 of 5 epochs (from {first.run_id})", f"trains 4 of 9 epochs (from {five.run_id})",
    ]  # fmt: skip
    assert found.headline().startswith("starting 2, which train 7 of 14 epochs, about ")
    # 1 second for each epoch and for each scoring by own; gaps count as own does, and fitted with its fit
    assert found.seconds[nine.run_id] - found.seconds[five.run_id] == pytest.approx(1.0)


def test_a_longer_training_serves_where_its_best_epoch_is_early(plan):
    [longer] = plan(axis("model", "vae"), axis("trainer.epochs", 9)).runs
    finish(longer, 3)
    directory = RunDirectory(longer.path)
    for epoch in range(4, 10):  # none is better than the third
        directory.append_metrics({"epoch": epoch, "validation/elbo_nats": 0.0})
    found = make_schedule(plan(axis("model", "vae"), axis("trainer.epochs", 2, 5)))
    assert work_of(found)[0] == ""
    assert work_of(found)[1].startswith(f"trains 0 of 5 epochs (from {longer.run_id})")


def test_only_open_scores_are_scored(plan):
    proposals = "evaluate.proposals=[own,laplace]", "evaluate.proposals=[own,laplace,student_t]"
    [first] = plan(axis("model", "vae"), [proposals[0]]).runs
    finish(first, 2)
    found = plan(axis("model", "vae"), proposals)
    assert work_of(make_schedule(found)) == [
        f"trains 0 of 2 epochs (from {first.run_id}), scores student_t only"
    ]
    less = plan(axis("model", "vae"), [proposals[0]], ["evaluate.num_gap_images=0"])
    assert work_of(make_schedule(less)) == [f"trains 0 of 2 epochs (from {first.run_id}), scores nothing"]
    others = plan(axis("model", "vae"), ["evaluate.num_samples=7"])
    assert work_of(make_schedule(others)) == [
        f"trains 0 of 2 epochs (from {first.run_id}), scores own, fitted only"
    ]


def test_a_training_that_stopped_early_is_complete(plan):
    patient = ["trainer.epochs=9"], ["trainer.patience=2"]
    [first] = plan(axis("model", "vae"), *patient).runs
    finish(first, 1)
    for epoch in (2, 3):
        RunDirectory(first.path).append_metrics({"epoch": epoch, "validation/elbo_nats": 0.0})
    found = make_schedule(plan(axis("model", "vae"), *patient, ["evaluate.num_samples=7"]))
    assert work_of(found)[0].startswith(f"trains 0 of 9 epochs (from {first.run_id})")


def test_fewer_images_take_less_time(plan):
    [first] = plan(axis("model", "vae"), ["evaluate.num_gap_images=0"]).runs
    finish(first, 2, evaluate_seconds=10.0)
    few = make_schedule(plan(axis("model", "vae"), ["evaluate.num_gap_images=0"], ["evaluate.num_images=50"]))
    own = 10.0 * 50 / IMAGES
    fitted = own * (5_000 + FIT) / 5_000  # no run shows what it costs: as own does, and the fit
    assert few.seconds == pytest.approx({few.plan.runs[0].run_id: own + fitted})


def test_a_run_that_has_lost_its_checkpoint_serves_nobody(plan):
    [first] = plan(axis("model", "vae")).runs
    finish(first, 2)
    RunDirectory(first.path).path.joinpath("checkpoints", "last.pt").unlink()
    assert work_of(make_schedule(plan(axis("model", "vae"), ["evaluate.num_samples=7"]))) == [""]


def test_another_seed_trains_everything(plan):
    [first] = plan(axis("model", "vae")).runs
    finish(first, 2)
    assert work_of(make_schedule(plan(axis("model", "vae"), axis("seed", 1)))) == [""]
