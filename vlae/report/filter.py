"""A condition on runs, as a person writes it: ``seed<3 and model.name=vae``. Nothing of it is executed."""

import json
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from vlae.errors import UserError
from vlae.report.names import key_of, position, some
from vlae.report.runs import Run, Runs
from vlae.report.values import read_value

ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_TERM = re.compile(
    r"\s*(?P<key>[^\s=!<>]+?)\s*(?P<op>==|!=|<=|>=|=|<|>|\sin\s)\s*(?P<value>.*?)\s*", re.DOTALL
)
_ITEM = re.compile(r"""\s*('[^']*'|"[^"]*"|\[[^]]*\]|[^,]+)""")
"""Of a list."""
_AND = re.compile(r"""\s+and\s+(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""")
SHOWN = 8
EXPECTED = (
    "expected KEY OP VALUE [and KEY OP VALUE ...], OP one of = != < <= > >= in, such as 'seed<3 and T in 1,2'"
)


class Term(NamedTuple):
    """``key op value``"""

    key: str
    op: str
    value: Any
    """A list where the operator is ``in``."""

    def holds(self, run: Run) -> bool:
        """A run without the key, or with a value of another kind, is unequal to it, and neither more nor less.

        What is not told of a run that cannot be read may be anything: then it holds.
        """
        own = run.value(self.key)
        if own is None and not run.readable:
            return True
        if self.op == "in":
            return any(_same(own, value) for value in self.value)
        if self.op in ("=", "==", "!="):
            return _same(own, self.value) == (self.op != "!=")
        both = (own, self.value)
        ordered = all(is_number(v) for v in both) or all(isinstance(v, str) for v in both)
        return ordered and ORDERED[self.op](*both)


def terms(text: str, known: Sequence[str]) -> list[Term]:
    """What ``text`` asks, all of which is to hold. UserError: it is no condition, or of a key that no run has."""
    found = []
    for part in _AND.split(text.strip()):
        if not (match := _TERM.fullmatch(part)) or not match["value"]:
            raise UserError(f"--where: {EXPECTED}; came {part!r}")
        key, op = key_of(match["key"], known, "--where"), match["op"].strip()
        value = list(map(_value, _ITEM.findall(match["value"]))) if op == "in" else _value(match["value"])
        found.append(Term(key, op, value))
    return found


def fulfilling(runs: Runs, text: str) -> Runs:
    """Those of which it holds. UserError: of none, with the values that there are."""
    asked = terms(text, runs.known())
    found = runs.only(lambda run: all(term.holds(run) for term in asked))
    if not any(run.readable or all(run.value(term.key) is not None for term in asked) for run in found.runs):
        told = "; ".join(_told(key, runs) for key in dict.fromkeys(term.key for term in asked))
        raise UserError(f"{runs.title}: no runs with {text}; {told}")
    return found


def _told(key: str, runs: Runs) -> str:
    """``model.name is one of vae, vlae``"""
    values = {_written(value): value for value in (run.value(key) for run in runs.runs)}
    texts = sorted(values, key=lambda text: position(values[text]))
    if len(texts) > SHOWN and all(map(is_number, values.values())):
        return f"{key} is from {texts[0]} to {texts[-1]}"
    return f"{key} is {'one of ' if len(texts) > 1 else ''}{some(texts, SHOWN)}"


def _written(value: Any) -> str:
    """As a condition has it: text that would be read as something else in quotes."""
    plain = isinstance(value, str) and value and value == value.strip() and _read(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)


def _read(text: str) -> Any:
    try:
        return _value(text)
    except UserError:
        return None


def _value(text: str) -> Any:
    try:
        return read_value(text)
    except ValueError as error:
        raise UserError(f"--where: {EXPECTED}, {error}") from None


def _same(one: Any, other: Any) -> bool:
    """Python takes True for 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
