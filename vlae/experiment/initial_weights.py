"""The weights that a training starts with where ``init_from`` names a run: those of its best model."""

from typing import TYPE_CHECKING, Any

from vlae.config.problems import ConfigError, Problem, format_value
from vlae.runs.directory import RunDirectory, find
from vlae.system.disk import RecordError

if TYPE_CHECKING:  # torch, which checks of a configuration do without
    from vlae.models.base import LatentVariableModel

KEY = "init_from"


def check_source(container: dict[str, Any]) -> list[Problem]:
    """What is wrong with the run that ``init_from`` names; nothing if it is null."""
    return _source(container[KEY], container["runs_dir"])[1] if container[KEY] is not None else []


def _source(run: str, runs_dir: str) -> tuple[RunDirectory | None, list[Problem]]:
    """The run, or why it cannot be used. Its whole id is needed, because it is part of the id of the run to train."""
    try:
        found = find(runs_dir, run)
    except RecordError as error:
        return None, [Problem(KEY, str(error))]
    if found.path.name != run:
        text = f"expected the whole id of a run, {found.path.name}, got {format_value(run)}"
        return None, [Problem(KEY, text)]
    if (state := found.state()) != "done":
        return None, [Problem(KEY, f"expected a finished run, got {run}, whose state is {state}")]
    return found, []


def load_initial_weights(model: "LatentVariableModel", run: str, runs_dir: str) -> None:
    """Give a model the weights of the best model of a run. ConfigError: there are none, or they are another model's."""
    # a checkpoint is read here alone, so that checks of many runs stay fast
    from vlae.training.checkpoints import read_checkpoint

    source, problems = _source(run, runs_dir)
    if source is None:
        raise ConfigError(problems)
    state, _ = read_checkpoint(source)
    weights = state["progress"]["best_model"] if state is not None else {}
    if not weights:
        raise ConfigError([Problem(KEY, f"{run} has no checkpoint any more")])
    there, own = ({n: tuple(v.shape) for n, v in d.items()} for d in (weights, model.state_dict()))
    other = [name for name in sorted(there.keys() | own.keys()) if there.get(name) != own.get(name)]
    if other:
        name, more = other[0], f", and {len(other) - 1} more" if len(other) > 1 else ""
        shapes = f"{there.get(name, 'none')} there, {own.get(name, 'none')} here"
        raise ConfigError([Problem(KEY, f"{run} is another model: its weights {name} are {shapes}{more}")])
    model.load_state_dict(weights)
