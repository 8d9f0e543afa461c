"""Memory and cores that this process may use, within the limits of its Slurm job or container."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
"""The place of the limits of a container or job on Linux (control groups of version 2)."""
OWN_GROUP = Path("/proc/self/cgroup")


def total_memory() -> int:
    """Bytes that this process can have at most."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits())])


def available_memory() -> int:
    """Bytes that this process can have now."""
    left = [max(0, limit - used) for limit, used in _memory_limits()]
    return min([psutil.virtual_memory().available, *left])


def memory_kills() -> int | None:
    """The number of processes that the kernel has killed for lack of memory in this job or container; None: unknown."""
    files = [*(group / "memory.events" for group in _groups()), Path("/proc/vmstat")]
    return next((count for file in files if (count := _number(file, "oom_kill")) is not None), None)


def available_cores() -> int:
    """The number of cores; for a Slurm job the number that it asked for, even if the cluster does not confine it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int(word) for word in (CONTROL_GROUPS / "cpu.max").read_text().split())
        cores = max(1, min(cores, quota // period))
    given = os.environ.get("SLURM_CPUS_PER_TASK", os.environ.get("SLURM_CPUS_ON_NODE", ""))
    return min(cores, int(given)) if given.isdigit() else cores


def _groups() -> list[Path]:
    """The control group of this process, and the outermost one that it sees."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^0::/(.+)$", OWN_GROUP.read_text(), re.MULTILINE):
            return [CONTROL_GROUPS / found[1], CONTROL_GROUPS]
    return [CONTROL_GROUPS]


def _memory_limits() -> Iterator[tuple[int, int]]:
    """Limit and use of each group that has a limit, in bytes, without files that the kernel has cached."""
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # no control groups, or no limit
            limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            yield limit, used - (_number(group / "memory.stat", "inactive_file") or 0)


def _number(file: Path, name: str) -> int | None:
    """The number behind a name in a file of the kernel; None if it is not there."""
    with contextlib.suppress(OSError):
        if found := re.search(rf"^{name} (\d+)$", file.read_text(), re.MULTILINE):
            return int(found[1])
    return None
