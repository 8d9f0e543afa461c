"""Figures of runs, a family a module: `vlae.report.drawings` is the way in."""
