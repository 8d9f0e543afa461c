"""The fixed sections of a configuration: each key with its default, range, description and part in the run's id.

``python docs/write_keys.py`` writes conf/config.yaml and docs/keys.md from it.
"""

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

SCHEMA_VERSION = 2
"""The scheme of run ids, frozen in config.yaml as ``schema_version``; a file without it is of scheme 1.

Raised when what goes into an id changes. Runs of an earlier scheme stay readable under the ids they have.
"""

LONGEST_NAME = 128
"""Characters of a sweep's name, and of a name or group on Weights & Biases, which takes no more."""
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Minutes = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_PROPOSALS = Path(__file__).parents[1] / "estimation" / "proposals"
PROPOSALS = tuple(module.name for module in pkgutil.iter_modules([str(_PROPOSALS)]))
"""The names of the files in ``vlae.estimation.proposals``, which are not imported: they need torch."""
_ESTIMATORS = _PROPOSALS.with_name("estimators")
ESTIMATORS = tuple(
    sorted(
        (m.name for m in pkgutil.iter_modules([str(_ESTIMATORS)])),
        key=lambda name: (name != "importance", name),
    )
)
"""The names of the files in ``vlae.estimation.estimators``, in the order of their work; others need the proposals."""


def key(default: Any, description: str, *, operational: bool = False, **more: Any) -> Any:
    """The field of one key.

    operational: the key changes how a run is carried out, not its result, so that it is no part of the run's id.
    before: for a key added later, what earlier runs did; at this value it counts as absent, so that old ids stay valid.
    follows: the key of another section that gives the default; then ``default`` is ``...``.
    """
    return Field(default, description=description, json_schema_extra={"operational": operational, **more})


_FILE_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._+= -]*[A-Za-z0-9_+=-])?")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any extension."""


def wrong_name(name: Any, longest: int = LONGEST_NAME, *, file: bool = False) -> str | None:
    """The requirement that a name does not meet; None: it is a valid name.

    file: the name becomes a file, which must be possible on every system and stay in its directory. Any other name
    only has to be visible text.

    >>> wrong_name("../a", file=True)[:12]
    'letters a-z,'
    """
    if not isinstance(name, str):
        return "a text"
    if not name.strip():
        return "a text that is not empty"
    if len(name) > longest:
        return f"a text of at most {longest} characters"
    if file and not _FILE_NAME.fullmatch(name):
        return (
            "letters a-z, digits, . _ - + = and spaces, at the beginning a letter, a digit or _, at the end no . or "
            "space"
        )
    if file and _DEVICE.fullmatch(name):
        return "a name that Windows does not keep for a device"
    return None if name.isprintable() else "a text without control characters"


def _device(name: Any) -> str:
    kind, colon, index = str(name).partition(":")
    if name in ("auto", "cpu", "cuda", "mps") or (kind == "cuda" and colon and index.isdecimal()):
        return name
    raise PydanticCustomError("device", "auto, cpu, cuda, cuda:N or mps")


def _distinct_proposals(names: list[str]) -> list[str]:
    if (names and "own" not in names) or len(set(names)) < len(names):
        raise PydanticCustomError("proposals", "distinct names, own among them (the ELBO needs it)")
    return names


def _project(name: str) -> str:
    if 1 <= len(name) <= 128 and name.isprintable() and not set(name) & set("/\\#?%:"):
        return name
    raise PydanticCustomError("project", "1 to 128 characters without / \\ # ? % :")


def _entity(name: str) -> str:
    if _project(name) and not any(c.isspace() for c in name):
        return name
    raise PydanticCustomError("entity", "a user or team, which has no spaces,")


def _name(longest: int) -> AfterValidator:
    def check(name: str) -> str:
        if wrong := wrong_name(name, longest):
            raise PydanticCustomError("name", "{wrong}", {"wrong": wrong})
        return name

    return AfterValidator(check)


class Section(BaseModel):
    """Keys that are checked strictly: 'four', 1.5 and true are no whole number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Trainer(Section):
    """The training of a model.

    >>> Trainer(epochs=3).batch_size
    128
    """

    epochs: Count = key(..., "passes over the training images", follows="dataset.sizes.epochs")
    batch_size: Count = key(128, "images in one gradient step")
    selection: Literal["validation", "test"] = key(
        "validation", "where the best epoch is chosen: validation, or test as the released code does"
    )
    patience: Count | None = key(None, "stop after so many epochs without a better one; null trains all")
    clip_grad_norm: Positive | None = key(None, "largest norm of the gradient of a step; null does not clip")
    initialisation: Literal["paper", "original"] = key(
        "paper", "initial weights: paper (gain 2^(1/3), fan_out) or original (the released code's gain 0.879)"
    )
    checkpoint_every: Positive = key(
        60.0, "seconds between checkpoints, the most that a killed run loses", operational=True
    )
    precision: Literal["float32", "float64"] = key(
        "float32", "number format of all computation: float32 or float64"
    )
    objective: Literal["elbo", "iwae"] = key(
        "elbo",
        "objective: elbo, or iwae (the importance-weighted bound of num_samples samples, with DReG gradients)",
        before="elbo",
    )
    num_samples: Count = key(1, "K, samples per image in one gradient step; elbo takes their mean", before=1)
    kl: Literal["sampled", "analytic"] = key(
        "sampled",
        "KL(q || p) in the ELBO: sampled, or analytic (its closed form, which all models but iaf have)",
        before="sampled",
    )
    kl_weight: Positive = key(
        1.0,
        "weight of KL(q || p) in what training maximises (beta); what is reported and selected by is the ELBO",
        before=1.0,
    )
    kl_warmup_epochs: Annotated[float, Field(ge=0)] = key(
        0.0, "epochs in which kl_weight rises from 0 to its value, step by step; 0: none", before=0.0
    )
    average: Literal["none", "ema"] = key(
        "none",
        "weights that are validated, selected and scored: those of the last step (none), or their exponential moving "
        "average (ema)",
        before="none",
    )
    average_decay: Annotated[float, Field(gt=0, lt=1)] = key(
        0.999,
        "share of the average that a step keeps, below 1; goes with trainer.average=ema",
        before=0.999,
    )

    def is_over(self, epoch: int, best_epoch: int) -> bool:
        """True if training ends after this epoch: after ``epochs``, or ``patience`` epochs after the best one.

        >>> Trainer(epochs=10, patience=2).is_over(5, best_epoch=3)
        True
        """
        tired = self.patience is not None and epoch - best_epoch >= self.patience and epoch > 0
        return epoch >= self.epochs or tired


class Ais(Section):
    """Annealed importance sampling."""

    num_images: Natural = key(0, "the first test images, at most those that are scored; 0: none")
    num_chains: Annotated[int, Field(ge=2)] = key(16, "independent chains per image, which are averaged")
    num_distributions: Count = key(1000, "steps from the prior to p(z | x); more come nearer to the truth")
    num_leapfrog: Count = key(3, "steps of a Hamiltonian move, one move at each distribution")


class Bracket(Section):
    """Bounds of log p(x) from below and above."""

    num_images: Natural = key(
        100, "the first test images, at most those that are scored, and as many drawn from the model; 0: none"
    )
    num_chains: Annotated[int, Field(ge=2)] = key(16, "independent chains per image, which are averaged")
    num_distributions: Count = key(50, "steps from the fitted proposal to p(z | x); more narrow the bracket")
    num_leapfrog: Count = key(3, "steps of a Hamiltonian move, one move at each distribution")


class Evaluate(Section):
    """The evaluation of a trained model; without proposals there is none.

    >>> Evaluate(proposals=["own"]).num_samples
    5000
    """

    proposals: Annotated[
        list[Literal[PROPOSALS]],  # pyright: ignore[reportInvalidTypeForm]
        AfterValidator(_distinct_proposals),
    ] = key(
        ["own", "fitted"],
        "proposals: own (the model's posterior), fitted (Student t fitted to p(z | x), the same for all models), "
        "laplace (a Gaussian at the mode), student_t (the same with heavier tails), mixture (half own, half laplace); "
        "[]: nothing is scored, as evaluate=none",
        before=["own"],
    )
    num_samples: Count = key(5000, "importance samples per test image, of each proposal")
    target_standard_error: Positive | None = key(
        None,
        "nats; an image takes as many samples, at most num_samples, as a pilot of 300 others says that this standard "
        "error needs; null takes all",
        before=None,
    )
    num_gap_images: Natural = key(
        100,
        "the first test images, at most those that are scored, whose gaps are measured by gradient ascent; 0: none",
        before=0,
    )
    ais: Ais = key(
        Ais(),
        "annealed importance sampling from the prior to p(z | x), which needs no q(z | x): a check of the proposals",
        before={"num_images": 0, "num_chains": 16, "num_distributions": 1000, "num_leapfrog": 3},
    )
    bracket: Bracket = key(
        Bracket(),
        "bounds of log p(x) from below and above, by annealing from the fitted proposal and back; and the "
        "calibration of posteriors on the images drawn from the model",
        before={"num_images": 0, "num_chains": 16, "num_distributions": 50, "num_leapfrog": 3},
    )
    bdmc: bool = key(
        False,
        "a bracket of the truth from below and above (bidirectional Monte Carlo), on images drawn from the model: "
        "ais.num_images of them, 16 where that is 0",
        before=False,
    )
    memory_budget: Annotated[int, Field(ge=16)] = key(
        512,
        "MiB that a chunk of images x samples may take; changes speed, never a result (of annealing in float32: by "
        "less than its standard error)",
        operational=True,
    )
    num_images: Count | None = key(None, "score only so many test images; null scores all")

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """The sections in this one, by their names: the options of estimators, with their numbers of images.

        >>> Evaluate.sections()["ais"] is Ais
        True
        """
        types = {name: field.annotation for name, field in cls.model_fields.items()}
        return {n: kind for n, kind in types.items() if isinstance(kind, type) and issubclass(kind, Section)}


class Tracker(Section):
    """The mirrors of a run, in lengths that Weights & Biases takes."""

    wandb: bool = key(False, "set by the choice of trackers")
    tensorboard: bool = key(False, "set by the choice of trackers")
    project: Annotated[str, AfterValidator(_project)] = key("vlae", "project of Weights & Biases")
    entity: Annotated[str, AfterValidator(_entity)] | None = key(
        None, "user or team of Weights & Biases; null: the default of the key"
    )
    group: Annotated[str, _name(LONGEST_NAME)] | None = key(
        None, "under which Weights & Biases groups runs; null: the sweep's name"
    )
    tags: list[Annotated[str, _name(64)]] = key([], "besides model, dataset and output distribution")
    name: Annotated[str, _name(LONGEST_NAME)] | None = key(None, "null: the run's id")
    mode: Literal["auto", "online", "offline", "disabled"] = key(
        "auto",
        "mode of Weights & Biases: auto (online with a key, else offline), online, offline or disabled",
    )
    images_every: Count | None = key(None, "epochs between two sets of pictures; null: a tenth of all epochs")
    artifacts: bool = key(False, "upload the best model")


class Config(Section):
    """A run, completely described. The first five sections name a class or function and its arguments."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    output_dist: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    trainer: Trainer = key(..., "how the model is trained")
    evaluate: Evaluate = key(..., "how the trained model is scored")
    tracker: Tracker = key(
        ...,
        "where the run can be watched from; several at once: tracker=[wandb,tensorboard]",
        operational=True,
        before=Tracker().model_dump(),
    )
    init_from: Annotated[str, Field(min_length=1)] | None = key(
        None,
        "id of a finished run below runs_dir whose best model's weights the training starts with",
        before=None,
    )
    seed: Natural = key(0, "initial weights, batches and noise follow from it; 0 is a seed like any other")
    device: Annotated[str, BeforeValidator(_device)] = key(
        "auto", "auto (cuda, else mps, else cpu), cpu, cuda, cuda:N or mps", operational=True
    )
    num_threads: Count | None = key(None, "CPU threads; null leaves it to torch", operational=True)
    runs_dir: Annotated[str, Field(min_length=1)] = key("runs", "place of run directories", operational=True)
    force: bool = key(
        False, "run again; the old results stay until the new ones are complete", operational=True
    )
    retry: bool = key(False, "start failed runs of a sweep again, too", operational=True, before=False)
    dry_run: bool = key(False, "show what would be started, start nothing", operational=True, before=False)
    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = key(
        SCHEMA_VERSION, "the scheme of run ids; written by vlae, not set", before=1
    )


PLUGINS = ("model", "dataset", "output_dist", "optimizer", "schedule")
"""The sections that name a class or function and its arguments."""
FIXED_SECTIONS: dict[str, type[Section]] = {
    "trainer": Trainer,
    "evaluate": Evaluate,
    **{f"evaluate.{name}": section for name, section in Evaluate.sections().items()},
    "tracker": Tracker,
}


def fields(section: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """The dotted keys of a section (of all, where it is empty) with their fields, a section before its keys."""
    for name, field in (FIXED_SECTIONS[section] if section else Config).model_fields.items():
        dotted = f"{section}.{name}" if section else name
        yield dotted, field
        if dotted in FIXED_SECTIONS:
            yield from fields(dotted)


def extras(field: FieldInfo) -> dict[str, Any]:
    """The properties that `key` gives a field besides default and description."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
