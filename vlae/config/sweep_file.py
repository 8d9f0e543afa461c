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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlae.config.overrides import (
    Unclear,
    commands,
    is_multirun,
    quote_text,
    refuse_too_many,
    split,
    unclear,
)
from vlae.config.problems import ConfigError, Problem, did_you_mean, listed, shown
from vlae.system.files import expanded
from vlae.system.locations import SWEEPS

KEYS = ("grids", "common")
KEY = re.compile(r"\+{0,2}[A-Za-z_][\w./@-]*", re.ASCII)
"""Of a run: trainer.epochs."""
OF_A_LAUNCH = re.compile(r"\+{0,2}(hydra([./@].*)?|sweeps)")
"""Keys that a run of a sweep cannot have for itself: the launcher is chosen before there are runs."""
PLAIN = re.compile(r"/?[A-Za-z_][\w./+-]*", re.ASCII)
"""Texts that need no quotes in Hydra's grammar, but for words that it reads as something else."""
WORDS = ("null", "true", "false", "nan", "inf")


def names() -> list[str]:
    """The sweep files that can be named."""
    return sorted(file.stem for file in SWEEPS.glob("*.yaml"))


def place_of(sweep: str) -> Path:
    """The file of a sweep: a name in sweeps/, or a path of the user's own. ConfigError: there is none."""
    try:
        own = Path(expanded(sweep))
    except ValueError as error:
        raise ConfigError([Problem("sweeps", str(error))]) from error
    if own.suffix in (".yaml", ".yml"):
        if own.is_file():
            return own.absolute()
        raise ConfigError([Problem("sweeps", f"no file {sweep!r}")])
    if sweep in names():
        return SWEEPS / f"{sweep}.yaml"
    text = f"no choice {sweep!r}{did_you_mean(sweep, names())} (choices: {listed(names())}, or a .yaml file)"
    raise ConfigError([Problem("sweeps", text)])


def with_sweep_file(arguments: Sequence[str]) -> list[str]:
    """``sweeps=NAME`` as Hydra is told of it: a setting of the sweeper, and --multirun.

    ConfigError: there is no such file, or there are two.
    """
    overrides, _ = split(arguments)
    asked = [text for text in overrides if text.lstrip("+").partition("=")[0] == "sweeps"]
    if not asked:
        return list(arguments)
    values = [text.partition("=")[2] for text in asked]
    if len(asked) > 1 or ("," in values[0] and not values[0].strip("'\"").endswith((".yaml", ".yml"))):
        text = f"expected one sweep file, got {listed(values)}; launch one after the other"
        raise ConfigError([Problem("sweeps", text)])
    rest = [text for text in arguments if text not in asked]
    if other := [command for command in commands(rest) if command != "--multirun"]:
        text = (
            "only one of them can be done at a time; dry_run=true shows the runs of a sweep, and --cfg job with the "
            "overrides of one of them its configuration"
        )
        raise ConfigError([Problem(" ".join([*asked, *other]), text)])
    file = override("hydra.sweeper.file", str(place_of(values[0].strip("'\""))))
    return [*rest, file, *([] if is_multirun(rest) else ["--multirun"])]


def read(file: Path) -> list[list[str]]:
    """The overrides of every run of a sweep file, in its order. ConfigError: everything that is wrong with it."""
    content = _content(file)
    if problems := list(_problems(content)):
        raise ConfigError(Problem(f"{file.name}: {problem.key}", problem.text) for problem in problems)
    common, grids = _axes(content.get("common", {})), content.get("grids", [{}])
    sizes = [math.prod(len(axis) for axis in [*_axes(grid), *common]) for grid in grids]
    keys = {key: value for grid in [*grids, content.get("common", {})] for key, value in grid.items()}
    axes = {key: math.prod(map(len, _axes({key: value}))) for key, value in keys.items()}
    refuse_too_many(sum(sizes), file.name, axes)
    return [
        list(itertools.chain.from_iterable(choice))
        for grid in grids
        for choice in itertools.product(*_axes(grid), *common)
    ]


def replaced(runs: Sequence[Sequence[str]], given: Sequence[str]) -> list[str]:
    """What is to be said where overrides on the command line take the place of axes of a sweep file.

    runs: the overrides of each run of the file.
    """
    values: dict[str, set[str]] = {}
    for text in itertools.chain.from_iterable(runs):
        key, _, value = text.lstrip("+").partition("=")
        values.setdefault(key, set()).add(value)
    counts = {text.lstrip("+"): len(values.get(text.lstrip("+").partition("=")[0], ())) for text in given}
    return [
        f"{text} on the command line replaces the {count} values of the sweep file"
        for text, count in counts.items()
        if count > 1
    ]


def _content(file: Path) -> Any:
    """As the files in conf/ are read: no key twice, 1e-3 is a number, interpolations are well formed.

    A value means what it means on the command line, or is `Unclear`, which `_problems` refuses.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
        return unclear(content, yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = Problem(str(file), f"expected YAML, got{line}: {error.problem}")
    except OmegaConfBaseException as error:
        place = f"{file.name}: {error.full_key}" if error.full_key else str(file)
        problem = Problem(place, f"cannot be read: {_first_line(error)}")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problem = Problem(str(file), f"cannot be read: {_first_line(error)}")
    raise ConfigError([problem])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _axes(grid: dict[str, Any]) -> list[list[list[str]]]:
    """Each axis as its points, and each point as the overrides that it consists of."""
    axes = []
    for key, value in grid.items():
        if key == "zip":
            for together in _listed(value):
                rows = zip(*together.values(), strict=True)
                axes.append([[override(k, v) for k, v in zip(together, row, strict=True)] for row in rows])
        else:
            axes.append([[override(key, v)] for v in _listed(value)])
    return axes


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _problems(content: Any) -> Iterator[Problem]:
    if not isinstance(content, dict) or not content:
        yield Problem("file", f"expected the keys {listed(KEYS)}, got {shown(content)}")
        return
    for key in content:
        if key not in KEYS:
            yield Problem(str(key), f"unknown key{did_you_mean(str(key), KEYS)} (choices: {listed(KEYS)})")
    grids, common = content.get("grids", [{}]), content.get("common", {})
    if not isinstance(grids, list) or not grids:
        yield Problem("grids", f"expected a list of grids, got {shown(grids)}")
        grids = []
    places = {"common": common, **{f"grids[{i}]": grid for i, grid in enumerate(grids)}}
    sound = {}
    for place, grid in places.items():
        if isinstance(grid, dict):
            problems = list(_problems_of_grid(place, grid))
            yield from problems
            sound |= {} if problems else {place: grid}
        else:
            yield Problem(place, f"expected keys with values, got {shown(grid)}")
    shared = _keys(sound.pop("common", {}))
    yield from _twice("common", shared)
    for place, grid in sound.items():
        yield from _twice(place, [*_keys(grid), *dict.fromkeys(shared)])


def _problems_of_grid(place: str, grid: dict[Any, Any]) -> Iterator[Problem]:
    for key, value in grid.items():
        if key != "zip":
            yield from _problems_of_axis(f"{place}.{key}", key, value)
        elif value == []:
            yield Problem(f"{place}.zip", "expected keys with lists, got an empty list")
        else:
            for together in _listed(value):
                yield from _problems_of_zip(f"{place}.zip", together)


def _problems_of_axis(place: str, key: Any, value: Any) -> Iterator[Problem]:
    if not isinstance(key, str) or not KEY.fullmatch(key):
        comma = (
            "; in {...} a comma begins the next key: several values are a list, [0, 1]"
            if value is None
            else ""
        )
        yield Problem(place, f"expected a key such as model or trainer.epochs, got {shown(key)}{comma}")
    elif OF_A_LAUNCH.fullmatch(key):
        yield Problem(place, f"expected a key of a run, got {shown(key)}, which belongs on the command line")
    if value == []:
        yield Problem(place, "expected one value or more, got an empty list")
    yield from _problems_of_value(place, value)


def _problems_of_zip(place: str, together: Any) -> Iterator[Problem]:
    if not isinstance(together, dict) or not all(isinstance(column, list) for column in together.values()):
        yield Problem(place, f"expected keys with lists, got {shown(together)}")
        return
    for key, column in together.items():
        yield from _problems_of_axis(f"{place}.{key}", key, column)
    if len({len(column) for column in together.values()}) != 1:
        counts = listed(f"{len(column)} for {key}" for key, column in together.items())
        yield Problem(place, f"expected lists of one length, got {counts}")


def _problems_of_value(place: str, value: Any) -> Iterator[Problem]:
    """What Hydra's grammar has no spelling for."""
    if isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _problems_of_value(f"{place}[{i}]", entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str) or not _is_plain(key):
                yield Problem(place, f"expected keys of letters, digits and _, got {shown(key)}")
            yield from _problems_of_value(f"{place}.{key}", entry)
    elif isinstance(value, Unclear):
        yield Problem(place, str(value))
    elif not isinstance(value, str | int | float | None):
        yield Problem(place, f"expected a text, a number, true, false or null, got {shown(value)}")


def _keys(grid: dict[str, Any]) -> list[str]:
    """Of all its axes."""
    keys = [key for key in grid if key != "zip"]
    zipped = [key for together in _listed(grid.get("zip", [])) for key in together]
    return [key.lstrip("+") for key in [*keys, *zipped]]


def _twice(place: str, keys: Iterable[str]) -> Iterator[Problem]:
    for key, count in Counter(keys).items():
        if count > 1:
            beside = "" if place == "common" else " of the grid and common"
            yield Problem(f"{place}.{key}", f"expected the key in one axis{beside}, got {count}")


def override(key: str, value: Any) -> str:
    """``key=value`` in Hydra's grammar, which reads the same value from it."""
    return f"{key}={_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value if _is_plain(value) else quote_text(value)
    if isinstance(value, list):
        return "[" + ",".join(_written(entry) for entry in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(entry)}" for key, entry in value.items()) + "}"
    return "null" if value is None else str(value).lower()


def _is_plain(text: str) -> bool:
    return bool(PLAIN.fullmatch(text)) and text.lower() not in WORDS
