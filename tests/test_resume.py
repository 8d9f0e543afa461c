"""A stopped run ends as an undisturbed one, however it was stopped and how often: bit for bit on a CPU."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import launching
import numpy as np
import pytest
import torch
from filelock import FileLock
from launching import Launched

pytestmark = pytest.mark.slow

SETTINGS = (
    "trainer.epochs=6", "trainer.checkpoint_every=0.05", "evaluate.num_samples=1500", "evaluate.num_images=60",
    "evaluate.memory_budget=16", "evaluate.proposals=[own,laplace]", "evaluate.bracket.num_images=0", "num_threads=1",
    "device=cpu",
)  # fmt: skip
STEPS, IMAGES = 66, 120
"""Steps of the whole run: 11 per epoch; each image is evaluated by two proposals, in groups small enough for kills."""
MODELS = {"vlae": ("model=vlae",), "savae": ("model=savae", "output_dist=bernoulli")}

Position = tuple[int, int]
"""The progress of a run: (0, steps of training) or (1, images evaluated)."""


def training(step: int) -> Position:
    return 0, step


def evaluating(image: int) -> Position:
    return 1, image


def start(place: Path, *overrides: str) -> Launched:
    return Launched(place, [*SETTINGS, *(overrides or MODELS["vlae"])])


def finish(place: Path, *overrides: str) -> str:
    process = start(place, *overrides)
    output = process.wait()
    assert process.exit_status == 0, output
    return output


def finish_in_a_new_python(place: Path, *overrides: str) -> str:
    """The command itself: nothing is imported ahead."""
    command = [sys.executable, launching.__file__, *SETTINGS, *overrides]
    done = subprocess.run(command, cwd=place, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run_directory(place: Path) -> Path:
    (directory,) = (path for path in (place / "runs").iterdir() if not path.name.startswith("."))
    return directory


def attempts(place: Path) -> int:
    return len([path for path in (place / "runs").glob("[!.]*/attempts/*") if path.name.isdigit()])


def status(place: Path) -> dict[str, object]:
    return json.loads((run_directory(place) / "status.json").read_text())


def position(place: Path) -> tuple[int, Position | None]:
    """The attempt in status.json, and the position."""
    try:
        recorded = status(place)
    except (OSError, ValueError):  # no run there yet
        return 0, None
    progress = recorded["progress"] or {}
    if (doing := progress.get("doing") or "").startswith("evaluating image"):
        before = progress["images"] if doing.endswith("laplace") else 0  # the images of the first proposal
        return recorded["attempt"] or 0, evaluating(before + progress["image"])
    return recorded["attempt"] or 0, training(progress["step"]) if "step" in progress else None


def start_and_wait(place: Path, reached: Position, *overrides: str) -> Launched:
    """A process whose own attempt has reached this position.

    At its claim status.json still has the progress of the attempt before, so that must have been passed, too.
    """
    before, stale = attempts(place), position(place)[1] or training(0)
    process = start(place, *overrides)
    while process.exit_status is None:
        attempt, now = position(place)
        if attempt == before + 1 and now is not None and now >= reached and now > stale:
            return process
        time.sleep(0.001)
    raise AssertionError(f"the process ended before it reached {reached}:\n{process.wait()}")


def stop(process: Launched, number: signal.Signals) -> str:
    """Send the signal to a process that is still at work, and wait for its end."""
    process.send(number)
    return process.wait(60)


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
        "metrics": [
            {k: v for k, v in line.items() if k not in ("seconds", "memory_bytes")} for line in lines
        ],
        "tensors": {name: value.numpy().tobytes() for name, value in tensors.items()},
        "images": {name: v.tobytes() for name, v in np.load(directory / "test_log_likelihood.npz").items()},
        "pictures": {
            path.relative_to(directory): path.read_bytes() for path in directory.glob("images/**/*.png")
        },
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory, worker_id):
    """``done(model)``: where a run of it was done without a stop, once for all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent

    def place(model: str) -> Path:
        directory = shared / f"resume-{model}"
        with FileLock(shared / f"resume-{model}.lock"):
            if not list(directory.glob("runs/*/results.json")):
                directory.mkdir(exist_ok=True)
                output = finish_in_a_new_python(directory, *MODELS[model])
                (directory / "output.txt").write_text(output)
        return directory

    return place


@pytest.mark.parametrize(
    ("model", "stops"),
    [
        ("vlae", [(signal.SIGINT, training(20)), (signal.SIGUSR2, training(50)), (signal.SIGTERM, evaluating(40))]),
        ("savae", [(signal.SIGHUP, training(40)), (signal.SIGINT, evaluating(80))]),
    ],
)  # fmt: skip
def test_a_signalled_run_resumes_to_the_same_result(model, stops, tmp_path, done):
    for attempt, (number, reached) in enumerate(stops, start=1):
        process = start_and_wait(tmp_path, reached, *MODELS[model])
        output = stop(process, number)
        assert process.exit_status == 128 + number, output
        assert f"interrupted by {number.name}" in output
        assert "the same command continues from here" in output
        assert ("continuing from epoch" in output) == (attempt > 1)
        record = status(tmp_path)
        assert (record["state"], record["attempt"]) == ("interrupted", attempt)
        assert number.name in f"{record['reason']} {record['message']}"
        assert (run_directory(tmp_path) / "checkpoints" / "last.pt").is_file()
        assert not (run_directory(tmp_path) / "results.json").exists()
    assert "image" in record["progress"]  # the last signal was sent in the evaluation
    finish(tmp_path, *MODELS[model])
    assert outcome(tmp_path) == outcome(done(model))


def test_a_run_killed_ten_times_ends_with_the_same_result(tmp_path, done):
    chance = random.Random(0)
    steps = sorted(chance.sample(range(1, STEPS - 10), 6))
    images = sorted(chance.sample(range(1, IMAGES - 20), 4))
    hit = []
    for reached in [*map(training, steps), *map(evaluating, images)]:
        process = start_and_wait(tmp_path, reached)
        time.sleep(chance.uniform(0, 0.01))  # not just after status.json was written
        stop(process, signal.SIGKILL)
        assert process.exit_status == -signal.SIGKILL
        hit.append(position(tmp_path)[1])
        assert status(tmp_path)["state"] == "running"
        assert not (run_directory(tmp_path) / "results.json").exists()
    finish(tmp_path)
    assert attempts(tmp_path) == 11
    assert {phase for phase, _ in hit} == {0, 1}, hit
    assert outcome(tmp_path) == outcome(done("vlae"))
    assert not list((tmp_path / "runs").rglob("*.tmp"))


def test_a_damaged_checkpoint_loses_only_its_own_epochs(tmp_path, done):
    process = start_and_wait(tmp_path, training(50))
    stop(process, signal.SIGTERM)
    checkpoints = run_directory(tmp_path) / "checkpoints"
    assert (checkpoints / "previous.pt").is_file()
    content = bytearray((checkpoints / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoints / "last.pt").write_bytes(content)
    output = finish(tmp_path)
    assert "warning" in output
    assert "continuing from epoch" in output
    assert outcome(tmp_path) == outcome(done("vlae"))


def test_force_keeps_old_results_until_new_ones_exist(tmp_path, done):
    shutil.copytree(done("vlae") / "runs", tmp_path / "runs")
    before = (run_directory(tmp_path) / "results.json").read_text()
    process = start(tmp_path, *MODELS["vlae"], "force=true")
    while not list((tmp_path / "runs" / ".reruns").glob("*/metrics.jsonl")):
        assert process.exit_status is None, process.wait()
        time.sleep(0.001)
    assert (run_directory(tmp_path) / "results.json").read_text() == before
    stop(process, signal.SIGTERM)
    assert (run_directory(tmp_path) / "results.json").read_text() == before
    assert "continuing" in finish(tmp_path, *MODELS["vlae"], "force=true")
    assert (run_directory(tmp_path) / "results.json").read_text() != before  # other seconds
    assert not list((tmp_path / "runs").glob(".*/vlae-*"))
    assert outcome(tmp_path) == outcome(done("vlae"))


def test_the_second_process_names_the_holder_of_the_run(tmp_path):
    first = start_and_wait(tmp_path, training(1))
    first.send(signal.SIGSTOP)  # alive, and it will not end before the second has looked
    try:
        second = start(tmp_path)
        output = second.wait(120)
        assert second.exit_status == 2
        assert f"is being executed by process {first.pid}" in output
        assert "Traceback" not in output
        assert attempts(tmp_path) == 1
    finally:
        stop(first, signal.SIGKILL)


def test_a_first_run_prints_its_progress_and_a_summary(done):
    output = (done("vlae") / "output.txt").read_text()
    for what in (
        *("training epoch 6/6  ELBO ", "evaluating image by laplace 60/60  log-likelihood ", "test ELBO"),
        *(
            "test log-likelihood",
            " ± ",
            "effective samples",
            "seconds",
            "parameters",
            "vlae-digits-gaussian-s0-",
        ),
    ):
        assert what in output


def test_a_done_run_is_shown_not_rerun(done):
    place = done("vlae")
    before = {path: path.stat().st_mtime_ns for path in run_directory(place).rglob("*")}
    output = finish_in_a_new_python(place, *MODELS["vlae"])
    assert "done" in output
    assert "test log-likelihood" in output
    assert {path: path.stat().st_mtime_ns for path in run_directory(place).rglob("*")} == before
