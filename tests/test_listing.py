"""Tables of runs: nothing of them is cut off, whatever the width."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from vlae.system.console import Listing

RUN = "savae_original-fashion_mnist-gaussian-s10-0123456789"
ROWS = [
    [RUN, "running, seen 3.0 s ago", "epoch 3/60, ELBO -101.23", "job 12_3 node-4"],
    [f"{RUN}b", "new", "", ""],
]
HEADINGS = ("run", "state", "progress", "where")


def printed(width: int, terminal: bool) -> list[str]:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, color_system=None, soft_wrap=not terminal
    )
    console.print(Listing(HEADINGS, [[Text(cell) for cell in row] for row in ROWS]))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 80, 200])
def test_without_a_terminal_a_row_is_one_line_of_any_length(width):
    first, second = printed(width, terminal=False)
    assert first == f"{RUN}   running, seen 3.0 s ago  epoch 3/60, ELBO -101.23  job 12_3 node-4"
    assert second.split() == [f"{RUN}b", "new", "-", "-"]


def test_a_terminal_that_is_wide_enough_has_a_table():
    lines = printed(200, terminal=True)
    assert any(all(cell in line for cell in ROWS[0]) for line in lines)
    assert all(heading in lines[1] for heading in HEADINGS)


def test_on_a_narrow_terminal_cells_stand_below_the_name():
    assert printed(80, terminal=True) == [
        RUN,
        *(f"    {cell}" for cell in ROWS[0][1:]),
        f"{RUN}b",
        "    new",
    ]


def test_tables_wrap_words_but_not_numbers():
    out = io.StringIO()
    cells = ["a", "failed (exception: " + "long " * 30 + ")", "epoch 3/60, ELBO -101.23", "host"]
    console = Console(file=out, width=100, force_terminal=True, color_system=None)
    console.print(Listing(HEADINGS, [[Text(cell) for cell in cells]]))
    assert "epoch 3/60, ELBO -101.23" in out.getvalue()
    assert out.getvalue().count("long") == 30
    assert "│" in out.getvalue()
