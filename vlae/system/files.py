"""Files and directories that are whole or not there: atomic writes, atomic renames, JSON."""

import contextlib
import errno
import fnmatch
import io
import json
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vlae.system.disk import DiskError, RecordError, patiently, reason_of
from vlae.system.processes import is_owned_by, owned_name, owner_lives

StrPath = str | os.PathLike[str]
T = TypeVar("T")

STAGING = ".new"  # beside what appears: directories that are being filled
LARGEST = 2**30  # bytes of a file of a run; only checkpoints may be larger
LARGEST_JSON = 2**28  # bytes of a JSON file: that of a sweep of 100,000 runs has a tenth of them
LARGEST_CONFIG = 2**20  # bytes of a config.yaml, which has a few thousand
MOST_VALUES = 100_000
"""Values of a config.yaml: a few lines of references can stand for more than any memory holds."""
BLOCK = 4096  # bytes that are read at once where a file is read from its end
ABANDONED_AFTER = 7 * 24 * 3600.0
"""Seconds after which a temporary file is deleted if it is unknown whether its process lives."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\}?)", re.ASCII)


def expand_path(path: StrPath) -> str:
    """The path with ~, ~user, $NAME and ${NAME} replaced.

    ValueError: there is no such user or variable, or no file system can have the path.
    """
    text = os.path.expanduser(os.fspath(path))
    if text.startswith("~"):
        user = text.partition("/")[0]
        raise ValueError(f"there is no home directory {user} (a directory of that name here is ./{user})")
    for match in _VARIABLE.finditer(text):
        if not os.environ.get(name := match[1] or match[2] or ""):
            raise ValueError(f"the environment variable {name} is not set, or empty; got {text!r}")
    text = os.path.expandvars(text)
    try:
        os.lstat(text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"no file can have a name as long as {text[:40]!r} ...") from error
    return text


@patiently
def write_atomically(path: StrPath, content: bytes) -> None:
    """Replace the content of ``path``, on disk; whatever goes wrong, it holds the old content or the new one.

    A link is replaced by the file, and its target stays as it is.
    Errors: RecordError with path and reason (no space left, no permission, no such directory).
    """
    path = Path(path)
    temporary = path.with_name(f".{owned_name(path.name)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # gone already, unless something went wrong
            temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_output(path: StrPath, content: bytes) -> None:
    """`write_atomically` for a file that the user names: a link stays a link, and its target is written."""
    write_atomically(os.path.realpath(path) if os.path.islink(path) else path, content)


def cannot_write(path: Path, error: OSError) -> RecordError:
    """The error to raise: a `DiskError` where the disk may take the write later."""
    if isinstance(error.errno, int) and (reason := reason_of(error, path.parent)):
        text = f"cannot write {path}: {error.strerror or error}; what was there before is unchanged"
        return DiskError(text, reason)
    if error.errno == errno.ENOENT and not os.path.isdir(path.parent):
        return RecordError(f"cannot write {path}: the directory {path.parent} does not exist")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        for place in (path, *path.parents):
            if os.path.lexists(place) and not os.path.isdir(place):
                return RecordError(f"cannot write {path}: {place} is not a directory")
    return RecordError(f"cannot write {path}: {error.strerror or error}; what was there before is unchanged")


@patiently
def make_directory(path: Path, final: Path | None = None) -> Path:
    """Make the directory unless it exists, and return it.

    final: the path that errors name instead. Errors: as for `write_atomically`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(final or path, error) from error
    return path


def check_writable(folder: Path) -> None:
    """RecordError if the directory could not be made, or written in. Writes nothing itself."""
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not os.path.isdir(there):
        raise RecordError(f"runs_dir: cannot write {folder}: {there} is not a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RecordError(f"runs_dir: cannot write {folder}: no permission to write in {there}")


def sync_directory(path: Path) -> None:
    """Make renames inside ``path`` survive a power cut, where the file system supports that for directories."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@patiently
def rename_if_free(staged: Path, final: Path) -> None:
    """Rename a filled directory unless ``final`` exists: the file system decides which process is first."""
    try:
        os.rename(staged, final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT):
            raise cannot_write(final, error) from error
    sync_directory(final.parent)


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A directory to be filled, which becomes ``path`` when the ``with`` block ends: whole or not there.

    If ``path`` exists by then, it stays as it is: the first process wins, without an error for the others. A process
    that fails or is killed leaves nothing visible. Errors: as for `write_atomically`.
    """
    staged = staging_place(path)
    try:
        yield make_directory(staged, path)
        rename_if_free(staged, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    remove_abandoned(staged.parent)


def staging_place(path: Path) -> Path:
    """A hidden place on the same file system for a directory that is not yet, or no longer, ``path``."""
    return path.parent / STAGING / owned_name(path.name)


def remove_abandoned(folder: Path, dead: Collection[tuple[str, int, float]] = ()) -> None:
    """Delete what dead processes left in ``folder``, at any depth: temporary files and staged directories.

    dead: place, id and start of processes, on other hosts perhaps, that are known to be dead.
    """
    for root, directories, files in os.walk(folder):
        staging = os.path.basename(root) == STAGING
        for name in [*(directories if staging else ()), *files]:
            path = os.path.join(root, name)
            if (staging or (name[0] == "." and name.endswith(".tmp"))) and _is_abandoned(path, dead):
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if name in directories else os.unlink(path)
        if staging:
            directories.clear()


def _is_abandoned(path: str, dead: Collection[tuple[str, int, float]]) -> bool:
    name = os.path.basename(path)
    lives = owner_lives(name)
    if lives is not None or any(is_owned_by(name, *process) for process in dead):
        return not lives
    try:
        return time.time() - os.lstat(path).st_mtime > ABANDONED_AFTER
    except OSError:
        return False


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it: scalars of numpy and torch become Python's, NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):
        return plain(value.item())
    kind = type(value).__name__
    raise TypeError(f"a record holds numbers, text, lists and mappings, not {kind}: {value!r}")


def json_bytes(value: Any, indent: int | None = 2) -> bytes:
    """``value`` as UTF-8 JSON, in the order given, readable by every JSON parser."""
    text = json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "backslashreplace")  # a lone surrogate becomes a valid JSON escape


def write_json(path: StrPath, value: Any) -> None:
    """`write_atomically` for a record."""
    write_atomically(path, json_bytes(value))


def read_bytes(path: StrPath, largest: int = LARGEST) -> bytes | None:
    """The content of ``path``, or None if there is no such file. Errors: as for `read_by`."""
    return read_by(io.FileIO.readall, path, largest)


def read_by(read: Callable[[io.FileIO], T], path: StrPath, largest: int = LARGEST) -> T | None:
    """The result of ``read(file)`` for the open file ``path``, or None if there is no such file.

    A link is followed only within its own directory: a foreign run must not lead to other files.
    Errors: RecordError if the file cannot be read, is no plain file, or has more than ``largest`` bytes.
    """
    try:
        # a buffer, or a Path for each file, would take as long as reading it
        with open(path, "rb", buffering=0, opener=opener) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise RecordError(f"cannot read {path}: it is no plain file")
            if (size := found.st_size) > largest:
                raise RecordError(f"cannot read {path}: it has {size:,} bytes, expected {largest:,} at most")
            return read(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP and os.path.islink(path):
            return read_by(read, target_beside(path), largest)
        text = f"cannot read {path}: {error.strerror or error}"
        if reason := reason_of(error, path):
            raise DiskError(text, reason) from error
        raise RecordError(text) from error


def opener(path: str, flags: int) -> int:
    """The ``opener`` of `open` that neither waits at a pipe nor follows a link."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0), 0o666)


def target_beside(link: StrPath) -> str:
    """The file that a link leads to. RecordError if it lies in another directory than the link."""
    target = os.path.realpath(link)
    if os.path.dirname(target) != os.path.realpath(os.path.dirname(link) or "."):
        text = f"{link} is a link to {target}, which is elsewhere: it is not followed"
        raise RecordError(f"{text}. Put the file itself there")
    if os.path.islink(target):
        raise RecordError(f"cannot read {link}: it is a link to itself")
    return target


def check_inside(root: StrPath, *names: str) -> Path:
    """The path of ``names`` below ``root``. RecordError if a link on the way leads out of ``root``.

    ``root`` itself may be a link, or lie behind one.
    """
    path = os.fspath(root)
    for name in names:
        path = f"{path}/{name}"
        if os.path.islink(path):
            _refuse_to_leave(os.path.realpath(root), path)
    return Path(path)


def check_links(root: StrPath, *, but: str = "") -> None:
    """RecordError if any link below ``root`` leads out of it: nothing must be written or sent through it.

    but: a pattern of the paths in ``root`` of folders to skip.
    """
    base = os.path.realpath(root)
    for folder, folders, names in os.walk(base):
        if fnmatch.fnmatch(os.path.relpath(folder, base), but):
            folders.clear()
            continue
        for name in (*folders, *names):
            if os.path.islink(path := f"{folder}/{name}"):
                _refuse_to_leave(base, path)


def _refuse_to_leave(root: str, link: str) -> None:
    target = os.path.realpath(link)
    if os.path.commonpath([root, target]) != root:
        text = f"{link} is a link to {target}, outside the directory of the run: it is not followed"
        raise RecordError(f"{text}. Put what it leads to in its place, or delete it")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has the key {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def check_bounded(value: Any) -> None:
    """ValueError if lists and mappings hold more than MOST_VALUES, counted each time that one refers to another."""
    waiting, count = [value], 0
    while waiting:
        if (count := count + 1) > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values")
        found = waiting.pop()
        if isinstance(found, dict | list):
            waiting += found.values() if isinstance(found, dict) else found


def whole_lines_end(file: io.FileIO) -> int:
    """The offset where the last whole line of an open file ends, read from its end: only the last line can be torn."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = file.seek(max(0, end - BLOCK))
        if (at := file.read(end - start).rfind(b"\n")) >= 0:
            return start + at + 1
        end = start
    return 0


class NewLines:
    """The whole lines that were appended to a file since the last call; nothing else of it is read.

    If the file was replaced or cut, all of its lines are new.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = path
        self._at, self._last = 0, b""
        self._seen: tuple[int, int, int] | None = None

    def more(self) -> tuple[bool, list[bytes]]:
        """True if the file was replaced or cut, and the new lines. Errors: as for `read_by`."""
        if (found := read_by(self._read, self.path)) is not None:
            return found
        replaced = self._at > 0
        self._at, self._last, self._seen = 0, b"", None
        return replaced, []

    def _read(self, file: io.FileIO) -> tuple[bool, list[bytes]]:
        status = os.fstat(file.fileno())
        if (seen := (status.st_ino, status.st_size, status.st_mtime_ns)) == self._seen:
            return False, []
        replaced = not self._continues(file)
        if replaced:
            self._at, self._last = 0, b""
        file.seek(self._at)
        lines = file.readall().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):  # it is being written
            del lines[-1]
        self._seen = seen
        self._at += sum(map(len, lines))
        self._last = lines[-1] if lines else self._last
        return replaced, lines

    def _continues(self, file: io.FileIO) -> bool:
        """True if the line that was read last is still where it was."""
        file.seek(self._at - len(self._last))
        return file.read(len(self._last)) == self._last


def read_json(path: StrPath) -> dict[str, Any] | None:
    """The object in ``path``, or None if there is no such file. RecordError: the file holds no object."""
    if (content := read_bytes(path, LARGEST_JSON)) is None:
        return None
    try:
        if isinstance(found := json.loads(content.decode(), object_pairs_hook=_object), dict):
            return found
        raise TypeError(f"but a {type(found).__name__}")
    except (ValueError, TypeError, RecursionError) as error:
        reason = "changed by hand, or a defective disk"
        raise RecordError(f"{path} holds no JSON object ({error}): {reason}") from error
