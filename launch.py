"""Train, evaluate and record one model, or all of a sweep: ``python launch.py --help``."""

import sys

from vlae.system.interruption import end_in_one_line

with end_in_one_line():  # importing takes seconds
    from vlae.cli.hydra_main import main

# The completion of Hydra works for files that contain the text @hydra.main: here it is in vlae/cli/hydra_main.py.

if __name__ == "__main__":
    with end_in_one_line():
        sys.exit(main())
