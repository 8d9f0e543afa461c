"""The list of metrics against what a real run writes, and the one spelling of their names."""

import json
import re

import pytest

import vlae
from vlae.report import metric_values
from vlae.runs import metrics
from vlae.trackers.run_history import flat

OF_THE_RUN = {
    "run_id",
    "model",
    "dataset",
    "output_dist",
    "optimizer",
    "seed",
    "selection",
    "taken_over.training",
}
"""Keys of results.json that identify the run, or where its parts came from."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that computes everything a run can."""
    place = tmp_path_factory.mktemp("runs")
    results = vlae.run(
        [
            *("trainer.epochs=1", "evaluate.num_samples=8", "evaluate.num_images=4", "num_threads=1"),
            *("evaluate.proposals=[own,fitted,laplace,student_t,mixture]", "evaluate.num_gap_images=2"),
            *("evaluate.ais.num_images=2", "evaluate.ais.num_distributions=3", "evaluate.bdmc=true"),
            *("device=cpu", "tracker=none", f"runs_dir={place}", "trainer.objective=iwae"),
        ],
        quiet=True,
    )
    lines = (place / results["run_id"] / "metrics.jsonl").read_text().splitlines()
    return results, json.loads(lines[-1])


def leaves(section, place=""):
    """The dotted keys of all values."""
    if not isinstance(section, dict):
        return {place}
    return {
        leaf for key, value in section.items() for leaf in leaves(value, f"{place}.{key}" if place else key)
    }


def patterns(listed):
    return {each.name: re.compile(re.sub("<[a-z]+>", "[^./]+", re.escape(each.name))) for each in listed}


@pytest.mark.slow
def test_exactly_the_metrics_of_a_run_are_listed(finished):
    written = leaves(finished[0]) - OF_THE_RUN
    assert {name for name in written if metrics.metric(name) is None} == set()
    unwritten = [
        name
        for name, pattern in patterns(metrics.RESULTS).items()
        if not any(map(pattern.fullmatch, written))
    ]
    assert unwritten == []


def test_exactly_the_metrics_of_an_epoch_are_listed(finished):
    written = set(finished[1])
    assert {name for name in written if metrics.metric(name) is None} == set()
    unwritten = [
        name for name, pattern in patterns(metrics.EPOCHS).items() if not any(map(pattern.fullmatch, written))
    ]
    assert unwritten == []


def test_tables_name_metrics_by_the_keys_of_results_json(finished):
    results = finished[0]
    known = metric_values.metrics_of_results(results)
    derived = {name for name in known if name.endswith(".unreliable")}
    assert set(known) - derived == leaves(results) - OF_THE_RUN
    assert known["test.log_likelihood.own.mean"] == results["test"]["log_likelihood"]["own"]["mean"]
    assert all(metrics.metric(name) for name in derived)


def test_charts_have_the_same_names_with_slashes(finished):
    results = {key: value for key, value in finished[0].items() if key not in (*OF_THE_RUN, "taken_over")}
    known = metric_values.metrics_of_results(finished[0])
    assert set(flat(results)) <= {name.replace(".", "/") for name in known}


def test_a_name_means_one_metric():
    names = [each.name for each in (*metrics.RESULTS, *metrics.DERIVED, *metrics.EPOCHS)]
    assert len(names) == len(set(names))
    assert metrics.metric("test.log_likelihood.ais.mean").name == "test.log_likelihood.ais.mean"
    assert metrics.metric("test.elbo_nats") is None


def test_every_metric_has_a_line_with_its_unit_and_explanation():
    lines = metrics.listing().splitlines()
    for each in (*metrics.RESULTS, *metrics.DERIVED, *metrics.EPOCHS):
        assert each.text
        assert any(line.split()[:1] == [each.name] and each.text in line for line in lines)
    parts = {
        part for each in (*metrics.RESULTS, *metrics.EPOCHS) for part in re.findall("<[a-z]+>", each.name)
    }
    assert parts == set(metrics.PARTS)


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_a_narrow_list_has_the_same_unbroken_words(columns):
    wide, narrow = metrics.listing(), metrics.listing(columns)
    assert narrow.split() == wide.split()
    names = {each.name for each in (*metrics.RESULTS, *metrics.DERIVED, *metrics.EPOCHS)}
    too_long = [line for line in narrow.splitlines() if len(line) > columns]
    assert all(line.strip() in names or " " not in line.strip() for line in too_long)
    assert metrics.listing(1000) == wide
