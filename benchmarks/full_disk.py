"""A sweep on a small disk that fills twice and is emptied again: all of it is done, with the same results, by itself.

``python -m benchmarks full-disk`` mounts a file system in memory, which takes root, and executes ``sweeps=smoke`` there
and, undisturbed, elsewhere. `disturbed` and `differences` are what the test of a smaller sweep uses, too.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlae.runs.directory import RunDirectory, all_runs
from vlae.runs.snapshot import SOURCE

FULL_FOR = 40.0
"""Seconds that the disk stays full."""


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of this size, mounted in ``place``. Errors: OSError where it cannot be mounted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path) -> Path:
    """The file that leaves no room for anything else."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def epochs(runs_dir: Path) -> int:
    """The number of epochs that all runs have recorded together."""
    return sum(len(run.metrics()) for run in all_runs(runs_dir))


def launch(place: Path, arguments: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, str(SOURCE / "launch.py"), *arguments, f"runs_dir={place / 'runs'}"]
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=place, stdout=file, stderr=file, env=environment)


def run_on_full_disk(
    disk: Path, arguments: Sequence[str], log: Path, starts: Sequence[int], full_for: float = FULL_FOR
) -> int:
    """The exit status of a sweep on a disk that is filled after so many epochs each, for ``full_for`` seconds."""
    process = launch(disk, arguments, log)
    for start in starts:
        while process.poll() is None and epochs(disk / "runs") < start:
            time.sleep(0.2)
        if process.poll() is not None:
            raise RuntimeError(f"the sweep ended before the disk was full: {log.read_text()}")
        filler = fill(disk)
        print(f"full after {epochs(disk / 'runs')} epochs", flush=True)
        time.sleep(full_for)
        filler.unlink()
    return process.wait()


def differences(one: Path, other: Path) -> list[str]:
    """Ids of runs that are missing, not done, or have other results or metrics, but for times and machines."""
    names = {run.path.name for place in (one, other) for run in all_runs(place)}
    return sorted(name for name in names if not _same(one / name, other / name))


def _same(run: Path, other: Path) -> bool:
    return _outcome(run) is not None and _outcome(run) == _outcome(other)


def _outcome(run: Path) -> Any:
    directory = RunDirectory(run)
    results = directory.results()
    if results is None:
        return None
    kept = {key: value for key, value in results.items() if key not in ("cost", "environment")}
    timed = ("seconds", "memory_bytes")
    lines = [{k: v for k, v in line.items() if k not in timed} for line in directory.metrics()]
    return _without_times([kept, lines])


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if "seconds" not in key}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 where a run is not done or not the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks full-disk", description=__doc__)
    parser.add_argument("--size", default="200m", help="of the disk")
    parser.add_argument(
        "overrides", nargs="*", default=["sweeps=smoke"], help="the sweep (default: sweeps=smoke)"
    )
    options = parser.parse_args(arguments)
    common = [*options.overrides, "device=cpu", "num_threads=1", "hydra.launcher.workers=2", "tracker=none"]
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "disk", options.size) as disk:
        place = Path(name) / "undisturbed"
        place.mkdir()
        status = run_on_full_disk(disk, common, Path(name) / "log.txt", (100, 350))
        print(Path(name, "log.txt").read_text(), end="")
        undisturbed = launch(place, common, Path(name) / "other.txt").wait()
        found = differences(disk / "runs", place / "runs")
        runs = len(all_runs(disk / "runs"))
        print(
            f"exit status {status}, undisturbed {undisturbed}; {runs} runs, not the same: {found or 'none'}"
        )
    return int(bool(status or undisturbed or found or not runs))


if __name__ == "__main__":
    sys.exit(main())
