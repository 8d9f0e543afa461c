"""One launch at a time in a runs directory: so that no two commands start the same run."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlae.attempts import last_number, living_claim, new_claim, now, put_claim
from vlae.files import StrPath, json_bytes, write_atomically

TURNS = ".launching"  # in runs_dir


@contextlib.contextmanager
def turn(
    runs_dir: StrPath, waiting: Callable[[dict[str, Any]], None] = lambda holder: None
) -> Iterator[None]:
    """Plans and submissions happen inside; ``waiting`` is told once who is before us.

    A turn is a numbered claim, made by renaming a directory, which works on network file systems too. One whose
    process has died is over.
    """
    place, claim, told = Path(runs_dir).absolute() / TURNS, new_claim(), False
    while True:
        number = last_number(place)
        holder = living_claim(place / str(number), None) if number else None
        if holder and holder["token"] == claim["token"]:
            break
        if holder is None:
            put_claim(place / str(number + 1), claim)  # who was first, we read from disk
            continue
        if not told:
            waiting(holder)
            told = True
        time.sleep(0.2)
    for old in place.iterdir():
        if old.name.isdigit() and int(old.name) < number:
            shutil.rmtree(old, ignore_errors=True)
    try:
        yield
    finally:
        write_atomically(place / str(number) / "ended.json", json_bytes({"ended": now()}))
