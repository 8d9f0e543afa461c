"""Terminal output of a run and its progress: bars, lines, warnings."""

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.status import Status
from rich.table import Column, Table
from rich.text import Text

from vlae.system.disk import patiently, reason_of
from vlae.system.files import cannot_write
from vlae.system.streams import CONTROLS, lenient, visible

PLAIN_SECONDS = 2.0  # without a terminal, at most one line of metrics in this time
QUIET_SECONDS = 30.0  # without a terminal, one line of progress in this time even without metrics
LONG = 40  # columns of a cell that is kept on one line; a longer one is text, which may be wrapped

_listener: ContextVar[Callable[[], None] | None] = ContextVar("listener", default=None)


def note_progress() -> None:
    """Report that one long step, such as a download, has advanced. Call it as often as you like."""
    if listener := _listener.get():
        listener()


@contextlib.contextmanager
def call_on_progress(listener: Callable[[], None]) -> Iterator[None]:
    """Call ``listener`` each time that a step of this thread advances, while the ``with`` block lasts."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Console(RichConsole):
    """A console that shows control characters in what it prints and sends only its own; writing to it never fails.

    rich prints a Text unchanged, so an escape sequence in the name of a run would reach the terminal.
    """

    @property
    def file(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        stream = super().file  # while something is live, rich's own stand-in for the stream
        return lenient(getattr(stream, "rich_proxied_file", stream))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            renderable = escape_controls(renderable)
        for segment in super().render(renderable, options):
            if segment.control is None and CONTROLS.search(segment.text):
                segment = Segment(visible(segment.text), segment.style)
            yield segment

    def render_str(self, text: str, **keys: Any) -> Text:
        return super().render_str(visible(text), **keys)


def escape_controls(text: Text) -> Text:
    """The text with its styles, and escapes for control characters, so that line breaks count all of it."""
    if CONTROLS.search(text.plain) is None:
        return text
    done, at = text.blank_copy(), 0
    for found in CONTROLS.finditer(text.plain):
        done.append_text(text[at : found.start()]).append(visible(found[0]))
        at = found.end()
    return done.append_text(text[at:])


def loading() -> Status:
    """A context that shows a sign on a terminal's stderr for the seconds that importing torch takes."""
    return Console(stderr=True).status("loading libraries")


class Reporter:
    """Progress bars on a terminal, plain lines elsewhere, and the same lines in the attempt's log."""

    def __init__(self, log: Path | None = None, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._out = Console(quiet=quiet, highlight=False)
        self._log = open_log(log) if log is not None else None
        whole, cut = Column(no_wrap=True), Column(ratio=3, no_wrap=True, overflow="ellipsis")
        self._bars = Progress(
            TextColumn("{task.description}", table_column=whole),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TextColumn("{task.fields[at]}", table_column=whole),
            TimeRemainingColumn(table_column=whole),
            # last, and the only one to be cut where the terminal is narrow
            TextColumn("{task.fields[metrics]}", markup=False, table_column=cut),
            console=self.console,
            expand=True,
            disable=quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._last = time.monotonic()

    def __enter__(self) -> "Reporter":
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()
        if self._log is not None:
            self._log.close()
            self._log = None

    def line(self, text: str, style: str | None = None) -> None:
        """One line for terminal and log."""
        self.console.print(text, style=style, markup=False)
        self._write(text)

    def result(self, summary: RenderableType) -> None:
        """Print the summary of a run on standard output."""
        self._out.print(summary)

    def warn(self, text: str) -> None:
        """A warning for terminal and log."""
        self.line(f"warning: {text}", style="yellow")

    def advance(self, what: str, done: float, total: float, metrics: str = "", *, last: bool = False) -> None:
        """Show ``done`` of ``total`` epochs or images, with the latest metrics."""
        now = time.monotonic()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, metrics="", at=""), now, done
        task, began, first = self._tasks[what]
        whole = share(done, total)
        latest: dict[str, Any] = {"metrics": metrics} if metrics else {}
        self._bars.update(task, completed=done, total=total, at=whole, **latest)
        if last or now - self._last >= (PLAIN_SECONDS if metrics else QUIET_SECONDS):
            self._last = now
            # an epoch may take hours; a fraction of images that are computed together means nothing
            part = "epoch" in what and not float(done).is_integer()
            at = f"{done:.1f}/{total:.0f}" if part else whole
            left = time_left(began, first, done, total)
            text = f"{what} {at}  {metrics}" + (f"  {left}" if left else "")
            self._write(text)
            if not self.console.is_terminal:
                self.console.print(text, markup=False)

    def _write(self, text: str) -> None:
        if self._log is not None:
            try:
                self._log.write(f"{text}\n".encode("utf-8", "backslashreplace"))
            except OSError as error:
                # a full disk costs a line of the log, not the run: results wait for space
                if not reason_of(error, self._log.name):
                    raise cannot_write(Path(self._log.name), error) from error


@patiently
def open_log(log: Path) -> io.FileIO:
    """The file, open for appending. Errors: RecordError."""
    try:
        return log.open("ab", buffering=0)
    except OSError as error:
        raise cannot_write(log, error) from error


class Listing:
    """Rows of cells under headings, none of which is ever cut off.

    A table if the terminal is wide enough; otherwise the cells of a row stand below its first one. Without a terminal:
    one line per row, of any length, which can be searched; an empty cell is -.
    """

    def __init__(self, headings: Sequence[str], rows: Sequence[Sequence[Text]]) -> None:
        """The first cell of a row names it, and is never wrapped."""
        self.headings, self.rows = headings, rows
        columns = zip(headings, *rows, strict=True) if rows else ()
        self._widths = [max(len(heading), *(cell.cell_len for cell in cells)) for heading, *cells in columns]

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> Iterator[RenderableType]:
        shortest = [*self._widths[:1], *(min(width, LONG) for width in self._widths[1:])]
        if not console.is_terminal:
            for row in self.rows:
                cells = [" ".join(cell.plain.split()) or "-" for cell in row]
                line = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, shortest, strict=True))
                yield Text(line.rstrip(), no_wrap=True, overflow="ignore")
        elif sum(shortest) + 3 * len(shortest) + 1 <= options.max_width:
            table = Table()
            for heading, width in zip(self.headings, shortest, strict=True):
                table.add_column(heading, overflow="fold", min_width=width)
            for row in self.rows:
                table.add_row(*row)
            yield table
        else:
            for name, *others in self.rows:
                yield name
                yield from (Padding(cell, (0, 0, 0, 4)) for cell in others if cell)


def standard_error() -> Console:
    """The console of standard error, which never wraps lines."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def standard_output() -> Console:
    """The console of standard output; without a terminal, it never wraps lines."""
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def count_of(number: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """``4.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02d} min" if hours else f"{m} min {s:02d} s"


def time_left(began: float, first: float, done: float, total: float) -> str:
    """``3 min 05 s left``, at the pace since ``began``, when ``first`` were done; empty where that says nothing."""
    if not first < done < total:
        return ""
    return f"{duration((time.monotonic() - began) / (done - first) * (total - done))} left"


def minutes(seconds: float) -> str:
    """``25 min``, ``2 h 10 min``."""
    return duration(seconds) if seconds >= 3600 else f"{seconds / 60:.0f} min"


def position(progress: Mapping[str, Any]) -> tuple[str, float, float]:
    """The activity of a run, how much of it is done, and of how much: epochs of training, or images."""
    name = "epoch" if "epochs" in progress else "image"
    return progress.get("doing", name), progress.get(name, 0), progress.get(f"{name}s", 0)


def share(done: float, total: float) -> str:
    """``3/16`` for 3.7 of 16: complete ones count; empty where there is nothing to count."""
    return f"{math.floor(done)}/{total:.0f}" if total else ""


def elbo_of(progress: Mapping[str, Any]) -> str:
    """``ELBO -101.23``; empty if it is not known yet. Records hold null for NaN and infinity."""
    if "elbo" not in progress:
        return ""
    elbo = progress["elbo"]
    return "ELBO not finite" if elbo is None else f"ELBO {elbo:.2f}"
