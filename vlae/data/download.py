"""A dataset's files: complete, verified and in their place, or not there at all."""

import hashlib
import http.client
import os
import shutil
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from vlae.data.known_files import name_of, what_is
from vlae.errors import UserError
from vlae.system.console import Console, note_progress

TIMEOUT_SECONDS = 30.0
BLOCK = 2**16
NAMED_UP_TO = 2**30
"""Bytes of a wrong file up to which its checksum is looked up among those of known files."""


class DataError(UserError, ValueError):
    """A dataset that cannot be downloaded or read, or does not fit its settings; says why, and what to do."""


@dataclass(frozen=True)
class Checksum:
    """The required content of a file; ``git`` is the SHA-1 under which a git repository stores it."""

    algorithm: Literal["md5", "git", "sha256"]
    digest: str
    size: int | None = None
    """Bytes, if known: a file of another size need not be read."""
    what: str = ""
    """Description of the right file, in the words of `vlae.data.known_files.what_is`."""

    def of(self, path: Path) -> str:
        """The file's own digest."""
        if self.algorithm == "git":
            state = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        else:
            state = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                state.update(block)
        return state.hexdigest()

    def mismatch(self, path: Path) -> str | None:
        """A description of how the file differs; None if it does not."""
        size, found = path.stat().st_size, None
        if self.size in (None, size) and (found := self.of(path)) == self.digest:
            return None
        known = name_of(Checksum("md5", "").of(path)) if size <= NAMED_UP_TO else None
        text = f"it is {f'{known} ({what_is(path)})' if known else what_is(path)}"
        text += f", expected {self.what}" if self.what else ""
        if found is None:
            return f"{text}; {size:,} bytes, expected {self.size:,}"
        return f"{text}; checksum ({self.algorithm}) {found}, expected {self.digest}"


@dataclass(frozen=True)
class Remote:
    """One file on the internet, and its place in the root directory."""

    path: str
    urls: tuple[str, ...]
    checksum: Checksum


@dataclass(frozen=True)
class Source:
    """URLs of a dataset, and the files that must lie in ``root`` before it can be read."""

    name: str
    root: Path
    remotes: tuple[Remote, ...]
    files: Mapping[str, Checksum]
    """The files that are read, with published checksums; equal to the remotes, or unpacked from them."""
    unpack: Callable[[Path], Any] | None = None
    """Makes ``files`` of the remotes within a directory that has the layout of ``root``."""

    def provide(self) -> None:
        """Download what is missing. Touches nothing, not even a lock, when all files are there.

        One process downloads while others wait. Files arrive in a temporary sibling directory and are moved into
        place when all are complete and verified. DataError: what went wrong, and how to do it by hand.
        """
        try:
            if self._complete():
                return
            self.root.mkdir(parents=True, exist_ok=True)
            with self._lock():
                if not self._complete():
                    self._download()
        except OSError as error:
            raise self._error(f"cannot write to {self.root.absolute()}: {error.strerror or error}") from error

    @contextmanager
    def reading(self, *files: str) -> Iterator[None]:
        """A context for reading some of the files: a failure in it becomes a DataError that names the bad one."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            files = files or tuple(self.files)
            for file in files:
                self.check(file)
            paths = ", ".join(str((self.root / file).absolute()) for file in files)
            problem = f"cannot read {paths}: {error or type(error).__name__}"
            raise self._error(problem, delete=True) from error

    def check(self, file: str) -> None:
        """DataError if the file is not what its checksum promises, or cannot be read."""
        path = (self.root / file).absolute()
        try:
            mismatch = self.files[file].mismatch(path)
        except OSError as error:
            raise self._error(f"cannot read {path}: {error.strerror or error}") from error
        if mismatch:
            raise self._error(
                f"{path} is damaged or another file: {mismatch}{self._swap_note(file)}", delete=True
            )

    def _swap_note(self, file: str) -> str:
        """A note if the file holds the content of another one of these."""
        what = what_is(self.root / file)
        for other, checksum in self.files.items():
            if other != file and checksum.what and what.startswith(checksum.what):
                return f". {Path(other).name} should be so: are the two swapped?"
        return ""

    def _complete(self) -> bool:
        return False not in {self._is_there(self.root / file) for file in self.files}  # looks at all of them

    def _is_there(self, path: Path) -> bool:
        """DataError if there is something other than a file, or a link that leads nowhere (a disk not mounted)."""
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                text = f"{path.absolute()} is a link to {os.path.realpath(path)}, which is not there"
                raise self._error(text, delete=True) from None
            return False
        except OSError as error:
            raise self._error(f"cannot read {path.absolute()}: {error.strerror or error}") from error
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no plain file"
            raise self._error(f"{path.absolute()} is {what}, expected a file", delete=True)
        return True

    def _lock(self) -> AbstractContextManager[Any]:
        """A context in which no other process downloads this dataset."""
        from filelock import FileLock, Timeout  # most runs find their files and never lock

        lock, place = FileLock(self.root / f".{self.name}.lock"), self.root.absolute()
        try:
            return lock.acquire(timeout=0)
        except Timeout:
            print(
                f"{self.name}: another process is downloading it to {place}; waiting",
                file=sys.stderr,
                flush=True,
            )
            return lock.acquire()

    def _download(self) -> None:
        staging = self.root / f".{self.name}.partial"
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed; the lock is ours
        try:
            for remote in self.remotes:
                self._fetch(remote, staging)
            try:
                if self.unpack is not None:
                    self.unpack(staging)
            except Exception as error:
                raise self._error(f"could not be unpacked in {self.root.absolute()}: {error}") from error
            self._place(staging)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _fetch(self, remote: Remote, staging: Path) -> None:
        target, by_hand = staging / remote.path, self.root / remote.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if by_hand.is_file():
            if mismatch := remote.checksum.mismatch(by_hand):
                raise self._error(
                    f"{by_hand.absolute()} is damaged or another file: {mismatch}", (remote,), delete=True
                )
            shutil.copyfile(by_hand, target)
            return
        reasons = []
        for url in remote.urls:
            print(f"{self.name}: downloading {url}", file=sys.stderr, flush=True)
            reason = transfer(url, target) or remote.checksum.mismatch(target)
            if reason is None:
                return
            reasons.append(f"\n  {url}: {reason}")
        missing = tuple(other for other in self.remotes if not (self.root / other.path).is_file())
        raise self._error(f"could not download {Path(remote.path).name}:{''.join(reasons)}", missing)

    def _place(self, staging: Path) -> None:
        """Move new files into place; a file that is there already is never replaced."""
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            target = self.root / file.relative_to(staging)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)

    def _error(
        self, problem: str, remotes: tuple[Remote, ...] | None = None, *, delete: bool = False
    ) -> DataError:
        first = "Delete it, and it will be downloaded again. " if delete else ""
        lines = [
            f"dataset {self.name}: {problem}",
            f"{first}By hand: put what is missing here, and run again:",
        ]
        for remote in remotes or self.remotes:
            lines.append(f"  {' or '.join(remote.urls)}\n    -> {(self.root / remote.path).absolute()}")
        return DataError("\n".join(lines))


def transfer(url: str, target: Path) -> str | None:
    """Copy the content of ``url`` to ``target``. Returns the reason if it did not arrive whole, else None.

    OSError: ``target`` cannot be written.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vlae"})
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"no connection ({error.reason})"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"no answer ({error or type(error).__name__})"
    announced = response.headers.get("Content-Length")
    with response, target.open("wb") as file:
        return _copy(response, file, int(announced) if announced and announced.isdigit() else None)


def _copy(response: Any, file: BinaryIO, total: int | None) -> str | None:
    """Copy a response of ``total`` bytes, with a bar on a terminal. Returns as `transfer` does."""
    columns = BarColumn(), DownloadColumn(), TimeRemainingColumn()
    console, disable = Console(stderr=True), not sys.stderr.isatty()
    received = 0
    with Progress(*columns, console=console, transient=True, disable=disable) as bar:
        task = bar.add_task("", total=total)
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                return f"the connection broke off ({error})"
            if not block:
                break
            file.write(block)
            received += len(block)
            note_progress()
            bar.update(task, completed=received)
    if total is not None and received != total:
        return f"the connection broke off after {received} of {total} bytes"
    return None
