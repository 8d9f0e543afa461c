"""The shell part of a Slurm job, from its first line: no signal is lost or deadly before Python listens.

Slurm signals the batch shell (``--signal=B:``), perhaps while the lines of ``hydra.launcher.setup`` run, or while
Python starts, which would die of it, and Slurm would not start the job again. So the shell notes the signal and passes
it on. Where Python dies of it, the shell starts Python once more, which finds the name of the signal in NOTED.
"""

import os
import signal

from vlae.system.interruption import SIGNALS, Interruption

NOTED = "VLAE_SIGNAL"
"""Environment variable: the last signal that the shell got, such as USR2."""
FIRST_LINES = """\
VLAE_SIGNAL= vlae_child= vlae_woken=
vlae_note() {
    export VLAE_SIGNAL=$1
    vlae_woken=1
    if [ -n "$vlae_child" ]; then kill -s "$1" "$vlae_child" 2>/dev/null || :; fi
}
trap 'vlae_note USR2' USR2
trap 'vlae_note TERM' TERM
vlae_run() {
    local status code before again=1
    while [ "$again" = 1 ]; do
        before=$VLAE_SIGNAL
        "$@" &
        vlae_child=$! status=
        if [ "$VLAE_SIGNAL" != "$before" ]; then kill -s "$VLAE_SIGNAL" "$vlae_child" 2>/dev/null || :; fi
        while :; do
            vlae_woken=
            code=0
            wait "$vlae_child" || code=$?
            if [ "$code" = 127 ] && [ -n "$status" ]; then break; fi  # its status is known already
            status=$code
            if [ -z "$vlae_woken" ]; then break; fi  # else a signal has ended the wait
        done
        vlae_child= again=0
        if [ "$status" -gt 128 ] && [ "$(kill -l "$status" 2>/dev/null)" = "${VLAE_SIGNAL:-none}" ]; then again=1; fi
    done
    return "$status"
}""".splitlines()
"""Lines of a batch script in bash, before everything that takes time. ``vlae_run COMMAND`` then executes Python."""


def hold_signals() -> None:
    """Block signals until `listen`: submitit would take them for its own."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def listen(interruption: Interruption) -> None:
    """Signals that wait, and the one that the shell noted, have come."""
    if noted := os.environ.pop(NOTED, ""):
        interruption.number = signal.Signals[f"SIG{noted}"]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def stop_listening() -> None:
    """The job is over. A signal that still comes must not end Python as if it had never listened."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
