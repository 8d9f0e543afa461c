"""The list of all metrics."""


def metrics() -> None:
    """List all metrics: names, units, and what each says."""
    from vlae.runs.metrics import listing
    from vlae.system.console import Console

    console = Console(highlight=False, markup=False)
    console.print(listing(console.width if console.is_terminal else None), soft_wrap=True)
