"""The runs and the metric that a person asks for.

A condition on runs is ``seed<3 and model.name=vae``. Nothing of it is executed.
"""

import json
import math
import operator
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vlae.config.problems import format_value
from vlae.errors import UserError
from vlae.estimation.reliability import COMMON
from vlae.report.metric_values import OWN, VALIDATION, of_estimator
from vlae.report.names import key_of, near_or_some, some, sort_key
from vlae.report.runs import Run, Runs, is_number, some_of

ORDERED = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_TERM = re.compile(r"(?s)\s*(?P<key>[^\s=!<>]+?)\s*(?P<op>==|!=|<=|>=|=|<|>|\sin\s)\s*(?P<value>.*?)\s*")
_LIST_ENTRY = re.compile(r"""\s*('[^']*'|"[^"]*"|\[[^]]*\]|[^,]+)""")
_AND = re.compile(r"""\s+and\s+(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""")
_NO_NUMBER = re.compile(r"[-+]?0[0-9_]|.*[^ -~]", re.DOTALL)
"""Digits that Python reads as a number, and Hydra, on the command line, as a text: 010, and those of other scripts."""
WORDS = {"true": True, "false": False, "null": None}  # in upper or lower case, as for Hydra
SHOWN = 8
EXPECTED = "expected KEY OP VALUE [and ...], OP one of = != < <= > >= in, such as 'seed<3 and T in 1,2'"


class Term(NamedTuple):
    """A part of a condition: ``key op value``."""

    key: str
    op: str
    value: Any  # a list where the operator is ``in``

    def holds(self, run: Run) -> bool:
        """True if the term holds for a run. A missing value, or one of another type, is unequal, not more or less.

        >>> Term("seed", "<", 3).holds(Run("vae-0", "", {"seed": 2}, "done"))
        True
        """
        own = run.value(self.key)
        if self.op == "in":
            return any(_same(own, value) for value in self.value)
        if self.op in ("=", "==", "!="):
            return _same(own, self.value) == (self.op != "!=")
        both = (own, self.value)
        ordered = all(is_number(v) for v in both) or all(isinstance(v, str) for v in both)
        return ordered and ORDERED[self.op](*both)


def terms(text: str, known: Sequence[str]) -> list[Term]:
    """The terms of a condition, all of which must hold.

    UserError: ``text`` is no condition, or has a key that no run has.

    >>> terms("seed<3 and model=vae", ["seed", "model.name"])
    [Term(key='seed', op='<', value=3), Term(key='model.name', op='=', value='vae')]
    """
    found = []
    for part in _AND.split(text.strip()):
        if not (match := _TERM.fullmatch(part)) or not match["value"]:
            raise UserError(f"--where: {EXPECTED}; got {part!r}")
        key, op, written = key_of(match["key"], known, "--where"), match["op"].strip(), match["value"]
        try:
            value = [*map(read_value, _LIST_ENTRY.findall(written))] if op == "in" else read_value(written)
        except ValueError as error:
            raise UserError(f"--where: {EXPECTED}, {error}") from None
        found.append(Term(key, op, value))
    return found


def choose_runs(runs: Runs, where: str = "") -> Runs:
    """The runs for which the condition ``where`` holds. UserError: there are none, with the values that exist."""
    if not runs.runs:
        left = f"; {len(runs.left_out)} left out: {some_of(runs.left_out)}" if runs.left_out else ""
        raise UserError(f"{runs.title}: no runs{left}")
    asked = terms(where, runs.all_keys()) if where else []
    found = runs.only(lambda run: all(term.holds(run) for term in asked))
    if not found.runs:
        values = "; ".join(_known_values(key, runs) for key in dict.fromkeys(term.key for term in asked))
        raise UserError(f"{runs.title}: no runs with {where}; {values}")
    return found


def choose_metric(runs: Runs, given: str | None) -> str:
    """The metric of this name; None: the default. UserError: no run has it, or none has it as a number."""
    known = runs.metrics()
    if given is not None and given not in known and known:
        numbers = [key for key in known if any(is_number(run.value(key)) for run in runs.runs)]
        unscored = given.startswith("test.") and not any(run.is_scored for run in runs.runs)
        why = "; these runs were not scored (evaluate=none)" if unscored else near_or_some(given, numbers)
        raise UserError(f"--metric: no run has a metric {given!r}{why}")
    metric = default_metric(runs.runs) if given is None else given
    values = [(run.id, value) for run in runs.runs if (value := run.value(metric)) is not None]
    if values and not any(is_number(value) for _, value in values):
        raise UserError(
            f"--metric: expected a number, {metric} is {format_value(values[0][1])} in {values[0][0]}"
        )
    return metric


def default_metric(runs: Iterable[Run]) -> str:
    """The log-likelihood by an estimator that is the same for all models, if all runs that were scored have it.

    The estimate with each model's own q compares models together with their proposals, so it is the last choice. Where
    runs are done and none of them was scored, it is the ELBO of the validation images.
    UserError: there is no estimator that all runs have.
    """
    done = [run for run in runs if run.metrics is not None]
    scored = [run for run in done if run.is_scored]
    if done and not scored:
        return VALIDATION
    for estimator in (*COMMON, OWN):
        metric = of_estimator(estimator)
        if all(metric in (run.metrics or {}) for run in scored):
            return metric
    text = "no estimator of the log-likelihood is common to all runs"
    raise UserError(f"--metric: {text}; choose a metric, or some of the runs by --where")


def _known_values(key: str, runs: Runs) -> str:
    """The values that a key has: ``model.name is one of vae, vlae``."""
    values = {_as_condition(value): value for value in (run.value(key) for run in runs.runs)}
    texts = sorted(values, key=lambda text: sort_key(values[text]))
    if len(texts) > SHOWN and all(map(is_number, values.values())):
        return f"{key} is from {texts[0]} to {texts[-1]}"
    return f"{key} is {'one of ' if len(texts) > 1 else ''}{some(texts, SHOWN)}"


def _as_condition(value: Any) -> str:
    """A value as a condition has it: in quotes where a text would be read as something else."""
    try:
        plain = isinstance(value, str) and value != "" and read_value(value) == value
    except ValueError:
        plain = False
    return value if plain else json.dumps(value, ensure_ascii=False)


def read_value(text: str) -> Any:
    """The value that a text means on the command line.

    Lists are texts, as in settings; so is everything that is no number, true, false or null.

    >>> [read_value(text) for text in ("3", "1e-4", "true", "'3'", "[500, 500]", "12:30")]
    [3, 0.0001, True, '3', '[500, 500]', '12:30']

    ValueError: text of several words that is not in quotes, or a number with leading zeros.
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.startswith(("[", "{")):
        try:
            found = json.loads(text, parse_float=_read_number, parse_int=_read_number, parse_constant=str)
            return json.dumps(found)
        except (ValueError, RecursionError):
            if text.endswith("]") and not set(text[1:-1]) & set("[]{}'\""):
                return json.dumps([read_value(entry) for entry in text[1:-1].split(",")])
    if text.split() != [text]:
        raise ValueError(f"text of several words in quotes; got {text!r}")
    return WORDS.get(text.lower(), _read_number(text))


def _read_number(text: str) -> Any:
    """The number, or the text where it is none that a float can hold. ValueError: it has leading zeros."""
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return text
    if _NO_NUMBER.match(text):
        raise ValueError(f"a number without leading zeros, or a text in quotes; got {text!r}")
    return int(text) if text.lstrip("+-").isdecimal() else value


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)  # Python takes True for 1
