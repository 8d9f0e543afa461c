"""Kinds of values in the small JSON files of a run: whoever goes on with a value has asked for its kind."""

import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from vlae.config.problems import shown
from vlae.system.disk import RecordError

Kind = tuple[str, Callable[[Any], bool]]
"""What is expected, in words, and whether a value is that."""


def is_number(value: Any) -> bool:
    """That a float can hold."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def or_null(kind: Kind) -> Kind:
    expected, fits = kind
    return f"{expected} or null", lambda value: value is None or fits(value)


TEXT: Kind = ("a text", lambda value: isinstance(value, str))
WHOLE: Kind = ("a whole number", lambda value: type(value) is int)
NUMBER: Kind = ("a number", is_number)
TIME: Kind = ("a time with its zone", _is_time)


def check(file: str, content: Mapping[str, Any], kinds: Mapping[str, Kind], way_out: str) -> None:
    """RecordError: a key has a value of another kind, or is missing and may not be null."""
    for key, (expected, fits) in kinds.items():
        if not fits(value := content.get(key)):
            text = (
                f"{file}: {key}: expected {expected}, came {shown(value)}. It was changed by hand; {way_out}"
            )
            raise RecordError(text)
