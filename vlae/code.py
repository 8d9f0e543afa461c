"""The code of a run, frozen: what was submitted is what runs, whatever is edited meanwhile."""

import hashlib
import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from vlae.files import StrPath, cannot_write, json_bytes, read_json, remove_abandoned, rename_if_free

SOURCE = Path(__file__).resolve().parents[1]
"""Where the code lies that is being executed: a checkout, or a frozen copy of one."""
CODE = ".code"  # in runs_dir
COMMIT = ".commit.json"
LARGEST = 5 * 2**20
"""Bytes of a file; a larger one is no code."""
WITHOUT_GIT = ("vlae", "conf", "hydra_plugins", "sweeps", "launch.py", "pyproject.toml")


def description() -> dict[str, Any]:
    """``hash`` of the code that is being executed, the ``commit`` it is based on, and whether it was ``changed``."""
    if SOURCE.parent.name == CODE:
        found = read_json(SOURCE / COMMIT) or {}
        return {"hash": SOURCE.name, "commit": found.get("commit"), "changed": found.get("changed")}
    commit = _git("rev-parse", "HEAD")
    changed = bool(_git("status", "--porcelain")) if commit else None
    return {"hash": _digest(_files()), "commit": commit, "changed": changed}


def freeze(runs_dir: StrPath) -> Path:
    """A copy of the code in ``runs_dir/.code/<hash>``, made unless it is there already.

    It holds the files that git tracks, and those that it would add, as they are now; ``.commit.json`` tells the
    commit and the difference from it.
    """
    if SOURCE.parent.name == CODE:
        return SOURCE
    files = _files()
    place = Path(runs_dir).absolute() / CODE / _digest(files)
    if place.is_dir():
        return place
    staged = place.parent / ".new" / secrets.token_hex(8)
    try:
        for name in files:
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SOURCE / name, target)
        commit = _git("rev-parse", "HEAD")
        difference = _git("diff", "HEAD") if commit else None
        told = {"commit": commit, "changed": bool(_git("status", "--porcelain")), "difference": difference}
        (staged / COMMIT).write_bytes(json_bytes(told))
        # an edit during the copy would make it another code than its name says
        final = place.with_name(_digest(files, staged))
        rename_if_free(staged, final)
    except OSError as error:
        raise cannot_write(place, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    remove_abandoned(staged.parent, "*")
    return final


def _files() -> list[str]:
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is not None:
        names = [name for name in listed.split("\0") if name]
    else:
        found = [SOURCE / name for name in WITHOUT_GIT]
        places = [file for place in found for file in (place.rglob("*") if place.is_dir() else [place])]
        names = [file.relative_to(SOURCE).as_posix() for file in places if "__pycache__" not in file.parts]
    return sorted(name for name in set(names) if _is_code(SOURCE / name))


def _is_code(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_size <= LARGEST
    except OSError:
        return False


def _digest(files: list[str], root: Path | None = None) -> str:
    digest = hashlib.sha256()
    for name in files:
        content = ((root or SOURCE) / name).read_bytes()
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
