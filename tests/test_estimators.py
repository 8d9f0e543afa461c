"""An estimator is its file, and a section of options if it has any: nothing else lists it."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
TINY = (
    "model=vae", "dataset=digits", "dataset.sizes.latent_dim=3", "dataset.sizes.hidden_dims=[6,5]", "trainer.epochs=1",
    "evaluate.num_samples=20", "evaluate.num_gap_images=0", "evaluate.num_images=6", "device=cpu", "tracker=none",
)  # fmt: skip
NOTE = """

def note(start: int) -> None:
    with open("groups.txt", "a") as file:
        print(start, file=file)
    if start == 2 and not os.path.exists("stopped"):
        open("stopped", "w").close()
        signal.raise_signal(signal.SIGTERM)
"""
"""What the estimator of the docs does besides, here: it writes down each group, and is stopped in the second."""


def snippets() -> tuple[str, str]:
    """The estimator of the docs, and its section of options."""
    text = (ROOT / "docs" / "own-models-and-data.md").read_text().split("## An estimator")[1]
    estimator, options = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[:2]
    return estimator, options


def python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A fresh process, which imports the package of ``cwd``."""
    env = os.environ | {"PYTHONPATH": str(cwd), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def copy_of_the_package(place: Path) -> Path:
    for folder in ("vlae", "conf", "hydra_plugins", "docs"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("launch.py", "pyproject.toml"):
        shutil.copy(ROOT / file, place)
    return place


def add_estimator(place: Path, *, limited: bool) -> None:
    """The file alone; the first images alone if its options say so."""
    estimator, _ = snippets()
    estimator = estimator.replace("GROUP = 64", "GROUP = 2").replace(
        "        result.put(", "        note(group.start)\n        result.put("
    )
    if limited:
        estimator = estimator.replace(
            "    x = subject.x\n", "    x = subject.x[: subject.evaluate.reconstruction.num_images]\n"
        )
    file = place / "vlae" / "estimation" / "estimators" / "reconstruction.py"
    file.write_text("import os\nimport signal\n" + estimator + NOTE)


def add_options(place: Path) -> None:
    """The section of options in the schema, and the written keys."""
    section, key = snippets()[1].split("\n\n\n")
    file = place / "vlae" / "config" / "schema.py"
    text = file.read_text().replace("class Evaluate(", f"{section}\n\n\nclass Evaluate(")
    field = textwrap.indent(key.partition("\n")[2], "    ")  # below a comment
    file.write_text(text.replace("    bdmc: bool", f"{field}    bdmc: bool"))
    written = python("docs/write_keys.py", cwd=place)
    assert written.returncode == 0, written.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("options", "images"), [((), 6), (("evaluate.reconstruction.num_images=5",), 5)])
def test_a_new_file_is_measured_resumed_and_shown(tmp_path, options, images):
    place = copy_of_the_package(tmp_path)
    add_estimator(place, limited=bool(options))
    if options:
        add_options(place)
    stopped = python("launch.py", *TINY, *options, cwd=place)
    assert stopped.returncode != 0
    assert not list(place.glob("runs/*/results.json"))
    done = python("launch.py", *TINY, *options, cwd=place)
    assert done.returncode == 0, done.stderr
    groups = (place / "groups.txt").read_text().split()
    assert groups == ["0", "2", "4"], "what was done is not done again"
    [run] = (path.parent for path in place.glob("runs/*/results.json"))
    found = json.loads((run / "results.json").read_text())
    mean = found["test"]["reconstruction"]["mean"]
    with np.load(run / "test_log_likelihood.npz") as arrays:
        assert len(arrays["reconstruction"]) == images
        assert mean == pytest.approx(arrays["reconstruction"].mean(), rel=1e-12)
    assert found["cost"]["reconstruction_seconds"] > 0
    assert "Estimator reconstruction" in done.stdout
    assert f"{mean:.6g}" in done.stdout
