"""Estimates of log p(x), and their reliability."""
