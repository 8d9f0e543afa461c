"""A run that is stopped, whatever way and however often, ends as one that was not: bit for bit on a CPU."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
COMMAND = [
    sys.executable, str(ROOT / "launch.py"), "model=vlae", "trainer.epochs=40", "trainer.checkpoint_every=0.05",
    "evaluate.num_samples=300", "evaluate.memory_budget=16", "num_threads=1", "device=cpu",
]  # fmt: skip


def start(place: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *overrides], cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(place: Path, *overrides: str) -> str:
    process = start(place, *overrides)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run_directory(place: Path) -> Path:
    (directory,) = (path for path in (place / "runs").iterdir() if not path.name.startswith("."))
    return directory


def wait_for_steps(place: Path, process: subprocess.Popen[str]) -> None:
    """Until a step was made in the newest attempt, or the process has ended."""
    while process.poll() is None:
        for status in (place / "runs").glob("*/status.json"):
            if '"state": "running"' in status.read_text() and '"epoch"' in status.read_text():
                return
        time.sleep(0.01)


def outcome(place: Path) -> dict[str, object]:
    """All that must not depend on how often a run was stopped."""
    directory = run_directory(place)
    results = json.loads((directory / "results.json").read_text())
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    state = torch.load(directory / "checkpoints" / "last.pt", weights_only=True)
    tensors = {**state["model"], **{f"best {k}": v for k, v in state["progress"]["best_model"].items()}}
    tensors |= {
        f"adam {index} {name}": value
        for index, values in state["optimizer"]["state"].items()
        for name, value in values.items()
    }
    return {
        "results": {key: value for key, value in results.items() if key not in ("cost", "environment")},
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
        "tensors": {name: value.numpy().tobytes() for name, value in tensors.items()},
        "images": {name: v.tobytes() for name, v in np.load(directory / "test_log_likelihood.npz").items()},
        "pictures": {path.name: path.read_bytes() for path in (directory / "images").iterdir()},
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    place = tmp_path_factory.mktemp("uninterrupted")
    finish(place)
    return outcome(place)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_leaves_a_checkpoint_and_the_same_command_ends_as_if_it_had_not_come(
    number, tmp_path, uninterrupted
):
    process = start(tmp_path)
    wait_for_steps(tmp_path, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert "the same command goes on from here" in output
    status = json.loads((run_directory(tmp_path) / "status.json").read_text())
    assert (status["state"], status["attempt"]) == ("interrupted", 1)
    assert (run_directory(tmp_path) / "checkpoints" / "last.pt").is_file()
    assert "going on from epoch" in finish(tmp_path)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_as_one_that_was_not(tmp_path, uninterrupted):
    moments = random.Random(0)
    for _ in range(10):
        process = start(tmp_path)
        wait_for_steps(tmp_path, process)
        time.sleep(moments.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(tmp_path)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_a_damaged_last_checkpoint_costs_only_what_came_after_the_one_before(tmp_path, uninterrupted):
    process = start(tmp_path)
    wait_for_steps(tmp_path, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    last = run_directory(tmp_path) / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert "warning" in finish(tmp_path)
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_force_keeps_the_old_results_until_the_new_are_there(tmp_path, uninterrupted):
    finish(tmp_path)
    before = (run_directory(tmp_path) / "results.json").read_text()
    process = start(tmp_path, "force=true")
    while not list((tmp_path / "runs" / ".forced").glob("*/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    assert (run_directory(tmp_path) / "results.json").read_text() == before
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (run_directory(tmp_path) / "results.json").read_text() == before
    assert "going on" in finish(tmp_path, "force=true")
    assert (run_directory(tmp_path) / "results.json").read_text() != before  # other seconds
    assert not list((tmp_path / "runs").glob(".*/vlae-*"))
    assert outcome(tmp_path) == uninterrupted


@pytest.mark.slow
def test_of_two_processes_that_start_one_run_the_second_says_who_holds_it(tmp_path):
    first = start(tmp_path)
    wait_for_steps(tmp_path, first)
    second = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert second.returncode != 0
    assert f"is being executed by process {first.pid}" in second.stderr
    first.communicate(timeout=300)
    assert first.returncode == 0


@pytest.mark.slow
def test_a_done_run_is_shown_and_not_run_again(tmp_path):
    finish(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run_directory(tmp_path).rglob("*")}
    output = finish(tmp_path)
    assert "done" in output
    assert "test log-likelihood" in output
    assert {path: path.stat().st_mtime_ns for path in run_directory(tmp_path).rglob("*")} == before
