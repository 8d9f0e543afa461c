"""Metrics and results read back as they were written."""

import json
import random
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given

from run_directory.example import RUN_ID, first_line, in_python, values
from vlae.system import files
from vlae.system.disk import RecordError


def test_metrics_are_read_as_appended_with_null_for_nan(run):
    run.append_metrics({"epoch": 1, "train/elbo_nats": np.float64(-1.25), "step": np.int64(7), "ok": True})
    run.append_metrics({"epoch": 2, "train/elbo_nats": float("nan"), "x": np.float32("inf"), "ä": None})
    assert run.metrics() == [
        {"epoch": 1, "train/elbo_nats": -1.25, "step": 7, "ok": True},
        {"epoch": 2, "train/elbo_nats": None, "x": None, "ä": None},
    ]
    assert run.path.joinpath("metrics.jsonl").read_text("utf-8").count("\n") == 2


@pytest.mark.slow
@given(value=values)
def test_finite_values_are_recorded_exactly_in_standard_json(value):
    read = json.loads(files.json_bytes(value), parse_constant=pytest.fail)
    if "inf" not in str(value):
        assert repr(read) == repr(value)


def test_a_value_that_json_cannot_hold_is_refused(run):
    with pytest.raises(TypeError, match="not object"):
        run.append_metrics({"epoch": object()})
    assert run.metrics() == []


def test_a_torn_last_line_is_ignored_and_overwritten(run):
    run.append_metrics({"epoch": 1})
    size = run.metrics_size()
    with run.path.joinpath("metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "el')
    assert run.metrics() == [{"epoch": 1}]
    assert run.metrics_size() == size
    run.append_metrics({"epoch": 2})
    assert run.metrics() == [{"epoch": 1}, {"epoch": 2}]


def test_a_damaged_line_in_the_middle_is_an_error(run):
    run.path.joinpath("metrics.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(RecordError, match=r"metrics\.jsonl has a line that is no JSON"):
        run.metrics()


def test_metrics_resume_from_a_checkpoint(run):
    sizes = [run.metrics_size()]
    for epoch in range(1, 5):
        run.append_metrics({"epoch": epoch})
        sizes.append(run.metrics_size())
    for epoch in (4, 2, 0):
        run.truncate_metrics(sizes[epoch])
        assert [line["epoch"] for line in run.metrics()] == list(range(1, epoch + 1))
    run.append_metrics({"epoch": 1})
    for size in (sizes[1] - 1, sizes[4]):
        with pytest.raises(RecordError, match="no line ends at byte"):
            run.truncate_metrics(size)


def test_results_keep_their_order_and_are_readable(run):
    run.write_results({"run_id": RUN_ID, "test": {"elbo": -1.0}, "best_epoch": 3})
    assert run.path.joinpath("results.json").read_text() == textwrap.dedent(f"""\
        {{
          "run_id": "{RUN_ID}",
          "test": {{
            "elbo": -1.0
          }},
          "best_epoch": 3
        }}
        """)


@pytest.mark.slow
def test_a_run_killed_anywhere_records_the_same_metrics(run):
    script = """
        import sys, time
        from vlae.runs.directory import RunDirectory
        run = RunDirectory(sys.argv[1])
        with run.claim() as attempt:
            print("begun", flush=True)
            for epoch in range(1 + len(run.metrics()), 61):
                attempt.heartbeat({"epoch": epoch})
                run.append_metrics({"epoch": epoch})
                time.sleep(0.005)
            run.write_results({"test": {"epochs": len(run.metrics())}})
    """
    chance = random.Random(1)
    kills = 0
    while run.state() != "done":
        process = in_python(script, run.path)
        assert first_line(process) == "begun\n"
        time.sleep(chance.uniform(0, 0.15))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        assert run.state() in ("interrupted", "done")
    assert kills > 0
    assert [line["epoch"] for line in run.metrics()] == list(range(1, 61))
    assert run.results() == {"test": {"epochs": 60}}
