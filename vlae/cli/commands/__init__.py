"""The commands: one file each, found by its name.

A file ``x.py`` has a function ``x``, the command ``vlae x``, and may have ``SETTINGS`` for typer. The first sentence of
the function's docstring is its line in ``vlae --help``. At its top the file imports only what describes the command and
nothing that takes time, because ``vlae --help`` imports all of them.
"""
