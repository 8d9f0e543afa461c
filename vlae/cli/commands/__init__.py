"""The commands: one file each, found by its name.

A file ``x.py`` has a function ``x``, the command ``vlae x``, and may have ``SETTINGS`` for typer. At its top it imports
only what describes the command and nothing that takes time, because ``vlae --help`` imports all of them.
"""
