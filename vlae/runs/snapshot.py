"""Frozen code: a run executes a copy of the code made when it was submitted, so later edits do not affect it.

Decision record: docs/decisions/0013-what-is-code.md.
"""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlae.runs import snapshot_check
from vlae.system import files
from vlae.system.disk import RecordError
from vlae.system.locations import SOURCE

CODE = ".code"  # in runs_dir
LARGEST = 5 * 2**20  # bytes of a file; a larger one is no code
PLACES = ("vlae", "conf", "hydra_plugins", "sweeps", "pyproject.toml")
"""Code besides the modules and packages at the top of the checkout."""
INSTALLED = ("vlae", "hydra_plugins/vlae_launching")
"""The code of an installation, where conf/ and sweeps/ are in vlae/; other packages beside it are not ours."""


def code_description() -> dict[str, Any]:
    """``hash`` of the code, the ``commit`` it is based on, and whether it was ``changed`` since.

    Errors: RecordError where a frozen copy is executed that is not what its name promises.
    """
    if SOURCE.parent.name == CODE:
        _refuse_damage(SOURCE)
        found = files.read_json(SOURCE / snapshot_check.COMMIT) or {}
        return {"hash": SOURCE.name, "commit": found.get("commit"), "changed": found.get("changed")}
    contents = _contents()
    found = _commit(contents)
    return {"hash": snapshot_check.hash_of(contents), "commit": found["commit"], "changed": found["changed"]}


@functools.cache
def executed_code() -> dict[str, Any]:
    """The `code_description` at the first call in this process; later calls return the same.

    Call it before importing the code of the run: the process does not execute edits made after that.
    """
    return code_description()


def freeze(runs_dir: files.StrPath) -> Path:
    """A copy of the code in ``runs_dir/.code/<hash>``: made where it is not there, repaired where it is damaged.

    It holds the files of PLACES, and the modules and packages at the top of the checkout; of an installation the files
    of INSTALLED. Git has no say in this, so that the same files have the same hash without it. ``.commit.json`` records
    the commit, the difference from it, the files that it does not know, and the checksum of each file.
    Errors: RecordError where a file cannot be read, where the copy cannot be written, and where a damaged one belongs
    to another user.
    """
    if SOURCE.parent.name == CODE:
        _refuse_damage(SOURCE)
        return SOURCE
    contents = _contents()  # read once, so that what is copied is what the name says
    place = Path(runs_dir).absolute() / CODE / snapshot_check.hash_of(contents)
    record = files.json_bytes({**_commit(contents), "files": snapshot_check.checksums(contents)})
    if not os.path.lexists(place):
        with files.appearing(place) as staged:
            for name, content in contents.items():
                target = staged / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            (staged / snapshot_check.COMMIT).write_bytes(record)
    if trouble := snapshot_check.damage(str(place)):
        _repair(place, contents, trouble)
    if _is_ours(place) and files.read_bytes(place / snapshot_check.COMMIT) != record:
        files.write_atomically(place / snapshot_check.COMMIT, record)
    return place


def _refuse_damage(copy: Path) -> None:
    if trouble := snapshot_check.damage(str(copy)):
        raise RecordError(f"the frozen code {copy} is damaged ({trouble}); {snapshot_check.FIX}")


def _is_ours(place: Path) -> bool:
    return not hasattr(os, "geteuid") or os.lstat(place).st_uid == os.geteuid()


def _repair(place: Path, contents: dict[str, bytes], trouble: str) -> None:
    """Repair each file separately: other processes may be importing from the copy meanwhile."""
    if not _is_ours(place):
        try:
            owner = place.owner()
        except KeyError:  # a user without a name
            owner = f"user {os.lstat(place).st_uid}"
        text = f"the frozen code {place} is damaged ({trouble}) and belongs to {owner}"
        raise RecordError(f"{text}: ask them to delete it, or choose another runs_dir")
    print(f"the frozen code {place} was damaged ({trouble}); it is repaired", file=sys.stderr, flush=True)
    try:
        for name, _ in list(snapshot_check.walk(str(place))):
            if name not in contents:
                place.joinpath(name).unlink()
        for name, content in contents.items():
            target = place / name
            if target.is_symlink() or not target.is_file() or files.read_bytes(target) != content:
                target.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomically(target, content)
    except OSError as error:
        raise files.cannot_write(place, error) from error
    if left := snapshot_check.damage(str(place)):
        raise RecordError(f"the frozen code {place} cannot be repaired: {left}; delete it")


def _commit(contents: dict[str, bytes]) -> dict[str, Any]:
    """The commit that the code is based on, and how it differs from that; all null without a commit."""
    commit = _git("rev-parse", "--verify", "HEAD^{commit}")
    if commit is None:
        return dict.fromkeys(("commit", "changed", "difference", "added"))
    tops = sorted({name.split("/")[0] for name in contents} | set(PLACES))
    where = [":(glob)*.py", *(f":(literal){top}" for top in tops)]
    difference = _git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", "--", *where)
    tracked = (_git("ls-files", "-z") or "").split("\0")
    added = sorted(contents.keys() - set(tracked))
    changed = None if difference is None else bool(difference or added)
    return {"commit": commit, "changed": changed, "difference": difference, "added": added}


def _contents() -> dict[str, bytes]:
    """The code: what each file holds."""
    found = {name: _code_in(SOURCE / name) for name in _code_files()}
    return {name: content for name, content in found.items() if content is not None}


def _code_files() -> Iterator[str]:
    """The names of the files that are code, whether git knows them or not."""
    if SOURCE.joinpath("vlae", "conf").is_dir():
        for place in INSTALLED:
            yield from (f"{place}/{name}" for name, _ in snapshot_check.walk(str(SOURCE / place)))
        return
    for top in sorted(os.listdir(SOURCE), key=os.fsencode):
        path = SOURCE / top
        if path.is_dir():
            is_package = top.isidentifier() and path.joinpath("__init__.py").is_file()
            if top in PLACES or is_package:
                yield from (f"{top}/{name}" for name, _ in snapshot_check.walk(str(path)))
        elif top in PLACES or (top.endswith(".py") and top[0] != "."):
            yield top


def _code_in(file: Path) -> bytes | None:
    """The content of a file, or of the target of a link; None: it is no code, or has vanished since it was listed."""
    with contextlib.suppress(OSError):  # which reading it will raise again
        if not file.is_file() or file.stat().st_size > LARGEST:
            return None
    return files.read_bytes(file.resolve())


def _git(*words: str) -> str | None:
    """The output of git in the checkout; None without one.

    Variables such as GIT_DIR, which hooks and ``git rebase --exec`` set, speak of another repository. Git would not
    look at another user's checkout unless it is named: but its code is being executed already.
    """
    place = SOURCE / ".git"
    if not place.exists():  # installed inside another project's checkout
        return None
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    named = [f"--git-dir={place}", f"--work-tree={SOURCE}", "-c", "core.fsmonitor=false"]
    try:
        done = subprocess.run(
            ["git", "-C", str(SOURCE), *named, *words],
            capture_output=True,
            check=True,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout).removesuffix("\n")
