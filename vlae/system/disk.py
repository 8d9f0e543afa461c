"""A disk that refuses writes: the reason, and waiting until it takes them again.

Inside `patient`, functions decorated by `patiently` are tried again while the disk refuses them: a run waits in place
and continues when there is space again. Elsewhere the first refusal is the error.

Decision record: docs/decisions/0014-a-run-waits-for-a-full-disk.md.
"""

import contextlib
import errno
import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar

from vlae.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 24 * 3600.0  # seconds that a run, or a queue of them, waits for a disk that refuses writes
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # seconds between two tries, at first and after many
SLICE = 0.2  # seconds after which a waiting thread checks for a request to stop
PROBE = 2**16  # bytes written to test a disk

ALWAYS = {
    errno.ENOSPC: "no space left on",
    errno.EDQUOT: "disk quota exceeded on",
    errno.EROFS: "read-only file system on",
}
ON_A_FILE = {
    errno.EIO: "input/output error on",
    errno.ESTALE: "stale file handle on",
    errno.ENOTCONN: "no connection to",
    errno.EHOSTDOWN: "no connection to",
    errno.ETIMEDOUT: "no answer from",
}
"""Errors of a disk only if they name a file: a closed terminal gives some of them, too."""


class RecordError(UserError, RuntimeError):
    """A record that cannot be read, written or found; the message names it and the reason."""


class DiskError(RecordError):
    """The disk refuses a write that it may take later; ``reason``: no space left on /scratch."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def reason_of(error: OSError, path: str | os.PathLike[str] | None) -> str | None:
    """The reason why the disk refuses ``path``, if that may pass by itself; None for every other error.

    path: None if it is unknown; then only errors that nothing but a disk gives count.
    """
    kind = (ALWAYS if path is None else ALWAYS | ON_A_FILE).get(error.errno or 0)
    return f"{kind} {'device' if path is None else _mount_of(path)}" if kind else None


def refusal_in(error: BaseException | None) -> str | None:
    """The reason if ``error``, or an error it was raised from, is a disk that refuses writes; else None."""
    while error is not None:
        if isinstance(error, DiskError):
            return error.reason
        if isinstance(error, OSError):
            path = error.filename if isinstance(error.filename, str | os.PathLike) else None
            if reason := reason_of(error, path):
                return reason
        error = error.__cause__
    return None


def _mount_of(path: str | os.PathLike[str]) -> str:
    """The mount point of a path, as ``df`` shows it."""
    place = Path(os.path.abspath(path))
    return str(next((each for each in (place, *place.parents) if os.path.ismount(each)), place))


def why_refused(folder: Path) -> str | None:
    """The reason why ``folder`` takes no writes now, or None; tested by a real write that leaves nothing."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return reason_of(error, folder) or (f"{folder} is gone" if has_vanished(folder) else None)
    return None


def notice(reason: str) -> str:
    """The message of a run, or a queue of them, that begins to wait for the disk."""
    return f"{reason}: waiting until writes are taken again, at most {PATIENCE / 3600:g} hours"


def has_vanished(folder: Path) -> bool:
    """True if a directory, or all that was in it, is gone, as when its file system is no longer mounted."""
    try:
        with os.scandir(folder) as found:
            return not any(found)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


class Patience:
    """The waiting of a thread for a disk, and its messages."""

    def __init__(self, home: Path) -> None:
        """home: the directory whose disappearance means a file system that will be mounted again."""
        self.home = home
        self.check: Callable[[], None] = lambda: None
        """Called while it waits; what it raises ends the waiting."""
        self.say: Callable[[str | None], None] = lambda reason: None
        """Called once with the reason when the waiting begins, and with None when writes are taken again."""
        self.refusal: str | None = None
        """The reason why the disk refuses writes now."""
        self._since = self._pause = 0.0

    def wait(self, error: DiskError) -> None:
        """Wait once. Errors: ``error`` after the limit, and whatever `check` raises."""
        if self.refusal is None:
            self.refusal, self._since, self._pause = error.reason, time.monotonic(), FIRST_PAUSE
            self.say(error.reason)
        if time.monotonic() - self._since >= PATIENCE:
            raise error
        until = time.monotonic() + self._pause
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(SLICE, left))
        self.check()
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def note_write(self) -> None:
        """Note that a write was taken."""
        if self.refusal is not None:
            self.refusal = None
            self.say(None)

    def judge(self, error: RecordError) -> DiskError:
        """The error to wait for. Errors: ``error`` itself if waiting is useless."""
        if isinstance(error, DiskError):
            return error
        if has_vanished(self.home):
            return DiskError(str(error), f"{self.home} is gone")
        raise error


_patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


@contextlib.contextmanager
def patient(patience: Patience | None) -> Iterator[None]:
    """Let this thread wait in a ``with`` block for a disk that refuses writes; with None it does not wait."""
    token = _patience.set(patience)
    try:
        yield
    finally:
        _patience.reset(token)


def patiently(write: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that can be run again from its beginning after the disk has refused a part of it."""

    @functools.wraps(write)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        patience = _patience.get()
        if patience is None:
            return write(*args, **kwargs)
        while True:
            try:
                with patient(None):  # the outermost call is repeated, not a part of it
                    done = write(*args, **kwargs)
            except RecordError as error:
                patience.wait(patience.judge(error))
            else:
                patience.note_write()
                return done

    return again
