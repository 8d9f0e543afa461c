"""Preparation of a run that starts: its code, the libraries, this machine, then its data and its model."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from vlae.config.compose import validate
from vlae.config.limits import beyond_the_machine
from vlae.config.problems import ConfigError
from vlae.runs.snapshot import executed_code
from vlae.system.console import loading
from vlae.system.libraries import check_libraries
from vlae.trackers.process import environment_problems

if TYPE_CHECKING:
    from vlae.config.schema import Config
    from vlae.experiment.prepare import Prepared


def check_code() -> None:
    """UserError: the frozen code is damaged, or a library is missing. Notes the code before it is imported."""
    executed_code()
    check_libraries()


def check_settings(container: dict[str, Any], *, here: bool = True) -> "Config":
    """The checked configuration of a run. ConfigError: it is wrong, or does not fit this machine or its environment.

    here: the run is executed on this machine, which must have its device.
    """
    if problems := environment_problems(container["tracker"]):
        raise ConfigError(problems)
    checked = validate(container if here else {**container, "device": "auto"})
    if problems := beyond_the_machine(container, here=here):
        raise ConfigError(problems)
    return checked


def check_and_prepare(container: dict[str, Any], quiet: bool) -> "Prepared":
    """Model and data of a composed configuration. All its errors come before anything is on disk.

    ConfigError: the configuration, or it does not fit this machine; DataError: its images are not there.
    """
    with nullcontext() if quiet else loading():
        check_code()
        from vlae.experiment.prepare import check_source, prepare

    checked = check_settings(container)
    check_source(container)
    return prepare(checked)


def prepare_frozen(container: dict[str, Any], threads: int | None) -> "Prepared":
    """The same of a frozen configuration, which was checked. ``threads``: CPU threads, if it does not set them."""
    from vlae.experiment.prepare import prepare

    return prepare(validate({**container, "num_threads": container["num_threads"] or threads}))
