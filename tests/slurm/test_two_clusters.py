"""Two real clusters, of the same name, share a runs directory: what one of them does not know means nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.cluster import Cluster, wait_until
from slurm.test_launcher import (
    LONG,
    ROOT,
    SLURM,
    TINY,
    claims,
    job_of,
    launch,
    names,
    place,
    training,
    wait_for,
)
from vlae.launching.queues import all_queues

__all__ = ["place"]


@pytest.fixture
def without_slurm(tmp_path):
    """A PATH with git, and no command of Slurm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "git").symlink_to("/usr/bin/git")
    return {"PATH": str(folder)}


@pytest.fixture
def silent(tmp_path):
    """A PATH whose Slurm commands succeed and print nothing, but for the cluster that they ask."""
    folder = tmp_path / "silent"
    folder.mkdir()
    for name in ("squeue", "scontrol", "sacct"):
        script = folder / name
        script.write_text(
            '#!/bin/sh\nif [ "$1 $2" = "show config" ]; then exec /usr/bin/scontrol "$@"; fi\nexit 0\n'
        )
        script.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def vlae(*words: str, place: Path, **environment: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("vlae"), *words], cwd=place, text=True, capture_output=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    found = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in found}


def sweep(*arguments: str, place: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *TINY, *arguments], cwd=place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_another_cluster_writes_nothing_and_starts_nothing(
    place, cluster, tmp_path_factory, without_slurm, silent
):
    launch(place, "seed=0,1", LONG, "+hydra.launcher.sbatch.hold=true")
    with Cluster(tmp_path_factory.mktemp("other")) as other:
        places = {"other": other.environment(), "none": without_slurm, "silent": silent}
        run = all_queues(place / "runs")[0].runs[0].run_id
        before = listing(place / "runs")
        for name, environment in places.items():
            text = vlae("status", place=place, **environment)
            assert text.count("queued") >= 2, (name, text)
            assert ("standin (controller" in text) == (name == "other"), text
            vlae("show", run, place=place, **environment)
            vlae("table", place=place, **environment)
            text = sweep(*SLURM, "seed=0,1", LONG, "dry_run=true", place=place, **environment)
            assert "2 queued" in text, (name, text)
        assert listing(place / "runs") == before
        job = job_of(place).partition("_")[0]
        cluster.command("scontrol", "release", f"{job}_0")
        wait_until(lambda: training(place), 120, "no training")
        other.submit("--array=0-1", "--output=/dev/null", "--wrap=exit 1")  # jobs of the same ids, which fail
        for name, launcher in (("other", SLURM), ("other", ()), ("none", ()), ("silent", SLURM)):
            text = sweep(*launcher, "seed=0,1", LONG, place=place, **places[name])
            assert "nothing to do" in text, (name, text)
        assert all(queue.ended is None for queue in all_queues(place / "runs"))
        cluster.command("scontrol", "release", f"{job}_1")
        wait_for(place, "done", "done")
        assert [len(attempts) for attempts in claims(place)] == [1, 1]
        assert names(place) == ["done", "done"]
