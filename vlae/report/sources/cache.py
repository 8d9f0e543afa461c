"""What was read of each run directory, kept in the user's cache: never the truth, only faster than it.

Nothing is written to runs_dir, which may be another user's, or be looked at from several machines. Without the index
a table takes longer. An entry holds for as long as the three files of its run are the same ones, by time, size and
inode; one that was made while they were new is not kept, because another change of the same moment and size would not
show.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlae.system.disk import RecordError
from vlae.system.files import StrPath, make_directory, read_json, write_atomically

CACHE = "VLAE_CACHE"  # environment variable: where it lies; else $XDG_CACHE_HOME/vlae or ~/.cache/vlae
FORMAT = 4
"""Raised when settings or figures of the same files are read as something else."""
FILES = ("config.yaml", "status.json", "results.json")
SETTLED = 2.0
"""Seconds; file systems tell times no more exactly."""


class Entry(NamedTuple):
    """What the files of a run say."""

    run_id: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Any] | None
    earlier: bool = False
    """Its id is of an earlier scheme."""


class Index:
    """The entries of a runs directory."""

    def __init__(self, runs_dir: StrPath) -> None:
        self.path = path_of(runs_dir)
        self._stamps: dict[str, str] = {}
        self._entries: dict[str, Entry] = {}
        self._changed = False
        with contextlib.suppress(RecordError, LookupError, TypeError, ValueError, AttributeError):
            self._read()

    def get(self, name: str, stamp: str) -> Entry | None:
        """Of the run directory ``name``, if its files are still those of ``stamp``."""
        return self._entries.get(name) if self._stamps.get(name) == stamp else None

    def put(self, name: str, stamp: str, entry: Entry) -> None:
        self._stamps[name], self._entries[name], self._changed = stamp, entry, True

    def keep(self, names: set[str]) -> None:
        """Only these."""
        for name in self._entries.keys() - names:
            del self._entries[name], self._stamps[name]
            self._changed = True

    def save(self) -> None:
        """On disk, where that can be written."""
        if self._changed:
            with contextlib.suppress(RecordError):
                make_directory(self.path.parent)
                write_atomically(self.path, json.dumps(self._content(), separators=(",", ":")).encode())

    def _content(self) -> dict[str, Any]:
        """Keys and settings, which many runs share, are written once."""
        kinds: dict[tuple[str, ...], int] = {}
        shared: dict[str, tuple[int, Mapping[str, Any]]] = {}
        runs = {}
        for name, (run_id, settings, figures, earlier) in self._entries.items():
            rest = {**settings, "seed": None}
            of = kinds.setdefault(tuple(figures), len(kinds)) if figures is not None else None
            values = list(figures.values()) if figures is not None else None
            runs[name] = [
                self._stamps[name],
                run_id,
                shared.setdefault(repr(rest), (len(shared), rest))[0],
                settings["seed"],
                of,
                values,
                earlier,
            ]
        return {
            "format": FORMAT,
            "kinds": [list(kind) for kind in kinds],
            "settings": [rest for _, rest in shared.values()],
            "runs": runs,
        }

    def _read(self) -> None:
        content = read_json(self.path) or {}
        if content.get("format") != FORMAT:
            return
        kinds, shared, entries, stamps = content["kinds"], content["settings"], {}, {}
        for name, (stamp, run_id, of_settings, seed, of, values, earlier) in content["runs"].items():
            figures = None if of is None else dict(zip(kinds[of], values, strict=True))
            entries[name] = Entry(run_id, {**shared[of_settings], "seed": seed}, figures, earlier)
            stamps[name] = stamp
        self._entries, self._stamps = entries, stamps


def path_of(runs_dir: StrPath) -> Path:
    """The file that holds the index of a runs directory."""
    general = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    cache = os.environ.get(CACHE) or os.path.join(general, "vlae")
    name = hashlib.sha256(os.fsencode(os.path.realpath(runs_dir))).hexdigest()[:16]
    return Path(cache) / "tables" / f"{name}.json"


def stamp_of(run: str) -> tuple[str, bool]:
    """What tells whether the files of a run are still the same ones, and whether that can be trusted yet."""
    parts, newest = [], 0.0
    for name in FILES:
        try:
            found = os.stat(f"{run}/{name}")
        except OSError:
            parts.append("-")
        else:
            parts.append(f"{found.st_mtime_ns}.{found.st_size}.{found.st_ino}")
            newest = max(newest, found.st_mtime)
    return " ".join(parts), newest < time.time() - SETTLED
