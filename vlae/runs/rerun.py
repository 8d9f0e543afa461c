"""Reruns: executed in runs_dir/.reruns/<id> until they have results, then put in the place of the old run.

runs/<id> -> .reruns/.replaced/<id>, .reruns/<id> -> runs/<id>, then the old one is deleted. Each step starts
from what is on disk, so that after a kill anywhere the next call completes it: a whole result is there at every moment.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from vlae.runs.lease import last_claim
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, make_directory, rename_if_free

RERUNS = ".reruns"  # in runs_dir: runs that are executed again, beside their old results
REPLACED = f"{RERUNS}/.replaced"


def run_to_replace(rerun: Path) -> Path | None:
    """The directory of the old run, whose place ``rerun`` takes; None: ``rerun`` is none.

    >>> str(run_to_replace(Path("runs/.reruns/a"))), run_to_replace(Path("runs/a"))
    ('runs/a', None)
    """
    return rerun.parent.parent / rerun.name if rerun.parent.name == RERUNS else None


def recover(runs_dir: StrPath, run_id: str) -> None:
    """Complete what a killed replacement began; call it before a run is started or written to.

    If there is nothing to do, it makes two file system calls and writes nothing.
    Errors: RecordError where the directory is not writable and there is something to do.
    """
    run, rerun, replaced = (Path(runs_dir, part, run_id) for part in ("", RERUNS, REPLACED))
    done = os.path.isfile(rerun / "results.json")
    if not done and not os.path.isdir(replaced.parent):
        return
    _delete_replaced(replaced, run)
    if done and not (last_claim(rerun)[1] or last_claim(run)[1]):
        make_directory(replaced.parent)
        rename_if_free(run, replaced)
        rename_if_free(rerun, run)
    _delete_replaced(replaced, run)
    if os.path.isdir(replaced):
        rename_if_free(replaced, run)
    for rest in replaced.parent.glob(f".{run_id}.*"):
        shutil.rmtree(rest, ignore_errors=True)


def out_of_place(runs_dir: StrPath) -> dict[str, Path]:
    """Runs that a killed replacement has left without a directory of their name, and where each is whole."""
    found: dict[str, Path] = {}
    for part, file in ((REPLACED, "config.yaml"), (RERUNS, "results.json")):
        with contextlib.suppress(OSError):
            for name in os.listdir(Path(runs_dir, part)):
                path = Path(runs_dir, part, name)
                if name[0] != "." and (path / file).is_file() and not Path(runs_dir, name).exists():
                    found[name] = path
    return found


def recover_all(runs_dir: StrPath, prefix: str) -> None:
    """Recover each run with this id prefix that a killed replacement may have left, as far as it can be written."""
    names: set[str] = set()
    for part in (RERUNS, REPLACED):
        with contextlib.suppress(OSError):
            names.update(os.listdir(Path(runs_dir, part)))
    for name in sorted(names):
        if name[0] != "." and name.startswith(prefix):
            with contextlib.suppress(RecordError):
                recover(runs_dir, name)


def _delete_replaced(replaced: Path, run: Path) -> None:
    """Delete the old run if the new one has its place. It loses its name first: a directory with its name is whole."""
    if not (os.path.isdir(run) and os.path.isdir(replaced)):
        return
    hidden = replaced.with_name(f".{replaced.name}.{secrets.token_hex(4)}")
    rename_if_free(replaced, hidden)
    if os.path.isdir(run):
        shutil.rmtree(hidden, ignore_errors=True)
    else:  # another process is recovering too, and has moved it there a moment ago
        rename_if_free(hidden, run)
