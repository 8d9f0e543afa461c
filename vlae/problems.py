"""How a problem of a configuration is said: the key, what came, what was expected, the choices."""

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one key."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"

    def within(self, key: str) -> bool:
        """Is the problem that of ``key`` or of something below it?"""
        return self.key == key or self.key.startswith((f"{key}.", f"{key}["))


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, so that it can be put right at once."""

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems = list(dict.fromkeys(str(problem) for problem in problems))
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        heading = f"{count} problem{'s' if count != 1 else ''} in the configuration"
        return "\n".join([heading, *(f"  {problem}" for problem in self.problems)])


def shown(value: Any) -> str:
    """A value as a person would write it, cut where it is long."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, float) and not math.isfinite(value):
        text = str(value)
    else:
        text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def listed(choices: Iterable[str]) -> str:
    return ", ".join(choices) or "none"


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """``; did you mean trainer.epochs?``, or nothing where no known key is near.

    A key of the same name elsewhere comes first (``lr``: optimizer.lr), then the nearest spelling of the whole key,
    then that of its last part.
    """
    known = sorted(known, key=lambda k: (k.count("."), k))
    by_last_part: dict[str, str] = {}
    for candidate in known:
        by_last_part.setdefault(candidate.rpartition(".")[2], candidate)
    last = key.rpartition(".")[2]
    if last in by_last_part:
        return f"; did you mean {by_last_part[last]}?"
    whole = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    parts = difflib.get_close_matches(last, by_last_part, n=1, cutoff=0.7)
    near = whole or [by_last_part[part] for part in parts]
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(key: str, siblings: Iterable[str], known: Iterable[str]) -> Problem:
    """A key that nothing takes; ``siblings`` are the keys that would be taken there."""
    place = key.rpartition(".")[0]
    keys = f"keys of {place}" if place else "keys"
    return Problem(key, f"unknown key{did_you_mean(key, known)} ({keys}: {listed(siblings)})")


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "literal_error": "one of {expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
    "list_type": "a list such as [500,500]",
    "is_instance_of": "a list such as [500,500]",
    "sequence_str": "a list such as [500,500]",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "dict_type": "a section of keys",
}
"""pydantic's error types, as what was expected."""


def expected(error: Mapping[str, Any]) -> str:
    """What pydantic expected, in a user's words."""
    template = _EXPECTED.get(error["type"])
    if template is None:
        return error["msg"]
    text = template.format_map(error.get("ctx", {}))
    return text.replace("at least 1 entries", "at least 1 entry")


def wrong_value(key: str, errors: Sequence[Mapping[str, Any]], nullable: bool) -> list[Problem]:
    """pydantic's errors about one value: those about the same entry of it are one problem."""
    entries: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        # a union's branches stand in the location as texts, the entries of a list as numbers
        place = "".join(f"[{part}]" for part in error["loc"] if isinstance(part, int))
        entries.setdefault(f"{key}{place}", []).append(error)
    problems = []
    for place, same in entries.items():
        wanted = list(dict.fromkeys(expected(error) for error in same))
        if nullable and place == key:
            wanted.append("null")
        problems.append(Problem(place, f"expected {' or '.join(wanted)}, came {shown(same[0]['input'])}"))
    return problems
