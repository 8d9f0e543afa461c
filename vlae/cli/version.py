"""The version of the package, and of the code that is being executed."""

from importlib.metadata import version

from vlae.runs.snapshot import description


def version_line() -> str:
    """``vlae 0.1.0, code 0123456789ab, commit 0123456789ab, changed since``."""
    code = description()
    parts = [f"vlae {version('vlae')}", f"code {code['hash']}"]
    if code["commit"]:
        parts += [f"commit {code['commit'][:12]}", *(["changed since"] if code["changed"] else [])]
    return ", ".join(parts)
