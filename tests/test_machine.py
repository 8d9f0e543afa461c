"""The share of the machine that a process may use: limits of its container and of its Slurm job."""

import psutil
import pytest

from vlae.system import machine as module


def test_a_container_has_the_cores_and_memory_of_its_limits(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda pid: set(range(64)))
    for quota, cores in (("max 100000", 64), ("350000 100000", 3), ("50000 100000", 1)):
        tmp_path.joinpath("cpu.max").write_text(f"{quota}\n")
        assert module.available_cores() == cores
    free = psutil.virtual_memory().available
    for limit, left in (("max", free), ("5000", 1000), ("3000", 0)):
        tmp_path.joinpath("memory.max").write_text(f"{limit}\n")
        tmp_path.joinpath("memory.current").write_text("4000\n")
        assert module.available_memory() == pytest.approx(left, rel=0.2)


def test_a_slurm_job_has_its_requested_cores(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    every = module.available_cores()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert module.available_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert module.available_cores() == every


def limited(place, **values):
    """The control group there has these values."""
    place.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        place.joinpath(f"memory.{name}").write_text(f"{value}\n")


def test_the_narrowest_limit_around_a_process_counts(monkeypatch, tmp_path):
    """A Slurm job has its limit in a group of its own, below that of the container or machine."""
    groups, own = tmp_path / "cgroup", tmp_path / "own"
    monkeypatch.setattr(module, "CONTROL_GROUPS", groups)
    monkeypatch.setattr(module, "OWN_GROUP", own)
    own.write_text("1:cpu:/\n0::/job_12\n")
    limited(groups, max=9000, current=1000)
    limited(groups / "job_12", max=5000, current=4500)
    assert (module.total_memory(), module.available_memory()) == (5000, 500)
    limited(groups / "job_12", max="max", current=4500)
    assert (module.total_memory(), module.available_memory()) == (9000, 8000)


def test_cached_files_count_as_available_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(module, "OWN_GROUP", tmp_path / "none")
    limited(tmp_path, max=5000, current=4900, stat="anon 900\ninactive_file 4000\nactive_file 0")
    assert module.available_memory() == 4100


def test_kernel_kills_are_counted_in_the_cgroup(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(module, "OWN_GROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/job_12\n")
    limited(tmp_path, events="oom 9\noom_kill 9")
    limited(tmp_path / "job_12", events="oom 3\noom_kill 2")
    assert module.memory_kills() == 2
