"""A value of a setting, as a command writes it."""

import contextlib
import json
import math
from typing import Any

WORDS = {"true": True, "false": False, "null": None}
"""In whatever letters, as for Hydra."""


def read_value(text: str) -> Any:
    """``3``, ``1e-4``, ``true``, ``null``; lists such as ``[500, 500]`` are texts, as settings have them.

    All else is text, without the quotes around it, ``on``, ``12:30``, ``2020-01-01`` and ``nan``, too: what comes back
    can always be written as JSON. ValueError: text of several words that is not in quotes.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    try:
        value = json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=str)
    except (ValueError, RecursionError):
        if text.startswith("[") and text.endswith("]") and not set(text[1:-1]) & set("[]{}'\""):
            return json.dumps([read_value(item) for item in text[1:-1].split(",")])
        if text.split() != [text]:
            raise ValueError(f"text of several words in quotes; came {text!r}") from None
        return WORDS.get(text.lower(), _finite(text))
    return json.dumps(value) if isinstance(value, list | dict) else value


def _finite(text: str) -> Any:
    """The number, or the text where it is none that a float can hold."""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    return text


def _whole(text: str) -> Any:
    return int(text) if isinstance(_finite(text), float) else text
