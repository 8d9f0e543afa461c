"""The keys of rows and columns, and the runs that share a cell: those that differ in their seed alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vlae.errors import UserError
from vlae.report.names import Values, group_name, key_of, short, some, sort_key, sort_keys, word
from vlae.report.runs import Run, Runs

Groups = dict[tuple[Values, Values], list[Run]]  # by row and column
COLUMNS = ("dataset.name", "output_dist.name")
SHOWN = 6


@dataclass(frozen=True)
class Configuration:
    """A model with its settings: the runs of one row and one column."""

    name: str  # ``VLAE, T = 4``
    model: str
    variant: int  # the number of its row among those of the same model
    row: Values
    column: Values
    runs: tuple[Run, ...]  # by seed


def configurations(runs: Runs, row_keys: Sequence[str]) -> list[Configuration]:
    """Configurations in the order of columns, then of rows. UserError: one would have several settings."""
    groups = group_by_cell(runs, row_keys, COLUMNS)
    models = {place: str(group[0].value("model.name")) for place, group in groups.items()}
    variants: dict[str, dict[Values, int]] = {}
    for row, column in sorted(groups, key=lambda place: sort_keys(place[0])):
        of_model = variants.setdefault(models[row, column], {})
        of_model.setdefault(row, len(of_model))
    found = []
    for row, column in sorted(groups, key=lambda place: [sort_keys(place[1]), sort_keys(place[0])]):
        by_seed = sorted(groups[row, column], key=lambda run: (sort_key(run.value("seed")), run.id))
        model = models[row, column]
        looks = group_name(row_keys, row), model, variants[model][row]
        found.append(Configuration(*looks, row, column, tuple(by_seed)))
    return found


def group_by_cell(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> Groups:
    """The runs of each cell. UserError: runs that differ in more than their seed would share one."""
    groups = _group_runs(runs, row_keys, column_keys)
    values: dict[str, dict[Any, None]] = {}
    for group in groups.values():
        for key in differing(group):
            values.setdefault(key, {}).update(dict.fromkeys(run.value(key) for run in group))
    if values:
        separating = _separating(groups.values())
        condition = " and ".join(f"{short(key)}={word(next(iter(values[key])))}" for key in separating)
        raise UserError(
            "runs that differ in more than their seed would share a cell; they differ in\n"
            + "".join(f"  {key}: {some_words(values[key], SHOWN)}\n" for key in values)
            + f"select some with --where {condition!r}, or give each a row: "
            f"--rows {','.join(map(short, [*row_keys, *separating]))}"
        )
    return groups


def sides(groups: Groups) -> tuple[tuple[Values, ...], tuple[Values, ...]]:
    """The rows and the columns, in their order."""
    rows, columns = (tuple(sorted(set(each), key=sort_keys)) for each in zip(*groups, strict=True))
    return rows, columns


def _group_runs(runs: Runs, row_keys: Sequence[str], column_keys: Sequence[str]) -> Groups:
    groups: Groups = {}
    for run in runs.runs:
        row, column = (tuple(map(run.value, keys)) for keys in (row_keys, column_keys))
        groups.setdefault((row, column), []).append(run)
    return groups


def some_words(values: Iterable[Any], most: int) -> str:
    """Values in their order, as a command has them."""
    return some([*map(word, sorted(values, key=sort_key))], most)


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


def differing_rows(groups: Groups, keys: Sequence[str]) -> list[str]:
    """A note on settings in which rows of one column differ, besides their model and ``keys``."""
    values: dict[str, dict[str, None]] = {}
    for column in dict.fromkeys(column for _, column in groups):
        firsts = [group[0] for (_, own), group in groups.items() if own == column]
        for key in differing(firsts):
            if not key.startswith("model.") and key not in keys:
                values.setdefault(key, {}).update(dict.fromkeys(word(run.value(key)) for run in firsts))
    listed = "; ".join(f"{key} ({', '.join(sorted(each))})" for key, each in sorted(values.items()))
    return [f"Rows of one column also differ in {listed}"] if values else []


def keys_of(
    chosen: Runs, runs: Runs, rows: Sequence[str] | None, columns: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The keys of rows and of columns. UserError: one is in both, which would leave all cells but a diagonal empty.

    rows, columns: those that are asked for; None: the defaults. chosen: the runs of the table, some of ``runs``.
    """
    row_keys = full_keys(rows, runs, "--rows") if rows else model_keys_of(chosen)
    column_keys = full_keys(columns or COLUMNS, runs, "--cols")
    both = [key for key in row_keys if key in column_keys]
    if both and not columns:
        column_keys = [key for key in column_keys if key not in both]
    elif both and not rows and len(both) < len(row_keys):
        row_keys = [key for key in row_keys if key not in both]
    elif both:
        names, default = ", ".join(map(short, both)), "" if rows else " by default"
        verb = "is" if len(both) == 1 else "are"
        raise UserError(f"--cols: {names} {verb} also in --rows{default}; name each key once")
    return row_keys if rows else row_keys_of(chosen, row_keys, column_keys), column_keys


def full_keys(given: Sequence[str], runs: Runs, option: str) -> list[str]:
    """The keys in full, each once: ``model.name`` for ``model``. UserError: no run has one of them."""
    known = runs.all_keys()
    return list(dict.fromkeys(key_of(key, known, option) for key in given))


def row_keys_of(runs: Runs, first: Sequence[str] = (), column_keys: Sequence[str] = COLUMNS) -> list[str]:
    """The default keys of rows, in tables, figures and reports alike.

    These are the keys that name a model, then those that give every setting that was varied a row.
    first: the keys that name a model; none: `model_keys_of`.
    """
    keys = list(first or model_keys_of(runs))
    return list(dict.fromkeys([*keys, *_separating(_group_runs(runs, keys, column_keys).values())]))


def model_keys_of(runs: Runs) -> list[str]:
    """The keys that name a model: T is one of them where a model has several."""
    kinds = {(run.value("model.name"), run.value("T")) for run in runs.runs if run.value("T") is not None}
    several = len(kinds) > len({model for model, _ in kinds})
    return ["model.name", "T"] if several else ["model.name"]
