"""The device of a run, and its name in results."""

import torch

from vlae.config.checks import available_devices
from vlae.system.console import count_of


def select_device(name: str, precision: str) -> torch.device:
    """The device of a checked configuration; ``auto`` is the best there is."""
    return torch.device(available_devices(precision)[0] if name == "auto" else name)


def device_name(device: torch.device) -> str:
    """``cuda:0 (NVIDIA H200)``, ``cpu, 2 threads``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device}, {count_of(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else str(device)
