"""The help of launch.py, made of the schema and of the comments in conf/: nothing is documented twice."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from vlae.config.compose import compose_with_choices
from vlae.config.options import wrong_directories
from vlae.config.overrides import CONF, choices, directories, overrides_of, top_level
from vlae.config.problems import ConfigError, format_value
from vlae.config.run_id import MISSING, get
from vlae.config.schema import FIXED_SECTIONS, fields
from vlae.system.console import Console
from vlae.system.locations import SWEEPS

PROGRAM = "python launch.py"
COMPLETION = f'eval "$({PROGRAM} -sc install=bash)"'
USAGE = f"""\
[bold]python launch.py[/] \\[group=choice ...] \\[key=value ...]

Trains a model, evaluates it and records both in a run directory.
Rerun the command to see the results or to resume.

  python launch.py model=iaf dataset=mnist output_dist=bernoulli optimizer.lr=1e-3
  python launch.py model.hidden_dims=[500,500] seed=3
  python launch.py -m model=vae,vlae seed=0,1,2  [dim]one run for each combination[/]
  python launch.py sweeps=smoke                  [dim]the runs of a sweep file[/]
  python launch.py sweeps=smoke dry_run=true     [dim]the plan, and nothing started[/]
  python launch.py --help model=iaf              [dim]the keys of another choice[/]
  python launch.py --cfg job                     [dim]the composed configuration[/]
  python launch.py --config-dir DIR optimizer=mine  [dim]a choice of your own: DIR/optimizer/mine.yaml[/]
  {COMPLETION}    [dim]Tab completes groups, choices and keys (also fish)[/]
  python launch.py --hydra-help                  [dim]Hydra's own options[/]
"""
PLAIN_WIDTH = 110  # where there is no terminal whose width could be asked for


def print_help(arguments: Sequence[str], program: str = PROGRAM) -> int:
    """Print the groups with their choices and the keys with their values; the exit status.

    program: the name under which the command was started.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    if problems := wrong_directories(arguments):
        raise ConfigError(problems)
    places = [CONF, *directories(arguments)]
    (container, of_command), groups = compose_with_choices(overrides_of(arguments)), choices(places)
    order = list(dict.fromkeys([*(group for group in container if group in groups), *top_level(groups)]))
    chosen = {group: of_command.get(group, []) for group in order}
    console.print(_usage(program))
    console.print("[bold]Groups[/] (* in this command)")
    console.print(_table(_rows_of_choices(places, groups, chosen)))
    console.print("\n[bold]Keys[/], with their values in this command")
    console.print(_table(_rows_of_keys(container, chosen, places)))
    console.print("\n[bold]Keys of sweeps alone[/]: hydra.sweeper.name=NAME, hydra.launcher.KEY=VALUE")
    console.print(_table(_rows_of_sweep_keys()))
    return 0


def _rows_of_choices(
    places: Sequence[Path], groups: dict[str, list[str]], chosen: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str]]:
    """Each group, sweep file and launcher with the opening comment of its file."""
    marks = {**chosen, "hydra/launcher": ["local"]}
    files_of = [(group, [_file(places, group, name) for name in groups[group]]) for group in marks]
    files_of.insert(-1, ("sweeps", sorted(SWEEPS.glob("*.yaml"))))
    for group, files in files_of:
        for i, file in enumerate(files):
            star = "*" if file.stem in marks.get(group, ()) else " "
            yield f"{'' if i else f'{group}=':<13}{star} {file.stem}", header(file)


def _rows_of_keys(
    container: dict[str, Any], chosen: Mapping[str, Sequence[str]], places: Sequence[Path]
) -> Iterator[tuple[str, str]]:
    texts = {key: field.description or "" for key, field in fields()}
    for group, name in ((group, name) for group, names in chosen.items() for name in names):
        # the keys of a section of the schema are explained there
        if group not in FIXED_SECTIONS and (file := _file(places, group, name)).is_file():
            keys = documented_keys(file).items()
            texts |= {f"{group}.{k}": text for k, text in keys if not re.match(r"(name|_target_|sizes)\b", k)}
    for key, text in texts.items():
        value = get(container, key)
        if not isinstance(value, dict) and value is not MISSING:
            yield f"{key}={value if isinstance(value, str) else format_value(value).replace(' ', '')}", text


def _rows_of_sweep_keys() -> Iterator[tuple[str, str]]:
    yield "hydra.sweeper.name", "by which vlae status, vlae table and Weights & Biases know the sweep"
    for name in ("local", "slurm"):
        for key, comment in documented_keys(CONF / "hydra" / "launcher" / f"{name}.yaml").items():
            if not key.startswith("_"):
                yield f"{key} ({name})", comment


def _usage(program: str) -> str:
    if program == PROGRAM:
        return USAGE
    own = "vlae --install-completion".ljust(len(COMPLETION) - len(PROGRAM) + len(program))
    return USAGE.replace(COMPLETION, own).replace(PROGRAM, program)


def header(file: Path) -> str:
    """The first line of a file's opening comment."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.lstrip("# ").strip()
    return ""


def documented_keys(file: Path) -> dict[str, str]:
    """Every dotted key of a YAML file in blocks with its comment: at the end of its line, or in the lines above it."""
    found: dict[str, str] = {}
    place: list[str] = []
    above: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            above.append(line.strip("# "))
            continue
        if match := re.fullmatch(r"((?:  )*)([^\s:#-][^\s:]*):(?: +[^\s#].*?)?(?: +# *(.*))?", line):
            place[len(match[1]) // 2 :] = [match[2]]
            found[".".join(place)] = match[3] or " ".join(above)
        above = []
    return found


def _file(places: Sequence[Path], group: str, name: str) -> Path:
    """The file of a choice, in conf/ or a directory that the command adds."""
    files = [place / group / f"{name}.yaml" for place in places]
    return next((file for file in files if file.is_file()), files[0])


def _table(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=33, no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(f"  {escape(name)}", escape(text))
    return table
