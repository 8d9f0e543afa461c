"""Histories of a simulated cluster: ``python -m benchmarks histories``, and ``--replay N`` for the events of one."""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from simulation.faults import FAULTS
from simulation.history import Played, event_lines, play
from simulation.seams import Seams, simulate

COUNT = 100_000
BLOCK = 50
"""Histories that a process plays before it says how they went."""
SAY_EVERY = 10.0
"""Seconds between two lines of progress."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a history broke a law, 0 otherwise."""
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        return _replay(options.replay)
    if options.fault is not None:
        return _search(options.fault, range(options.first, options.first + options.count))
    numbers = range(options.first, options.first + options.count)
    blocks = [numbers[i : i + BLOCK] for i in range(0, len(numbers), BLOCK)]
    began = said = time.monotonic()
    broken: dict[int, str] = {}
    done = 0
    with _processes(min(options.processes, len(blocks))) as played:
        for block, found in played(blocks):
            done += block
            broken |= found
            for number, violation in found.items():
                print(f"history {number}: {violation}", flush=True)
            if time.monotonic() - said > SAY_EVERY or done == len(numbers):
                said = time.monotonic()
                print(_progress(done, len(numbers), said - began, broken), flush=True)
    if broken:
        print(f"python -m benchmarks histories --replay {min(broken)} prints its events")
    return int(bool(broken))


def play_all(numbers: Sequence[int]) -> dict[int, str]:
    """The broken law by the number of the history that broke it."""
    with _directory() as place, simulate() as seams:
        played = [_play(seams, number, place) for number in numbers]
    return {each.seed: each.violation for each in played if each.violation is not None}


def _play(seams: Seams, number: int, place: Path) -> Played:
    root = place / "shared"
    root.mkdir()
    try:
        return play(seams, number, root)
    finally:
        shutil.rmtree(root)


def _block(numbers: Sequence[int]) -> tuple[int, dict[int, str]]:
    return len(numbers), play_all(numbers)


@contextlib.contextmanager
def _processes(number: int) -> Iterator:
    if number == 1:
        yield lambda blocks: map(_block, blocks)
        return
    with multiprocessing.get_context("spawn").Pool(number) as pool:
        yield lambda blocks: pool.imap_unordered(_block, blocks)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """A directory in memory if the machine has such a place: a history is thousands of small files."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="vlae-histories-", dir=where) as place:
        yield Path(place)


def _replay(number: int) -> int:
    with _directory() as place, simulate() as seams:
        played = _play(seams, number, place)
    for line in event_lines(played.journal):
        print(line)
    print(f"history {number}: {played.violation or 'no law is broken'}")
    return int(played.violation is not None)


def _search(fault: str, numbers: Sequence[int]) -> int:
    """Exit status 0 where a history finds the fault, 1 where none does."""
    with _directory() as place, FAULTS[fault](), simulate() as seams:
        for number in numbers:
            if violation := _play(seams, number, place).violation:
                print(f"history {number} finds it: {violation}")
                return 0
    print(f"none of {len(numbers)} histories finds it")
    return 1


def _progress(done: int, count: int, seconds: float, broken: dict[int, str]) -> str:
    text = f"{done} of {count} histories in {seconds:.0f} s, {1e3 * seconds / done:.1f} ms each; "
    return text + (f"{len(broken)} broke a law" if broken else "no law is broken")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks histories",
        description="Sweeps on a simulated Slurm that is disturbed in every way, in virtual time. Each integer is one "
        "history. Laws are checked after each; those that break one are listed.",
    )
    parser.add_argument("--count", type=_number, default=COUNT, help=f"histories (default {COUNT})")
    parser.add_argument("--first", type=_number, default=0, help="the first integer (default 0)")
    parser.add_argument("--replay", type=_number, metavar="N", help="print the events of history N instead")
    parser.add_argument(
        "--fault",
        choices=FAULTS,
        help="bring back a mended fault, and stop at the first history that finds it",
    )
    parser.add_argument(
        "--processes", type=_number, default=os.cpu_count() or 1, help="default: one per core"
    )
    return parser


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


if __name__ == "__main__":  # without torch, which `python -m benchmarks` imports
    sys.exit(main())
