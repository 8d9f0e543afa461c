"""Signals as a request to stop at the next step boundary."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2")
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))  # Windows lacks some


def signals_to_handle(signals: Sequence[int] = SIGNALS) -> list[int]:
    """The signals that this process does not ignore: nohup ignores SIGHUP, and a shell SIGINT of background jobs.

    Call it before a handler is installed, which would undo that.
    """
    return [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]


@contextlib.contextmanager
def end_in_one_line() -> Iterator[None]:
    """A Ctrl-C inside ends the process with one line and status 130, whatever is being imported."""
    try:
        yield
    except KeyboardInterrupt:
        print("vlae: stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


class Interrupted(BaseException):
    """The run has stopped at a step boundary, its checkpoint written, because a signal asked it to.

    Not an ``Exception``, so that handlers of errors do not catch it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class Interruption:
    """Signals that set a flag instead of stopping the process, in a ``with`` block; a second Ctrl-C stops at once.

    The step that is being computed or written is finished first. An ignored signal stays ignored.
    """

    def __init__(self, signals: Sequence[int] | None = None) -> None:
        """signals: the signals to handle, even if they are ignored; None: those of SIGNALS that are not ignored."""
        self.signals, self.number = signals_to_handle() if signals is None else signals, 0
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """True if a signal has arrived."""
        return self.number != 0

    def check(self) -> None:
        """Raise ``Interrupted`` if a signal has arrived."""
        if self.requested:
            raise Interrupted(self.number)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
            self._previous = {number: signal.signal(number, self._on_signal) for number in self.signals}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
