"""Progress inside one long step, such as a download: it shows that a run does not hang."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_listener: ContextVar[Callable[[], None] | None] = ContextVar("listener", default=None)


def advanced() -> None:
    """Report that the step has advanced. Call it as often as you like."""
    if listener := _listener.get():
        listener()


@contextlib.contextmanager
def reported_to(listener: Callable[[], None]) -> Iterator[None]:
    """Inside, ``listener`` is called each time that a step of this thread advances."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
