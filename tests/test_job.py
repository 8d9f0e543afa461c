"""launch.py end to end where a run cannot start or resume: its exit status, its message, and the files that remain."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from launching import LAUNCH, run_command

pytestmark = pytest.mark.slow

TINY = ("trainer.epochs=2", "evaluate.num_samples=10", "num_threads=1", "device=cpu")
DISK_FULL_AT = 100_000  # bytes a file: less than a checkpoint, more than anything written before it


def launch(place: Path, *overrides: str, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    return run_command(LAUNCH, *TINY, *overrides, cwd=place, largest_file=largest_file)


def run_directory(place: Path) -> Path:
    (directory,) = (path for path in (place / "runs").iterdir() if not path.name.startswith("."))
    return directory


def status(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())


def files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def assert_refused(
    done: subprocess.CompletedProcess[str], *words: str, exit_status: int = 2, after: tuple[str, ...] = ()
) -> None:
    """The last of standard error is one block that holds ``words``; before it only lines that ``after`` names."""
    assert done.returncode == exit_status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("vlae: ") == 1, done.stderr
    before, _, block = done.stderr.partition("vlae: ")
    assert all(any(word in line for word in after) for line in before.splitlines()), before
    for word in words:
        assert word in block, done.stderr


# --- nothing is left of a run that cannot start -------------------------------------------------------------------


@pytest.fixture
def colour(tmp_path) -> Path:
    path = tmp_path / "colour.npz"
    pixels = np.random.RandomState(0).randint(0, 256, (40, 3, 4, 4), dtype=np.uint8)
    np.savez(path, train=pixels[:30], test=pixels[30:])
    return path


def test_colour_images_with_binary_pixels_are_refused(colour, tmp_path):
    done = launch(tmp_path, "dataset=npz", f"dataset.path={colour}", "output_dist=bernoulli")
    assert_refused(done, "channel", "gaussian")
    assert files(tmp_path) == [colour]


def test_an_impossible_runs_dir_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = launch(tmp_path, "runs_dir=file/runs")
    assert_refused(done, "file/runs")
    assert files(tmp_path) == [tmp_path / "file"]


def test_a_missing_device_is_refused_with_the_choices(tmp_path):
    done = launch(tmp_path, "device=cuda:99")
    assert_refused(done, "device", "cuda:99", "auto", "cpu")
    assert files(tmp_path) == []


# --- a run that cannot resume -------------------------------------------------------------------------------------


def test_a_full_disk_is_one_message_and_the_run_can_resume(tmp_path):
    done = launch(tmp_path, largest_file=DISK_FULL_AT)
    run = run_directory(tmp_path)
    last = run / "checkpoints" / "last.pt"
    lines = (" attempt 1, on cpu", "training epoch")
    assert_refused(done, "cannot write", str(last.parent), "File too large", after=lines)
    assert status(run)["state"] == "failed"
    assert json.loads((run / "attempts" / "1" / "ended.json").read_text())["state"] == "failed"
    assert not (run / "results.json").exists()
    assert list(last.parent.iterdir()) == []
    assert not [path for path in files(tmp_path) if path.suffix == ".tmp"]

    done = launch(tmp_path)
    assert done.returncode == 0, done.stderr
    assert status(run)["state"] == "done"
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_disk_full_from_the_start_leaves_no_partial_run(tmp_path):
    done = launch(tmp_path, largest_file=200)
    assert_refused(done, "cannot write", "File too large")
    assert files(tmp_path) == []


class Boom:
    """Runs a command in the process that unpickles it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.proof),)


def test_edited_configurations_and_unsafe_checkpoints_are_refused(tmp_path):
    launch(tmp_path, largest_file=DISK_FULL_AT)  # an unfinished run
    run, proof = run_directory(tmp_path), tmp_path / "executed"

    last = run / "checkpoints" / "last.pt"
    for write in (torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))):
        write({"model": Boom(proof)}, last)
        content = last.read_bytes()
        assert_refused(launch(tmp_path), "no good checkpoint", f"{last} is damaged", after=(" on cpu",))
        assert not proof.exists()
        assert last.read_bytes() == content
        assert status(run)["state"] == "failed"

    config = run / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("epochs: 2", "epochs: 3"))
    attempts = sorted(run.glob("attempts/*"))
    assert_refused(launch(tmp_path), str(config), "edited by hand", "Undo the edit")
    assert sorted(run.glob("attempts/*")) == attempts


def test_a_diverging_run_fails_with_metric_step_and_traceback(tmp_path):
    done = launch(tmp_path, "model=vae", "optimizer=sgd", "optimizer.lr=1e30")
    assert_refused(done, "_nats", "step", "optimizer.lr", exit_status=1, after=(" attempt 1, on cpu",))
    run = run_directory(tmp_path)
    record = status(run)
    assert (record["state"], record["attempt"]) == ("failed", 1)
    assert record["message"].startswith("NonFiniteError: ")
    assert "NonFiniteError" in (run / "attempts" / "1" / "traceback.txt").read_text()
    assert not (run / "results.json").exists()
    assert not (run / "checkpoints" / "last.pt").exists()
