"""Slots: a GPU or its part for each run, and cores that are shared out."""

import psutil
import pytest

from vlae.config import ConfigError
from vlae.launching import slots as module
from vlae.launching.slots import slots


@pytest.fixture
def machine(monkeypatch):
    """``machine(gpus="0,1", cores=8)``: what this machine seems to have."""

    def have(gpus="", cores=8, memory=2**40):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(module, "available_cores", lambda: cores)
        monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("M", (), {"available": memory}))

    return have


def devices(found):
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found]


def test_each_gpu_has_its_run(machine):
    machine("3,GPU-abc")
    found = slots(10)
    assert devices(found) == ["3", "GPU-abc"]
    assert [slot.threads for slot in found] == [4, 4]
    assert [slot.environment["VLAE_GPUS"] for slot in found] == ["1.0", "1.0"]


def test_a_gpu_can_be_shared_and_runs_spread_over_gpus_first(machine):
    machine("0,1")
    found = slots(10, runs_per_gpu=3)
    assert devices(found) == ["0", "1", "0", "1", "0", "1"]
    assert sum(float(slot.environment["VLAE_GPUS"]) for slot in found) == pytest.approx(2)
    assert devices(slots(3, runs_per_gpu=3)) == ["0", "1", "0"]


def test_more_workers_than_the_gpus_take_are_refused_with_the_way_out(machine):
    machine("0,1")
    with pytest.raises(ConfigError, match=r"hydra.launcher.workers: expected at most 4, .* came 5; raise"):
        slots(10, workers=5, runs_per_gpu=2)
    assert devices(slots(10, workers=5, use_gpus=False)) == [""] * 5


def test_without_gpus_cores_and_memory_decide(machine):
    machine(cores=8)
    assert [slot.threads for slot in slots(100)] == [1] * 8
    assert [slot.threads for slot in slots(3)] == [2] * 3
    assert [slot.threads for slot in slots(100, workers=2)] == [4, 4]
    machine(cores=64, memory=10 * 2**30)
    assert len(slots(100)) == 5
    machine(cores=1, memory=0)
    assert len(slots(100)) == 1


def test_a_container_has_the_cores_and_the_memory_of_its_limits(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "CONTAINER", tmp_path)
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


def test_a_slurm_job_has_the_cores_that_it_asked_for(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    every = module.available_cores()
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert module.available_cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert module.available_cores() == every
