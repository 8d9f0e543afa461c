"""Sweep files: ragged grids of overrides.

    grids:                                   a list; each entry is a product of its axes
      - model: vae                           a value
      - model: [savae, hf, iaf]              an axis: one run for each
      - {model: vlae, model.num_updates: [1, 2, 4]}
      - zip: {model: [vae, hf], seed: [3, 4]}    axes that move together
    common: {dataset: mnist, seed: [0, 1]}   belongs to every entry

A value that is a list stands in a list of one: ``model.hidden_dims: [[500, 500]]``. A run has one value of a key, so a
key is in one axis of a grid and ``common`` at most. Numbers and texts are what they would be in conf/: 1e-3 is a
number, '1e-3' a text.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlae.config.overrides import commands, is_multirun, quote_text, split_arguments
from vlae.config.problems import ConfigError, Problem, did_you_mean, format_value, join_words
from vlae.config.run_id import entries
from vlae.config.values import refuse_too_many, unclear_values
from vlae.system.files import expand_path
from vlae.system.locations import SWEEPS

KEYS = ("grids", "common")
KEY = re.compile(r"\+{0,2}[A-Za-z_][\w./@-]*", re.ASCII)  # of a run: trainer.epochs
OF_A_LAUNCH = re.compile(r"\+{0,2}(hydra([./@].*)?|sweeps)")
"""Keys that a run of a sweep cannot have for itself: the launcher is chosen before there are runs."""
PLAIN = re.compile(r"/?[A-Za-z_][\w./+-]*", re.ASCII)
"""Texts that need no quotes in Hydra's grammar, but for words that it reads as something else."""
WORDS = ("null", "true", "false", "nan", "inf")


def sweep_names() -> list[str]:
    """The sweep files that can be named."""
    return sorted(file.stem for file in SWEEPS.glob("*.yaml"))


def place_of(sweep: str) -> Path:
    """The file of a sweep: a name in sweeps/, or a path of the user's own. ConfigError: there is none."""
    try:
        own = Path(expand_path(sweep))
    except ValueError as error:
        raise ConfigError([Problem("sweeps", str(error))]) from error
    if own.suffix in (".yaml", ".yml"):
        if own.is_file():
            return own.absolute()
        raise ConfigError([Problem("sweeps", f"no file {sweep!r}")])
    if sweep in (known := sweep_names()):
        return SWEEPS / f"{sweep}.yaml"
    text = f"no choice {sweep!r}{did_you_mean(sweep, known)} (choices: {join_words(known)}, or a .yaml file)"
    raise ConfigError([Problem("sweeps", text)])


def with_sweep_file(arguments: Sequence[str]) -> list[str]:
    """``sweeps=NAME`` in arguments of Hydra: a setting of the sweeper, and --multirun.

    ConfigError: there is no such file, or there are two.
    """
    overrides, _ = split_arguments(arguments)
    asked = [text for text in overrides if text.lstrip("+").partition("=")[0] == "sweeps"]
    if not asked:
        return list(arguments)
    values = [text.partition("=")[2] for text in asked]
    if len(asked) > 1 or ("," in values[0] and not values[0].strip("'\"").endswith((".yaml", ".yml"))):
        text = f"expected one sweep file, got {join_words(values)}; launch one after the other"
        raise ConfigError([Problem("sweeps", text)])
    rest = [text for text in arguments if text not in asked]
    if other := [command for command in commands(rest) if command != "--multirun"]:
        shows = "dry_run=true shows the runs of a sweep, and --cfg job with the overrides of one its configuration"
        text = f"only one of them can be done at a time; {shows}"
        raise ConfigError([Problem(" ".join([*asked, *other]), text)])
    file = as_override("hydra.sweeper.file", str(place_of(values[0].strip("'\""))))
    return [*rest, file, *([] if is_multirun(rest) else ["--multirun"])]


def expand_file(file: Path) -> list[list[str]]:
    """The overrides of every run of a sweep file, in its order. ConfigError: everything that is wrong with it."""
    content, unclear = _read_yaml(file)
    if problems := [*_problems(content), *unclear]:
        raise ConfigError(Problem(f"{file.name}: {problem.key}", problem.text) for problem in problems)
    common, grids = _axes(content.get("common", {})), content.get("grids", [{}])
    axes_of_grids = [[*_axes(grid), *common] for grid in grids]
    sizes = {key: len(column) for axes in axes_of_grids for axis in axes for key, column in axis.items()}
    points_of_grids = [[_points(axis) for axis in axes] for axes in axes_of_grids]
    refuse_too_many(sum(math.prod(map(len, points)) for points in points_of_grids), file.name, sizes)
    runs = itertools.chain.from_iterable(itertools.product(*points) for points in points_of_grids)
    return [list(itertools.chain.from_iterable(run)) for run in runs]


def replacements(runs: Sequence[Sequence[str]], given: Sequence[str]) -> list[str]:
    """Notes on overrides of the command line that take the place of axes of a sweep file.

    runs: the overrides of each run of the file.
    """
    values: dict[str, set[str]] = {}
    for text in itertools.chain.from_iterable(runs):
        key, _, value = text.lstrip("+").partition("=")
        values.setdefault(key, set()).add(value)
    plain = dict.fromkeys(text.lstrip("+") for text in given)
    counts = {text: len(values.get(text.partition("=")[0], ())) for text in plain}
    note = "{} on the command line replaces the {} values of the sweep file"
    return [note.format(text, count) for text, count in counts.items() if count > 1]


def _read_yaml(file: Path) -> tuple[Any, list[Problem]]:
    """Read a file as those in conf/ are read: no key twice, 1e-3 is a number, interpolations are well formed.

    Returns also the problems of values that mean something else on the command line.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
        node = yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader)
        return content, list(unclear_values(content, node))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([Problem(str(file), f"expected YAML, got{line}: {error.problem}")]) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        key = getattr(error, "full_key", None)
        first_line = str(error).partition("\n")[0]
        place = f"{file.name}: {key}" if key else str(file)
        raise ConfigError([Problem(place, f"cannot be read: {first_line}")]) from error


Axis = dict[str, list[Any]]
"""Keys that move together, each with its values."""


def _axes(grid: dict[str, Any]) -> list[Axis]:
    axes: list[Axis] = []
    for key, value in grid.items():
        axes += _as_list(value) if key == "zip" else [{key: _as_list(value)}]
    return axes


def _points(axis: Axis) -> list[tuple[str, ...]]:
    """The overrides of each point of an axis."""
    columns = [[as_override(key, value) for value in column] for key, column in axis.items()]
    return list(zip(*columns, strict=True))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _problems(content: Any) -> list[Problem]:
    if not isinstance(content, dict) or not content:
        return [Problem("file", f"expected the keys {join_words(KEYS)}, got {format_value(content)}")]
    unknown, known = [str(key) for key in content if key not in KEYS], f"(choices: {join_words(KEYS)})"
    problems = [Problem(key, f"unknown key{did_you_mean(key, KEYS)} {known}") for key in unknown]
    common, grids = content.get("common", {}), content.get("grids", [{}])
    if not isinstance(grids, list) or not grids:
        problems.append(Problem("grids", f"expected a list of grids, got {format_value(grids)}"))
        grids = []
    places = {"common": common, **{f"grids[{i}]": grid for i, grid in enumerate(grids)}}
    problems += [problem for place, grid in places.items() for problem in _problems_of_grid(place, grid)]
    if problems:
        return problems
    shared = set(_keys_of_grid(common))
    for place, grid in places.items():
        beside, of = ((), "") if place == "common" else (shared, " of the grid and common")
        twice = [key for key, count in Counter([*_keys_of_grid(grid), *beside]).items() if count > 1]
        text = f"expected the key in one axis{of}, got several"
        problems += [Problem(f"{place}.{key}", text) for key in twice]
    return problems


def _problems_of_grid(place: str, grid: Any) -> Iterator[Problem]:
    if not isinstance(grid, dict):
        yield Problem(place, f"expected keys with values, got {format_value(grid)}")
        return
    for key, value in grid.items():
        if key != "zip":
            yield from _problems_of_axis(f"{place}.{key}", key, value)
        for together in _as_list(value) or [[]] if key == "zip" else ():
            yield from _problems_of_zip(f"{place}.zip", together)


def _problems_of_zip(place: str, together: Any) -> Iterator[Problem]:
    if not isinstance(together, dict) or not all(isinstance(column, list) for column in together.values()):
        yield Problem(place, f"expected keys with lists, got {format_value(together)}")
        return
    for key, column in together.items():
        yield from _problems_of_axis(f"{place}.{key}", key, column)
    if len({len(column) for column in together.values()}) != 1:
        counts = join_words(f"{len(column)} for {key}" for key, column in together.items())
        yield Problem(place, f"expected lists of one length, got {counts}")


def _problems_of_axis(place: str, key: Any, value: Any) -> Iterator[Problem]:
    if not isinstance(key, str) or not KEY.fullmatch(key):
        comma = "; in {...} a comma begins the next key: several values are a list, [0, 1]"
        hint = comma if value is None else ""
        yield Problem(place, f"expected a key such as model or trainer.epochs, got {format_value(key)}{hint}")
    elif OF_A_LAUNCH.fullmatch(key):
        yield Problem(
            place, f"expected a key of a run, got {format_value(key)}, which belongs on the command line"
        )
    if value == []:
        yield Problem(place, "expected one value or more, got an empty list")
    for inner, entry in entries(value, place):  # what Hydra's grammar cannot spell
        for name in entry if isinstance(entry, dict) else ():
            if not _is_plain(name):
                yield Problem(inner, f"expected keys of letters, digits and _, got {format_value(name)}")
        if not isinstance(entry, str | int | float | list | dict | None):
            yield Problem(inner, f"expected a text, a number, true, false or null, got {format_value(entry)}")


def _keys_of_grid(grid: dict[str, Any]) -> list[str]:
    return [key.lstrip("+") for axis in _axes(grid) for key in axis]


def as_override(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar, which reads the same value from it.

    >>> as_override("model.hidden_dims", [500, 500]), as_override("runs_dir", "my runs")
    ('model.hidden_dims=[500,500]', "runs_dir='my runs'")
    """
    return f"{key}={_in_grammar(value)}"


def _in_grammar(value: Any) -> str:
    if isinstance(value, str):
        return value if _is_plain(value) else quote_text(value)
    if isinstance(value, list):
        return "[" + ",".join(_in_grammar(entry) for entry in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_in_grammar(entry)}" for key, entry in value.items()) + "}"
    return "null" if value is None else str(value).lower()


def _is_plain(text: Any) -> bool:
    return isinstance(text, str) and bool(PLAIN.fullmatch(text)) and text.lower() not in WORDS
