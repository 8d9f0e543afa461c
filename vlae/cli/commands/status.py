"""The states of runs in the terminal."""

from typing import Annotated, Any

import typer

from vlae.cli.options import Runs, RunsDir


def status(
    name: Runs = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until the runs end.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every run, however many.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Show the state of each run, why, and where.

    A run is new, queued, running, done, interrupted or failed. Runs that ask for attention come first.
    """
    import time

    from rich.live import Live

    from vlae.launching.run_state import Observer
    from vlae.launching.status_table import ROWS, select_runs, view
    from vlae.launching.sweep_index import note_on_launches
    from vlae.system.console import standard_output

    def look(most: int | None = None) -> tuple[Any, float | None]:
        """The table, and the seconds until another look is useful."""
        title, labels = select_runs(runs_dir, name)
        observer = Observer(runs_dir)
        states = observer.states(labels)
        is_active = any(state.state in ("queued", "running") for state in states)
        pause = (15.0 if observer.asks_slurm else 2.0) if is_active else None
        shown = {"every": every and most is None, "most": most or ROWS}
        return view(title, labels, states, observer.warning, **shown), pause

    seen, pause = look()
    console = standard_output()
    if watch and console.is_terminal and pause is not None:
        # on a separate screen, because each look would leave behind what is taller than the terminal
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while pause is not None:
                seen, pause = look(min(ROWS, max(3, console.height - 8)))
                live.update(seen, refresh=True)
                time.sleep(pause or 0)
        seen, _ = look()
    console.print(seen)
    if name is not None and (note := note_on_launches(runs_dir, name)):
        console.print(note, markup=False)
