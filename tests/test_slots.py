"""Slots: a GPU or its part for each run, and cores that are shared out."""

import os

import pytest

from vlae.config.problems import ConfigError
from vlae.launching import resources as module
from vlae.launching.resources import slots, visible_gpus


@pytest.fixture
def machine(monkeypatch):
    """``machine(gpus="0,1", cores=8)``: what this machine seems to have."""

    def have(gpus="", cores=8, memory=2**40):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        monkeypatch.setattr(module, "available_cores", lambda: cores)
        monkeypatch.setattr(module, "available_memory", lambda: memory)

    return have


def devices(found):
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found]


def test_each_gpu_has_one_run(machine):
    machine("3,GPU-abc")
    found = slots(10)
    assert devices(found) == ["3", "GPU-abc"]
    assert [slot.threads for slot in found] == [4, 4]
    assert [slot.environment["VLAE_GPUS"] for slot in found] == ["1.0", "1.0"]


def test_runs_spread_over_gpus_before_sharing_one(machine):
    machine("0,1")
    found = slots(10, runs_per_gpu=3)
    assert devices(found) == ["0", "1", "0", "1", "0", "1"]
    assert sum(float(slot.environment["VLAE_GPUS"]) for slot in found) == pytest.approx(2)
    assert devices(slots(3, runs_per_gpu=3)) == ["0", "1", "0"]


def test_too_many_workers_for_the_gpus_are_refused(machine):
    machine("0,1")
    with pytest.raises(ConfigError, match=r"hydra.launcher.workers: expected at most 4, .* got 5; raise"):
        slots(10, workers=5, runs_per_gpu=2)
    assert devices(slots(10, workers=5, use_gpus=False)) == [""] * 5


def test_without_gpus_cores_and_memory_set_the_slots(machine):
    machine(cores=8)
    assert [slot.threads for slot in slots(100)] == [1] * 8
    assert [slot.threads for slot in slots(3)] == [2] * 3
    assert [slot.threads for slot in slots(100, workers=2)] == [4, 4]
    machine(cores=64, memory=10 * 2**30)
    assert len(slots(100)) == 5
    machine(cores=1, memory=0)
    assert len(slots(100)) == 1


# --- which GPUs there are -----------------------------------------------------------------------------------------


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """``nvidia_smi(text, exit_status)``: what the command prints, and nothing but PATH says where it is."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin:/bin")

    def say(text, exit_status=0):
        script = tmp_path / "nvidia-smi"
        script.write_text(f'#!/bin/sh\ntest "$*" = -L || exit 2\ncat <<END\n{text}END\nexit {exit_status}\n')
        script.chmod(0o755)

    return say


TWO_GPUS = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-5a1c9f0e-0000-4b5e-9d7a-000000000000)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-5a1c9f0e-1111-4b5e-9d7a-111111111111)
"""
DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 3g.20gb     Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-a0000000-6756-fd30-cd4a-1e6da3caf9b0)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-b0000000-6756-fd30-cd4a-1e6da3caf9b0)
  MIG 1g.5gb      Device  0: (UUID: MIG-GPU-b0000000-6756-fd30-cd4a-1e6da3caf9b0/7/0)
"""
NO_DRIVER = """\
NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver \
is installed and running.

"""


def test_a_gpu_is_named_by_its_index(nvidia_smi):
    nvidia_smi(TWO_GPUS)
    assert visible_gpus() == ["0", "1"]


def test_parts_of_a_divided_gpu_have_their_own_names(nvidia_smi):
    nvidia_smi(DIVIDED)
    assert visible_gpus() == [
        "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f",
        "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb",
        "GPU-a0000000-6756-fd30-cd4a-1e6da3caf9b0",
        "MIG-GPU-b0000000-6756-fd30-cd4a-1e6da3caf9b0/7/0",
    ]


@pytest.mark.parametrize(
    ("text", "exit_status"),
    [(NO_DRIVER, 9), (NO_DRIVER, 0), ("No devices were found\n", 6), ("No devices were found\n", 0), ("", 0)],
)
def test_no_gpu_of_nvidia_smi_means_no_gpu(nvidia_smi, text, exit_status):
    nvidia_smi(text, exit_status)
    assert visible_gpus() == []


def test_a_lost_gpu_is_left_out(nvidia_smi):
    """It is unknown if CUDA counts the lost one."""
    lost = "Unable to determine the device handle for GPU 0000:0C:00.0: GPU is lost.  Reboot the system to recover\n"
    nvidia_smi(TWO_GPUS.replace(TWO_GPUS.splitlines()[0] + "\n", lost), 15)
    assert visible_gpus() == ["GPU-5a1c9f0e-1111-4b5e-9d7a-111111111111"]


def test_without_nvidia_smi_there_is_no_gpu(nvidia_smi, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0,1", ["0", "1"]),
        (" 3, 1", ["3", "1"]),
        ("GPU-8932f937,MIG-c6d4f1ef", ["GPU-8932f937", "MIG-c6d4f1ef"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),  # Slurm, for a job that asked for no GPU
        ("0,-1,1", ["0"]),  # CUDA ends the list there
    ],
)
def test_cuda_visible_devices_takes_precedence(nvidia_smi, monkeypatch, value, expected):
    nvidia_smi(TWO_GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected
