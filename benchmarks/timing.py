"""Measurement of two ways to do the same work: time, memory, arithmetic, the machine."""

import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

MEASURED_SECONDS = 0.5
"""A work shorter than this is repeated within a round, so that the clock and the scheduler do not matter."""


@dataclass(frozen=True)
class Work:
    """Something to measure: ``run()`` does ``units`` units (steps, images) and returns metrics to compare."""

    run: Callable[[], Tensor]
    units: int


@dataclass(frozen=True)
class Pair:
    """The same work done both ways, from the same parameters and the same random numbers.

    ``tolerance`` bounds the relative difference of the first numbers the two return, over as many of them as
    both have: a speed-up with other numbers is none.
    """

    reference: Work
    platform: Work
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass(frozen=True)
class Measurement:
    """The result of one case. Seconds, multiply-adds and bytes are per unit of work, bytes per call."""

    reference_seconds: Spread
    platform_seconds: Spread
    ratio: Spread
    difference: float
    """Relative, between the metrics of the first run of either."""
    agrees: bool
    reference_flops: float
    platform_flops: float
    sgemm_rates: tuple[float, ...]
    """One a round."""
    reference_bytes: int | None = None
    platform_bytes: int | None = None

    @property
    def sgemm_rate(self) -> float:
        return statistics.median(self.sgemm_rates)

    @property
    def reference_share(self) -> float:
        """The share of the machine's sgemm rate that the reference's matrix arithmetic reaches."""
        return self.reference_flops / self.reference_seconds.median / self.sgemm_rate

    @property
    def platform_share(self) -> float:
        """The same for the platform, over the arithmetic the platform itself does."""
        return self.platform_flops / self.platform_seconds.median / self.sgemm_rate

    @property
    def memory_ratio(self) -> float | None:
        """The reference's peak of memory over the platform's."""
        if self.reference_bytes is None or self.platform_bytes is None:
            return None
        return self.reference_bytes / max(self.platform_bytes, 1)


def machine(device: torch.device) -> dict[str, Any]:
    """The machine on which the metrics were measured."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def synchronise(device: torch.device) -> None:
    """Wait for the device: a CUDA call returns before its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Seconds of one call, as the mean over ``times`` calls in a row."""
    synchronise(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    synchronise(device)
    return (time.perf_counter() - start) / times


class Sgemm:
    """The machine's rate at a large square product in float32, in floating point operations per second."""

    def __init__(self, device: torch.device) -> None:
        self.size = 8192 if device.type == "cuda" else 1536
        self.device = device
        self.left = torch.randn(self.size, self.size, device=device)
        self.right = torch.randn(self.size, self.size, device=device)
        self.product = torch.empty(self.size, self.size, device=device)

    def rate(self) -> float:
        once = seconds(lambda: torch.mm(self.left, self.right, out=self.product), self.device, times=3)
        return 2 * self.size**3 / once


def flops(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result of ``run``, and its floating point operations: two per multiply-add.

    Products and factorisations are counted. Elementwise work is not, so a path that spends its time there shows
    a small share of the sgemm rate.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_LINEAR_ALGEBRA)
    with counter:
        result = run()
    return result, float(counter.get_total_flops())


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most tensor memory held at one moment of ``run``, above what stands before and after it.

    On a CPU every allocation and release of torch's allocator is recorded by the profiler and summed in
    order: exact, repeatable, and untouched by what malloc keeps or gives back (unlike the resident set size). The
    private buffers of the BLAS are not in it. On CUDA it is the count of the caching allocator.
    """
    gc.collect()
    if device.type == "cuda":
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "trace.json"
        recorded.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    allocations = [e for e in events if e.get("name") == "[memory]" and e["args"]["Device Type"] == 0]
    held = peak = 0
    for event in sorted(allocations, key=lambda e: (e["ts"], e["args"]["Ev Idx"])):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def measure(
    pair: Pair, device: torch.device, rounds: int, sgemm: Sgemm, memory: bool, say: Callable[[str], None]
) -> Measurement:
    """Warm both up, then time them in turn: reference, platform, reference, ... A ratio is that of one round."""
    say("warm-up")
    reference_result, reference_flops = flops(pair.reference.run)
    platform_result, platform_flops = flops(pair.platform.run)
    difference = _difference(reference_result, platform_result)
    times = {work: _calls(seconds(work.run, device)) for work in (pair.reference, pair.platform)}
    say(f"the results differ by {difference:.0e} of their size")
    per_unit: dict[Work, list[float]] = {pair.reference: [], pair.platform: []}
    rates = []
    for number in range(rounds):
        gc.collect()
        rates.append(sgemm.rate())
        for work in (pair.reference, pair.platform):
            per_unit[work].append(seconds(work.run, device, times[work]) / work.units)
        a, b = per_unit[pair.reference][-1], per_unit[pair.platform][-1]
        say(f"round {number + 1}/{rounds}: reference {a:.4g} s, platform {b:.4g} s, {a / b:.2f}x")
    slow, fast = per_unit[pair.reference], per_unit[pair.platform]
    return Measurement(
        reference_seconds=Spread.of(slow),
        platform_seconds=Spread.of(fast),
        ratio=Spread.of([a / b for a, b in zip(slow, fast, strict=True)]),
        difference=difference,
        agrees=difference <= pair.tolerance,
        reference_flops=reference_flops / pair.reference.units,
        platform_flops=platform_flops / pair.platform.units,
        sgemm_rates=tuple(rates),
        reference_bytes=peak_bytes(pair.reference.run, device) if memory else None,
        platform_bytes=peak_bytes(pair.platform.run, device) if memory else None,
    )


def _difference(reference: Tensor, ours: Tensor) -> float:
    """Largest relative difference over the metrics that both returned."""
    shared = min(len(reference), len(ours))
    a, b = reference[:shared].double().cpu(), ours[:shared].double().cpu()
    return float(((a - b).abs() / a.abs().clamp(min=1.0)).max())


def _calls(once: float) -> int:
    return max(1, min(1000, round(MEASURED_SECONDS / once)))


def _inverse_flops(shape: Sequence[int], *_: Any, **__: Any) -> int:
    batch, n = _batch_and_size(shape)
    return batch * 2 * n**3


def _cholesky_flops(shape: Sequence[int], *_: Any, **__: Any) -> int:
    batch, n = _batch_and_size(shape)
    return batch * n**3 // 3


def _triangular_flops(factor: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    batch, n = _batch_and_size(factor)
    columns = torch.Size(right).numel() // max(batch * n, 1)
    return batch * n * n * columns


def _cholesky_solve_flops(right: Sequence[int], factor: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _triangular_flops(factor, right)


def _qr_flops(shape: Sequence[int], *_: Any, **__: Any) -> int:
    batch, columns = _batch_and_size(shape)
    return batch * (4 * shape[-2] * columns**2 - 4 * columns**3 // 3)


def _batch_and_size(shape: Sequence[int]) -> tuple[int, int]:
    return torch.Size(shape[:-2]).numel(), shape[-1]


_LINEAR_ALGEBRA = {
    torch.ops.aten.linalg_inv_ex: _inverse_flops,
    torch.ops.aten.linalg_cholesky_ex: _cholesky_flops,
    torch.ops.aten.linalg_solve_triangular: _triangular_flops,
    torch.ops.aten.cholesky_solve: _cholesky_solve_flops,
    torch.ops.aten.linalg_qr: _qr_flops,
}
"""Operations that torch's counter does not know: it has only products and convolutions."""


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
