"""Which runs share a cell: those that differ in their seed alone."""

from collections.abc import Iterable, Sequence
from typing import Any

from vlae.errors import UserError
from vlae.report.names import position, short, some, word
from vlae.report.runs import Run, Runs
from vlae.report.tables.cells import Values

Groups = dict[tuple[Values, Values], list[Run]]
"""By row and column."""
SHOWN = 6


def group_by_cell(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> Groups:
    """The runs of each cell. UserError: runs that differ in more than their seed would share one."""
    groups = _groups(runs, row_keys, column_keys)
    _refuse_mixed(groups, row_keys)
    return groups


def separating_keys(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> list[str]:
    """Keys of rows which, added to these, let no runs share a cell that differ in more than their seed."""
    return _separating(_groups(runs, row_keys, column_keys).values())


def _groups(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> Groups:
    groups: Groups = {}
    for run in runs.runs:
        row, column = (tuple(map(run.value, keys)) for keys in (row_keys, column_keys))
        groups.setdefault((row, column), []).append(run)
    return groups


def _refuse_mixed(groups: Groups, row_keys: Sequence[str]) -> None:
    values: dict[str, dict[Any, None]] = {}
    for group in groups.values():
        for key in differing(group):
            values.setdefault(key, {}).update(dict.fromkeys(run.value(key) for run in group))
    if values:
        separating = _separating(groups.values())
        condition = " and ".join(f"{short(key)}={word(next(iter(values[key])))}" for key in separating)
        raise UserError(
            "runs that differ in more than their seed would share a cell; they differ in\n"
            + "".join(
                f"  {key}: {some([*map(word, sorted(values[key], key=position))], SHOWN)}\n" for key in values
            )
            + f"say which are meant, such as --where {condition!r}, or give each a row: "
            f"--rows {','.join(map(short, [*row_keys, *separating]))}"
        )
    for group in groups.values():
        seeds: dict[Any, Run] = {}
        for run in group:
            if (other := seeds.setdefault(run.value("seed"), run)) is not run:
                raise UserError(f"two runs have the same settings and the same seed: {other.id}, {run.id}")


def _separating(groups: Iterable[Sequence[Run]]) -> list[str]:
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
