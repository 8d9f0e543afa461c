"""A disk that refuses to be written: what is wrong with it, and waiting until it takes writes again.

Inside `patient`, everything that is marked `patiently` is tried again while the disk refuses it: a run then waits in
place and continues when there is space again. Elsewhere the first refusal is the error.

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

PATIENCE = 24 * 3600.0
"""Seconds that a run, or a queue of them, waits for a disk that refuses writes."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds between two tries: at first, and after many."""
SLICE = 0.2
"""Seconds after which a waiting thread looks whether it is to stop."""
PROBE = 2**16
"""Bytes that are written to see whether a disk takes any."""

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
"""Kinds of trouble that mean the disk only where the error names a file: a closed terminal gives some of them too."""


class RecordError(UserError, RuntimeError):
    """A record that cannot be read, written or found; the message says which and why."""


class DiskError(RecordError):
    """The disk refuses what it may take later; ``reason`` says why: no space left on /scratch."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def reason_of(error: OSError, path: str | os.PathLike[str] | None) -> str | None:
    """Why the disk refuses ``path``, where that may pass by itself; None for every other error.

    path: None where it is not known. Then only errors that nothing but a disk gives are taken for one of it.
    """
    kind = (ALWAYS if path is None else ALWAYS | ON_A_FILE).get(error.errno or 0)
    return f"{kind} {'device' if path is None else _mount_of(path)}" if kind else None


def refusal_in(error: BaseException | None) -> str | None:
    """The reason where ``error``, or what it was raised from, is a disk that refuses; else None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, DiskError):
            return error.reason
        if isinstance(error, OSError):
            path = error.filename if isinstance(error.filename, str | os.PathLike) else None
            if reason := reason_of(error, path):
                return reason
        seen.add(id(error))
        error = error.__cause__
    return None


def _mount_of(path: str | os.PathLike[str]) -> str:
    """The file system's own directory: the name that ``df`` shows."""
    place = Path(os.path.abspath(path))
    with contextlib.suppress(OSError):
        return str(next((each for each in (place, *place.parents) if os.path.ismount(each)), place))
    return str(place)


def refused(folder: Path) -> str | None:
    """Why ``folder`` takes no write now, seen by a real one that leaves nothing; None where it takes it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(os.urandom(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return reason_of(error, folder) or (f"{folder} is gone" if has_vanished(folder) else None)
    return None


def notice(reason: str) -> str:
    """What is said once where a run, or a queue of them, waits for the disk."""
    return f"{reason}: waiting until writes are taken again, at most {PATIENCE / 3600:g} hours"


def has_vanished(folder: Path) -> bool:
    """Whether a directory, or all that was in it, is gone: as when its file system is no longer mounted."""
    try:
        with os.scandir(folder) as found:
            return not any(found)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False


class Patience:
    """How long a thread waits for a disk, and what it says meanwhile."""

    def __init__(self, home: Path, limit: float | None = None) -> None:
        """home: the directory whose disappearance is taken for a file system that is mounted again later."""
        self.home, self.limit = home, limit
        self.check: Callable[[], None] = lambda: None
        """Called while it waits; raises where the waiting is to end."""
        self.say: Callable[[str | None], None] = lambda reason: None
        """Called once with the reason when the waiting begins, and with None when writes are taken again."""
        self.refusal: str | None = None
        """Why the disk refuses writes now."""
        self._since = self._pause = 0.0

    def wait(self, error: DiskError) -> None:
        """One pause. Errors: ``error`` where there has been enough waiting, and whatever `check` raises."""
        if self.refusal is None:
            self.refusal, self._since, self._pause = error.reason, time.monotonic(), FIRST_PAUSE
            self.say(error.reason)
        if time.monotonic() - self._since >= (PATIENCE if self.limit is None else self.limit):
            raise error
        until = time.monotonic() + self._pause
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(SLICE, left))
        self.check()
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def taken(self) -> None:
        """A write was taken."""
        if self.refusal is not None:
            self.refusal = None
            self.say(None)

    def judge(self, error: RecordError) -> DiskError:
        """Errors: ``error`` itself where waiting is of no use."""
        if isinstance(error, DiskError):
            return error
        if has_vanished(self.home):
            return DiskError(str(error), f"{self.home} is gone")
        raise error


_patience: ContextVar[Patience | None] = ContextVar("patience", default=None)


@contextlib.contextmanager
def patient(patience: Patience | None) -> Iterator[None]:
    """Inside, this thread waits for a disk that refuses writes; with None it does not."""
    token = _patience.set(patience)
    try:
        yield
    finally:
        _patience.reset(token)


def patiently(write: Callable[P, T]) -> Callable[P, T]:
    """Marks what can be done again from its beginning when the disk has refused a part of it."""

    @functools.wraps(write)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        patience = _patience.get()
        if patience is None:
            return write(*args, **kwargs)
        while True:
            try:
                with patient(None):  # the outermost is done again, not a part of it
                    done = write(*args, **kwargs)
            except RecordError as error:
                patience.wait(patience.judge(error))
            else:
                patience.taken()
                return done

    return again
