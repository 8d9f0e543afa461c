"""Laws of the files in sweeps/."""

import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir

from vlae.config import sweep_file
from vlae.config.compose import Composer, compose, validate
from vlae.config.overrides import CONF
from vlae.config.run_id import run_id

NAMES = sweep_file.sweep_names()
MODELS = {"vae", "savae", "hf", "iaf", "vlae"}
FIVE = {"mnist", "omniglot", "fashion_mnist", "svhn", "cifar10"}


def _load(chosen):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose("config", overrides=chosen, return_hydra_config=True)


composer = Composer(_load)


@cache
def faces():
    """A small file in the format of the Frey faces, which the sweep of that name is given on the command line."""
    path = Path(tempfile.mkdtemp()) / "frey_faces.npz"
    images = np.arange(20 * 28 * 20, dtype=np.uint8).reshape(20, 28, 20)
    np.savez(path, train=images, validation=images, test=images)
    return path


def expanded(name):
    """The overrides of each run of a sweep, with what its command line has to name."""
    runs = sweep_file.expand_file(sweep_file.place_of(name))
    return [[*run, f"dataset.path={faces()}"] for run in runs] if name == "frey_faces" else runs


@cache
def composed_without_seed(overrides):
    return composer(overrides)


@cache
def containers(name):
    """The composed configurations of every run of a sweep; runs that differ in their seed are composed once."""
    found = []
    for overrides in expanded(name):
        [seed] = [text for text in overrides if text.startswith("seed=")]
        others = tuple(text for text in overrides if text != seed)
        found.append({**composed_without_seed(others), "seed": int(seed.removeprefix("seed="))})
    return found


@cache
def ids(name):
    return [run_id(container) for container in containers(name)]


@cache
def by_setting(name):
    """The runs of a sweep that differ in their seed alone, together."""
    found = {}
    for container in containers(name):
        found.setdefault(run_id({**container, "seed": 0}), []).append(container)
    return found


def header(name: str) -> list[str]:
    """The lines of the comment that a file begins with, without their marks."""
    lines = sweep_file.place_of(name).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line[1:].removeprefix(" ") for line in lines[:end]]


def test_sweeps_named_in_the_documentation_exist():
    assert {"smoke", "bernoulli_mnist", "gaussian_cifar10", "gaussian_all", "readme_logit_mnist"} <= set(
        NAMES
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_header_has_purpose_runs_command_hardware_and_time(name):
    what, blank, runs, *rest = header(name)
    text = "\n".join(rest)
    assert what
    assert not blank
    assert re.fullmatch(r"(\d+) runs", runs)
    assert int(runs.removesuffix(" runs")) == len(containers(name))
    command = (
        f"  python launch.py sweeps={name}{' dataset.path=frey_faces.npz' if name == 'frey_faces' else ''}"
    )
    assert f"{command}\n" in text
    assert f"{command} hydra/launcher=slurm hydra.launcher.partition=" in text
    assert "Hardware" in text
    assert "measured" in text
    assert "ublished" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_of_a_sweep_are_distinct(name):
    assert len(set(ids(name))) == len(ids(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_run_of_a_sweep_is_valid_without_datasets(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for container, *_ in by_setting(name).values():  # whether it is valid does not depend on the seed
        validate(container)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_first_and_last_run_compose_from_their_overrides(name):
    runs = expanded(name)
    for place in (0, -1):
        assert containers(name)[place] == compose(runs[place])


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_compares_equal_seeds(name):
    seeds = [[container["seed"] for container in runs] for runs in by_setting(name).values()]
    assert all(len(some) > 1 and some == seeds[0] for some in seeds)


def names_of(runs, section: str) -> set[str]:
    return {container[section]["name"] for container in runs}


def test_smoke_is_five_models_on_digits_with_the_default_run():
    smoke = containers("smoke")
    assert (names_of(smoke, "model"), names_of(smoke, "dataset")) == (MODELS, {"digits"})
    assert run_id(compose()) in ids("smoke")


def test_gaussian_all_repeats_gaussian_cifar10_on_four_datasets():
    every = containers("gaussian_all")
    assert names_of(every, "dataset") == FIVE
    assert set(ids("gaussian_cifar10")) < set(ids("gaussian_all"))
    counts = {name: sum(c["dataset"]["name"] == name for c in every) for name in FIVE}
    assert len(set(counts.values())) == 1


def test_readme_logit_mnist_matches_the_released_code():
    for container in containers("readme_logit_mnist"):
        dataset, trainer = container["dataset"], container["trainer"]
        assert (dataset["dequantise"], dataset["logit_transform"], dataset["lambda"]) == (True, True, 0.05)
        assert (trainer["selection"], trainer["epochs"], trainer["initialisation"]) == (
            "test",
            2000,
            "original",
        )
        refinements = {"num_updates", "num_steps", "num_flows"} & container["model"].keys()
        assert all(container["model"][key] == 4 for key in refinements)
