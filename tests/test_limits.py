"""Numbers that no run can have, and sizes that no machine or not this one holds: refused before anything starts."""

import os
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vlae
from vlae.config import limits
from vlae.config.checks import LARGEST, SMALLEST, wrong_leaves
from vlae.config.compose import compose
from vlae.config.limits import FEWEST_PIXELS, NONSENSE, beyond_the_machine
from vlae.config.overrides import choices
from vlae.config.problems import ConfigError
from vlae.config.targets import build
from vlae.launching.composed_runs import ComposedRuns
from vlae.launching.launcher import launcher_of
from vlae.launching.local_launcher import LocalQueue
from vlae.launching.plan import make_plan
from vlae.launching.plan_checks import check_runs

TINY = [
    "model=vae",
    "trainer.epochs=1",
    "tracker=none",
    "device=cpu",
    "num_threads=1",
    "model.hidden_dims=[4]",
]
GIB = 2**30
quick = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """A machine of 16 GiB."""
    monkeypatch.setattr(limits, "memory_of_this_machine", lambda: 16 * GIB)


def keys_of(overrides, **how) -> list[str]:
    return [problem.key for problem in beyond_the_machine(compose(overrides), **{"here": True, **how})]


# numbers ----------------------------------------------------------------------------------------------------

WHOLE = [
    "seed",
    "trainer.patience",
    "evaluate.ais.num_chains",
    "model.latent_dim",
    "dataset.split_seed",
    "optimizer.lr",
]


@pytest.mark.slow
@pytest.mark.parametrize("key", WHOLE)
@pytest.mark.parametrize("value", [str(LARGEST + 1), str(SMALLEST - 1), "9" * 5000])
def test_a_number_of_more_than_64_bits_is_refused_by_its_key(key, value):
    with pytest.raises(ConfigError) as refused:
        compose([f"{key}={value}"])
    assert {problem.partition("=")[0].partition(":")[0] for problem in refused.value.problems} == {key}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2**63, LARGEST])
def test_every_64_bit_seed_trains_and_is_found(seed, tmp_path):
    words = [*TINY, "evaluate.num_images=3", "evaluate.num_samples=3", "evaluate.num_gap_images=0"]
    results = vlae.run([*words, f"seed={seed}", f"runs_dir={tmp_path}"], quiet=True)
    trained = vlae.load(results["run_id"], str(tmp_path))
    assert trained.config.seed == seed
    assert trained.sample(1, seed=seed).isfinite().all()


@quick
@given(st.integers(SMALLEST, LARGEST))
def test_other_whole_numbers_follow_the_schema(number):
    assert wrong_leaves({"a": [number, float(number)]}) == []


def test_errors_name_the_range_also_for_launchers():
    with pytest.raises(ConfigError, match=rf"seed: expected .* at most {LARGEST} \(2\^64 - 1\), got {2**64}"):
        compose([f"seed={2**64}"])
    with pytest.raises(ConfigError, match=rf"hydra.launcher.workers: .* at most {LARGEST}"):
        launcher_of(
            LocalQueue, {"workers": 10**20, "runs_per_gpu": 1, "run_timeout_min": None, "order": "seeds"}
        )


# sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model.hidden_dims=[100000000]"], "model.hidden_dims"),
        (["model.hidden_dims=[200000,200000]"], "model.hidden_dims"),
        (["model=vae", "model.latent_dim=1000000000"], "model.latent_dim"),
        (["model=vae", f"model.latent_dim={LARGEST}"], "model.latent_dim"),
        (["model=vlae", "model.latent_dim=6000"], "model.latent_dim"),
        (["model=fullcov", "model.latent_dim=6000"], "model.latent_dim"),
        (["model=hf", "model.num_flows=1000000000"], "model.num_flows"),
        (["trainer.num_samples=1000000"], "trainer.num_samples"),
        (["evaluate.num_samples=1000000000000000"], "evaluate.num_samples"),
        (["evaluate.memory_budget=17000"], "evaluate.memory_budget"),
        (["evaluate.bdmc=true", "evaluate.ais.num_chains=1000000000"], "evaluate.ais.num_chains"),
        (
            ["evaluate.bdmc=true", "evaluate.ais.num_distributions=10000000000"],
            "evaluate.ais.num_distributions",
        ),
    ],
)
def test_a_run_too_large_for_memory_is_refused_with_the_key(overrides, key):
    assert keys_of(overrides) == [key]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        *([f"model={model}"] for model in choices()["model"]),
        ["model=vae", "model.latent_dim=6000", "model.hidden_dims=[2000,2000]"],
        ["model=vlae", "model.latent_dim=1000", "trainer.batch_size=512"],
        ["trainer.batch_size=1000000000"],  # a batch has at most all images
        ["evaluate.num_samples=100000000"],
        ["evaluate.num_images=1", "evaluate.num_samples=1000000000000000"],
        ["evaluate.ais.num_chains=1000000000"],  # unused here
        ["dataset=mnist"],
        [f"trainer.epochs={LARGEST}"],
    ],
)
def test_a_possible_run_is_not_refused(overrides):
    assert keys_of(overrides) == []


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vae", "vlae", "vlae_newton", "fullcov", "savae", "hf"])
@pytest.mark.parametrize("dims", [(64,), (70, 30), (3, 200, 5)])
def test_the_estimated_weights_are_below_the_actual_ones(model, dims):
    section = compose([f"model={model}", f"model.hidden_dims={list(dims)}", "model.latent_dim=7"])["model"]
    with torch.device("meta"):
        output = build(compose()["output_dist"])
        built = build(section, pixels=FEWEST_PIXELS, image_shape=(1, 8, 8), output=output)
    there = sum(parameter.numel() for parameter in built.parameters())
    least = 2 * (FEWEST_PIXELS * dims[0] + sum(a * b for a, b in pairwise([*dims, 7])))
    assert least <= limits._weights(section) <= there < 5 * least


@pytest.mark.slow
def test_too_many_threads_are_refused_on_the_executing_machine():
    cores = os.cpu_count()
    assert keys_of([f"num_threads={cores}"]) == []
    assert keys_of([f"num_threads={cores + 1}"]) == ["num_threads"]
    assert keys_of([f"num_threads={cores + 1}"], here=False) == []
    assert keys_of(["num_threads=1000000"], here=False) == ["num_threads"]


@pytest.mark.slow
def test_other_machines_refuse_only_impossible_sizes():
    large = ["model.hidden_dims=[200000,200000]"]
    assert keys_of(large) != keys_of(large, here=False) == []
    assert keys_of(["model.hidden_dims=[10000000,10000000]"], here=False) == ["model.hidden_dims"]
    assert NONSENSE > 1000 * 2**40 // 1024


@pytest.mark.slow
def test_plan_and_run_report_the_same_and_leave_nothing(tmp_path):
    overrides = [*TINY, "model.latent_dim=1000000000", f"runs_dir={tmp_path / 'runs'}"]
    container = compose(overrides)
    planned = make_plan(ComposedRuns([overrides], lambda job: container), "s")
    with pytest.raises(ConfigError, match=r"model.latent_dim: expected a size that fits"):
        check_runs(planned, here=LocalQueue.here)
    with pytest.raises(ConfigError, match=r"this machine has 16 GiB"):
        vlae.run(overrides)
    assert list(tmp_path.iterdir()) == []
