"""A dataset's files: complete, verified and in their place, or not there at all."""

import hashlib
import http.client
import math
import os
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from vlae.errors import UserError
from vlae.system.console import Console, advanced

TIMEOUT_SECONDS = 30.0
BLOCK = 2**16
IDX_MAGIC = b"\0\0\x08"
"""The first bytes of an idx file of unsigned bytes; the number of dimensions follows."""
KINDS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip archive (unpack it)"),
    (b"PK\x03\x04", "a zip archive (unpack it)"),
    (b"version https://git-lfs", "a pointer of Git LFS (run `git lfs pull` where it comes from)"),
    (b"\x93NUMPY", "an array of NumPy (.npy)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file (.mat)"),
    *((b"\x80" + bytes([protocol]), "a pickle") for protocol in (2, 3, 4, 5)),
)


class DataError(UserError, ValueError):
    """A dataset that cannot be downloaded or read, or does not fit its settings; says why, and what to do."""


@dataclass(frozen=True)
class Checksum:
    """The required content of a file; ``git`` is the SHA-1 under which a git repository stores it."""

    algorithm: Literal["md5", "git", "sha256"]
    digest: str

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
        """Description of how the file differs; None if it does not."""
        if (found := self.of(path)) == self.digest:
            return None
        return f"it is {what_is(path)}; checksum ({self.algorithm}) {found}, expected {self.digest}"


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
            with self._alone():
                if not self._complete():
                    self._download()
        except OSError as error:
            raise self._error(f"cannot write to {self.root.absolute()}: {error.strerror or error}") from error

    @contextmanager
    def reading(self, *files: str) -> Iterator[None]:
        """Around reading some of the files: any failure in it becomes a DataError that names the bad one."""
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
            raise self._error(f"{path} is damaged or another file: {mismatch}", delete=True)

    def _complete(self) -> bool:
        """DataError if a link leads nowhere: its target may be on a disk that is not mounted."""
        for path in (self.root / file for file in self.files):
            if path.is_symlink() and not path.exists():
                text = f"{path.absolute()} is a link to {os.path.realpath(path)}, which is not there"
                raise self._error(text, delete=True)
        return all((self.root / file).exists() for file in self.files)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # imported here: most runs find their files and never lock
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / f".{self.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _say(f"{self.name}: another process is downloading it to {self.root.absolute()}; waiting")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _download(self) -> None:
        staging = self.root / f".{self.name}.partial"
        shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed; the lock is ours
        try:
            for remote in self.remotes:
                self._fetch(remote, staging)
            if self.unpack is not None:
                self._unpack(staging)
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
            _say(f"{self.name}: downloading {url}")
            reason = transfer(url, target) or remote.checksum.mismatch(target)
            if reason is None:
                return
            reasons.append(f"\n  {url}: {reason}")
        missing = tuple(other for other in self.remotes if not (self.root / other.path).is_file())
        raise self._error(f"could not download {Path(remote.path).name}:{''.join(reasons)}", missing)

    def _unpack(self, staging: Path) -> None:
        assert self.unpack is not None
        try:
            self.unpack(staging)
        except Exception as error:
            raise self._error(f"could not be unpacked in {self.root.absolute()}: {error}") from error

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
    received = 0
    with _progress(total) as advance:
        while True:
            try:
                block = response.read(BLOCK)
            except (OSError, http.client.HTTPException) as error:
                return f"the connection broke off ({error})"
            if not block:
                break
            file.write(block)
            received += len(block)
            advanced()
            advance(len(block))
    if total is not None and received != total:
        return f"the connection broke off after {received} of {total} bytes"
    return None


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda step: bar.update(task, advance=step)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def what_is(path: Path) -> str:
    """Description of a file: ``a web page (HTML)``, ``60,000 images of 28x28 pixels``. OSError: it cannot be read."""
    size = path.stat().st_size
    if size == 0:
        return "an empty file"
    with path.open("rb") as file:
        start = file.read(512)
    if start[:3] == IDX_MAGIC and len(start) > 3 and 1 <= start[3] <= 4 and len(start) >= 4 + 4 * start[3]:
        return _idx(start, size)
    for magic, words in KINDS:
        if start.startswith(magic):
            return words
    return _text(start) or f"{size:,} bytes of an unknown kind"


def _text(start: bytes) -> str:
    words = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if words.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page (HTML; a login page or a server's error)"
    if words.startswith((b"<?xml", b"<error")):
        return "an XML document (a server's error)"
    try:
        text = start[:400].decode()
    except UnicodeDecodeError:
        return ""
    return f"text ({' '.join(text.split())[:40]!r})" if text.isprintable() or "\n" in text else ""


def _idx(start: bytes, size: int) -> str:
    shape = [int.from_bytes(start[4 * i : 4 * i + 4], "big") for i in range(1, start[3] + 1)]
    if len(shape) == 3:
        words = f"{shape[0]:,} images of {shape[1]}x{shape[2]} pixels"
    else:
        words = f"{shape[0]:,} labels" if len(shape) == 1 else f"an idx array {shape}"
    announced = 4 + 4 * len(shape) + math.prod(shape)
    if size == announced:
        return words
    state = "truncated" if size < announced else "too long"
    return f"a {state} file of {size:,} bytes, whose header says {words}: {announced:,} bytes"
