"""Names that a person gives: to a sweep, to a run or a group on Weights & Biases."""

import re
from typing import Any

LONGEST_NAME = 128
"""Characters of a sweep's name, and of a name or group on Weights & Biases, which takes no more."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._+= -]*[A-Za-z0-9_+=-])?")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any extension."""


def wrong_name(name: Any, longest: int = LONGEST_NAME, *, file: bool = False) -> str | None:
    """What a name should be where it is not; None: it is one.

    file: the name becomes a file, which must be possible on every system and stay in its directory. Any other name
    only has to be visible text.

    >>> wrong_name("../a", file=True)[:12]
    'letters a-z,'
    """
    if not isinstance(name, str):
        return "a text"
    if not name.strip():
        return "a text that is not empty"
    if len(name) > longest:
        return f"a text of at most {longest} characters"
    if file and not _FILE_NAME.fullmatch(name):
        return (
            "letters a-z, digits, . _ - + = and spaces, at the beginning a letter, a digit or _, at the end no . or "
            "space"
        )
    if file and _DEVICE.fullmatch(name):
        return "a name that Windows does not keep for a device"
    return None if name.isprintable() else "a text without control characters"
