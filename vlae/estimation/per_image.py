"""Numbers per image, their means, and the resumable loop over groups of images that all estimators share."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vlae.errors import NonFiniteError

Report = Callable[[float], None]
"""Called with the number of images done so far, fractions within a group included; its exceptions end the work."""
Advance = Callable[[float], None]
"""Called with the share of a group of images that is done; its exceptions end the work."""
Values = Float[Tensor, " images"]
"""One number per image."""
Result = TypeVar("Result", bound="Estimates")


@dataclass(kw_only=True)
class Estimates:
    """An estimator's numbers per image, in float64 on the CPU; the first ``done`` images are known, the rest NaN.

    >>> from vlae.estimation.estimators.importance import Evaluation
    >>> evaluation = Evaluation.empty(2)
    >>> evaluation.put(slice(0, 1), elbo=torch.tensor([-3.0]))
    >>> len(evaluation), evaluation.elbo
    (2, tensor([-3., nan], dtype=torch.float64))
    """

    done: int = field(default=0)
    seconds: float = field(default=0.0)
    """Time spent on the images that are done."""
    group: int = field(default=1)
    """Number of images that were measured together; their bits may depend on it."""

    @classmethod
    def empty(cls: type[Result], images: int, **settings: Any) -> Result:
        """The numbers of ``images`` images, none of which is known yet; ``settings`` are the fields of other kinds."""
        arrays = [f.name for f in fields(cls) if f.default is MISSING and f.name not in settings]
        unknown = {name: torch.full((images,), math.nan, dtype=torch.float64) for name in arrays}
        return cls(**unknown, **settings)

    def __len__(self) -> int:
        """Number of images, done or not."""
        return len(next(value for value in vars(self).values() if isinstance(value, Tensor)))

    def with_first_of(self: Result, other: Result) -> Result:
        """These images with what ``other`` knows of the first of them, in whole groups, so that each keeps its bits.

        >>> from vlae.estimation.estimators.importance import Evaluation
        >>> two = Evaluation.empty(2)
        >>> two.put(slice(0, 2), elbo=torch.tensor([-3.0, -4.0]))
        >>> two.done = 2
        >>> three = Evaluation.empty(3).with_first_of(two)
        >>> three.done, three.elbo
        (2, tensor([-3., -4., nan], dtype=torch.float64))
        """
        done = min(other.done, len(self))
        if len(other) != len(self):
            done -= done % other.group
        arrays = {name: value for name, value in vars(other).items() if isinstance(value, Tensor)}
        unknown = torch.full((len(self) - done,), math.nan, dtype=torch.float64)
        known = {name: torch.cat([value[:done], unknown]) for name, value in arrays.items()}
        return replace(other, **known, done=done, seconds=other.seconds * done / max(1, other.done))

    def put(self, images: slice | Tensor, **values: Tensor) -> None:
        """Set some numbers of the images at these positions."""
        for name, value in values.items():
            getattr(self, name)[images] = value.cpu().double()


def in_groups(
    result: Estimates, size: int, measure: Callable[[range, Advance], None], report: Report
) -> None:
    """Call ``measure(group, progress)`` for each group of ``size`` images that are not done yet.

    ``measure`` puts the numbers of the images into ``result`` and may call ``progress`` with the share of the group
    that is done. An exception of ``report`` ends the loop; whole groups are kept, and the next call resumes after them.
    """
    result.group = size
    while result.done < len(result):
        began = time.monotonic()
        group = range(result.done, min(result.done + size, len(result)))

        def progress(share: float, group: range = group) -> None:
            report(group.start + share * len(group))

        measure(group, progress)
        result.done = group.stop
        result.seconds += time.monotonic() - began
        report(result.done)


def check_finite(values: Tensor, group: range, what: str) -> None:
    """NonFiniteError: ``what``, followed by the position of the first image whose value is NaN or infinite."""
    finite = torch.isfinite(values)
    if not finite.all():
        raise NonFiniteError(f"{what} {group[int((~finite).nonzero()[0])]} is NaN or infinite")


@contextmanager
def naming_images(group: range, what: str) -> Iterator[None]:
    """A NonFiniteError from within says that it was for these images: ``what``, their positions, and what it said.

    >>> with naming_images(range(3), "the proposal laplace"):
    ...     raise NonFiniteError("the precision is NaN")
    Traceback (most recent call last):
    vlae.errors.NonFiniteError: the proposal laplace for test images 0 to 2: the precision is NaN
    """
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"{what} for test images {group.start} to {group.stop - 1}: {error}") from error


def mean_and_standard_error(values: Values) -> tuple[float, float | None]:
    """Mean over images and its standard error (ddof 1), which is None for one image.

    >>> mean_and_standard_error(torch.tensor([1.0, 2.0, 3.0]))
    (2.0, 0.57735...)
    """
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
    return values.mean().item(), error


def level(values: Values) -> dict[str, float | None]:
    """``mean`` and ``standard_error`` over images, as metrics."""
    return dict(zip(("mean", "standard_error"), mean_and_standard_error(values), strict=True))


def with_error(name: str, values: Values) -> dict[str, float | None]:
    """The mean over images under this name, and its standard error, as metrics."""
    return dict(zip((name, f"{name}_standard_error"), mean_and_standard_error(values), strict=True))
