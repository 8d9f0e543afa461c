"""A frozen copy of the code, verified: what it holds must have the hash that is its name.

Only the standard library is imported here, and nothing of vlae: a batch job executes the text of this file before it
imports anything from the copy (``python -I -c TEXT COPY``).
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping

COMMIT = ".commit.json"
"""The commit of the copy and, under ``files``, the SHA-256 of each file, to name those that differ."""
COMPILED = "__pycache__"
RUNS = ".new"  # a directory that holds runs has one of this name, `vlae.system.files.STAGING`
FIX = "launch again from the code that it was made of, which repairs it"


def walk(root: str, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Name and entry of all in ``root`` that is no directory, but for hidden, compiled and backup files.

    Links are not followed, and directories that hold runs are left out. Errors: OSError where one cannot be read.
    """
    with os.scandir(os.path.join(root, below)) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    if any(entry.name == RUNS for entry in entries):
        return
    for entry in entries:
        if entry.name.startswith((".", "#")) or entry.name.endswith("~") or entry.name == COMPILED:
            continue
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(root, name)
        else:
            yield name, entry


def hash_of(contents: Mapping[str, bytes]) -> str:
    """The hash of files by their names: 12 hexadecimal digits."""
    state = hashlib.sha256()
    for name in sorted(contents, key=os.fsencode):
        content = contents[name]
        state.update(os.fsencode(name) + b"\0%d\0" % len(content))
        state.update(content)
    return state.hexdigest()[:12]


def checksums(contents: Mapping[str, bytes]) -> dict[str, str]:
    """The SHA-256 of each file, by its name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def damage(copy: str) -> str | None:
    """The difference between the copy and its name, which is its hash; None: there is none."""
    contents: dict[str, bytes] = {}
    if os.path.islink(copy) or not os.path.isdir(copy):
        return "it is no directory" if os.path.lexists(copy) else "it is missing"
    try:
        for name, entry in walk(copy):
            if not entry.is_file(follow_symlinks=False):
                return f"{printable(name)} is no plain file"
            with open(entry.path, "rb") as file:
                contents[name] = file.read()
    except OSError as error:
        return f"{printable(os.path.relpath(error.filename or copy, copy))}: {error.strerror or error}"
    if hash_of(contents) == os.path.basename(copy):
        return None
    return _difference(contents, _read_checksums(copy))


def printable(name: str) -> str:
    """A file's name whose bytes are no text, as a message can show it."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read_checksums(copy: str) -> dict[str, str]:
    try:
        with open(os.path.join(copy, COMMIT), "rb") as file:
            found = json.load(file)["files"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _difference(contents: Mapping[str, bytes], recorded: Mapping[str, str]) -> str:
    """The files that differ, as far as the record of the copy says."""
    found, words = checksums(contents), []
    for what, names in (
        ("missing", recorded.keys() - found.keys()),
        ("changed", {name for name in recorded.keys() & found.keys() if recorded[name] != found[name]}),
        ("added", found.keys() - recorded.keys() if recorded else ()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            words.append(f"{printable(min(names))}{more} {what}")
    return ", ".join(words) or f"its files have the hash {hash_of(contents)}"


def main() -> int:
    """Exit status 0 where the copy that the command line names can be executed."""
    copy = sys.argv[1].rstrip("/")
    if trouble := damage(copy):
        print(f"vlae: not started: the frozen code {copy} is damaged ({trouble}); {FIX}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
