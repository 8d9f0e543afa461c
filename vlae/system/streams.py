"""Standard output and standard error of a process, to which writing never fails.

A closed terminal, a full disk under ``2> log``, a closed pipe or descriptor must not end a run: only the output is
lost. And text from a file must not control a terminal: control characters are shown, not sent.

Decision record: docs/decisions/0017-output-never-fails-a-run.md.
"""

import contextlib
import errno
import io
import os
import re
import select
import sys
import time
from typing import Any, TextIO

WAITS_FOR_READER = 10.0
"""Seconds in total that a run waits for a reader that takes nothing: a paused pager, a terminal after Ctrl-S."""
BLOCK = 512  # bytes that a ready pipe takes at once on every system
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1
    "\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"
    "\ud800-\udfff]"  # what is invisible or reorders text; bytes of a file name that are no UTF-8
)


def visible(text: str) -> str:
    r"""``text`` with escapes for characters that control a terminal, reorder text, or are invisible.

    They are JSON's escapes wherever JSON would leave the character as it is, so that printed JSON keeps its meaning.

    >>> visible("\x1b[2Jdone \u202e")
    '\\x1b[2Jdone \\u202e'
    """
    return CONTROLS.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 32 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Descriptor(io.RawIOBase):
    """A file descriptor to which writing always succeeds; ``error`` is the first error that was suppressed."""

    def __init__(self, number: int, closed: bool = False) -> None:
        """closed: the descriptor was closed when the process began; /dev/null stands in for it."""
        self.number, self.name = number, f"<standard {'output' if number == 1 else 'error'}>"
        self.error: OSError | None = None
        self._never = OSError(errno.EBADF, os.strerror(errno.EBADF)) if closed else None
        self.patience: float | None = None
        """Seconds left to wait for a reader; None: without limit."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)

    def write(self, data: Any, /) -> int:
        rest = size = len(view := memoryview(data).cast("B"))
        try:
            if self._never and size:
                raise self._never
            while rest and self._ready():
                end = len(view) if self.patience is None else size - rest + BLOCK
                with contextlib.suppress(BlockingIOError):  # a descriptor that does not block
                    rest -= os.write(self.number, view[size - rest : end])
        except OSError as error:
            self.error = self.error or error
        return size

    def _ready(self) -> bool:
        """True if the reader takes more within our patience."""
        began = time.monotonic()
        _, ready, _ = select.select([], [self.number], [], self.patience)
        if self.patience is not None:
            self.patience = max(0.0, self.patience - (time.monotonic() - began))
        return bool(ready)


class Output(io.TextIOWrapper):
    """A standard stream that shows control characters, and to which writing never fails."""

    def __init__(self, descriptor: Descriptor, like: TextIO | None) -> None:
        """like: the stream that this one replaces."""
        self.descriptor = descriptor
        super().__init__(
            descriptor,
            encoding=getattr(like, "encoding", None) or "utf-8",
            errors="replace",  # an encoding without ± shows ?
            line_buffering=descriptor.number == 2 or bool(getattr(like, "line_buffering", False)),
            write_through=bool(getattr(like, "write_through", False)),
        )
        self.rich_proxied_file = Lenient(self)

    def write(self, text: str, /) -> int:
        super().write(visible(text))
        return len(text)


class Lenient:
    """A stream for rich, whose consoles send control codes of their own: text passes unchanged, and no write fails."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            if isinstance(self._stream, Output):
                io.TextIOWrapper.write(self._stream, text)
            else:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def lenient(stream: Any) -> Any:
    """A stream to which writing never fails, also if it is another program's, such as a notebook's."""
    if isinstance(stream, Output | Lenient):
        return stream
    return Lenient(io.StringIO() if stream is None else stream)


def guard() -> None:
    """Replace the standard streams by ones that cannot fail. Call it at the start of each process."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # in this order each gets its own number, which no other file may get
            closed.append(number)
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if isinstance(stream, Output):
            continue
        own = stream is None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            own = own or stream.fileno() == number
        if own:
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
            setattr(sys, name, Output(Descriptor(number, number in closed), stream))
        elif isinstance(stream, io.TextIOWrapper):  # another program's
            stream.reconfigure(errors="replace")


def do_not_wait() -> None:
    """Limit the time that this process waits for readers of its output; then output is dropped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output):
            stream.descriptor.patience = WAITS_FOR_READER


def cannot_print() -> OSError | None:
    """The reason why some standard output was lost: its reader is gone, or it cannot be written."""
    return sys.stdout.descriptor.error if isinstance(sys.stdout, Output) else None


def finish_printing(status: int) -> int:
    """The exit status of a command whose result is its output: 2, and one line, if some of that was lost."""
    if sys.stdout is not None:
        sys.stdout.flush()
    if (error := cannot_print()) is None:
        return status
    if not isinstance(error, BrokenPipeError):  # its reader has seen enough
        print(f"vlae: cannot write to standard output: {error.strerror or error}", file=sys.stderr)
    return 2
