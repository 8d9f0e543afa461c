"""One launch at a time in a runs directory: so that no two commands start the same run."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vlae.launching.queues import QUEUES
from vlae.runs.lease import holder_of, last_number, new_claim, now, pulse, put_claim, show_life
from vlae.runs.schema import Claim
from vlae.system.console import standard_error
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, write_json

LOCKS = f"{QUEUES}/.launching"  # in runs_dir


def refuse_if_lost(lock: Path) -> None:
    """RecordError: this process was out of touch for so long that another launch has taken the ``lock``."""
    if lock.with_name(str(int(lock.name) + 1)).exists():
        raise RecordError(f"{lock}: another launch took the lock; rerun")


def _say_who_launches(holder: Claim) -> None:
    text = f"process {holder['pid']} on host {holder['host']} is launching; waiting for it"
    standard_error().print(text)


@contextlib.contextmanager
def hold_launch_lock(
    runs_dir: StrPath, waiting: Callable[[Claim], None] = _say_who_launches
) -> Iterator[Path]:
    """Plan and submit inside; the directory of the lock. waiting: called with the claim of another process that has it.

    The lock is a numbered claim, made by renaming a directory, which works on network file systems too. The lock of a
    dead process is free.
    """
    place, claim, reported = Path(runs_dir).absolute() / LOCKS, new_claim(), False
    while True:
        number = last_number(place)
        path = place / str(number)
        holder = holder_of(path)
        if holder and holder["token"] == claim["token"]:
            break
        if holder is None:
            put_claim(place / str(number + 1), claim)  # the disk says who was first
            continue
        if not reported:
            waiting(holder)
            reported = True
        time.sleep(0.2)
    for old in place.iterdir():
        if old.name.isdigit() and int(old.name) < number:
            shutil.rmtree(old, ignore_errors=True)
    try:
        with pulse(lambda: show_life(path)):
            yield path
    finally:
        with contextlib.suppress(RecordError):  # the disk is full; the lock ends with this process
            write_json(path / "ended.json", {"ended": now()})
