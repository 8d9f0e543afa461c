"""Figures of runs, one family per file; `registry` is the way in."""
