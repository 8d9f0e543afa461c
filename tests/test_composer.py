"""Composing many runs at once is composing each: the same containers, the same mistakes."""

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from vlae.config.compose import Composer, compose
from vlae.config.overrides import CONF, choices
from vlae.config.problems import ConfigError

GROUPS = {group: names for group, names in choices().items() if "/" not in group and group != "dataset"}
VALUES = [
    "seed=3", "trainer.epochs=7", "optimizer.lr=2e-3", "model.hidden_dims=[8,9]", "evaluate.proposals=[own]",
    "dataset.sizes.latent_dim=4", "evaluate.ais.num_images=2", "+trainer.epochs=8", "device=cpu", "force=true",
]  # fmt: skip
WRONG = [
    "seed=x",
    "trainer.epoch=3",
    "model=nope",
    "seed",
    "trainer.epochs=1,2",
    "evaluate.num_samples=???",
    "model/x=y",
]


def load(chosen):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=chosen, return_hydra_config=True)


composer = Composer(load)


def outcome(compose, overrides):
    try:
        return compose(overrides)
    except ConfigError as error:
        return error.problems


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_composes_as_in_hydra(group):
    for choice in GROUPS[group]:
        overrides = [f"{group}={choice}", "seed=5"]
        assert outcome(composer, overrides) == outcome(compose, overrides)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    chosen=st.fixed_dictionaries({}, optional={g: st.sampled_from(n) for g, n in GROUPS.items()}),
    values=st.lists(st.sampled_from(VALUES), max_size=4),
    wrong=st.lists(st.sampled_from(WRONG), max_size=2),
    order=st.randoms(use_true_random=False),
)
def test_any_overrides_compose_as_in_hydra(chosen, values, wrong, order):
    overrides = [*(f"{group}={choice}" for group, choice in chosen.items()), *values, *wrong]
    order.shuffle(overrides)
    assert outcome(composer, overrides) == outcome(compose, overrides)


def test_runs_do_not_touch_each_other():
    first = composer(["seed=0", "model.latent_dim=4"])
    composer(["seed=1", "model.latent_dim=9"])["model"]["hidden_dims"].append(1)
    assert composer(["seed=0", "model.latent_dim=4"]) == first
