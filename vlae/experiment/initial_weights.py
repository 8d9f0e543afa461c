"""The weights that a training starts with where ``init_from`` names a run: those of its best model."""

from typing import TYPE_CHECKING, Any

from vlae.config.problems import ConfigError, Problem, format_value
from vlae.runs.directory import RunDirectory, directory_of, find
from vlae.runs.trainings import Trainings
from vlae.system.disk import RecordError

if TYPE_CHECKING:  # it imports torch, which checks of a configuration do without
    from vlae.config.schema import Config
    from vlae.models.base import LatentVariableModel

KEY = "init_from"


def check_source(container: dict[str, Any]) -> None:
    """ConfigError: the run that ``init_from`` names cannot be used, and the training has not begun yet."""
    if container.get(KEY) is None:
        return
    own = directory_of(container)
    others = Trainings(own.path.parent).directories(own.path.name, container)
    if not any((each.path / "checkpoints" / "last.pt").is_file() for each in (own, *others)):
        _source(container[KEY], container["runs_dir"])


def _source(run: str, runs_dir: str) -> RunDirectory:
    """The run. Its whole id is needed, because it becomes a part of the id of the run to train."""
    try:
        found = find(runs_dir, run)
    except RecordError as error:
        raise ConfigError([Problem(KEY, str(error))]) from error
    if found.path.name != run:
        raise ConfigError([Problem(KEY, f"expected a whole id, {found.path.name}, got {format_value(run)}")])
    if (state := found.state()) != "done":
        raise ConfigError([Problem(KEY, f"expected a finished run, got {run}, whose state is {state}")])
    return found


def start_from_run(model: "LatentVariableModel", cfg: "Config") -> ConfigError | None:
    """Give the model the weights of the run that ``init_from`` names, if it names one.

    Returns why the run cannot be used, which matters only to a training that has not begun yet.
    ConfigError: its weights are those of another model.
    """
    # a checkpoint is read here alone, so that checks of many runs stay fast
    from vlae.training.checkpoints import read_checkpoint

    if (run := cfg.init_from) is None:
        return None
    try:
        state, _ = read_checkpoint(_source(run, cfg.runs_dir))
    except ConfigError as error:
        return error
    weights = state["progress"]["best_model"] if state is not None else {}
    if not weights:
        return ConfigError([Problem(KEY, f"{run} has no checkpoint any more")])
    there, own = ({n: tuple(v.shape) for n, v in d.items()} for d in (weights, model.state_dict()))
    other = [name for name in sorted(there.keys() | own.keys()) if there.get(name) != own.get(name)]
    if other:
        name, more = other[0], f", and {len(other) - 1} more" if len(other) > 1 else ""
        shapes = f"{there.get(name, 'none')} there, {own.get(name, 'none')} here"
        raise ConfigError([Problem(KEY, f"{run} is another model: its weights {name} are {shapes}{more}")])
    model.load_state_dict(weights)
    return None
