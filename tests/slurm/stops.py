"""A job that waits for a signal and then decides, by the launcher's own rule, whether Slurm starts it again."""

import signal
import sys

from vlae.launching.slurm_requeue import ends_early, requeue
from vlae.system.interruption import Interruption

with Interruption() as interruption:
    print("waits", flush=True)
    while not interruption.requested:
        signal.sigtimedwait([], 0.1)
if ends_early(interruption):
    requeue(most=1)
sys.exit(3)
