"""The group ``evaluate``: its choices, keys on top of them, and what they change in the identity of a run."""

import itertools

import numpy as np
import pytest
import yaml

from vlae.config.compose import compose, validate
from vlae.config.help import print_help
from vlae.config.overrides import CONF, choices, expand
from vlae.config.problems import ConfigError
from vlae.config.run_id import entries, get, run_id
from vlae.config.schema import Evaluate
from vlae.config.sweep_file import expand_file
from vlae.launching.rescore import with_other_scores

CHOICES = choices()["evaluate"]
DATASETS = [name for name in choices()["dataset"] if name != "npz"]
BESIDE = (
    ("evaluate.num_gap_images", "0", "5"),
    ("evaluate.ais.num_images", "0", "5"),
    ("evaluate.bdmc", "false", "true"),
    ("evaluate.bracket.num_images", "0", "5"),
)
"""Keys of measurements beside the proposals, off and on."""


def evaluation(*overrides: str) -> dict:
    return compose(overrides)["evaluate"]


def problems_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(compose(overrides))
    return caught.value.problems


def test_the_choices_are_default_none_quick_and_thorough():
    assert CHOICES == ["default", "none", "quick", "thorough"]


@pytest.mark.parametrize(
    "overrides",
    [(), ("model=vae", "seed=3"), ("experiment=mnist_estimators", "model=iaf"), ("evaluate.bdmc=true",)],
)
def test_default_is_the_same_run_as_no_choice(overrides):
    plain, chosen = compose(overrides), compose([*overrides, "evaluate=default"])
    assert (plain, run_id(plain)) == (chosen, run_id(chosen))


def test_default_is_what_the_schema_says():
    assert evaluation() == Evaluate().model_dump()


@pytest.mark.parametrize("name", [name for name in CHOICES if name != "default"])
def test_other_choices_hold_only_what_differs_from_default(name):
    content = yaml.safe_load((CONF / "evaluate" / f"{name}.yaml").read_text())
    assert content.pop("defaults") == ["default", "_self_"]
    default = evaluation()
    leaves = {key: value for key, value in entries(content) if not isinstance(value, dict) and "[" not in key}
    assert leaves
    assert {key for key, value in leaves.items() if get(default, key) == value} == set()


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_valid_for_every_dataset(dataset, name):
    output = "bernoulli" if dataset == "omniglot" else "gaussian"
    validate(compose([f"dataset={dataset}", f"output_dist={output}", f"evaluate={name}", "model=vae"]))


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_is_valid_for_a_file_with_few_test_images(name, tmp_path):
    images = np.zeros((3, 2, 2), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", train=images, test=images)
    mine = ["dataset=npz", f"dataset.path={tmp_path / 'mine.npz'}"]
    assert validate(compose([*mine, f"evaluate={name}"])).evaluate.num_images is None


def test_quick_scores_1000_images_or_all_of_fewer():
    assert evaluation("evaluate=quick", "dataset=mnist")["num_images"] == 1000
    assert evaluation("evaluate=quick", "dataset=digits")["num_images"] is None
    own = ["evaluate=quick", "dataset=mnist", "dataset.sizes.quick_images=7"]
    assert evaluation(*own)["num_images"] == 7


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("turned", [False, True])
def test_keys_are_set_on_top_of_a_choice_in_any_order(name, turned):
    words = [f"evaluate={name}", "evaluate.num_samples=123"]
    assert evaluation(*(words[::-1] if turned else words)) == evaluation(words[0]) | {"num_samples": 123}


def test_choices_sweep_on_the_command_line_and_in_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("grids: [{evaluate: [quick, default]}]\ncommon: {model: vae}\n")
    for runs in (expand(["evaluate=quick,default", "model=vae"]), expand_file(file)):
        found = [compose(overrides) for overrides in runs]
        assert [each["evaluate"] for each in found] == [evaluation("evaluate=quick"), evaluation()]
        assert len({run_id(each) for each in found}) == 2


def test_an_experiment_can_choose(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    folder.joinpath("mine.yaml").write_text(
        "# @package _global_\n# x\ndefaults:\n  - override /evaluate: quick\n"
    )
    words = ["experiment=mine", f"hydra.searchpath=[{tmp_path}]"]
    assert evaluation(*words) == evaluation("evaluate=quick")
    assert evaluation(*words, "evaluate=none") == evaluation("evaluate=none")


def test_the_evaluation_of_a_shipped_experiment_applies_where_nothing_else_is_chosen():
    file = CONF / "experiment" / "with_evaluate" / "mnist_estimators_default.yaml"
    changed = yaml.safe_load(file.read_text())["evaluate"]
    assert evaluation("experiment=mnist_estimators") == evaluation() | changed


@pytest.mark.parametrize("name", [name for name in CHOICES if name != "default"])
def test_a_choice_takes_the_place_of_the_evaluation_of_a_shipped_experiment(name):
    for experiment in choices()["experiment"]:
        words = [f"experiment={experiment}", f"evaluate={name}", "dataset=mnist"]
        assert evaluation(*words) == evaluation(f"evaluate={name}", "dataset=mnist")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("evaluate=quik", "no choice 'quik'; did you mean quick? (choices: default, none, quick, thorough)"),
        ("evaluate=[quick,none]", "expected one choice, got the list [quick,none]"),
        ("evaluate=7", "no choice '7' (choices: default, none, quick, thorough)"),
        ("evaluate={num_samples:3}", "(choices: default, none, quick, thorough)"),
    ],
)
def test_a_wrong_choice_is_one_problem_with_the_choices(word, said):
    [problem] = problems_of(word)
    assert problem.startswith("evaluate: ")
    assert said in problem


@pytest.mark.parametrize("on", list(itertools.product([False, True], repeat=len(BESIDE))))
def test_nothing_is_scored_only_if_nothing_else_is_measured(on):
    asked = [
        f"{key}={value if on_key else off}" for (key, off, value), on_key in zip(BESIDE, on, strict=True)
    ]
    words = ["evaluate.proposals=[]", *asked]
    if not any(on):
        assert compose(words)["evaluate"] == evaluation("evaluate=none")
        validate(compose(words))
        return
    [problem] = problems_of(*words)
    assert problem.startswith("evaluate.proposals: expected own among them beside ")
    assert all((key in problem) == on_key for (key, _, _), on_key in zip(BESIDE, on, strict=True))
    assert "evaluate=none" in problem


def test_proposals_without_own_are_still_refused():
    [problem] = problems_of("evaluate.proposals=[laplace]")
    assert problem.startswith("evaluate.proposals: expected distinct names, own among them")


@pytest.mark.slow
def test_help_marks_the_choice_of_the_command_and_explains_all(capsys):
    print_help(["evaluate=quick", "--help"])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(line.startswith("* quick For looking") for line in lines)
    assert any(line.startswith("none Trained and validated") for line in lines)
    assert any(line.startswith("evaluate.num_samples=200 importance samples") for line in lines)


def test_a_frozen_run_takes_a_choice_with_the_sizes_of_its_own_dataset():
    frozen = compose(["dataset=mnist", "model=vae", "evaluate=none", "evaluate.num_samples=77"])
    words = ["evaluate.num_gap_images=3", "evaluate=quick", "device=cpu"]
    expected = evaluation("evaluate=quick", "dataset=mnist") | {"num_gap_images": 3}
    assert with_other_scores(frozen, words)["evaluate"] == expected
    with pytest.raises(ConfigError, match="did you mean quick"):
        with_other_scores(frozen, ["evaluate=quik"])
