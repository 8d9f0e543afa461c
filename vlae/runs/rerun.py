"""Forced runs: executed in runs_dir/.forced/<id> until they have results, then put in the place of the old run.

runs/<id> -> .replaced/<id>, .forced/<id> -> runs/<id>, then the old one is deleted. Each step starts from what is on
disk, so that after a kill anywhere the next call completes it: a whole result is there at every moment.
"""

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from vlae.runs.attempts import last_claim, refuse_if_held
from vlae.runs.lease import FORCED
from vlae.system.disk import RecordError
from vlae.system.files import StrPath, make_directory, rename_if_free

REPLACED = ".replaced"


def put_in_place(runs_dir: StrPath, run_id: str) -> Path:
    """Put the forced run, which is done and whose attempt has ended, in the place of the old one.

    Errors: RecordError where it has no results; RunHeld where a living process executes one of the two.
    """
    run, forced = Path(runs_dir, run_id), Path(runs_dir, FORCED, run_id)
    if not os.path.isfile(forced / "results.json"):
        raise RecordError(f"{forced} has no results.json: it does not replace {run}")
    refuse_if_held(forced)
    refuse_if_held(run)
    recover(runs_dir, run_id)
    return run


def recover(runs_dir: StrPath, run_id: str) -> None:
    """Complete what a killed `put_in_place` began; call it before a run is started or written to.

    If there is nothing to do, it makes two file system calls and writes nothing.
    Errors: RecordError where the directory is not writable and there is something to do.
    """
    run, forced, replaced = (Path(runs_dir, part, run_id) for part in ("", FORCED, REPLACED))
    done = os.path.isfile(forced / "results.json")
    if not done and not os.path.isdir(replaced.parent):
        return
    _delete_replaced(replaced, run)
    if done and not (last_claim(forced)[1] or last_claim(run)[1]):
        make_directory(replaced.parent)
        rename_if_free(run, replaced)
        rename_if_free(forced, run)
    _delete_replaced(replaced, run)
    if os.path.isdir(replaced):
        rename_if_free(replaced, run)
    for rest in replaced.parent.glob(f".{run_id}.*"):
        shutil.rmtree(rest, ignore_errors=True)


def out_of_place(runs_dir: StrPath) -> dict[str, Path]:
    """Runs that a killed `put_in_place` has left without a directory of their name, and where each is whole."""
    found: dict[str, Path] = {}
    for part, file in ((REPLACED, "config.yaml"), (FORCED, "results.json")):
        with contextlib.suppress(OSError):
            for name in os.listdir(Path(runs_dir, part)):
                path = Path(runs_dir, part, name)
                if name[0] != "." and (path / file).is_file() and not Path(runs_dir, name).exists():
                    found[name] = path
    return found


def recover_all(runs_dir: StrPath, prefix: str) -> None:
    """Recover each run with this id prefix that a killed `put_in_place` may have left, as far as it can be written."""
    names: set[str] = set()
    for part in (FORCED, REPLACED):
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
