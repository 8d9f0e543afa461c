"""The ``vlae`` command: one command, one file."""
