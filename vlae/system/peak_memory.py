"""How much memory a process has used."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Of the GPU's allocator, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
