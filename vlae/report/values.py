"""A value of a setting, as a command writes it."""

import json
import math
import re
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


_WHOLE = r"(0|[1-9](_?[0-9])*)"
_DECIMAL = rf"({_WHOLE}\.|{_WHOLE}?\.[0-9](_?[0-9])*)"
NUMBER = re.compile(rf"[-+]?({_WHOLE}|{_DECIMAL}|({_WHOLE}|{_DECIMAL})e[-+]?[0-9](_?[0-9])*)", re.IGNORECASE)
"""As Hydra reads one on the command line: 010 is none."""


def _finite(text: str) -> Any:
    """The number, or the text where it is none that a float can hold. ValueError: 010, which may be either."""
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text
    if not NUMBER.fullmatch(text):
        raise ValueError(f"a number without leading zeros, or a text in quotes; got {text!r}")
    return value


def _whole(text: str) -> Any:
    return int(text) if isinstance(_finite(text), float) else text
