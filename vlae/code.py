"""The code of a run, frozen: what was submitted is what runs, whatever is edited meanwhile."""

import contextlib
import functools
import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlae.files import STAGING, StrPath, appearing, json_bytes, read_bytes, read_json

SOURCE = Path(__file__).resolve().parents[1]
"""Where the code lies that is being executed: a checkout, or a frozen copy of one."""
CODE = ".code"  # in runs_dir
COMMIT = ".commit.json"
LARGEST = 5 * 2**20
"""Bytes of a file; a larger one is no code."""
PLACES = ("vlae", "conf", "hydra_plugins", "sweeps", "launch.py", "pyproject.toml")
"""Where a file is code though git does not know it, or there is no git."""


def description() -> dict[str, Any]:
    """``hash`` of the code, the ``commit`` it is based on, and whether it was ``changed`` since."""
    if SOURCE.parent.name == CODE:
        found = read_json(SOURCE / COMMIT) or {}
        return {"hash": SOURCE.name, "commit": found.get("commit"), "changed": found.get("changed")}
    contents = _contents()
    found = _commit(contents)
    return {"hash": _digest(contents), "commit": found["commit"], "changed": found["changed"]}


@functools.cache
def executed() -> dict[str, Any]:
    """The `description` of the code as it was when this process first asked.

    It asks before it imports what it executes: an edit after that is not what it executes.
    """
    return description()


def freeze(runs_dir: StrPath) -> Path:
    """A copy of the code in ``runs_dir/.code/<hash>``, made unless it is there already.

    It holds, as they are now, the files that git tracks, and in the PLACES of code those that it would add; where
    there is no git, all that is in these places. What else lies in a checkout untracked (notes, data, pictures, a
    runs_dir of any name) is no code: it would be copied for each launch, and each run would make another code of it.
    A module of your own elsewhere is frozen once it is tracked (``git add -N FILE``).

    ``.commit.json`` tells the commit, the difference of tracked files from it, and which files it does not know.
    Errors: RecordError where a file cannot be read, or the copy cannot be written.
    """
    if SOURCE.parent.name == CODE:
        return SOURCE
    contents = _contents()  # read once, so that what is copied is what the name says
    place = Path(runs_dir).absolute() / CODE / _digest(contents)
    if not place.is_dir():
        with appearing(place) as staged:
            for name, content in contents.items():
                target = staged / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            (staged / COMMIT).write_bytes(json_bytes(_commit(contents)))
    return place


def _commit(contents: dict[str, bytes]) -> dict[str, Any]:
    """What the code is based on, and how it differs from that; nothing is known where there is no commit."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return dict.fromkeys(("commit", "changed", "difference", "added"))
    difference = _git("diff", "--no-ext-diff", "--no-color", "HEAD")
    added = [name for name in _untracked() if name in contents]
    changed = None if difference is None else bool(difference or added)
    return {"commit": commit, "changed": changed, "difference": difference, "added": added}


def _contents() -> dict[str, bytes]:
    """The code: what each file holds."""
    tracked = _git("ls-files", "-z")
    names = _everything() if tracked is None else [*tracked.split("\0"), *_untracked()]
    found = {name: _content(SOURCE / name) for name in sorted(set(names))}
    return {name: content for name, content in found.items() if content is not None}


def _content(file: Path) -> bytes | None:
    """Of the file, or of that to which a link leads; None: it is no code, or has vanished since it was listed."""
    with contextlib.suppress(OSError):  # which reading it will raise again
        if not file.is_file() or file.stat().st_size > LARGEST:
            return None
    return read_bytes(file)


def _untracked() -> list[str]:
    listed = _git("ls-files", "-z", "--others", "--exclude-standard", "--", *PLACES) or ""
    return _without_runs(listed.split("\0"))


def _everything() -> list[str]:
    found = [SOURCE / name for name in PLACES]
    files = [file for place in found for file in (place.rglob("*") if place.is_dir() else [place])]
    names = [file.relative_to(SOURCE).as_posix() for file in files if "__pycache__" not in file.parts]
    return _without_runs(names)


def _without_runs(names: Iterable[str]) -> list[str]:
    """Those that are neither in a hidden directory nor in one that holds runs, which are staged in it."""

    @functools.cache
    def is_no_code(folder: Path) -> bool:
        itself = folder.name.startswith(".") or (folder / STAGING).is_dir()
        return folder != SOURCE and (itself or is_no_code(folder.parent))

    return [name for name in names if name and not is_no_code((SOURCE / name).parent)]


def _digest(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def _git(*words: str) -> str | None:
    """What git prints, or None where there is no checkout."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(SOURCE), *words]
    try:
        if not (SOURCE / ".git").exists():  # installed inside another project's checkout
            return None
        done = subprocess.run(command, capture_output=True, check=True, env=environment, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")
