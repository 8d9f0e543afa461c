"""Which runs share a cell: those that differ in their seed alone."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from vlae.errors import UserError
from vlae.report.names import position, short, some, word
from vlae.report.runs import Run, Runs

Values = tuple[Any, ...]
Groups = dict[tuple[Values, Values], list[Run]]
"""By row and column."""
SHOWN = 6


class Placed(NamedTuple):
    """All runs of a table."""

    groups: Groups
    unplaced: list[Run]
    """Not readable, and what is known of them fits several cells, or one cell of which they cannot be a seed."""


def placed(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> Placed:
    """Every run in its cell. UserError: two settings would share one."""
    groups = _readable(runs, row_keys, column_keys)
    _refuse_mixed(groups, row_keys)
    unplaced, readable = [], frozenset(groups)
    fitting_of: dict[tuple[Values, Values], list[tuple[Values, Values]]] = {}
    for run in runs.runs:
        if run.readable:
            continue
        own = _place(run, row_keys, column_keys)
        if own not in fitting_of:
            fitting_of[own] = _fitting(own, groups, readable)
        agreeing = [place for place in fitting_of[own] if _agrees(run, groups[place][0])]
        if len(agreeing) == 1 and _is_another_seed(run, groups[agreeing[0]]):
            groups[agreeing[0]].append(run)
        elif fitting_of[own]:
            unplaced.append(run)
        else:
            groups[own], fitting_of[own] = [run], [own]
    return Placed(groups, unplaced)


def _fitting(
    own: tuple[Values, Values], groups: Groups, readable: Collection[tuple[Values, Values]]
) -> list[tuple[Values, Values]]:
    """The cells with a run that can be read which it may belong to."""
    if None not in own[0] + own[1]:
        return [own] if own in readable else []
    return [place for place in groups if place in readable and _fits(own, place)]


def telling_apart(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> list[str]:
    """Keys of rows which, added to these, let no runs share a cell that differ in more than their seed."""
    return _telling_apart(_readable(runs, row_keys, column_keys).values())


def _readable(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> Groups:
    groups: Groups = {}
    for run in runs.runs:
        if run.readable:
            groups.setdefault(_place(run, row_keys, column_keys), []).append(run)
    return groups


def _place(run: Run, row_keys: Sequence[str], column_keys: Sequence[str]) -> tuple[Values, Values]:
    return tuple(run.value(key) for key in row_keys), tuple(run.value(key) for key in column_keys)


def _fits(told: tuple[Values, Values], place: tuple[Values, Values]) -> bool:
    """What is told of a run that cannot be read is a part of its settings: what is not told may be anything."""
    return all(t is None or t == p for t, p in zip(told[0] + told[1], place[0] + place[1], strict=True))


def _agrees(told: Run, readable: Run) -> bool:
    """As far as both tell: then it is one more seed of what is there."""
    both = told.settings.keys() & readable.settings.keys() - {"seed"}
    return all(told.settings[key] is None or told.settings[key] == readable.settings[key] for key in both)


def _is_another_seed(told: Run, group: Sequence[Run]) -> bool:
    """One of the same settings and seed would have the same id."""
    seed = told.value("seed")
    return seed is None or all(run.value("seed") != seed for run in group)


def _refuse_mixed(groups: Groups, row_keys: Sequence[str]) -> None:
    values: dict[str, dict[Any, None]] = {}
    for group in groups.values():
        for key in differing(group):
            values.setdefault(key, {}).update(dict.fromkeys(run.value(key) for run in group))
    if values:
        telling = _telling_apart(groups.values())
        condition = " and ".join(f"{short(key)}={word(next(iter(values[key])))}" for key in telling)
        raise UserError(
            "runs that differ in more than their seed would share a cell; they differ in\n"
            + "".join(
                f"  {key}: {some([*map(word, sorted(values[key], key=position))], SHOWN)}\n" for key in values
            )
            + f"say which are meant, such as --where {condition!r}, or give each a row: "
            f"--rows {','.join(map(short, [*row_keys, *telling]))}"
        )
    for group in groups.values():
        seeds: dict[Any, Run] = {}
        for run in group:
            if (other := seeds.setdefault(run.value("seed"), run)) is not run:
                raise UserError(f"two runs have the same settings and the same seed: {other.id}, {run.id}")


def _telling_apart(groups: Iterable[Sequence[Run]]) -> list[str]:
    """Keys that are enough to separate all settings that share a group."""
    found: list[str] = []
    while key := next((key for group in groups for key in differing(group)), None):
        found.append(key)
        parts: dict[tuple[int, Any], list[Run]] = {}
        for number, group in enumerate(groups):
            for run in group:
                parts.setdefault((number, run.value(key)), []).append(run)
        groups = list(parts.values())
    return found


def differing(runs: Sequence[Run]) -> list[str]:
    """The keys of their settings, but for the seed, in which any two of them differ."""
    first, found = runs[0].settings, {}
    for run in runs:
        if run.settings != {**first, "seed": run.settings.get("seed")}:
            keys = {**first, **run.settings}
            found |= {key: None for key in keys if run.settings.get(key) != first.get(key) and key != "seed"}
    return list(found)
