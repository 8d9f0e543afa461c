"""One run, a straight line: claim, prepare, train, score, write the results.

Nothing here imports torch before the run is prepared.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from vlae.experiment.session import Session, claim_run, report_progress
from vlae.runs.directory import RunDirectory, promote
from vlae.runs.rerun import run_to_replace
from vlae.system.disk import Patience, patient
from vlae.trackers.process import start_mirror

if TYPE_CHECKING:
    from vlae.experiment.prepare import Prepared


def execute(
    directory: RunDirectory, prepare: Callable[[], "Prepared"], *, quiet: bool = False, captured: bool = False
) -> dict[str, Any]:
    """Bring a run to its results, write results.json last, and return its content.

    A rerun then takes the place of the old one. ``captured``: everything that this process prints goes to the
    attempt's log.
    Errors: RunHeld by another process; Interrupted by a signal; DiskError; and any error of the run itself.
    """
    patience = Patience(directory.path.parent)
    with ExitStack() as mirror, claim_run(directory, patience, captured) as attempt:
        if (results := directory.results()) is None:  # no other process finished it meanwhile
            mirror.enter_context(start_mirror(directory))  # until the attempt has ended
            with report_progress(directory, attempt, patience, quiet or captured) as session:
                results = _carry_out(session, prepare())
    if replaced := run_to_replace(directory.path):
        with patient(Patience(replaced.parent)):
            promote(directory)
    return results


def _carry_out(session: Session, prepared: "Prepared") -> dict[str, Any]:
    """Train from the last checkpoint, score the test images, and write the results."""
    from vlae.experiment.results import write_results
    from vlae.experiment.scoring import Scoring
    from vlae.experiment.train import train

    trained = train(session, prepared)
    scores = Scoring(session, trained, prepared.config, prepared.test_set).run()
    return write_results(trained, scores)
