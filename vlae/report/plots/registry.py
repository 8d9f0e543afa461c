"""All kinds of figures: the list, the kinds that fit given runs, and the function that draws one."""

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
from vlae.report.plots.plot import Options, PlotKind
from vlae.report.plots.points import LIKELIHOOD_VS_UPDATES
from vlae.report.plots.series import panels
from vlae.report.plots.style import RC
from vlae.report.plots.updates import UPDATES
from vlae.report.runs import Runs
from vlae.report.tables.captions import provenance
from vlae.report.tables.table import COLUMNS, choose_metric, choose_runs, full_keys, row_keys_of

KINDS: Mapping[str, PlotKind] = {
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
    warn: Callable[[str], None] = lambda text: None,
) -> Captioned:
    """A figure of these runs.

    metric, rows, where: as for `vlae.report.tables.table.table`; published: with published values beside ours.
    images, samples: numbers of test images and of importance samples, in kinds that load trained models.
    narrow: for a column of a paper or a phone. warn: receives a line for each run that is left out.
    UserError: there is no such kind, or no run fits it; the error says the reason and the kinds that fit.
    """
    plot_kind = _kind(kind)
    _refuse_unused(kind, metric=metric, published=published, images=images, samples=samples)
    chosen = choose_runs(runs, where)
    fitting = _fitting(kind, chosen)
    for left in chosen.left_out:
        warn(f"left out: {left.name} ({left.because})")
    named_by = ["model.name", "T"] if plot_kind.by_updates else None
    row_keys = full_keys(rows, runs, "--rows") if rows else row_keys_of(fitting, named_by)
    options = Options(
        metric=choose_metric(fitting, metric) if plot_kind.metric else None,
        published=published,
        images=images or plot_kind.images or 0,
        samples=samples,
        narrow=narrow,
        warn=warn,
    )
    with style.context(["default", dict(RC)]):
        figure = plot_kind.draw(panels(fitting, row_keys, COLUMNS), options)
    figure.provenance = f"{chosen.title}, {kind}. {provenance(fitting.runs)}"
    return figure


def _kind(kind: str) -> PlotKind:
    if kind not in KINDS:
        raise UserError(f"KIND: expected one of {', '.join(KINDS)}, got {kind!r}{near(kind, KINDS)}")
    return KINDS[kind]


def _fitting(kind: str, runs: Runs) -> Runs:
    """The runs that can be in a figure of this kind. UserError: none can."""
    fitting = runs.only(KINDS[kind].of)
    if not fitting.runs:
        others = drawable(runs)
        instead = f"these runs can be drawn as {', '.join(others)}" if others else "nothing else can be drawn"
        raise UserError(f"{kind}: {KINDS[kind].lacking}; {instead}")
    return fitting


def drawable(runs: Runs) -> list[str]:
    """The kinds that these runs can be drawn as, as far as that is known without reading more files."""
    return [kind for kind, plot_kind in KINDS.items() if any(map(plot_kind.of, runs.runs))]


def file_content(figure: Captioned, suffix: str) -> bytes:
    """The bytes of a ``pdf``, ``svg`` or ``png`` with the caption in its metadata: always the same for a figure."""
    buffer = BytesIO()
    named = dict(zip(_NAMED[suffix], (figure.full_caption, figure.provenance), strict=True))
    with style.context(["default", dict(RC)]):
        figure.draw_without_rendering()  # sizes of axes follow from their labels, and these from the sizes
        figure.savefig(buffer, format=suffix, metadata={**WITHOUT_TIME[suffix], **named})
    return buffer.getvalue()


def _refuse_unused(kind: str, **options: Any) -> None:
    for option, value in options.items():
        means = [name for name, plot_kind in KINDS.items() if getattr(plot_kind, option) not in (False, None)]
        if value not in (None, False) and kind not in means:
            raise UserError(
                f"--{option}: {kind} has none; it is for {', '.join(means) or 'no kind of figure'}"
            )
