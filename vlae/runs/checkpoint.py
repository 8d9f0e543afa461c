"""Checkpoints: written atomically, verified when read, never able to execute code.

A file is what `torch.save` writes, a zip archive, whose comment is the SHA-256 of all that goes before: content and
digest are one file and cannot disagree, and ``torch.load(path, weights_only=True)`` reads it as ever. The digest is
needed because `torch.load` ignores the checksums of the archive: of the single flipped bits in a small checkpoint
it lets four fifths pass, as other weights.
"""

import hashlib
import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from vlae.errors import out_of_memory
from vlae.system.disk import RecordError, patiently
from vlae.system.files import StrPath, cannot_write, read_bytes, sync_directory, write_atomically
from vlae.system.machine import total_memory

PLAIN_TYPES = (bool, int, float, str, type(None), torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype)
_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError)
NOT_OURS = (pickle.UnpicklingError, *_ERRORS)
"""Errors of `torch.load` for a file that only looks like a checkpoint."""
MARK = b"sha256:"
SEAL_LENGTH = len(MARK) + 64


class _Damaged(Exception):
    """The reason why a file is not used; the next older one may be."""


@patiently
def save(directory: StrPath, state: dict[str, Any], name: str = "last") -> Path:
    """Write ``state`` to <name>.pt; the one before it stays as previous.pt (previous_<name>.pt for other names).

    state: tensors, numbers, text, None in dicts, lists and tuples. At every instant one good file is there.
    Errors: TypeError naming an entry that could not be read back; RecordError where the disk is full or unwritable.
    """
    path, staged = Path(directory) / f"{name}.pt", Path(directory) / f".{name}.next"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(staged, state)
        # a damaged file must not push out the good one
        if _is_sealed(read_bytes(path, total_memory()) or b""):
            _keep(path, _previous(path))
        os.replace(staged, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    sync_directory(path.parent)
    return path


def write(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to one file, atomically. Errors: as for `save`."""
    _refuse_foreign_types(state, "state")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, _seal(buffer))


def load(directory: StrPath, name: str = "last") -> tuple[dict[str, Any] | None, list[str]]:
    """The newest good checkpoint, on the CPU, with warnings where it is not <name>.pt; None where there is none.

    Errors: RecordError where there are only damaged ones, and at once where a file with a good digest holds more than
    tensors and plain values: it may be made to execute code.
    """
    newest = Path(directory) / f"{name}.pt"
    problems: list[str] = []
    for path in (newest, _previous(newest)):
        content = read_bytes(path, total_memory())
        if content is None:
            problems.append(f"{path} is missing")
            continue
        try:
            state = _unpack(path, content)
        except _Damaged as damage:
            problems.append(f"{path} is damaged: {damage}")
            continue
        return state, [f"{problems[0]}. Resuming from the checkpoint before it, {path}"] if problems else []
    if all(problem.endswith("is missing") for problem in problems):
        return None, []
    todo = "train" if name == "last" else "score"
    raise RecordError(f"no good checkpoint: {'; '.join(problems)}. Delete them to {todo} from the start")


@patiently
def stage(path: Path, directory: StrPath) -> Path:
    """A hidden name in ``directory`` for a checkpoint: a hard link, else a copy.

    Nobody ever writes into the file, which both keep: `save` makes a new one.
    Errors: RecordError where the disk is full or unwritable.
    """
    staged = Path(directory) / ".last.next"
    try:
        staged.parent.mkdir(parents=True, exist_ok=True)
        _link(path, staged)
    except OSError as error:
        raise cannot_write(staged, error) from error
    return staged


@patiently
def keep(directory: StrPath, epoch: int) -> None:
    """Keep the newest checkpoint under a name of its own, `kept`. RecordError: the disk is full or unwritable."""
    try:
        _link(Path(directory) / "last.pt", kept(directory, epoch))
    except OSError as error:
        raise cannot_write(kept(directory, epoch), error) from error


def kept(directory: StrPath, epoch: int) -> Path:
    """The checkpoint at the end of an epoch that another run has asked for."""
    return Path(directory) / f"epoch-{epoch}.pt"


def _link(path: Path, second: Path) -> None:
    second.unlink(missing_ok=True)
    try:
        os.link(path, second)
    except OSError:  # another file system, one without hard links, or another user's file
        write_atomically(second, read_bytes(path, total_memory()) or b"")


def read(path: Path) -> dict[str, Any]:
    """The state in a file. RecordError: it is damaged, or was not written by vlae."""
    try:
        return _unpack(path, read_bytes(path, total_memory()) or b"")
    except _Damaged as damage:
        raise RecordError(f"{path} is damaged: {damage}") from damage


def remove(directory: StrPath) -> None:
    """Delete the checkpoints of a training, the older one last: until then a good one is there."""
    for name in ("last.pt", "previous.pt"):
        Path(directory, name).unlink(missing_ok=True)


def put(staged: Path) -> None:
    """Give a file of `stage` the name of the newest checkpoint."""
    os.replace(staged, staged.with_name("last.pt"))
    sync_directory(staged.parent)


def _previous(path: Path) -> Path:
    return path.with_name("previous.pt" if path.name == "last.pt" else f"previous_{path.name}")


def _refuse_foreign_types(value: Any, where: str) -> None:
    """Refuse types that `torch.load(weights_only=True)` refuses too late; a numpy.float64 looks like a float."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_foreign_types(key, f"a key of {where}")
            _refuse_foreign_types(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            _refuse_foreign_types(item, f"{where}[{index}]")
    elif type(value) not in PLAIN_TYPES:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        expected = "a checkpoint holds tensors, numbers, text and None in dicts, lists and tuples"
        raise TypeError(f"{where} is a {kind}; {expected}")


def _seal(archive: io.BytesIO) -> bytes:
    """The archive with its digest as comment: a zip file ends with the comment's length and the comment."""
    archive.seek(-2, os.SEEK_END)
    archive.write(SEAL_LENGTH.to_bytes(2, "little"))
    archive.write(_seal_of(archive.getvalue()))
    return archive.getvalue()


def _seal_of(sealed: bytes | memoryview) -> bytes:
    return MARK + hashlib.sha256(sealed).hexdigest().encode()


def _is_sealed(content: bytes) -> bool:
    """True if every byte is as `_seal` left it."""
    return content[-SEAL_LENGTH:] == _seal_of(memoryview(content)[:-SEAL_LENGTH])


def _keep(path: Path, kept: Path) -> None:
    """``kept`` becomes a second name of the file, which keeps its own."""
    second = kept.with_name(f".{kept.name}.link")
    try:
        second.unlink(missing_ok=True)
        os.link(path, second)
        os.replace(second, kept)
    except OSError:  # a file system without hard links, or a full one
        os.replace(path, kept)


def _unpack(path: Path, content: bytes) -> dict[str, Any]:
    """The state in a file; only one with a good seal is unpickled at all."""
    if not _is_sealed(content):
        raise _Damaged("it is not what was written, as its digest shows" if content else "it is empty")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except NOT_OURS as error:  # sealed, and yet not what `save` writes
        if out_of_memory(error):
            raise
        raise RecordError(
            f"refused: {path} was not written by vlae and may be made to execute code when it is read; nothing in it "
            "was executed. Find out where this file comes from before you delete it"
        ) from error
