"""A job that records its starts, every signal and its end. Started again, it ends at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SIGNALS = (signal.SIGUSR2, signal.SIGTERM)


def main(record: Path, seconds: float, at_usr2: str = "stay") -> None:
    def write(*words: object) -> None:
        with record.open("a") as file:
            print(*words, file=file)

    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    write(
        "start", os.environ["SLURMD_NODENAME"], restarts, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")
    )
    end = time.monotonic() + (seconds if restarts == 0 else 0)
    while (left := end - time.monotonic()) > 0 and (got := signal.sigtimedwait(SIGNALS, left)):
        write(signal.Signals(got.si_signo).name)
        if got.si_signo == signal.SIGUSR2 and at_usr2 == "requeue":
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
        if got.si_signo == signal.SIGUSR2 and at_usr2 == "fail":
            sys.exit(3)
    write("end")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), *sys.argv[3:])
