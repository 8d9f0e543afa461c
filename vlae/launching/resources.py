"""Resources of a run in a pool: a GPU, or a part of one, and CPU threads."""

import itertools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from vlae.config.problems import ConfigError, Problem
from vlae.runs.lease import GPUS
from vlae.system.machine import available_cores, available_memory

MEMORY_OF_A_RUN = 2 * 2**30
"""Bytes that a CPU worker is assumed to need, where the user does not set the number of workers."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """A place for one run at a time."""

    environment: dict[str, str]
    threads: int


def slots(
    runs: int, *, workers: int | None = None, runs_per_gpu: int = 1, use_gpus: bool = True
) -> list[Slot]:
    """The slots of this machine, at most as many as there are runs.

    ConfigError: more workers are asked for than fit on the GPUs.
    """
    gpus, cores = visible_gpus() if use_gpus else [], available_cores()
    if gpus:
        most = len(gpus) * runs_per_gpu
        if workers is not None and workers > most:
            text = (
                f"expected at most {most}, for {len(gpus)} GPUs with runs_per_gpu={runs_per_gpu}, got {workers}; "
                "raise hydra.launcher.runs_per_gpu, or use device=cpu"
            )
            raise ConfigError([Problem("hydra.launcher.workers", text)])
        number = min(workers or most, runs)
        shared = {VISIBLE: "", GPUS: str(1 / runs_per_gpu)}
        environments = [{**shared, VISIBLE: gpus[i % len(gpus)]} for i in range(number)]
    else:
        fitting = max(1, min(cores, available_memory() // MEMORY_OF_A_RUN))
        number = min(workers or fitting, runs)
        environments = [{VISIBLE: "", GPUS: "0"}] * number
    return [Slot(environment, max(1, cores // max(1, number))) for environment in environments]


def visible_gpus() -> list[str]:
    """The GPUs by their names in CUDA_VISIBLE_DEVICES, without importing torch.

    Of a GPU that is divided (MIG) each part counts as one: a process can use one part alone, and that by its name.
    """
    if VISIBLE in os.environ:
        names = [name.strip() for name in os.environ[VISIBLE].split(",")]
        # CUDA ends the list at the first name that means nothing: -1, or Slurm's NoDevFiles
        return list(itertools.takewhile(re.compile(r"\d+$|GPU-|MIG-").match, names))
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    listed = re.findall(r"^(?:GPU (\d+): |\s+MIG ).*\(UUID: (\S+)\)$", done.stdout, re.MULTILINE)
    indices = [index for index, _ in listed]
    if indices == [str(i) for i in range(len(indices))]:
        return indices
    # parts have no index, and follow the GPU that they are parts of
    divided = [not following for following in [*indices[1:], "end"]]
    return [uuid for (index, uuid), parts in zip(listed, divided, strict=True) if not (index and parts)]
