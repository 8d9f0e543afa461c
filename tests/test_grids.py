"""Laws of sweep files: their expansion, the form of values, and refusals."""

import itertools
import json
import math
import tempfile
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from vlae.config import sweep_file
from vlae.config.compose import compose_unchecked
from vlae.config.problems import ConfigError
from vlae.config.sweep_file import as_override, expand_file, place_of

PARSER = OverridesParser.create()
laws = settings(deadline=None, max_examples=300)
quick = settings(deadline=None, max_examples=50)


def runs_of(text: str) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "mine.yaml"
        file.write_text(text, encoding="utf-8")
        return expand_file(file)


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        runs_of(text)
    return caught.value.problems


# expansion ---------------------------------------------------------------------------------------------------


def test_a_grid_is_the_product_of_its_and_common_axes():
    runs = runs_of("grids: [{model: [vae, hf], trainer.epochs: 3}]\ncommon: {seed: [0, 1]}")
    assert runs == [
        [f"model={model}", "trainer.epochs=3", f"seed={seed}"] for model in ("vae", "hf") for seed in (0, 1)
    ]


def test_grids_follow_one_another_each_with_its_own_keys():
    runs = runs_of("grids:\n- model: vae\n- {model: vlae, model.num_updates: [1, 2]}\n- {}")
    assert runs == [
        ["model=vae"],
        ["model=vlae", "model.num_updates=1"],
        ["model=vlae", "model.num_updates=2"],
        [],
    ]


@pytest.mark.parametrize("place", ["grids: [{zip: %s}]", "common: {zip: %s}"])
def test_a_zip_moves_its_keys_together(place):
    assert runs_of(place % "{model: [vae, hf], seed: [3, 4]}") == [
        ["model=vae", "seed=3"],
        ["model=hf", "seed=4"],
    ]


def test_zips_multiply_with_each_other_and_with_axes():
    zips = "[{model: [vae, hf], seed: [3, 4]}, {dataset: [mnist, svhn], dataset.split_seed: [5, 6]}]"
    runs = runs_of(f"grids: [{{zip: {zips}, trainer.epochs: [1, 2, 3]}}]")
    assert len(runs) == len({tuple(run) for run in runs}) == 2 * 2 * 3
    assert all(("model=vae" in run) == ("seed=3" in run) for run in runs)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("[[500, 500]]", ["[500,500]"]),
        ("[[7], [8, 8]]", ["[7]", "[8,8]"]),
        ("[[]]", ["[]"]),
        ("[7, 8]", ["7", "8"]),
    ],
)
def test_a_list_is_an_axis_and_a_list_inside_it_a_value(value, written):
    expected = [[f"model.hidden_dims={text}"] for text in written]
    assert runs_of(f"grids: [{{model.hidden_dims: {value}}}]") == expected
    assert runs_of(f"common: {{zip: {{model.hidden_dims: {value}}}}}") == expected


axes = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=3), max_size=3)


@pytest.mark.slow
@given(st.lists(axes, min_size=1, max_size=3), axes)
@quick
def test_the_number_of_runs_is_the_sum_of_products(entries, common):
    entries = [{key: axis for key, axis in entry.items() if key not in common} for entry in entries]
    runs = runs_of(json.dumps({"grids": entries, "common": common}))
    expected = [
        [as_override(key, value) for key, value in zip([*entry, *common], point, strict=True)]
        for entry in entries
        for point in itertools.product(*entry.values(), *common.values())
    ]
    assert runs == expected
    sizes = (math.prod(len(axis) for axis in {**entry, **common}.values()) for entry in entries)
    assert len(runs) == sum(sizes)


# values ------------------------------------------------------------------------------------------------------

words = st.sampled_from(
    ["1e-3", "true", "Null", "007", "1_000", ".5", "-1", "nan", "inf", "a-b", "/a/b.c", "${seed}"]
)
special = st.text("ab1.'\"\\${}[](),:= \t\n~+-/#", max_size=12)
texts = words | special | st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
names = st.from_regex(r"[A-Za-z_]\w{0,5}", fullmatch=True).filter(
    lambda name: name.isascii() and name.lower() not in sweep_file.WORDS
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(values)
@laws
def test_hydra_reads_the_written_value_back(value):
    parsed = PARSER.parse_override(as_override("a.key", value))
    assert parsed.key_or_group == "a.key"
    assert not parsed.is_sweep_override()
    assert repr(parsed.value()) == repr(value)  # which distinguishes 1 from True and 1.0


def test_hydra_reads_nan_as_nan():
    assert math.isnan(PARSER.parse_override(as_override("key", math.nan)).value())


printable = st.text([chr(i) for i in range(32, 127) if chr(i) != "$"], max_size=8)


@pytest.mark.slow
@given(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | printable
)
@quick
def test_a_value_in_a_file_reaches_the_run_unchanged(value):
    [[written]] = runs_of(json.dumps({"common": {"key": [value]}}))
    assert repr(PARSER.parse_override(written).value()) == repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("5e4", 5e4), (".inf", math.inf), ("3", 3), ("true", True), ("null", None)),
        *(("'1e-3'", "1e-3"), ("'3'", "3"), ("'007'", "007"), ("'true'", "true"), ('"null"', "null")),
        *(
            ("2024-01-31", "2024-01-31"),
            ("a b", "a b"),
            ("'it''s, a=b'", "it's, a=b"),
            ("${seed}", "${seed}"),
        ),
    ],
)
def test_numbers_are_read_as_in_conf_and_quoted_texts_stay(text, value):
    [[written]] = runs_of(f"common: {{key: {text}}}" if "$" not in text else f"common:\n  key: {text}")
    assert repr(PARSER.parse_override(written).value()) == repr(value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["1e-3", "true", "null", "007", "nan", "a b", "it's", "a=b,c", "back\\", "é", ""]
)
def test_a_text_stays_text_in_the_composed_configuration(text):
    composed = compose_unchecked([as_override("runs_dir", text), as_override("model", "vae")])
    assert composed["runs_dir"] == text
    assert composed["model"]["name"] == "vae"


@pytest.mark.parametrize("choice", ["vae", "iaf_original"])
def test_a_choice_of_a_group_is_written_without_quotes(choice):
    assert as_override("model", choice) == f"model={choice}"


# what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "file: expected the keys grids, common, got {}"),
        ("[1, 2]", "file: expected the keys grids, common, got [1, 2]"),
        ("grid: []", "grid: unknown key; did you mean grids? (choices: grids, common)"),
        ("grids: vae", "grids: expected a list of grids, got 'vae'"),
        ("grids: {model: vae}", 'grids: expected a list of grids, got {"model": "vae"}'),
        ("grids: []", "grids: expected a list of grids, got []"),
        ("grids:", "grids: expected a list of grids, got null"),
        ("grids: [vae]", "grids[0]: expected keys with values, got 'vae'"),
        ("common: [vae]", 'common: expected keys with values, got ["vae"]'),
        ("common:", "common: expected keys with values, got null"),
        ("grids: [{}, {seed: []}]", "grids[1].seed: expected one value or more, got an empty list"),
        ("common: {3: 4}", "common.3: expected a key such as model or trainer.epochs, got 3"),
        ("common: {a b: 4}", "common.a b: expected a key such as model or trainer.epochs, got 'a b'"),
        (
            "common: {seed=3: 4}",
            "common.seed=3: expected a key such as model or trainer.epochs, got 'seed=3'",
        ),
        (
            "common: {hydra.launcher.workers: 2}",
            "common.hydra.launcher.workers: expected a key of a run, got 'hydra.launcher.workers', "
            "which belongs on the command line",
        ),
        (
            "grids: [{zip: {hydra/launcher: [slurm]}}]",
            "grids[0].zip.hydra/launcher: expected a key of a run, got 'hydra/launcher', "
            "which belongs on the command line",
        ),
        (
            "common: {sweeps: smoke}",
            "common.sweeps: expected a key of a run, got 'sweeps', which belongs on the command line",
        ),
        ("common: {zip: [a]}", "common.zip: expected keys with lists, got 'a'"),
        ("common: {zip: []}", "common.zip: expected keys with lists, got []"),
        ("common: {zip: {}}", "common.zip: expected lists of one length, got none"),
        ("common: {zip: {seed: 3}}", 'common.zip: expected keys with lists, got {"seed": 3}'),
        ("common: {zip: {seed: []}}", "common.zip.seed: expected one value or more, got an empty list"),
        (
            "grids: [{zip: {model: [vae, hf], seed: [1]}}]",
            "grids[0].zip: expected lists of one length, got 2 for model, 1 for seed",
        ),
        (
            "common: {key: [[3, {a: {b c: 4}}]]}",
            "common.key[0][1].a: expected keys of letters, digits and _, got 'b c'",
        ),
        ("common: {key: {true: 4}}", "common.key: expected keys of letters, digits and _, got true"),
        (
            "common: {key: !!binary aGk=}",
            "common.key: expected a text, a number, true, false or null, got \"b'hi'\"",
        ),
        (
            "{grids: [{seed: 3}], common: {seed: [0, 1]}}",
            "grids[0].seed: expected the key in one axis of the grid and common, got several",
        ),
        (
            "grids: [{seed: 3, zip: {model: [vae], +seed: [0]}}]",
            "grids[0].seed: expected the key in one axis of the grid and common, got several",
        ),
        (
            "common: {zip: [{seed: [0]}, {seed: [1]}]}",
            "common.seed: expected the key in one axis, got several",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_place_and_expectation(text, problem):
    assert problems_of(text) == [f"mine.yaml: {problem}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grids: [", "expected YAML, got in line 1: "),
        ("common: {seed: 3, seed: 4}", "expected YAML, got in line 1: found duplicate key seed"),
        ("common:\n  a: 1\n  a: 2", "expected YAML, got in line 3: found duplicate key a"),
        ("common: {a: !python 3}", "could not determine a constructor for the tag '!python'"),
        ("common: {a: '${b'}", "common.a: cannot be read: "),
        ("common: &a [*a]", "cannot be read: "),
        ("3", "cannot be read: "),
        ("a: \x00", "cannot be read: "),
    ],
)
def test_an_invalid_configuration_is_refused_with_the_file(text, said):
    [problem] = problems_of(text)
    assert "mine.yaml: " in problem
    assert said in problem
    assert "\n" not in problem


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match=r"mine\.yaml: cannot be read: "):
        expand_file(tmp_path / "mine.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: "):
        expand_file(tmp_path / "none.yaml")


def test_all_problems_are_reported_together():
    problems = problems_of("{grids: [vae, {a: []}], common: {zip: 3}, comon: 4}")
    assert [problem.split(": ")[1] for problem in problems] == [
        "comon",
        "common.zip",
        "grids[0]",
        "grids[1].a",
    ]


@pytest.mark.slow
def test_a_file_of_too_many_runs_is_refused_before_expansion():
    axes = json.dumps({"seed": list(range(1000)), "trainer.epochs": list(range(101))})
    [problem] = problems_of(f"grids: [{axes}, {{model: vae}}]")
    assert problem == (
        "mine.yaml: expected at most 100,000 runs, got 101,001 (seed: 1,000, trainer.epochs: 101)"
    )


def test_overrides_that_replace_an_axis_are_reported():
    runs = runs_of("grids: [{model: vae}, {model: [hf, iaf], seed: [0, 1]}]\ncommon: {dataset: mnist}")
    given = ["++seed=7", "model=vae,hf", "dataset=digits", "trainer.epochs=3"]
    assert sweep_file.replacements(runs, given) == [
        "seed=7 on the command line replaces the 2 values of the sweep file",
        "model=vae,hf on the command line replaces the 3 values of the sweep file",
    ]


# which file --------------------------------------------------------------------------------------------------


def test_a_sweep_is_a_name_or_a_file_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("common: {seed: 3}")
    for name in sweep_file.sweep_names():
        assert place_of(name) == sweep_file.SWEEPS / f"{name}.yaml"
    assert place_of("own.yaml") == place_of(str(own)) == own


@pytest.mark.parametrize("name", ["smok", "", "own.yaml", "../conf/config", "smoke.txt"])
def test_an_unknown_sweep_is_refused_with_the_choices(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        place_of(name)
    [problem] = caught.value.problems
    assert problem.startswith("sweeps: no ")
    assert repr(name) in problem
    assert name == "own.yaml" or all(choice in problem for choice in sweep_file.sweep_names())
    assert name != "smok" or "did you mean smoke?" in problem
