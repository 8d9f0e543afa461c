"""Processes across hosts and containers: the place where an id is valid, and the owner of a temporary file."""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

import psutil

OWNER = re.compile(r"\.([0-9a-f]{6})-(\d+)-(\d+)\.[0-9a-f]{8}(?:\.tmp)?$")


def place() -> str:
    """The place where a process id is valid: this host, since this boot, in this container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # Linux only
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def process_start(pid: int) -> float | None:
    """The start of the living process ``pid``, in seconds; None if there is none (a zombie does not live).

    On Linux since boot, because psutil adds the time of the boot, which changes when the clock is set.
    """
    try:
        boot = psutil.boot_time() if psutil.LINUX else 0.0
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time() - boot
    except psutil.NoSuchProcess:
        return None


def process_lives(pid: int, start: float) -> bool | None:
    """True if the process ``pid`` that began at ``start`` lives; None if another user's process may not be seen.

    ``/proc`` that is mounted with hidepid=2 shows no process of other users at all: the host of a cluster often does.
    """
    try:
        found = process_start(pid)
    except psutil.AccessDenied:
        return None
    if found is None:
        return None if _is_hidden(pid) else False
    return abs(found - start) < 2  # another start: the id belongs to another process by now


def _is_hidden(pid: int) -> bool:
    if psutil.pid_exists(pid):  # a zombie
        return False
    try:
        os.kill(pid, 0)  # sends nothing
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


def owned_name(name: str) -> str:
    """A name for a temporary file that identifies its owner: name, place, process, random digits."""
    return f"{name}.{_mark(os.getpid())}.{secrets.token_hex(4)}"


def mark(where: str, pid: int, start: float) -> str:
    """The part of a temporary file's name that says whose it is: digits of the place, process id, its start."""
    return f"{hashlib.sha256(where.encode()).hexdigest()[:6]}-{pid}-{start:.0f}"


@functools.cache
def _mark(pid: int) -> str:
    return mark(place(), pid, process_start(pid) or 0.0)


def owner_lives(name: str) -> bool | None:
    """True if the process that owns the temporary file of this name lives; None: it is elsewhere, or unknown."""
    found = OWNER.search(name)
    if found is None or found[1] != _mark(os.getpid())[:6]:
        return None
    return process_lives(int(found[2]), int(found[3]))


def is_owned_by(name: str, where: str, pid: int, start: float) -> bool:
    """True if the temporary file of this name belongs to the process with this place, id and start."""
    found, own = OWNER.search(name), mark(where, pid, start).rpartition("-")[0]
    return found is not None and own == f"{found[1]}-{found[2]}" and abs(start - int(found[3])) < 2
