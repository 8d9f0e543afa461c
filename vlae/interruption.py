"""Signals as a request to stop at the next step boundary."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name)
)  # Windows has no SIGUSR2


@contextlib.contextmanager
def stopped_in_one_line() -> Iterator[None]:
    """A Ctrl-C inside ends the process with one line and status 130, whatever is being imported."""
    try:
        yield
    except KeyboardInterrupt:
        print("vlae: stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


class Interrupted(BaseException):
    """The run has stopped at a step boundary, its checkpoint written, because a signal asked it to.

    Not an ``Exception``: nothing that handles errors may take it for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


class Interruption:
    """Inside ``with``, the signals set a flag instead of stopping the process; a second Ctrl-C stops at once.

    A handler only sets the flag: whatever is being computed or written is finished first.
    """

    def __init__(self, signals: Sequence[int] = SIGNALS) -> None:
        self.signals, self.number = signals, 0
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.number != 0

    def check(self) -> None:
        """Raise ``Interrupted`` if a signal has come."""
        if self.requested:
            raise Interrupted(self.number)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses handlers
            self._previous = {number: signal.signal(number, self._on_signal) for number in self.signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
