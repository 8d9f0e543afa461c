"""The runs of a sweep as they are composed, before anything is read from disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlae.config.overrides import split_arguments
from vlae.config.problems import ConfigError, Problem, format_value
from vlae.config.run_id import OF_A_COMMAND, OPERATIONAL, get, run_id
from vlae.system.console import count_of, standard_error
from vlae.system.files import check_writable

MANY = 100  # number of runs that take so long to compose that a message says so


class ComposedRuns:
    """The configurations of a sweep, each once, by run id."""

    def __init__(
        self,
        overrides: Sequence[Sequence[str]],
        compose: Callable[[Sequence[str]], dict[str, Any]],
        file: str | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """file: name of the sweep file, if there is one; notes: remarks for the user.

        ConfigError: everything that is wrong with any of them, as far as it shows without importing targets.
        RecordError: their runs directory cannot be written.
        """
        self.file, self.notes = file, tuple(notes)
        self.containers: dict[str, dict[str, Any]] = {}
        self._all, wrong, chosen = [], {}, {}
        for number, job in enumerate(overrides):
            if number == 1 and len(overrides) > MANY:
                standard_error().print(f"composing {len(overrides)} runs")
            try:
                container = compose(job)
            except ConfigError as error:
                wrong[str(number)] = error.problems
                continue
            if not self._all and not container["dry_run"]:
                check_writable(Path(container["runs_dir"]))  # before the others take their time
            self._all.append(container)
            name = run_id(container)
            self.containers.setdefault(name, container)
            chosen.setdefault(name, job)
        if not overrides:
            raise ConfigError([Problem("sweep", "it has no runs")])
        if wrong:
            labels = labels_of({str(number): job for number, job in enumerate(overrides)})
            raise ConfigError(problems_by_run(wrong, labels, file))
        for key in ("runs_dir", *OF_A_COMMAND):
            self.common(key)
        self.labels = labels_of(chosen)  # the overrides of each run that distinguish it from the others

    def __len__(self) -> int:
        return len(self._all)

    def common(self, key: str) -> Any:
        """The value of a key that all runs of a launch share. ConfigError: they differ in it."""
        values = [get(container, key) for container in self._all]
        if any(value != values[0] for value in values):
            found = ", ".join(dict.fromkeys(format_value(value) for value in values))
            raise ConfigError([Problem(key, f"expected one value for all runs of a sweep, got {found}")])
        return values[0]


def problems_by_run(
    wrong: Mapping[str, Sequence[str]], labels: Mapping[str, str], file: str | None
) -> list[str]:
    """The problems of these runs, each once, with the runs that have it, of all those that have a label."""
    runs: dict[str, list[str]] = {}
    for run, problems in wrong.items():
        for problem in problems:
            runs.setdefault(problem, []).append(labels[run] or run)
    found = []
    for problem, those in runs.items():
        more = f", and {len(those) - 1} more of the {count_of(len(labels), 'run')}" if len(those) > 1 else ""
        where = f"{those[0]}{more}"
        if len(those) == len(labels):
            where = f"all of its {count_of(len(labels), 'run')}" if file else ""
        where = ": ".join(filter(None, [file, where]))
        found.append(f"{problem} [{where}]" if where else problem)
    return found


def labels_of(overrides: dict[str, Sequence[str]]) -> dict[str, str]:
    """Labels of runs: the overrides that not all of them share.

    >>> labels_of({"a": ["model=vae", "seed=0"], "b": ["model=vae", "seed=1"]})
    {'a': 'seed=0', 'b': 'seed=1'}
    """
    hidden, by_key = {*OPERATIONAL, *OF_A_COMMAND}, {}
    for name, job in overrides.items():
        texts = [text.lstrip("+") for text in split_arguments(job)[0]]
        by_key[name] = {text.partition("=")[0]: text for text in texts}  # the last one of a key counts
    common = set.intersection(*(set(job.values()) for job in by_key.values())) if len(by_key) > 1 else set()
    return {
        name: " ".join(text for key, text in job.items() if text not in common and key not in hidden)
        for name, job in by_key.items()
    }
