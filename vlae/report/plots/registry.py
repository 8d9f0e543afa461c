"""Every kind of figure of runs: which there are, what can be drawn of given runs, and the drawing."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

from matplotlib import style

from vlae.errors import UserError
from vlae.report.names import near
from vlae.report.plots.cost import COST
from vlae.report.plots.covariance import COVARIANCE
from vlae.report.plots.curves import CURVES
from vlae.report.plots.estimators import ESTIMATORS
from vlae.report.plots.frame import Captioned
from vlae.report.plots.latent_path import LATENT_PATH
from vlae.report.plots.plot import Asked, Drawing
from vlae.report.plots.points import LIKELIHOOD_VS_UPDATES
from vlae.report.plots.series import panels
from vlae.report.plots.style import RC
from vlae.report.plots.updates import UPDATES
from vlae.report.runs import Runs
from vlae.report.tables.captions import provenance
from vlae.report.tables.table import COLUMNS, asked_keys, asked_metric, chosen_runs, row_keys_of

KINDS: Mapping[str, Drawing] = {
    "curves": CURVES,
    "likelihood_vs_updates": LIKELIHOOD_VS_UPDATES,
    "cost": COST,
    "covariance": COVARIANCE,
    "updates": UPDATES,
    "estimators": ESTIMATORS,
    "latent_path": LATENT_PATH,
}
WITHOUT_TIME: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
"""By format: metadata that would differ in the next second."""
_NAMED = {"pdf": ("Subject", "Keywords"), "svg": ("Description", "Source"), "png": ("Description", "Source")}
"""By format: the metadata that hold the caption and the provenance."""


def draw(
    kind: str,
    runs: Runs,
    *,
    metric: str | None = None,
    rows: Sequence[str] | None = None,
    where: str = "",
    published: bool = False,
    images: int | None = None,
    samples: int | None = None,
    narrow: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Captioned:
    """The figure of this kind of these runs.

    metric, rows, where: as for `vlae.report.tables.table.table`; ``published``: with published figures beside ours.
    images, samples: how many are looked at, in kinds that look at trained models.
    narrow: for a column of a paper or a phone. ``tell`` is called with what was left out.
    UserError: there is no such kind, or these runs cannot be drawn so, with the reason and what they can be drawn as.
    """
    if kind not in KINDS:
        raise UserError(f"KIND: expected one of {', '.join(KINDS)}, came {kind!r}{near(kind, KINDS)}")
    drawing = KINDS[kind]
    _refuse_unused(kind, metric=metric, published=published, images=images, samples=samples)
    chosen = chosen_runs(runs, where)
    fitting = chosen.only(drawing.of)
    if not fitting.runs:
        others = drawable(chosen)
        instead = f"these runs can be drawn as {', '.join(others)}" if others else "nothing else can be drawn"
        raise UserError(f"{kind}: {drawing.lacking}; {instead}")
    for left in chosen.left_out:
        tell(f"left out: {left.name} ({left.because})")
    named_by = ["model.name", "T"] if drawing.by_updates else None
    row_keys = asked_keys(rows, runs, "--rows") if rows else row_keys_of(fitting, named_by)
    asked = Asked(
        metric=asked_metric(fitting, metric) if drawing.metric else None,
        published=published,
        images=images or drawing.images or 0,
        samples=samples,
        narrow=narrow,
        tell=tell,
    )
    with style.context(["default", dict(RC)]):
        figure = drawing.draw(panels(fitting, row_keys, COLUMNS), asked)
    figure.provenance = f"{chosen.title}, {kind}. {provenance(fitting.runs)}"
    return figure


def drawable(runs: Runs) -> list[str]:
    """The kinds that these runs can be drawn as, as far as that is known without reading more of them."""
    return [kind for kind, drawing in KINDS.items() if any(map(drawing.of, runs.runs))]


def written(figure: Captioned, suffix: str) -> bytes:
    """The file: ``pdf``, ``svg`` or ``png``, with the caption in its metadata. The same figure gives the same bytes."""
    buffer = BytesIO()
    named = dict(zip(_NAMED[suffix], (figure.full_caption, figure.provenance), strict=True))
    with style.context(["default", dict(RC)]):
        figure.draw_without_rendering()  # sizes of axes follow from their labels, and these from the sizes
        figure.savefig(buffer, format=suffix, metadata={**WITHOUT_TIME[suffix], **named})
    return buffer.getvalue()


def _refuse_unused(kind: str, **options: Any) -> None:
    for option, value in options.items():
        means = [name for name, drawing in KINDS.items() if getattr(drawing, option) not in (False, None)]
        if value not in (None, False) and kind not in means:
            raise UserError(
                f"--{option}: {kind} has none; it is for {', '.join(means) or 'no kind of figure'}"
            )
