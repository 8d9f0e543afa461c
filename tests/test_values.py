"""One meaning of every value: on the command line, in sweep files, in conf/ and in --where; and ranges."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import vlae
from vlae.config.compose import compose, validate
from vlae.config.options import check_command
from vlae.config.overrides import CONF, expand, wrong_overrides
from vlae.config.problems import ConfigError
from vlae.config.sweep_file import expand_file
from vlae.config.values import parse, unclear_files
from vlae.errors import UserError
from vlae.report.filter import read_value, terms

PARSER = OverridesParser.create()
laws = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def values_of(*overrides: str) -> list[list[str]]:
    return [[text.partition("=")[2] for text in job] for job in expand(overrides)]


# ranges -----------------------------------------------------------------------------------------------------

decimals = st.decimals(-100, 100, places=3)


@pytest.mark.slow
@laws
@given(decimals, decimals, st.decimals("0.001", 20, places=3), st.booleans())
def test_a_range_is_exact_in_decimals_and_without_its_end(start, stop, step, down):
    step = -step if down else step
    expected, value = [], start
    while (value > stop if down else value < stop) and len(expected) <= 1000:
        expected.append(value)
        value += step
    assume(1 <= len(expected) <= 1000)
    found = [job[0] for job in values_of(f"optimizer.lr=range({start},{stop},{step})")]
    assert [Decimal(text) for text in found] == expected


def test_a_range_of_tenths_has_ten_decimal_values():
    assert values_of("a=range(0,1,0.1)") == [[f"0.{i}"] for i in range(10)]
    assert values_of("a=range(1,0,-0.1)")[-1] == ["0.1"]
    assert values_of("a=range(0,6,2)") == [["0"], ["2"], ["4"]]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("seed=range(0,3),7", ["0", "1", "2", "7"]),
        ("seed=7,range(2)", ["7", "0", "1"]),
        ("seed=range(0,2),range(5,7)", ["0", "1", "5", "6"]),
        ("optimizer.lr=0.5,range(1,2,0.5)", ["0.5", "1.0", "1.5"]),
        ("model=hf,glob(savae*)", ["hf", "savae", "savae_original"]),
        ("tracker.name='a b',c", ["'a b'", "c"]),
        ("model.hidden_dims=[1,2],[3]", ["[1,2]", "[3]"]),
        ("seed=sort(3,1,2)", ["1", "2", "3"]),
        ("seed=tag(a,range(0,2))", ["0", "1"]),
    ],
)
def test_ranges_and_globs_combine_with_values(text, values):
    assert [job[0] for job in values_of(text)] == values


def test_a_shuffled_range_has_the_same_values():
    assert sorted(int(job[0]) for job in values_of("seed=shuffle(range(0,20))")) == list(range(20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed=interval(0,1),3", "an interval has no values to go through"),
        ("seed=glob(*)", "glob() chooses from the files of a group"),
        ("model=glob(q*)", "glob() finds no choice (choices: fullcov, hf"),
        ("seed=choice(range(0,3),7)", "a range cannot stand inside a function; write range(0,3),7"),
        ("seed=sort(range(0,3),7)", "a range cannot stand inside a function; write range(0,3),7"),
        ("seed=range(0,1e9),7", "expected at most 100,000 values, got 1,000,000,001"),
    ],
)
def test_incompatible_values_are_refused_with_the_key(text, said):
    with pytest.raises(ConfigError) as refused:
        compose(expand([text])[0])
    assert text.partition("=")[0] in str(refused.value)
    assert said in str(refused.value)


# files and the command line ----------------------------------------------------------------------------------

words = st.sampled_from(
    [
        *(
            "010",
            "0",
            "00",
            "-0",
            "+5",
            "1_000",
            "1__0",
            "0x10",
            "0o10",
            "0b1",
            "1:30",
            "12:30:00",
            "1e3",
            "1e-3",
        ),
        *(
            ".5",
            "5.",
            "1.e3",
            "nan",
            "inf",
            "-inf",
            "NaN",
            ".inf",
            "None",
            "null",
            "Null",
            "nULL",
            "true",
            "TRUE",
        ),
        *(
            "tRue",
            "yes",
            "No",
            "on",
            "off",
            "y",
            "2026-11-28",
            "2026-11-28 12:00:00",
            "1,2",
            "range(0,3)",
            "a b",
        ),
        *(
            "0..3",
            "0-3",
            "1;2",
            "~/runs",
            "$HOME/x",
            "a=b",
            "http://x.org/a?b=c",
            "007.5",
            "1_0.5",
            "1e400",
            "-",
        ),
    ]
)
plain = words | st.text(alphabet="0123456789_.+-eExob:aAnNuUlLtrfsy", min_size=1, max_size=8)


@pytest.mark.slow
@laws
@given(plain)
def test_sweep_files_and_command_line_read_values_alike(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("s") / "s.yaml"
    file.write_text(f"common:\n  key: {text}\n")
    try:
        [[written]] = expand_file(file)
    except ConfigError:
        return
    assume(text not in (".inf", "-.inf", "+.inf", ".nan", "~", ".NaN", ".Inf"))
    in_file = PARSER.parse_override(written).value()
    try:
        on_command_line = PARSER.parse_override(f"key={text}")
    except HydraException:
        assert in_file == text
    else:
        assert not on_command_line.is_sweep_override()
        assert repr(in_file) == repr(on_command_line.value())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("010", "got 010, 8 in YAML and the text '010' on the command line; write 10, or '010' for the text"),
        ("1:30", "got 1:30, 90 in YAML and the text '1:30' on the command line; write '1:30' for the text"),
        (
            "yes",
            "got yes, true in YAML and the text 'yes' on the command line; write true, or 'yes' for the text",
        ),
        ("nan", "got nan, a text in a file and nan on the command line; write 'nan' for the text"),
        (
            "range(3)",
            "got range(3), a text in a file and several values on the command line; write a list for one run",
        ),
    ],
)
def test_a_refusal_shows_how_to_write_each_meaning(tmp_path, text, said):
    file = tmp_path / "s.yaml"
    for content, place in (
        (f"grids: [{{key: [1, {text}]}}]", "grids[0].key[1]"),
        (f"common: {{key: {text}}}", "common.key"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError) as refused:
            expand_file(file)
        assert refused.value.problems[0].startswith(f"s.yaml: {place}: {said}")
    file.write_text(f"common: {{key: '{text}'}}")
    [[written]] = expand_file(file)
    assert parse(written).value() == text


def test_anchors_merges_and_explicit_tags_are_read_as_before(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("common:\n  <<: {a: 010}\n  b: !!str 010\n  c: &x 3\n  d: *x\n")
    with pytest.raises(ConfigError) as refused:
        expand_file(file)
    [problem] = refused.value.problems
    assert problem.startswith("s.yaml: common.a: got 010, 8 in YAML")
    file.write_text("common:\n  <<: {a: 10}\n  b: !!str 010\n  c: &x 3\n  d: *x\n")
    assert sorted(expand_file(file)[0]) == ["a=10", "b='010'", "c=3", "d=3"]


def test_no_file_of_conf_has_an_ambiguous_value(tmp_path):
    assert unclear_files([CONF]) == []
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("a: {b: [1, 010]}\nc: '010'\nd: off  # e: 010\n")
    found = [str(problem) for problem in unclear_files([tmp_path])]
    assert [text.partition(": got")[0] for text in found] == [
        "dataset/mine.yaml: a.b[1]",
        "dataset/mine.yaml: d",
    ]
    with pytest.raises(ConfigError, match=r"dataset/mine.yaml: d: got off, false in YAML"):
        check_command(["--config-dir", str(tmp_path), "seed=0"])
    with pytest.raises(ConfigError, match=r"mine.yaml: d: got off"):
        vlae.run([f"hydra.searchpath=[{tmp_path}]"])


# --where -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@laws
@given(plain)
def test_conditions_read_numbers_as_the_command_line_does(text):
    try:
        found = read_value(text)
    except ValueError:
        return
    try:
        read = PARSER.parse_override(f"key={text}").value()
    except HydraException:
        read = text
    if isinstance(found, int | float) and not isinstance(found, bool):
        assert found == read
    elif isinstance(read, int | float) and not isinstance(read, bool):
        assert text.lower().lstrip("+-") in ("nan", "inf") or read == float("inf") or read == float("-inf")


@pytest.mark.parametrize("text", ["seed=010", "seed in 1,02", "seed<٣"])
def test_a_condition_refuses_leading_zeros(text):
    with pytest.raises(
        UserError, match=r"--where: .*a number without leading zeros, or a text in quotes; got"
    ):
        terms(text, ["seed"])
    assert terms("seed='010'", ["seed"])[0].value == "010"


def test_the_shipped_sweeps_are_read_as_before():
    for file in sorted((Path(CONF).parent / "sweeps").glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        assert expand_file(file), content


# what is often typed -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "tracker.name=123",
            "tracker.name: expected a text or null, got 123; as a text it is tracker.name=\"'123'\"",
        ),
        ("model.hidden_dims=500", "in a sweep file [[500,500]] is one list, and [500,500] two runs"),
        ("model.hidden_dims=[[500,500]]", "on the command line [500,500] is one list"),
        ("seed=0..3", "seed: expected a whole number, got '0..3'; a range is range(0,4) with -m"),
        ("seed=0-3", "seed: expected a whole number, got '0-3'; a range is range(0,4) with -m"),
        ("seed=1 2 3", "one run for each value is 1,2,3 with -m"),
        ("seed=[0,1]", "one run for each value is 0,1,2 with -m"),
        ("seed=010", "a number has no leading zeros: 10"),
        ("seed=0x10", "in decimals it is 16"),
        ("optimizer.lr=0,001", "a decimal number as 0.001"),
        ("seed=1,2,", "seed=1,2,: cannot be read: it ends in a comma"),
        ("seed=1;2", "seed=1;2: cannot be read: values are separated by commas: 1,2"),
        ("optimizer.lr=1e−3", "cannot be read: it has '−' (minus sign), where '-' is meant"),
        ("model=“vae”", "(left double quotation mark), where '\"' is meant"),
        ("=3", "has no key; overrides are key=value"),
        (
            "model=[vae,vlae]",
            "model: expected one choice, got the list [vae,vlae]; one run for each is model=vae,vlae",
        ),
        ("trainer.patience=None", "write null for no value"),
        ("tracker.name=None", "tracker.name: expected null where there is none, got the text 'None'"),
        ("dataset.dequantise=yes", "dataset.dequantise: expected true or false, got 'yes'; write true"),
        ("optimizer.lr=nan", "optimizer.lr: expected a finite number"),
        ("model.latent_dim=1e400", "model.latent_dim: expected a whole number"),
        ("optimizer.lr='1e-3'", "expected a number, got '1e-3'; a number has no quotes: 1e-3"),
        ("seed='range(0,3)'", "a list such as [0, 1, 2] in a sweep file"),
        ("seed=1e3", "seed: expected a whole number, got 1000.0; write 1000"),
        ("optimizer.betas=(0.9,0.999)", "cannot be read: a list has square brackets: [0.9,0.999]"),
        ("seed =1", "cannot be read: there are spaces around ="),
        ("tracker.tags=a", "a list of one is [a], in a sweep file [[a]]"),
        (
            "tracker.tags=[1]",
            "tracker.tags[0]: expected a text, got 1; as a text it is tracker.tags=\"['1']\"",
        ),
        ("tracker.name=1e5", "as a text it is tracker.name=\"'...'\""),
        (
            "device=0",
            "device: expected auto, cpu, cuda, cuda:N or mps, got 0; the GPU of this number is cuda:0",
        ),
        ("device='1'", "the GPU of this number is cuda:1"),
        ("~trainer.epochs=3", "~trainer.epochs=3: a run states every key: leave ~trainer.epochs=3 out"),
        (
            "tracker.name=${oc.env:NOT_SET_AT_ALL}",
            "tracker.name: the environment variable NOT_SET_AT_ALL is not set",
        ),
        ("seed=" + "9" * 5000, " ...: cannot be read (a number of too many digits)"),
        ("seed='" + "0" * 5000 + "'", "seed: expected a whole number"),
        ("runs_dir=" + "x" * 300, "runs_dir: no file can have a name as long as 'xxx"),
    ],
)
def test_common_mistakes_are_answered_with_the_right_form(text, said):
    with pytest.raises(ConfigError) as refused:
        validate(compose([text]))
    [problem] = refused.value.problems
    assert said in problem
    assert "RangeSweep" not in problem


@pytest.mark.slow
def test_texts_written_by_the_advice_are_accepted():
    assert compose(["tracker.name='123'"])["tracker"]["name"] == "123"
    assert compose(["seed= 3"])["seed"] == 3


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("range(0,3,0)", "expected a step that is not 0"),
        ("range(a,b)", "range takes numbers"),
        ("range()", "range takes numbers"),
        ("range(0,3", "a bracket is missing"),
    ],
)
def test_a_wrong_range_is_answered_with_a_right_one(values, said):
    [problem] = wrong_overrides([f"seed={values}", "-m"])
    assert str(problem).startswith(f"seed={values}: ")
    assert said in str(problem)


@pytest.mark.parametrize("values", ["range(0,3)", "1,2"])
def test_a_comma_before_another_key_is_reported(tmp_path, values):
    file = tmp_path / "s.yaml"
    file.write_text(f"grids: [{{seed: {values}}}]")
    with pytest.raises(
        ConfigError, match=r"a comma begins the next key: several values are a list, \[0, 1\]"
    ):
        expand_file(file)


def test_one_list_of_a_sweep_file_is_one_value(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("common: {model.hidden_dims: [[500, 500]]}")
    assert compose(expand_file(file)[0])["model"]["hidden_dims"] == [500, 500]
