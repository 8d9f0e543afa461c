"""Places of the package: in a checkout, in an installation, or in a frozen copy of either."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SOURCE = PACKAGE.parent
"""The directory that vlae is imported from: a checkout, site-packages, or a frozen copy of either."""
_BESIDE = PACKAGE if PACKAGE.joinpath("conf").is_dir() else SOURCE
CONF, SWEEPS = _BESIDE / "conf", _BESIDE / "sweeps"
"""A wheel holds them inside the package; in a checkout they lie at the top."""
