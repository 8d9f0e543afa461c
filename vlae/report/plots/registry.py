"""All kinds of figures."""

from collections.abc import Mapping

from vlae.report.plots.calibration import CALIBRATION
from vlae.report.plots.covariance import COVARIANCE
from vlae.report.plots.curves import CURVES
from vlae.report.plots.estimators import ESTIMATORS
from vlae.report.plots.latent_path import LATENT_PATH
from vlae.report.plots.plot import PlotKind
from vlae.report.plots.points import COST, LIKELIHOOD_VS_UPDATES
from vlae.report.plots.updates import UPDATES

PLOTS: Mapping[str, PlotKind] = {
    "curves": CURVES,
    "likelihood_vs_updates": LIKELIHOOD_VS_UPDATES,
    "cost": COST,
    "calibration": CALIBRATION,
    "covariance": COVARIANCE,
    "updates": UPDATES,
    "estimators": ESTIMATORS,
    "latent_path": LATENT_PATH,
}
