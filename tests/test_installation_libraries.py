"""Incompatible libraries, and the printed form of trained models and datasets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vlae
from vlae.system.libraries import explain_import

LAUNCH = Path(__file__).parents[1] / "launch.py"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["model=vae"], ["-m", "model=vae", "seed=0,1"]])
def test_an_incompatible_torchvision_is_one_line(tmp_path, words):
    fake = tmp_path / "fake" / "torchvision"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    paths = os.pathsep.join([str(fake.parent), str(LAUNCH.parent)])
    done = subprocess.run(
        [sys.executable, LAUNCH, *words, "device=cpu", "tracker=none"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "vlae: torchvision cannot be imported (operator torchvision::nms does not exist); install"
    )
    assert not list(tmp_path.glob("runs/*/attempts"))


def test_an_explanation_is_one_line():
    assert "\n" not in explain_import("numpy", ImportError("a\nb"))


@pytest.mark.slow
def test_trained_models_and_datasets_print_as_one_line(tmp_path):
    from vlae.data.datasets import digits

    results = vlae.run(
        [
            *("model=vae", "trainer.epochs=1", "evaluate.num_samples=2", "evaluate.num_images=2"),
            *("evaluate.num_gap_images=0", "device=cpu", "tracker=none", f"runs_dir={tmp_path}"),
        ],
        quiet=True,
    )
    shown = repr(vlae.load(results["run_id"], str(tmp_path)))
    assert shown.startswith(f"<TrainedModel {results['run_id']}: vae on digits, epoch 1, test ELBO -")
    assert len(shown) < 120
    assert repr(digits()).startswith("<Splits: 1300 training, 200 validation, 297 test images of 1x8x8")
