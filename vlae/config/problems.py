"""Messages about problems of a configuration: the key, the value, the expected one, the choices."""

import difflib
import inspect
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from vlae.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one key."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}"

    def within(self, key: str) -> bool:
        """True if the problem is that of ``key`` or of something below it."""
        return self.key == key or self.key.startswith((f"{key}.", f"{key}["))


class ConfigError(UserError, ValueError):
    """Everything that is wrong with a configuration, so that it can be put right at once."""

    def __init__(self, problems: Iterable[Problem | str]) -> None:
        self.problems = list(dict.fromkeys(str(problem) for problem in problems))
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        heading = f"{count} problem{'s' if count != 1 else ''} in the configuration"
        return "\n".join([heading, *(f"  {problem}" for problem in self.problems)])


def format_value(value: Any) -> str:
    """A value as a person would write it, cut where it is long.

    >>> format_value([1, 0.5, True, None]), format_value(float("inf")), format_value("a")
    ('[1, 0.5, true, null]', 'inf', "'a'")
    """
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, float) and not math.isfinite(value):
        text = str(value)
    else:
        text = json.dumps(value, default=repr)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def join_words(choices: Iterable[str]) -> str:
    """``vae, hf``; none where there is no word."""
    return ", ".join(choices) or "none"


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """``; did you mean trainer.epochs?``, or nothing where no known key is near.

    In this order: a key of the same name elsewhere (``lr``: optimizer.lr), a similar name beside it, a similar name
    elsewhere.

    >>> did_you_mean("model.lr", ["optimizer.lr", "model.latent_dim"])
    '; did you mean optimizer.lr?'
    """
    place, _, name = key.rpartition(".")
    by_name: dict[str, str] = {}
    for candidate in sorted(known, key=lambda k: (k.rpartition(".")[0] != place, k.count("."), k)):
        by_name.setdefault(candidate.rpartition(".")[2], candidate)
    beside = [other for other, candidate in by_name.items() if candidate.rpartition(".")[0] == place]
    for others in ([name] if name in by_name else [], beside, by_name):
        if near := difflib.get_close_matches(name, others, n=1, cutoff=0.7):
            return f"; did you mean {by_name[near[0]]}?"
    return ""


@dataclass(frozen=True)
class UnknownKey(Problem):
    """A key that nothing takes; ``siblings`` are the keys that would be taken in its place."""

    text: str = "unknown key"
    siblings: tuple[str, ...] = ()

    def with_suggestion(self, known: Iterable[str]) -> Problem:
        """The problem with the most similar of the known keys."""
        place = self.key.rpartition(".")[0]
        keys = f"keys of {place}" if place else "keys"
        text = f"{self.text}{did_you_mean(self.key, known)} ({keys}: {join_words(self.siblings)})"
        return Problem(self.key, text)


def with_suggestions(problems: Sequence[Problem], keys: Iterable[str]) -> list[Problem]:
    """The same problems, unknown keys with what may have been meant: one of ``keys`` or of the siblings."""
    unknown = [problem for problem in problems if isinstance(problem, UnknownKey)]
    known = {key for key in keys if not any(Problem(key, "").within(u.key) for u in unknown)}
    known |= {_join(u.key.rpartition(".")[0], name) for u in unknown for name in u.siblings}
    return [p.with_suggestion(known) if isinstance(p, UnknownKey) else p for p in problems]


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def section_of(hints: Mapping[str, Any], optional: Collection[str] = ()) -> type[BaseModel]:
    """A section with these keys, checked strictly: 'four', 1.5 and true are no int. optional: keys it may lack."""
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        unknown = hint is inspect.Parameter.empty or isinstance(hint, str)  # a text: for type checkers alone
        fields[name] = (Any if unknown else hint, None if name in optional else ...)
    return create_model("Section", __config__=config, **fields)


def problems_of(section: type[BaseModel], values: Any, place: str = "") -> list[Problem]:
    """All that is wrong with the values of a section and of those inside it: unknown and missing keys, wrong values."""
    try:
        section.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    else:
        return []
    problems: list[Problem] = []
    wrong: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for each in errors:
        key, owner, name = _place_of_error(section, each["loc"], place)
        if each["type"] == "extra_forbidden":
            problems.append(UnknownKey(key, siblings=tuple(owner.model_fields)))
        elif each["type"] == "missing":
            problems.append(Problem(key, f"missing, expected {_takes(owner, name)}; set this key"))
        else:
            is_entry = key.endswith("]")
            wrong.setdefault((key, not is_entry and _is_nullable(owner, name)), []).append(each)
    return problems + [_wrong_value(key, same, nullable) for (key, nullable), same in wrong.items()]


def _place_of_error(
    root: type[BaseModel], loc: Sequence[str | int], place: str
) -> tuple[str, type[BaseModel], str]:
    """The place of an error: its dotted key, the section that the key is of, and its name there.

    Behind the name, a union's branches stand in the location as texts, and the entries of a list as numbers.
    """
    key, owner, name, inner = place, root, "", root
    for part in loc:
        if isinstance(part, int):
            key += f"[{part}]"
        elif inner is not None:
            key, owner, name = _join(key, part), inner, part
            field = owner.model_fields.get(name)
            hint = field.annotation if field else None
            inner = hint if hasattr(hint, "model_fields") else None
    return key, owner, name


def _takes(section: type[BaseModel], name: str) -> str:
    """The values that a key takes, as the messages about wrong values say it."""
    wanted = ["null"] if _is_nullable(section, name) else []
    try:
        section.model_validate({name: object()})
    except ValidationError as error:
        errors = error.errors(include_url=False)
        wanted = [expectation(each) for each in errors if each["loc"][:1] == (name,)] + wanted
    return " or ".join(dict.fromkeys(wanted)) or "any value"


def _is_nullable(section: type[BaseModel], name: str) -> bool:
    hint = section.model_fields[name].annotation
    return type(None) in get_args(hint) and get_origin(hint) is not Literal


def _wrong_value(key: str, errors: Sequence[Mapping[str, Any]], nullable: bool) -> Problem:
    """The problem that pydantic's errors about one value describe."""
    wanted = [expectation(error) for error in errors] + (["null"] if nullable else [])
    wanted, value = list(dict.fromkeys(wanted)), errors[0]["input"]
    advice = _how_to_write(key, value, wanted)
    return Problem(key, f"expected {' or '.join(wanted)}, got {format_value(value)}{advice}")


_EXPECTED = {
    **dict.fromkeys(("int_type", "int_from_float"), "a whole number"),
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text",
    "literal_error": "one of {expected}",
    "string_too_short": "a text that is not empty",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    **dict.fromkeys(
        ("list_type", "is_instance_of", "sequence_str"), "a list such as [500,500] or [own,laplace]"
    ),
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    **dict.fromkeys(("dict_type", "model_type"), "a section of keys"),
    "string_too_long": "a text of at most {max_length} characters",
}
"""pydantic's error types, as what was expected."""


def expectation(error: Mapping[str, Any]) -> str:
    """The value that pydantic expected, in a user's words."""
    template = _EXPECTED.get(error["type"])
    if template is None:
        return error["msg"]
    text = template.format_map(error.get("ctx", {}))
    return text.replace("at least 1 entries", "at least 1 entry")


def _how_to_write(key: str, value: Any, wanted: Sequence[str]) -> str:
    """The probable meaning of a value of another kind, and how to write it; or nothing."""
    number = not {"a whole number", "a number"}.isdisjoint(wanted)
    if any(text.startswith("a list") for text in wanted):
        if isinstance(value, str) and value.isidentifier():
            return f"; a list of one is [{value}], in a sweep file [[{value}]]"
        return "; in a sweep file [[500,500]] is one list, and [500,500] two runs"
    if "a text" in wanted and isinstance(value, int | float):
        return _as_text(key, value)
    if key == "device" and re.fullmatch("[0-9]+", str(value)):
        return f"; the GPU of this number is cuda:{value}"
    if "a whole number" in wanted and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}" if abs(value) < _EXACT else ""
    if number and isinstance(value, list):
        if key.endswith("]"):
            return "; on the command line [500,500] is one list, without a second pair of brackets"
        return "; one run for each value is 0,1,2 with -m, or a list in a sweep file"
    if not isinstance(value, str):
        return ""
    if "null" in wanted and value.lower() == "none":
        return "; write null for no value"
    if "true or false" in wanted and value.lower() in _SWITCHES:
        return f"; write {_SWITCHES[value.lower()]}"
    return _number_meant(value) if number else ""


_EXACT = 2**53  # below it a float is exactly the whole number that was written


def _as_text(key: str, value: float) -> str:
    """The right form of a text that was read as a number or as true or false."""
    written = format_value(value)
    if isinstance(value, float) and not re.fullmatch(r"-?[0-9]+\.[0-9]*[1-9]", written):
        written = "..."  # 1e5 and 100000.0 are the same number
    place = key.partition("[")[0]
    of_command = f"'{written}'" if place == key else f"['{written}']"
    return f"; as a text it is {place}=\"{of_command}\" in a command, '{written}' in a file"


_LONGEST_NUMBER = 100  # characters; Python reads no number of thousands of digits
_SWITCHES = {"yes": "true", "on": "true", "1": "true", "no": "false", "off": "false", "0": "false"}


def _number_meant(text: str) -> str:
    """The number, or the numbers, that a text may stand for."""
    if len(text) > _LONGEST_NUMBER:
        return ""
    if match := re.fullmatch(r"(\d+) ?(?:\.\.\.?|-) ?(\d+)", text):
        return f"; a range is range({int(match[1])},{int(match[2]) + 1}) with -m, or a list in a sweep file"
    if text.startswith("range("):
        return "; a range is for -m on the command line, and a list such as [0, 1, 2] in a sweep file"
    if re.fullmatch(r"[-+.0-9e]+( +[-+.0-9e]+)+", text):
        return f"; one run for each value is {','.join(text.split())} with -m, or a list in a sweep file"
    if re.fullmatch(r"[+-]?0[0-9]+", text):
        return f"; a number has no leading zeros: {int(text)} (and a decimal point, not a comma)"
    if re.fullmatch(r"0x[0-9a-f]+|0b[01]+|0o[0-7]+", text, re.IGNORECASE):
        return f"; in decimals it is {int(text, 0)}"
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text, re.IGNORECASE):
        return f"; a number has no quotes: {text}"
    return ""
