"""Many runs, wherever they come from, as rows with flat keys: settings, state and figures."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

NEVER = "never launched"
"""The state of a run of a sweep that has no directory; other states are those of `vlae.launching.run_state`."""
DAMAGED = "damaged"
"""The state of a run whose record cannot be read; the reason says what of it, and why."""
UPDATES = ("model.num_updates", "model.num_steps", "model.num_flows")
"""What ``T`` is: each model has one of them, or none."""
OF_A_RUN = ("id", "label", "state", "reason")


class Run(NamedTuple):
    """One row."""

    id: str
    label: str
    """What distinguishes it in its sweep."""
    settings: Mapping[str, Any]
    """The scientific configuration, as `vlae.config.run_id.settings` gives it; a part of it where not `readable`."""
    state: str
    reason: str = ""
    """Of a run that is not done."""
    figures: Mapping[str, Any] | None = None
    """Of a run that is done, as `vlae.report.metric_values` has them."""
    per_image: Callable[[str], np.ndarray | None] | None = None
    """The array of this name in test_log_likelihood.npz, read when it is asked for; RecordError: it is damaged."""
    metrics: Callable[[], Sequence[Mapping[str, Any]]] | None = None
    """An entry an epoch, as metrics.jsonl has them, read when it is asked for; None: there are none."""
    directory: str | None = None
    """Where its trained model is; None: not on this machine."""

    @property
    def readable(self) -> bool:
        """Another one has no record, or a damaged one: it counts in the cell that fits what is known of it, no more."""
        return self.state not in (NEVER, DAMAGED)

    def lacks_epochs(self, there: int) -> str:
        """What is to be said of so many epochs in metrics.jsonl; empty: it has all of a run that is done."""
        trained = (self.figures or {}).get("epochs")
        if not isinstance(trained, int) or there >= trained:
            return ""
        return f"metrics.jsonl has {there} of {trained} epochs, so its curve is cut"

    def value(self, key: str) -> Any:
        """Of a setting, of ``T``, of a figure, or of OF_A_RUN; None where the run has none."""
        if key in self.settings:
            return self.settings[key]
        if key == "T":
            return next((self.settings[name] for name in UPDATES if name in self.settings), None)
        if key in OF_A_RUN:
            return getattr(self, key)
        return (self.figures or {}).get(key)


class LeftOut(NamedTuple):
    """What a reader might take for a run that counts."""

    name: str
    because: str


@runtime_checkable
class Source(Protocol):
    """Where runs come from: run directories, or a service that mirrors them.

    It may have a ``note``, which has to be said below a table of them.
    """

    title: str

    def __iter__(self) -> Iterator[Run | LeftOut]: ...


@dataclass(frozen=True)
class Runs:
    """What a source had."""

    title: str
    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...] = ()
    note: str = ""

    def settings(self) -> list[str]:
        """The keys of all settings."""
        return _keys(run.settings for run in self.runs)

    def figures(self) -> list[str]:
        """The names of all figures."""
        return _keys(run.figures for run in self.runs if run.figures)

    def known(self) -> list[str]:
        """Everything that `Run.value` has of any of them."""
        return [*OF_A_RUN, "T", *self.settings(), *self.figures()]

    def only(self, chosen: Callable[[Run], bool]) -> "Runs":
        """What is left out of the others is so, too."""
        runs = tuple(run for run in self.runs if chosen(run))
        others = {run.id for run in self.runs if run.state == DAMAGED} - {run.id for run in runs}
        return replace(
            self, runs=runs, left_out=tuple(one for one in self.left_out if one.name not in others)
        )

    def frame(self) -> "DataFrame":
        """One row a run, one column a key; what a run has not is missing."""
        from pandas import DataFrame  # takes longer to import than a table to make

        settings, figures = self.settings(), self.figures()
        columns = {key: [getattr(run, key) for run in self.runs] for key in OF_A_RUN}
        columns |= {key: [run.settings.get(key) for run in self.runs] for key in settings}
        columns |= {key: [(run.figures or {}).get(key) for run in self.runs] for key in figures}
        return DataFrame(columns)


def collect(source: Source) -> Runs:
    """The runs of a source. Of those of one id the first counts, and the others are left out.

    A damaged one is left out, too, and counts as missing.
    """
    found: dict[str, Run] = {}
    left_out: list[LeftOut] = []
    for entry in source:
        if isinstance(entry, LeftOut):
            left_out.append(entry)
        elif entry.id in found:
            left_out.append(LeftOut(entry.id, "it is there more than once"))
        else:
            found[entry.id] = entry
            if entry.state == DAMAGED:
                left_out.append(LeftOut(entry.id, entry.reason))
    return Runs(source.title, tuple(found.values()), tuple(left_out), getattr(source, "note", ""))


def _keys(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Of any of them; most have the same ones."""
    kinds = dict.fromkeys(tuple(mapping) for mapping in mappings)
    return list(dict.fromkeys(key for kind in kinds for key in kind))
