"""Laws of composition, validation and identity."""

import contextlib
import copy
import dataclasses
import itertools
import random
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import Field

from docs.write_keys import CONFIG, EVALUATE, KEYS, config_yaml, evaluate_yaml, keys_page
from vlae.config import targets
from vlae.config.checks import available_devices
from vlae.config.compose import compose, validate
from vlae.config.help import documented_keys, header, print_help
from vlae.config.overrides import CONF, choices, expand, hydra_arguments, messages_in
from vlae.config.problems import ConfigError, Problem, did_you_mean, section_of
from vlae.config.problems import problems_of as problems_of_section
from vlae.config.run_id import ADDED_FIELDS, get, run_id
from vlae.config.schema import extras, fields
from vlae.config.targets import TARGETS, build
from vlae.config.values import parse
from vlae.distributions.outputs import OutputDistribution
from vlae.launching.rescore import CHANGEABLE, with_other_scores
from vlae.models.backbone import Backbone
from vlae.models.vae import VAE
from vlae.trackers.process import environment_problems

GROUPS = choices()
COLOUR = ("cifar10", "svhn")
quick = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def npz(tmp_path):
    """The overrides that choose a file of the user's."""
    images = np.zeros((3, 2, 2), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", train=images, test=images)
    return ["dataset=npz", f"dataset.path={tmp_path / 'mine.npz'}"]


@pytest.fixture(scope="module")
def default():
    return compose()


def problems_of(*overrides: str) -> list[str]:
    """The messages about a command, one line per problem."""
    with pytest.raises(ConfigError) as caught:
        validate(compose(overrides))
    return caught.value.problems


# composition ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "output"),
    [
        *((m, "gaussian") for m in GROUPS["model"]),
        *(("vlae", o) for o in GROUPS["output_dist"] if o != "gaussian"),
    ],
)
def test_every_dataset_composes_and_validates_with_every_model_and_output(model, output, npz):
    for dataset in GROUPS["dataset"]:
        chosen = npz if dataset == "npz" else [f"dataset={dataset}"]
        command = [f"model={model}", f"output_dist={output}", *chosen]
        if output == "bernoulli" and dataset in COLOUR:
            [problem] = problems_of(*command)
            assert problem.startswith("output_dist: ")
            assert "channel" in problem
        else:
            checked = validate(compose(command))
            names = [checked.model["name"], checked.output_dist["name"], checked.dataset["name"]]
            assert names == [model, output, dataset]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", GROUPS["optimizer"])
def test_every_optimizer_is_built_on_its_parameters(optimizer):
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    section = compose([f"optimizer={optimizer}"])["optimizer"]
    built = build(section, params=[weight], output="not taken")
    assert built.param_groups[0]["params"][0] is weight
    assert built.param_groups[0]["lr"] == section["lr"]


@pytest.mark.slow
@pytest.mark.parametrize("experiment", GROUPS["experiment"])
@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_experiment_validates_with_every_choice(experiment, model):
    own = compose([f"experiment={experiment}"])["dataset"]["name"]
    datasets = ("digits", "omniglot") if own == "digits" else (own,)  # an experiment may be about one dataset
    for output, dataset in zip(GROUPS["output_dist"], itertools.cycle(datasets)):
        chosen = [f"experiment={experiment}", f"model={model}", f"output_dist={output}", f"dataset={dataset}"]
        validate(compose(chosen))


@pytest.mark.slow
def test_original_code_sets_only_keys_that_exist():
    chosen = ["experiment=original_code", "model=savae", "output_dist=bernoulli", "dataset=omniglot"]
    original = compose(chosen)
    assert original["trainer"]["selection"] == "test"
    assert original["trainer"]["initialisation"] == "original"
    assert (original["dataset"]["validation_size"], original["dataset"]["lambda"]) == (0, 0.05)
    assert original["dataset"]["fixed_evaluation"] is False
    assert original["dataset"]["transposed"] is True
    assert original["output_dist"]["clamp"] == 1e-5
    assert original["model"] == compose(["model=savae_original", "dataset=omniglot"])["model"]
    other = compose(["experiment=original_code"])
    assert (other["output_dist"], other["model"]) == (
        compose()["output_dist"],
        compose()["model"],
    )


def test_an_override_wins_over_an_experiment():
    chosen = ["experiment=original_code", "model=iaf", "model.num_flows=7", "trainer.selection=validation"]
    container = compose([*chosen, "dataset.validation_size=9"])
    assert container["model"]["num_flows"] == 7
    assert container["trainer"]["selection"] == "validation"
    assert container["dataset"]["validation_size"] == 9


@pytest.mark.slow
def test_composition_does_not_depend_on_the_working_directory(monkeypatch, tmp_path, default):
    monkeypatch.chdir(tmp_path)
    assert compose() == default
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_sizes_follow_the_dataset():
    small, known = compose(["model=iaf"]), compose(["model=iaf", "dataset=mnist"])
    assert known["model"]["hidden_dims"] == [500, 500]
    assert known["model"]["flow_hidden_dims"] == [500]
    assert (known["model"]["latent_dim"], known["trainer"]["epochs"]) == (50, 2000)
    assert small["model"]["flow_hidden_dims"] == small["model"]["hidden_dims"][:1] != [500]


# rewriting ----------------------------------------------------------------------------------------------------

VALID = (
    *("model=vae", "dataset=mnist", "output_dist=bernoulli", "experiment=original_code", "optimizer=sgd"),
    *("trainer.epochs=3", "optimizer.lr=1e-3", "trainer={patience: 3, epochs: 4}", "runs_dir='a b/c=d'"),
    *("model.hidden_dims=[7,8]", "model.latent_dim=${dataset.sizes.latent_dim}", "trainer.patience=null"),
    *("~optimizer.weight_decay", "hydra.run.dir=elsewhere", "++seed=4", "force=true"),
)


@pytest.mark.slow
@given(st.lists(st.sampled_from(VALID), unique=True, max_size=6))
@quick
def test_hydra_arguments_keep_the_meaning_of_valid_overrides(overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = hydra_compose("config", overrides=overrides)
        rewritten = hydra_compose("config", overrides=hydra_arguments(overrides))
    assert OmegaConf.to_container(rewritten) == OmegaConf.to_container(plain)


@pytest.mark.slow
@given(st.lists(st.sampled_from((*VALID, "model=nope", "a.b=[1,", "+new=3", "seed=1,2")), max_size=6))
@quick
def test_rewriting_twice_is_rewriting_once(overrides):
    once = hydra_arguments(overrides)
    assert hydra_arguments(once) == once


def test_options_are_passed_through_behind_the_overrides():
    given_ = [
        "seed=1",
        "-m",
        "model=vae,hf",
        "--cfg",
        "job",
        "-cd=a=b",
        "hydra/launcher=basic",
        "~optimizer.eps",
    ]
    assert hydra_arguments(given_) == [
        *("++seed=1", "model=vae,hf", "hydra/launcher=basic", "~optimizer.eps"),
        *(f"hydra.searchpath=['{Path('a=b').absolute()}']", "-m", "--cfg", "job"),
    ]


@pytest.mark.parametrize(
    "arguments", [["model=nope"], ["+model=nope"], ["++model=nope"], ["-m", "model=vae,nope"]]
)
def test_an_unknown_choice_is_passed_on_as_a_message(arguments):
    override = parse(hydra_arguments(arguments)[0])
    place, name = override.key_or_group.split(".")
    [problem] = messages_in({place: {name: override.value()}})
    assert str(problem).startswith("model: no choice 'nope' (choices: fullcov, ")


def test_a_choice_from_an_added_directory_is_known(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("name: mine\n")
    for option in (
        ["--config-dir", str(tmp_path)],
        [f"-cd={tmp_path}"],
        [f"hydra.searchpath=[file://{tmp_path}]"],
    ):
        assert hydra_arguments(["model=mine", *option])[0] == "model=mine"


def test_expand_is_the_product_of_all_sweeps():
    jobs = expand(["model=vae,hf", "seed=range(0,3)", "optimizer.lr=1e-3", "output_dist=glob(*)"])
    assert len(jobs) == len(set(map(tuple, jobs))) == 2 * 3 * 2
    assert jobs[0] == ["model=vae", "++seed=0", "++optimizer.lr=1e-3", "output_dist=bernoulli"]


# bad input --------------------------------------------------------------------------------------------------

BAD = {
    "trainer.epoch=3": ("trainer.epoch: ", "unknown key", "did you mean trainer.epochs?", "batch_size"),
    "+model.foo=1": ("model.foo: ", "unknown key", "hidden_dims, activation, network, num_updates, damping"),
    "model.activation=elu": ("model.activation: ", "one of 'relu', 'gelu', 'softplus' or 'tanh'", "'elu'"),
    "model.network=transformer": ("model.network: ", "one of 'mlp' or 'conv'", "'transformer'"),
    "+optimizer.wd=1": ("optimizer.wd: ", "unknown key", "weight_decay"),
    "dataset.validation=3": ("dataset.validation: ", "did you mean dataset.validation_size?"),
    "lr=1": ("lr: ", "unknown key", "did you mean optimizer.lr?"),
    "modell=vae": ("modell: ", "unknown key", "did you mean model?"),
    "model=vlea": (
        "model: no choice 'vlea'",
        "did you mean vlae?",
        "choices: fullcov, hf, iaf, iaf_original",
    ),
    "experiment=typo": ("experiment: no choice 'typo'", "choices: mnist_estimators, none, original_code"),
    "model=null": ("model: no choice 'null'",),
    "model=[vae,hf]": ("model: expected one choice", "vae", "hf"),
    "models/vae=x": ("models/vae=x: no group 'models/vae'",),
    "~model": ("~model: a run states every key: leave ~model out",),
    "model=vae,hf": ("model=vae,hf: several values", "-m"),
    "model.hidden_dims=7,8": ("model.hidden_dims=7,8: ", "[7,8]", "-m"),
    "model.hidden_dims=[5,": ("model.hidden_dims=[5,: cannot be read", "comma"),
    "trainer.epochs": ("trainer.epochs: has no value", "key=value"),
    "--seed=3": ("--seed=3: not an option", "seed=3"),
    "seed=-1": ("seed: expected 0 or more, got -1",),
    "seed=true": ("seed: expected a whole number, got true",),
    "trainer.epochs=1.5": ("trainer.epochs: expected a whole number, got 1.5",),
    "trainer.patience=x": ("trainer.patience: expected a whole number or null, got 'x'",),
    "trainer.selection=train": ("trainer.selection: ", "'validation' or 'test'", "'train'"),
    "trainer.objective=vi": ("trainer.objective: ", "'elbo' or 'iwae'", "'vi'"),
    "trainer.kl=exact": ("trainer.kl: ", "'sampled' or 'analytic'", "'exact'"),
    "trainer.num_samples=0": ("trainer.num_samples: expected 1 or more, got 0",),
    "model=iaf trainer.kl=analytic": ("trainer.kl: expected sampled", "model is iaf", "got 'analytic'"),
    "trainer.objective=iwae trainer.kl=analytic": ("trainer.kl: expected sampled", "iwae", "got 'analytic'"),
    "model=fullcov model.latent_dim=1": ("model.latent_dim: expected 2 or more, got 1",),
    "trainer.checkpoint_every=0": ("trainer.checkpoint_every: expected more than 0, got 0",),
    "trainer=5": ("trainer: expected a section of keys, got 5",),
    "evaluate.num_samples=0": ("evaluate.num_samples: expected 1 or more, got 0",),
    "evaluate.memory_budget=15": ("evaluate.memory_budget: expected 16 or more, got 15",),
    "device=tpu": ("device: expected auto, cpu, cuda, cuda:N or mps, got 'tpu'",),
    "device=cuda:x": ("device: ", "'cuda:x'"),
    "runs_dir=": ("runs_dir: expected a text that is not empty",),
    "force=1": ("force: expected true or false, got 1",),
    "optimizer.lr=-1": ("optimizer.lr: expected more than 0, got -1",),
    "optimizer.lr=nan": ("optimizer.lr: expected a finite number, got nan",),
    "optimizer.lr=inf": ("optimizer.lr: expected a finite number, got inf",),
    "optimizer.lr=true": ("optimizer.lr: expected a number, got true",),
    "optimizer.weight_decay=-1": ("optimizer.weight_decay: expected 0 or more, got -1",),
    "optimizer.betas=[0.9]": ("optimizer.betas: expected at least 2 entries, got [0.9]",),
    "optimizer.betas=[0.9,2.0]": ("optimizer: Adam does not take them", "beta"),
    "optimizer.amsgrad=3": ("optimizer.amsgrad: expected true or false, got 3",),
    "optimizer._target_=os.system": (
        "optimizer._target_: expected an optimizer of torch.optim",
        "'os.system'",
    ),
    "optimizer._target_=torch.optim.lr_scheduler.StepLR": ("optimizer._target_: ", "an optimizer"),
    "optimizer._target_=torch.optim.Optimizer": ("optimizer._target_: ", "an optimizer"),
    "optimizer._target_=torch.optim.LBFGS": ("optimizer._target_: ", "closure"),
    "model.latent_dim=0": ("model.latent_dim: expected 1 or more, got 0",),
    "model.hidden_dims=[]": ("model.hidden_dims: expected at least 1 entry, got []",),
    "model.hidden_dims=[500,0]": ("model.hidden_dims[1]: expected 1 or more, got 0",),
    "model.hidden_dims=500": (
        "model.hidden_dims: expected a list such as [500,500] or [own,laplace], got 500",
    ),
    "model.num_updates=four": ("model.num_updates: expected a whole number, got 'four'",),
    "model.name=a/b": ("model.name: ", "'a/b'"),
    "model._target_=vlae.config.build": ("model._target_: expected a model class", "'vlae.config.build'"),
    "model._target_=vlae.models.vea.VAE": ("model._target_: ", "cannot be imported", "vlae.models.vea"),
    "model._target_=vlae.models.base.LatentVariableModel": ("model._target_: expected a model class",),
    "model._target_=vlae.models.vae.DiagonalGaussian": ("model._target_: expected a model class",),
    "model._target_=3": ("model._target_: expected a model class", "got 3"),
    "output_dist._target_=torch.nn.Linear": ("output_dist._target_: ", "vlae.distributions"),
    "dataset._target_=vlae.data.download": ("dataset._target_: ", "a function", "Splits"),
    "dataset.sizes.epochs=0 trainer.epochs=1": ("dataset.sizes.epochs: expected 1 or more, got 0",),
    "dataset.binarise=always": ("dataset.binarise: ", "'dynamic' or 'static'"),
    "dataset.lambda=0.5": ("dataset.lambda: expected less than 0.5, got 0.5",),
    "dataset.validation_size=0": ("trainer.selection: expected test", "dataset.validation_size is 0"),
    "dataset.validation_size=1500": (
        "dataset.validation_size: expected 0 to 1499 of the 1500 training images",
        "got 1500",
    ),
    "dataset=omniglot dataset.validation_size=99999": ("dataset.validation_size: expected 0 to 24344",),
    "evaluate.num_images=298": ("evaluate.num_images: expected 1 to 297, ", "null for all, got 298"),
    "dataset=mnist evaluate.num_images=10001": ("evaluate.num_images: expected 1 to 10000, ", "got 10001"),
    "output_dist=bernoulli dataset.dequantise=true": ("dataset.dequantise: ", "binary"),
    "dataset=npz": ("dataset.path: expected a file",),
    "dataset=npz dataset.path=/nowhere.npz": ("dataset.path: '/nowhere.npz' cannot be read (No such file",),
    "~trainer.epochs": ("~trainer.epochs: a run states every key: leave ~trainer.epochs out",),
    "~optimizer.lr": ("optimizer.lr: missing, expected a number; set this key",),
    "~optimizer.nothing": ("composition: Could not delete from config", "'optimizer.nothing' does not exist"),
    "model.latent_dim=${dataset.sizes.latent}": ("model.latent_dim: ", "'dataset.sizes.latent' not found"),
    "seed=???": ("seed: a value is needed",),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_problem_that_names_key_and_expectation(command):
    start, *fragments = BAD[command]
    [problem] = problems_of(*re.split(r" (?=\w+[.=])", command))
    assert problem.startswith(start)
    assert all(fragment in problem for fragment in fragments), problem


@pytest.mark.slow
def test_all_problems_of_a_command_are_reported_together():
    problems = problems_of(
        *("model=vea", "model.num_flows=3", "trainer.epoch=3", "+optimizer.foo=1", "dataset=mnst", "seed=x"),
        *("evaluate.num_samples=[5,", "trainer.batch_size=0", "output_dist._target_=os.system"),
        *("optimizer.lr=${nothing}", "dataset.root=3"),
    )
    keys = [problem.partition(":")[0] for problem in problems]
    expected = [
        *("optimizer.lr", "evaluate.num_samples=[5,", "model", "dataset", "seed", "trainer.epoch"),
        *("trainer.batch_size", "output_dist._target_", "optimizer.foo"),
    ]
    assert sorted(keys) == sorted(expected)  # and nothing about the keys of a model and a dataset not chosen


CONFLICTS = {
    "trainer.selection": ("dataset.validation_size=0",),
    "dataset.validation_size": ("dataset.validation_size=1500",),
    "evaluate.num_images": ("evaluate.num_images=298",),
    "dataset.dequantise": ("dataset.dequantise=true", "output_dist=bernoulli"),
}


@pytest.mark.slow
@pytest.mark.parametrize("key", CONFLICTS)
@pytest.mark.parametrize("other", ["trainer.epochs=0", "dataset.root=3", "seed=[1", "model=vea"])
def test_conflicts_are_reported_with_all_other_problems(key, other):
    assert len(problems_of(*CONFLICTS[key], other)) == 2
    assert any(problem.startswith(f"{key}: ") for problem in problems_of(*CONFLICTS[key], other))


def test_conflicts_do_not_hide_each_other():
    problems = problems_of(
        *("dataset.validation_size=1500", "evaluate.num_images=298", "dataset.lambda=0"),
        *("dataset.logit_transform=true", "seed=x"),
    )
    keys = [problem.partition(":")[0] for problem in problems]
    assert keys == [
        *("seed", "dataset.validation_size", "evaluate.num_images"),
        *("dataset.logit_transform", "dataset.lambda"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["x", "[1", "${nothing}"])
@pytest.mark.parametrize(
    ("key", "others"),
    [
        # what would be a conflict with the default of the key
        ("trainer.selection", ["dataset.validation_size=0"]),
        ("dataset._target_", ["dataset.validation_size=1500", "evaluate.num_images=298"]),
        ("output_dist._target_", ["dataset.logit_transform=true"]),
    ],
)
def test_a_key_with_a_problem_of_its_own_is_in_no_conflict(key, others, wrong):
    [problem] = problems_of(f"{key}={wrong}", *others)
    assert problem.startswith(key)


@pytest.mark.slow
@pytest.mark.parametrize(("validation", "images"), [(0, 297), (1499, 1), (1499, None)])
def test_sizes_up_to_the_limits_are_accepted(validation, images):
    number = "null" if images is None else images
    sizes = (f"dataset.validation_size={validation}", f"evaluate.num_images={number}")
    cfg = validate(compose(["trainer.selection=test", *sizes]))
    assert (cfg.dataset["validation_size"], cfg.evaluate.num_images) == (validation, images)


def test_the_error_counts_and_lists_its_problems():
    text = str(ConfigError([Problem("a", "wrong"), Problem("b", "wrong"), Problem("a", "wrong")]))
    assert text == "2 problems in the configuration\n  a: wrong\n  b: wrong"


def test_a_target_inside_a_value_is_refused_and_not_called(tmp_path):
    made = tmp_path / "made"
    problems = problems_of(f"+model.damping={{_target_: os.mkdir, _args_: ['{made}']}}")
    assert any(p.startswith("model.damping: expected a number, got {") for p in problems)
    assert not made.exists()


@pytest.mark.parametrize(
    "target", ["os.mkdir", "vlae.models.vae.os.mkdir", "vlae.config.compose", "builtins.exec"]
)
def test_build_refuses_what_validation_refuses(target):
    with pytest.raises(ConfigError, match="_target_"):
        build({"_target_": target, "name": "x"})


def on_a_machine_with(monkeypatch, *devices: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in devices)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices.count("cuda"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in devices)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_a_missing_device_is_reported_with_all_other_problems(monkeypatch, device):
    on_a_machine_with(monkeypatch)
    assert problems_of(f"device={device}", "trainer.epochs=0") == [
        "trainer.epochs: expected 1 or more, got 0",
        f"device: {device} is not available on this machine; choices: auto, cpu",
    ]


def test_devices_are_counted_and_the_best_comes_first(monkeypatch):
    on_a_machine_with(monkeypatch, "cuda", "cuda")
    monkeypatch.setattr(targets, "_try_optimizer", lambda *_: None)  # it would ask the driver
    assert available_devices() == ["cuda", "cuda:0", "cuda:1", "cpu"]
    assert validate(compose(["device=cuda:1"])).device == "cuda:1"
    [problem] = problems_of("device=cuda:2")
    assert problem.startswith("device: cuda:2 is not available")


def test_mps_has_no_float64(monkeypatch):
    on_a_machine_with(monkeypatch, "mps")
    assert available_devices() == ["mps", "cpu"]
    assert available_devices("float64") == ["cpu"]
    validate(compose(["device=mps"]))
    assert problems_of("device=mps", "trainer.precision=float64") == [
        "device: mps has no float64, which trainer.precision asks for; choices: auto, cpu"
    ]


@pytest.mark.parametrize(("name", "reason"), [("SparseAdam", "dense gradients"), ("Muon", "2D parameters")])
def test_an_optimizer_that_cannot_train_all_parameters_is_refused(name, reason, default):
    if not hasattr(torch.optim, name):
        pytest.skip("not in this version of torch")
    section = {"name": "mine", "_target_": f"torch.optim.{name}", "lr": 0.1}
    with pytest.raises(ConfigError) as caught:
        validate({**default, "optimizer": section})
    [problem] = caught.value.problems
    assert problem.startswith(f"optimizer: {name} ")
    assert reason in problem
    assert "\n" not in problem


# overrides of a trained run ---------------------------------------------------------------------------------


def problems_of_change(container: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        with_other_scores(container, overrides)
    return caught.value.problems


def test_an_evaluation_changes_only_its_own_keys(default):
    overrides = ["evaluate.num_samples=7", "++num_threads=3", "evaluate.num_images=null", "device=cpu"]
    expected = replaced(replaced(default, ("evaluate", "num_samples"), 7), ("num_threads",), 3)
    before = copy.deepcopy(default)
    assert with_other_scores(default, overrides) == {**expected, "device": "cpu"}
    assert default == before


def test_a_run_is_evaluated_without_its_own_device(monkeypatch, default):
    on_a_machine_with(monkeypatch)
    assert with_other_scores({**default, "device": "cuda"}, [])["device"] == "auto"
    [problem] = problems_of_change(default, "device=cuda")
    assert problem.startswith("device: cuda is not available")


def test_all_problems_of_a_change_are_reported_together(default):
    problems = problems_of_change(
        default,
        "evaluate.num_samples=abc",
        "model.latent_dim=3",
        "seed=[1",
        "~trainer",
        "evaluate.num_sample=3",
    )
    assert sorted(problem.partition(":")[0] for problem in problems) == sorted(
        ["evaluate.num_samples", "model.latent_dim", "seed=[1", "~trainer", "evaluate.num_sample"]
    )
    [forbidden] = [problem for problem in problems if problem.startswith("model.latent_dim")]
    assert forbidden.endswith(f"(what can: {', '.join(CHANGEABLE)})")
    [misspelt] = [problem for problem in problems if problem.startswith("evaluate.num_sample:")]
    assert "did you mean evaluate.num_samples?" in misspelt


@pytest.mark.slow
@pytest.mark.parametrize("text", ["evaluate.num_samples=[1", "seed", "--seed=3", "seed=1,2"])
def test_a_malformed_change_is_reported_as_for_a_launch(text, default):
    assert problems_of_change(default, text) == problems_of(text)


@pytest.mark.parametrize("text", ["dataset.path=/nowhere.npz", "dataset.root=elsewhere"])
def test_a_data_path_that_the_run_lacks_is_an_unknown_key(text, default):
    [problem] = problems_of_change(default, text)
    assert problem.startswith(f"{text.partition('=')[0]}: unknown key")


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -3], [1.0, True, "1", None, [1]]),
        (float, [0, 1.5, -2], [True, "1.5", None, float("nan"), float("inf")]),
        (bool, [True, False], [0, 1, "true", None]),
        (str, ["", "a"], [1, None, True]),
        (float | None, [None, 1, 0.5], ["null", False]),
        (list[int], [[], [1]], [[1.5], "12", 3]),
        (Literal["a", "b"], ["a"], ["c", None, 1]),
        (Annotated[int, Field(gt=0, le=3)], [1, 3], [0, 4, True]),
    ],
)
def test_values_are_checked_strictly_against_hints(hint, good, bad):
    section = section_of({"k": hint})
    assert [problems_of_section(section, {"k": value}, "s") for value in good] == [[] for _ in good]
    for value in bad:
        problems = problems_of_section(section, {"k": value}, "s")
        assert problems, value
        assert all(p.within("s.k") and "expected" in p.text and "got" in p.text for p in problems)


@given(
    st.sampled_from(["trainer.epochs", "optimizer.weight_decay", "evaluate.num_samples", "seed"]), st.data()
)
@quick
def test_a_misspelt_key_is_recognised(key, data):
    place, dot, name = key.rpartition(".")
    at = data.draw(st.integers(0, len(name) - 1))
    misspelt = f"{place}{dot}{name[:at]}{name[at + 1 :]}"
    known = {"trainer.epochs", "optimizer.weight_decay", "evaluate.num_samples", "seed", "trainer.precision"}
    assert did_you_mean(misspelt, known) == f"; did you mean {key}?"


# identity ---------------------------------------------------------------------------------------------------

CONTAINER: dict[str, Any] = compose(["dataset=mnist", "output_dist=bernoulli"])


def leaves(node: Any, place: tuple = ()) -> list[tuple]:
    """The paths of all values, also of those in lists."""
    if isinstance(node, dict):
        return [path for key, value in node.items() for path in leaves(value, (*place, key))]
    if isinstance(node, list) and node:
        return [path for i, value in enumerate(node) for path in leaves(value, (*place, i))]
    return [place]


def replaced(container: dict[str, Any], path: tuple, value: Any) -> dict[str, Any]:
    new = copy.deepcopy(container)
    node: Any = new
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return new


OPERATIONAL = {
    *("retry", "dry_run", "tracker"),
    *("device", "num_threads", "runs_dir", "force", "trainer.checkpoint_every", "evaluate.memory_budget"),
    *("dataset.root", "dataset.url", "dataset.path", "dataset.sizes"),
    *(f"{section}._target_" for section in ("model", "dataset", "output_dist", "optimizer", "schedule")),
}


def is_operational(path: tuple) -> bool:
    return bool({path[0], ".".join(map(str, path[:2]))} & OPERATIONAL)


ALL = leaves(CONTAINER)
SCIENTIFIC = [path for path in ALL if not is_operational(path)]
values = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.none())


def shuffled(node: Any, order: random.Random) -> Any:
    if not isinstance(node, dict):
        return node
    keys = list(node)
    order.shuffle(keys)
    return {key: shuffled(node[key], order) for key in keys}


@given(st.randoms(use_true_random=False))
@quick
def test_the_order_of_keys_does_not_change_the_id(order):
    assert run_id(shuffled(CONTAINER, order)) == run_id(CONTAINER)


@pytest.mark.slow
@given(st.sampled_from([path for path in ALL if is_operational(path)]), values)
@quick
def test_an_operational_key_does_not_change_the_id(path, value):
    assert run_id(replaced(CONTAINER, path, value)) == run_id(CONTAINER)


@pytest.mark.slow
@pytest.mark.parametrize("path", SCIENTIFIC, ids=str)
@given(value=values)
@settings(deadline=None, max_examples=5)
def test_every_scientific_value_changes_the_id(path, value):
    value = str(value) if path[-1] == "name" else value  # all that a name may be
    was: Any = CONTAINER
    for part in path:
        was = was[part]
    same = value == was and isinstance(value, bool) == isinstance(was, bool)
    assert (run_id(replaced(CONTAINER, path, value)) == run_id(CONTAINER)) == same


@pytest.mark.slow
@given(st.integers(-(2**53), 2**53), st.sampled_from([path for path in SCIENTIFIC if path[-1] != "name"]))
@quick
def test_all_spellings_of_a_number_give_one_id(number, path):
    ids = [run_id(replaced(CONTAINER, path, value)) for value in (number, float(number))]
    assert (
        ids[0].rpartition("-")[2] == ids[1].rpartition("-")[2]
    )  # in front of it stands the seed as it was spelt


@pytest.mark.slow
@given(st.sampled_from([path for path in SCIENTIFIC if path[-1] != "name"]))
@quick
def test_true_differs_from_one_in_the_id(path):
    ids = [run_id(replaced(CONTAINER, path, value)) for value in (True, 1)]
    assert ids[0].rpartition("-")[2] != ids[1].rpartition("-")[2]


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), [("1e-3", "0.001"), ("1", "1.0"), ("5e-4", "0.0005")])
def test_the_spelling_of_a_number_does_not_change_the_id(one, other):
    ids = {run_id(compose([f"optimizer.lr={lr}"])) for lr in (one, other)}
    assert len(ids) == 1


def test_an_id_survives_being_frozen_as_yaml():
    thawed = yaml.safe_load(yaml.safe_dump(CONTAINER))
    assert run_id(thawed) == run_id(CONTAINER)


@pytest.mark.slow
def test_an_id_begins_with_readable_names(default):
    assert re.fullmatch(r"vlae-digits-gaussian-s0-[0-9a-f]{10}", run_id(default))


def test_an_added_field_at_its_default_counts_as_absent(monkeypatch, default):
    before = replaced(default, ("trainer",), {k: v for k, v in default["trainer"].items() if k != "patience"})
    old_id = run_id(before)
    monkeypatch.setitem(ADDED_FIELDS, "trainer.patience", None)
    assert run_id(default) == old_id
    assert run_id(replaced(default, ("trainer", "patience"), 3)) != old_id
    assert validate(before).trainer.patience is None  # a run frozen before can still be read


def test_the_original_networks_count_as_absent(default):
    old = {k: v for k, v in default["model"].items() if k not in ("activation", "network")}
    frozen = replaced(default, ("model",), old)
    assert run_id(frozen) == run_id(default)
    assert validate(frozen).model == default["model"]
    for key, value in (("activation", "gelu"), ("network", "conv")):
        assert run_id(replaced(default, ("model", key), value)) != run_id(frozen)


def test_models_made_in_python_and_runs_of_before_have_the_original_networks():
    defaults = {field.name: field.default for field in dataclasses.fields(Backbone)}
    for key in ("activation", "network"):
        assert defaults[key] == ADDED_FIELDS[f"model.{key}"]


class OfBefore(VAE):
    """A user's model from before there was a choice of networks."""

    def __init__(
        self, *, latent_dim: int, hidden_dims: list[int], pixels: int, output: OutputDistribution
    ) -> None:
        super().__init__(
            Backbone(latent_dim=latent_dim, hidden_dims=hidden_dims, pixels=pixels, output=output)
        )


def test_a_model_without_a_key_added_later_still_runs(monkeypatch, default):
    monkeypatch.setattr("vlae.models.vae.OfBefore", OfBefore, raising=False)
    section = {"name": "mine", "_target_": "vlae.models.vae.OfBefore", "latent_dim": 2, "hidden_dims": [3]}
    container = replaced(default, ("model",), section)
    cfg = validate(container)
    model = build(cfg.model, pixels=16, image_shape=(1, 4, 4), output=build(cfg.output_dist))
    assert isinstance(model, OfBefore)
    assert run_id(cfg.model_dump()) == run_id(container)
    with pytest.raises(ConfigError, match=r"model\.activation: unknown key"):
        validate(replaced(container, ("model", "activation"), "gelu"))


@pytest.mark.slow
@pytest.mark.parametrize("key", [k for k in ADDED_FIELDS if not k.startswith(("model.", "schema_version"))])
def test_a_run_from_before_an_added_field_keeps_its_id(key, default):
    *section, name = key.split(".")
    within = get(default, section[0]) if section else default
    without = {k: v for k, v in within.items() if k != name}
    before = replaced(default, tuple(section), without) if section else without
    at_default = replaced(default, (*section, name), ADDED_FIELDS[key])
    assert run_id(before) == run_id(at_default)
    assert get(validate(before).model_dump(), key) == ADDED_FIELDS[key]


def test_a_changed_default_of_an_old_field_changes_the_id(monkeypatch, default):
    other = replaced(default, ("trainer", "batch_size"), 64)
    assert run_id(other) != run_id(default)


@pytest.mark.slow
def test_a_file_counts_by_its_content_not_its_path(npz, tmp_path):
    here = compose(npz)
    (tmp_path / "elsewhere.npz").write_bytes((tmp_path / "mine.npz").read_bytes())
    there = compose(["dataset=npz", f"dataset.path={tmp_path / 'elsewhere.npz'}"])
    assert run_id(there) == run_id(here)
    np.savez(tmp_path / "mine.npz", train=np.ones((3, 2, 2)), test=np.ones((3, 2, 2)))
    assert run_id(compose(npz)) != run_id(here)
    [problem] = problems_of(*npz, f"dataset.sha256={here['dataset']['sha256']}")
    assert problem.startswith("dataset.sha256: ")


# building ---------------------------------------------------------------------------------------------------


def test_build_passes_plain_values_and_known_runtime_arguments(default):
    output = build(default["output_dist"], pixels=64)
    model = build(default["model"], pixels=64, output=output, params="not taken")
    assert model.output is output
    betas = build(default["optimizer"], params=model.parameters()).defaults["betas"]
    assert isinstance(betas, list | tuple)  # and no ListConfig


def test_build_does_not_call_targets_inside_values(tmp_path):
    inside = {"_target_": "os.mkdir", "path": str(tmp_path / "made")}
    with contextlib.suppress(Exception):  # the type of the value is wrong as well
        build({"_target_": "vlae.distributions.BernoulliOutput", "clamp": inside})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_build_of_a_dataset_ignores_preprocessing_and_sizes(default):
    splits = build(default["dataset"])
    assert len(splits.validation) == default["dataset"]["validation_size"]


def test_a_checked_configuration_cannot_be_replaced(default):
    checked = validate(default)
    with pytest.raises(ValueError, match="frozen"):
        checked.trainer.epochs = 1


# documentation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", sorted(CONF.rglob("*.yaml")), ids=lambda file: file.relative_to(CONF).as_posix()
)
def test_every_file_has_a_header_and_every_key_a_comment(file):
    assert header(file)
    if "experiment" in file.parts:
        return  # changes to keys that are documented elsewhere
    sections = ("name", "_target_", "_convert_", "defaults", "hydra", "trainer", "evaluate")
    keys = {k: v for k, v in documented_keys(file).items() if k not in sections}
    undocumented = [key for key, comment in keys.items() if not comment]
    assert [key for key in undocumented if not key.startswith(("sizes.", "hydra."))] == []


@pytest.mark.parametrize(
    ("file", "text"),
    [(CONFIG, config_yaml), (EVALUATE, evaluate_yaml), (KEYS, keys_page)],
    ids=["config.yaml", "default.yaml", "keys.md"],
)
def test_generated_files_match_the_schema(file, text):
    assert file.read_text() == text(), "run python docs/write_keys.py"


def test_every_key_has_a_description_and_an_identity():
    described = [(key, field) for key, field in fields() if key not in TARGETS]
    assert [
        key for key, field in described if not field.description or "operational" not in extras(field)
    ] == []


@pytest.mark.slow
def test_help_names_every_choice_and_every_key_with_its_value(capsys):
    assert print_help(["model=iaf", "trainer.epochs=17", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for group, names in GROUPS.items() if "/" not in group for name in names)
    container = compose(["model=iaf", "trainer.epochs=17"])
    paths = (path for path in leaves(container) if "sizes" not in path)
    dotted = {".".join(part for part in path if isinstance(part, str)) for path in paths} - {"schema_version"}
    missing = [k for k in dotted if not k.endswith(("name", "_target_")) and f" {k}=" not in text]
    assert missing == []
    assert "trainer.epochs=17 " in text


@pytest.mark.slow
def test_help_works_for_a_wrong_command(capsys):
    assert print_help(["--help", "dataset=npz", "trainer.epochs=four"]) == 0
    assert "dataset.path=null" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("tracker.project=a/b", "1 to 128 characters without"),
        ("tracker.project=''", "1 to 128 characters without"),
        ("tracker.entity='a b'", "a user or team, which has no spaces"),
        ("tracker.group=''", "a text that is not empty"),
        (f"tracker.name={'x' * 129}", "a text of at most 128 characters"),
        (f"tracker.tags=[{'x' * 65}]", "a text of at most 64 characters"),
        ("tracker=[none,wandb]", "none alone, or without it"),
    ],
)
def test_names_that_wandb_refuses_are_refused_early(override, expected):
    [problem] = problems_of(override)
    assert problem.startswith(override.partition("=")[0])
    assert f"expected {expected}" in problem


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "online"])
def test_the_environment_is_checked_where_it_matters(mode, monkeypatch, tmp_path):
    tracker = compose(["tracker=wandb", f"tracker.mode={mode}"])["tracker"]
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("NETRC", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    refused = "online needs a key" if mode == "online" else None
    assert [refused] == ([str(p.text)[:18] for p in environment_problems(tracker)] or [None])
    assert environment_problems({**tracker, "wandb": False}) == []
    (tmp_path / ".netrc").write_text("")
    assert environment_problems(tracker) == []
    monkeypatch.setenv("WANDB_MODE", "bogus")
    found = [str(problem) for problem in environment_problems(tracker)]
    wrong = "tracker.mode: auto takes it from WANDB_MODE: expected online, offline, disabled, got 'bogus'"
    assert found == ([wrong] if mode == "auto" else [])
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("WANDB_BASE_URL", "api.wandb.ai")
    monkeypatch.setenv("WANDB_API_KEY", "secret ")
    found = [str(problem) for problem in environment_problems(tracker)]
    assert [text.partition(":")[0] for text in found] == ["WANDB_BASE_URL", "WANDB_API_KEY"]
    assert "secret" not in str(found)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert len(environment_problems(tracker)) == (0 if mode == "auto" else 2)
