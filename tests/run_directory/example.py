"""A run directory to be worked on, and programs that do so in processes of their own."""

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from hypothesis import strategies as st

from vlae.config.run_id import run_id as run_id_of
from vlae.runs import lease
from vlae.runs.directory import RunDirectory

CONFIG = {
    "model": {"name": "vlae", "_target_": "vlae.models.vlae.VLAE", "latent_dim": 2, "hidden_dims": [8, 8]},
    "dataset": {"name": "digits", "lambda": 1e-6, "on": True},
    "output_dist": {"name": "gaussian"},
    "optimizer": {"name": "adam", "lr": 5e-4, "betas": [0.9, 0.999]},
    "trainer": {"epochs": 3, "patience": None},
    "seed": 0,
    "device": "auto",
    "schema_version": 2,
}
RUN_ID = run_id_of(CONFIG)

text = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=12)  # no control characters
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
"""Values of text, numbers, lists and mappings, as records hold them."""


def in_python(script: str, *arguments: object, **options) -> subprocess.Popen:
    """A Python of its own that executes ``script``."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    tests = Path(__file__).parents[1]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tests, **options)


def first_line(process: subprocess.Popen) -> str:
    assert process.stdout
    return process.stdout.readline()


def output_of(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def visible_and_hidden(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def put_claim(run: RunDirectory, **changes: object) -> None:
    lease.put_claim(run.path / "attempts" / "1", lease.new_claim() | changes)


def ago(seconds: float) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below, with its inode and the time of its last change."""
    return {str(path): ((found := path.lstat()).st_ino, found.st_mtime_ns) for path in folder.rglob("*")}


def finished(run: RunDirectory, value: int) -> RunDirectory:
    with run.claim():
        run.append_metrics({"value": value})
        run.write_results({"test": {"value": value}})
    return run
