"""The commands: one file each, found by its name.

A file ``x.py`` has a function ``x``, which is the command ``vlae x``, and may have ``SETTINGS`` for typer. At its top
it imports what is needed to describe the command and nothing that takes time: ``vlae --help`` imports all of them.
"""
