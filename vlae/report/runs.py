"""Many runs, wherever they come from, as rows with flat keys: settings, state and metrics."""

import io
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np

from vlae.config.problems import format_value
from vlae.config.run_id import exact_text
from vlae.report.metric_values import scoring_keys
from vlae.report.names import some
from vlae.runs.directory import metrics_of
from vlae.system.disk import RecordError
from vlae.system.files import read_bytes
from vlae.system.npz import Archive

if TYPE_CHECKING:
    from pandas import DataFrame

UPDATES = ("model.num_updates", "model.num_steps", "model.num_flows")
"""The keys that ``T`` stands for: each model has one of them, or none."""
OF_A_RUN = ("id", "sweep", "label", "state", "reason")
SOME = 5  # runs that a note can name


class History(NamedTuple):
    """The metrics of epochs in metrics.jsonl, read when they are asked for; a line torn by a kill does not count."""

    path: str

    def __call__(self, every: int = 1) -> dict[int, Mapping[str, Any]]:
        """The metrics of the first epoch, and then of one in ``every``. RecordError: a line is not that of an epoch."""
        lines = (read_bytes(self.path) or b"").split(b"\n")[:-1]
        found = metrics_of(self.path, [line for n, line in enumerate(lines, 1) if n == 1 or n % every == 0])
        for each in found:
            if not isinstance(each.get("epoch"), int):
                raise RecordError(f"{self.path} has a line without an epoch: {format_value(each)}")
        return {each["epoch"]: each for each in found}

    def epochs(self) -> int:
        """The number of epochs, without parsing them."""
        return (read_bytes(self.path) or b"").count(b"\n")


def read_array(path: str, name: str) -> np.ndarray | None:
    """The array of this name in test_log_likelihood.npz: [images], NaN where an image has no value.

    None: there is none. RecordError: the file is missing, or cannot be read.
    """
    file = os.path.basename(path)
    if (content := read_bytes(path)) is None:
        raise RecordError(f"{file} is missing")
    try:
        found = Archive(io.BytesIO(content)).read([name]).get(name)
    except Exception as error:  # what numpy, zip and zlib raise depends on where the damage is
        raise RecordError(f"{file} cannot be read ({error})") from error
    if found is not None and (found.ndim != 1 or found.dtype.kind not in "fiu"):
        got = f"the shape {found.shape} and the type {found.dtype}"
        raise RecordError(f"{file}: expected a number for each image, {name} has {got}")
    return found


class Run(NamedTuple):
    """A run as a row: its settings, its state, and its metrics.

    >>> run = Run("vae-0", "", {"model.name": "vae", "seed": 0}, "done", "", {"test.elbo": -80.5})
    >>> run.value("seed"), run.number("test.elbo"), run.value("T")
    (0, -80.5, None)
    """

    id: str
    label: str  # what distinguishes the run in its sweep
    settings: Mapping[str, Any]  # the scientific configuration, as `vlae.config.run_id.settings` gives it
    state: str  # one of the states of `vlae.launching.run_state`
    reason: str = ""  # why a run is not done
    metrics: Mapping[str, Any] | None = None  # of a run that is done: those of `vlae.report.metric_values`
    per_image: Callable[[str], np.ndarray | None] | None = None  # `read_array`, or the like
    history: History | None = None  # None: the source has no metrics of epochs
    directory: str | None = None  # where its trained model lies; None: not on this machine
    earlier: bool = False  # made under an earlier scheme of ids: its id does not follow from its settings
    sweep: str | None = None  # the name by which the user asked for it: of a sweep, or an id prefix

    @property
    def is_scored(self) -> bool:
        """True if the run is done and was scored on the test images, which ``evaluate=none`` leaves out."""
        return any(key.startswith("test.") for key in self.metrics or ())

    def lacks_epochs(self, there: int) -> str:
        """A note that metrics.jsonl has fewer epochs than the run was trained; empty: it has all of them."""
        trained = (self.metrics or {}).get("epochs")
        if not isinstance(trained, int) or there >= trained:
            return ""
        return f"metrics.jsonl has {there} of {trained} epochs, so its curve is cut"

    def value(self, key: str) -> Any:
        """The value of a setting, of ``T``, of a metric, or of a key of OF_A_RUN; None where the run has none."""
        if key in self.settings:
            return self.settings[key]
        if key == "T":
            return next((self.settings[name] for name in UPDATES if name in self.settings), None)
        if key in OF_A_RUN:
            return getattr(self, key)
        return (self.metrics or {}).get(key)

    def number(self, key: str) -> float | None:
        """The value as a number; None: the run has none, or it is not finite."""
        value = self.value(key)
        return value if is_number(value) and math.isfinite(value) else None


def is_number(value: Any) -> TypeGuard[int | float]:
    """True for numbers; Python takes True for one, too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class LeftOut(NamedTuple):
    """A run, or a directory like one, that does not count, and the reason."""

    name: str
    because: str

    def __str__(self) -> str:
        return f"{self.name} ({self.because})"


def some_of(left_out: Sequence[LeftOut]) -> str:
    """Some of the runs, each with its reason, and the number of others."""
    return some([*map(str, left_out)], SOME)


@dataclass(frozen=True)
class Runs:
    """The runs of a source: of run directories, or of a service that mirrors them.

    >>> runs = Runs("a sweep", (Run("a", "", {"seed": 0}, "done"), Run("b", "", {"seed": 1}, "failed")))
    >>> [run.id for run in runs.only(lambda run: run.state == "done").runs]
    ['a']
    """

    title: str
    runs: tuple[Run, ...]
    left_out: tuple[LeftOut, ...] = ()
    note: str = ""  # printed below each table of these runs
    earlier: tuple[
        "Runs", ...
    ] = ()  # earlier launches of a sweep whose latest is not complete, the oldest first
    parts: tuple["Runs", ...] = ()  # the sweeps that were asked for together, of which these are the runs

    def settings(self) -> list[str]:
        """The keys of all settings."""
        return _keys_of_all(run.settings for run in self.runs)

    def metrics(self) -> list[str]:
        """The names of all metrics."""
        return _keys_of_all(run.metrics for run in self.runs if run.metrics)

    def all_keys(self) -> list[str]:
        """Every key for which `Run.value` may return something."""
        return [*OF_A_RUN, "T", *self.settings(), *self.metrics()]

    def only(self, condition: Callable[[Run], bool]) -> "Runs":
        """The runs that meet a condition."""
        kept = tuple(run for run in self.runs if condition(run))
        earlier, parts = (tuple(each.only(condition) for each in many) for many in (self.earlier, self.parts))
        return replace(self, runs=kept, earlier=earlier, parts=parts)

    def newest_complete(self, metric: str) -> "Runs":
        """The runs of the latest launch that is complete for a metric, as far as its launches are known.

        First a run of an earlier launch stands for one that lacks the metric, if it has the same training and the same
        settings of all that the metric depends on, so that its value is the same. If runs lack it still, an earlier
        launch counts that has scored all of these models, if there is one.
        """
        if self.parts:
            return together([part.newest_complete(metric) for part in self.parts])
        mixed = self._with_same_values(metric)
        if not self.earlier or (not self.left_out and _all_have(mixed.runs, metric)):
            return mixed
        trainings, latest = set(map(training_of, self.runs)), len(self.earlier) + 1
        for number, launch in reversed([*enumerate(self.earlier, 1)]):
            complete = launch.runs and not launch.left_out and _all_have(launch.runs, metric)
            if complete and trainings <= set(map(training_of, launch.runs)):
                text = f"Launch {number}: launch {latest} is not complete, which --evaluation {latest} shows"
                return replace(launch, note=text)
        return mixed

    def _with_same_values(self, metric: str) -> "Runs":
        """The same runs, each that lacks the metric replaced by one of an earlier launch with the same value."""
        keys, known = scoring_keys(metric), dict[str, Run]()
        for run in (run for launch in self.earlier for run in launch.runs if _all_have([run], metric)):
            known[_value_of(run, keys)] = run
        found = {
            run.id: known[_value_of(run, keys)]
            for run in self.runs
            if not _all_have([run], metric) and _value_of(run, keys) in known
        }
        if not found:
            return self
        text = f"{len(found)} of {len(self.runs)} runs as an earlier launch has scored them, with the same settings"
        return replace(self, runs=tuple(found.get(run.id, run) for run in self.runs), note=text)

    def scored_for(self, metric: str) -> "Runs":
        """The runs without the settings of ``evaluate`` that do not change this metric.

        Of runs that are the same then, the first that has the metric counts, else the first that is done. For a metric
        of test images, a run that was not scored stands where it would if it were, unless its training is scored.
        """
        runs = _beside_scored(self.runs) if metric.startswith("test.") else self.runs
        if (keys := scoring_keys(metric)) is None:
            return replace(self, runs=tuple(runs))
        found: dict[str, Run] = {}
        for run in runs:
            kept = {k: v for k, v in run.settings.items() if _counts(k, keys)}
            reduced, same = run._replace(settings=kept), exact_text(kept)
            if same not in found or _known(run, metric) > _known(found[same], metric):
                found[same] = reduced
        return replace(self, runs=tuple(found.values()))

    def frame(self) -> "DataFrame":
        """A table with one row per run, and one column per key; NaN or None where a run has no value."""
        from pandas import DataFrame  # takes longer to import than a table to make

        keys = [*OF_A_RUN, *self.settings(), *self.metrics()]
        return DataFrame({key: [run.value(key) for run in self.runs] for key in keys})


def collect(title: str, rows: Iterable[Run | LeftOut], note: str = "") -> Runs:
    """The runs among the rows of a source, each once.

    Of runs with the same id the first counts. A run of an earlier scheme of ids is left out if another run, best one
    of the present scheme, has its settings.
    """
    found: dict[str, Run] = {}
    left_out: list[LeftOut] = []
    for entry in rows:
        if isinstance(entry, LeftOut):
            left_out.append(entry)
        elif entry.id in found:
            left_out.append(LeftOut(entry.id, "another run has the same id"))
        else:
            found[entry.id] = entry
    if earlier := [run for run in found.values() if run.earlier]:
        exact = {run.id: exact_text(dict(run.settings)) for run in found.values()}
        kept = {exact[run.id]: run.id for run in found.values() if not run.earlier}
        for run in earlier:
            if (twin := kept.setdefault(exact[run.id], run.id)) != run.id:
                del found[run.id]
                left_out.append(LeftOut(run.id, f"it is {twin} under an earlier scheme of ids"))
    return Runs(title, tuple(found.values()), tuple(left_out), note)


def together(parts: Sequence[Runs]) -> Runs:
    """The runs of several sources as one, each once: a run of two sweeps counts as one of the first.

    >>> a, b = (Run(name, "", {"seed": 0}, "done") for name in "ab")
    >>> both = together([Runs("one", (a,)), Runs("two", (a, b))])
    >>> both.title, [run.id for run in both.runs]
    ('one two', ['a', 'b'])
    """
    runs: dict[str, Run] = {}
    notes = [f"{part.title}: {part.note}" for part in parts if part.note]
    for part in parts:
        if shared := sum(run.id in runs for run in part.runs):
            notes.append(f"{shared} of {len(part.runs)} runs of {part.title} count with a source before it")
        for run in part.runs:
            runs.setdefault(run.id, run)
    left_out = dict.fromkeys(each for part in parts for each in part.left_out if each.name not in runs)
    title = " ".join(part.title for part in parts)
    return Runs(title, tuple(runs.values()), tuple(left_out), ". ".join(notes), parts=tuple(parts))


def _beside_scored(runs: Sequence[Run]) -> Sequence[Run]:
    """The runs, those without scores with the settings of ``evaluate`` of one that has scores.

    That is a run of the same settings but the seed, or the first. Left out are those whose training is scored.
    """
    unscored = {run.id for run in runs if run.metrics is not None and not run.is_scored}
    scored = [run for run in runs if run.is_scored]
    if not (unscored and scored):
        return runs
    trainings = {training_of(run) for run in scored}
    of_model = {training_of(run, "seed"): run for run in reversed(scored)}
    found = []
    for run in runs:
        if run.id in unscored:
            if training_of(run) in trainings:
                continue
            like = of_model.get(training_of(run, "seed"), scored[0])
            own = {key: value for key, value in run.settings.items() if _counts(key, ())}
            scoring = {key: value for key, value in like.settings.items() if not _counts(key, ())}
            run = run._replace(settings={**own, **scoring})
        found.append(run)
    return found


def training_of(run: Run, without: str = "") -> str:
    """The same for runs that differ only in how they are scored, and in the setting ``without``."""
    return exact_text({key: v for key, v in run.settings.items() if _counts(key, ()) and key != without})


def _all_have(runs: Sequence[Run], metric: str) -> bool:
    return all(run.value(metric) is not None for run in runs)


def _value_of(run: Run, keys: Sequence[str] | None) -> str:
    """The same for runs in which a metric that depends on these settings of ``evaluate`` has the same value."""
    return exact_text({key: v for key, v in run.settings.items() if keys is None or _counts(key, keys)})


def _known(run: Run, metric: str) -> tuple[bool, bool]:
    """Whether a run has the metric, and whether it is done."""
    return run.value(metric) is not None, run.metrics is not None


def _counts(setting: str, keys: Sequence[str]) -> bool:
    """True for the keys, what is in them, and everything that is no setting of ``evaluate``."""
    return not setting.startswith("evaluate.") or any(f"{setting}.".startswith(f"{key}.") for key in keys)


def _keys_of_all(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, most of which have the same ones."""
    kinds = dict.fromkeys(tuple(mapping) for mapping in mappings)
    return list(dict.fromkeys(key for kind in kinds for key in kind))
