"""The fixed sections of a configuration: their keys, types and ranges."""

import pkgutil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from vlae.config.run_id import LONGEST_NAME, SCHEMA_VERSION, wrong_name


def _device(name: Any) -> str:
    kind, colon, index = str(name).partition(":")
    if name in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and colon and index.isdecimal()):
        return name
    raise PydanticCustomError("device", "auto, cpu, cuda, cuda:N or mps")


Count = Annotated[int, Field(ge=1)]


Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]


_PROPOSALS = Path(__file__).parents[1] / "estimation" / "proposals"
PROPOSALS = tuple(module.name for module in pkgutil.iter_modules([str(_PROPOSALS)]))
"""The names of the files in ``vlae.estimation.proposals``, which are not imported: they need torch."""


def _proposals(names: list[str]) -> list[str]:
    if "own" not in names or len(set(names)) < len(names):
        raise PydanticCustomError("proposals", "each name once, and own among them: the ELBO is its")
    return names


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Trainer(_Section):
    """How training goes; conf/config.yaml explains each key."""

    epochs: Count
    batch_size: Count
    selection: Literal["validation", "test"]
    patience: Count | None
    clip_grad_norm: Annotated[float, Field(gt=0)] | None
    initialisation: Literal["paper", "original"]
    checkpoint_every: Annotated[float, Field(gt=0)]
    precision: Literal["float32", "float64"]
    objective: Literal["elbo", "iwae"]
    num_samples: Count
    kl: Literal["sampled", "analytic"]


class Ais(_Section):
    """Annealed importance sampling; conf/config.yaml explains each key."""

    num_images: Annotated[int, Field(ge=0)]
    num_chains: Annotated[int, Field(ge=2)]
    num_distributions: Count
    num_leapfrog: Count


class Evaluate(_Section):
    """How a model is scored; conf/config.yaml explains each key."""

    proposals: Annotated[
        list[Literal[PROPOSALS]],  # pyright: ignore[reportInvalidTypeForm]
        Field(min_length=1),
        AfterValidator(_proposals),
    ]
    num_samples: Count
    target_standard_error: Annotated[float, Field(gt=0)] | None
    num_gap_images: Annotated[int, Field(ge=0)]
    ais: Ais
    bdmc: bool
    memory_budget: Annotated[int, Field(ge=16)]
    num_images: Count | None


def _project(name: str) -> str:
    if 1 <= len(name) <= 128 and name.isprintable() and not set(name) & set("/\\#?%:"):
        return name
    raise PydanticCustomError("project", "1 to 128 characters without / \\ # ? % :")


def _entity(name: str) -> str:
    if _project(name) and not any(c.isspace() for c in name):
        return name
    raise PydanticCustomError("entity", "a user or team, which has no spaces,")


def _name(longest: int) -> AfterValidator:
    def check_name(name: str) -> str:
        if wrong := wrong_name(name, longest):
            raise PydanticCustomError("name", "{wrong}", {"wrong": wrong})
        return name

    return AfterValidator(check_name)


class Tracker(_Section):
    """Where a run is mirrored, in lengths that Weights & Biases takes; conf/config.yaml explains each key."""

    wandb: bool
    tensorboard: bool
    project: Annotated[str, AfterValidator(_project)]
    entity: Annotated[str, AfterValidator(_entity)] | None
    group: Annotated[str, _name(LONGEST_NAME)] | None
    tags: list[Annotated[str, _name(64)]]
    name: Annotated[str, _name(LONGEST_NAME)] | None
    mode: Literal["auto", "online", "offline", "disabled"]
    images_every: Count | None
    artifacts: bool


class Config(_Section):
    """A run, completely described. The first four sections name a class or function and its arguments."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    output_dist: dict[str, Any]
    optimizer: dict[str, Any]
    trainer: Trainer
    evaluate: Evaluate
    tracker: Tracker
    seed: Annotated[int, Field(ge=0)]
    device: Annotated[str, BeforeValidator(_device)]
    num_threads: Count | None
    runs_dir: Annotated[str, Field(min_length=1)]
    force: bool
    retry: bool
    dry_run: bool
    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)]


FIXED_SECTIONS: dict[str, type[BaseModel]] = {
    "trainer": Trainer,
    "evaluate": Evaluate,
    "evaluate.ais": Ais,
    "tracker": Tracker,
}
