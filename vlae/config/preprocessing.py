"""The preprocessing section of a configuration, checked before any data are read (no torch here)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Preprocessing(BaseModel):
    """The way from pixels to the numbers that a model sees: the preprocessing keys of the ``dataset`` section.

    With an output distribution over real numbers y = u / (levels - 1) for pixels u in 0..levels-1, or
    y = (u + noise) / levels where ``dequantise``; then, where ``logit_transform``,
    s = lambda + (1 - 2 lambda) y and log s - log(1 - s); then, where ``subtract_mean``, minus the training mean of
    each pixel. With binary outputs x ~ Bernoulli(u / (levels - 1)).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dequantise: bool = False
    logit_transform: bool = False
    lambda_: Annotated[float, Field(alias="lambda", ge=0, lt=0.5, allow_inf_nan=False)] = 1e-6
    subtract_mean: bool = True
    binarise: Literal["dynamic", "static"] = "dynamic"
    fixed_evaluation: bool = True

    @classmethod
    def keys(cls) -> frozenset[str]:
        """The names of the keys as they stand in a configuration."""
        return frozenset(field.alias or name for name, field in cls.model_fields.items())

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> "Preprocessing":
        """The preprocessing of a ``dataset`` section, whose other keys belong to the loader."""
        return cls.model_validate({key: section[key] for key in cls.keys() & section.keys()})


def conflicts(
    preprocessing: Preprocessing, support: str, *, channels: int | None = None, integers: bool | None = None
) -> list[str]:
    """Why this preprocessing cannot serve an output distribution of this ``support``; empty if it can.

    ``channels`` and whether pixels are ``integers`` are facts of the dataset: None where they are known only once
    its files are read, when this is asked again. A shipped loader carries what is known before as ``loader.known``.
    """
    if support == "binary":
        return _binary_conflicts(preprocessing, channels)
    if support == "real":
        return _real_conflicts(preprocessing, integers)
    raise ValueError(f"support: expected 'real' or 'binary', got {support!r}")


def _binary_conflicts(preprocessing: Preprocessing, channels: int | None) -> list[str]:
    real = "an output over real numbers such as output_dist=gaussian"
    text = "{0}=true does not go with a binary output distribution: its pixels are drawn as 0 or 1. Use {0}=false, or"
    keys = [key for key in ("dequantise", "logit_transform") if getattr(preprocessing, key)]
    problems = [f"{text.format(f'dataset.{key}')} {real}" for key in keys]
    if channels not in (None, 1):
        problems.append(
            f"output_dist: a binary output distribution needs images of one channel, this dataset's have {channels}. "
            f"It reads brightness as a probability of ink, which has no meaning for colours. Use {real}"
        )
    return problems


def _real_conflicts(preprocessing: Preprocessing, integers: bool | None) -> list[str]:
    problems = []
    if preprocessing.dequantise and integers is False:
        problems.append(
            "dataset.dequantise=true needs integer pixels, whose levels it fills with noise; those of this dataset are "
            "fractions. Use dataset.dequantise=false"
        )
    if preprocessing.logit_transform and integers and not preprocessing.dequantise:
        problems.append(
            "dataset.logit_transform=true needs dataset.dequantise=true for integer pixels: only a density over "
            "filled-up levels has the Jacobian that the transform's log-likelihood needs"
        )
    if preprocessing.logit_transform and preprocessing.lambda_ == 0:
        problems.append(
            "dataset.lambda=0 does not go with dataset.logit_transform=true: the logit of a black or white pixel "
            "would be infinite. Expected 0 < lambda < 0.5, such as 1e-6"
        )
    return problems
