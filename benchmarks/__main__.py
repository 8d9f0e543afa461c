"""Measures the cases one after the other and prints the results: ``python -m benchmarks --help``."""

import argparse
import dataclasses
import difflib
import json
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CASES, Case, Setting
from benchmarks.scale import QUICK, SCALE, Amount, Scale, Timing, met, time_of
from benchmarks.timing import Measurement, Sgemm, Spread, machine, measure

MIB = 2**20
STEADY = 0.85
"""Quartiles of the sgemm rate further apart than this mean that something else was running."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if the two ways of a case did not compute the same numbers, 0 otherwise.

    A missed speed is said in the table and is no failure: it depends on the machine.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["histories"]:
        from benchmarks import histories

        return histories.main(words[1:])
    if words[:1] == ["full-disk"]:
        from benchmarks import full_disk

        return full_disk.main(words[1:])
    if words[:1] == ["tables"]:
        from benchmarks import tables

        return tables.main(words[1:])
    if words[:1] == ["estimator_error"]:
        from benchmarks import estimator_error

        return estimator_error.main(words[1:])
    if words[:1] == ["estimators"]:
        from benchmarks import estimators

        return estimators.main(words[1:])
    options = _parser().parse_args(words)
    chosen = _chosen(options.only)
    cases = [case for case in chosen if isinstance(case, Case)]
    scales = [case for case in chosen if isinstance(case, Scale)]
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    setting, amount = _setting(options), _amount(options)
    console = Console(width=None if sys.stdout.isatty() else 140)
    facts = machine(setting.device)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
    started, found, timings = time.monotonic(), {}, {}

    def say(case: Case | Scale, text: str) -> None:
        label = f"[{chosen.index(case) + 1}/{len(chosen)}] {case.name}"
        print(f"{time.monotonic() - started:6.0f} s  {label}: {text}", flush=True)

    sgemm = Sgemm(setting.device)
    for case in cases:
        pair = case.prepare(setting)
        found[case] = measure(pair, setting.device, setting.rounds, sgemm, case.memory, partial(say, case))
    for case in scales:
        if (timing := time_of(case, amount, partial(say, case))).numbers:
            timings[case] = timing
    if found:
        _print_tables(console, found)
    if timings:
        console.print(_sweeps(timings, amount))
    wrong = [case.name for case, m in found.items() if not m.agrees]
    if wrong:
        console.print(f"[bold red]not the same numbers: {', '.join(wrong)}[/]")
    if options.json is not None:
        options.json.write_text(json.dumps(_report(facts, setting, found, amount, timings), indent=2) + "\n")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time and memory of the platform beside a plain reference that computes like the released code, "
        "and the time of commands on large sweeps.",
        epilog=f"cases: {', '.join(case.name for case in CASES)}. Sweeps: {', '.join(case.name for case in SCALE)}, "
        "in temporary directories: TMPDIR chooses their file system. Other commands: "
        "python -m benchmarks histories, full-disk, tables, estimators, estimator_error",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        help="cases, or parts of names: vlae, evaluation, 3072",
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        metavar="N",
        help="rounds per case (default 5, quick: 2; sweeps 3, quick: 1)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, images and runs: a look, no numbers to report"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads (default: what torch chooses)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _chosen(names: Sequence[str]) -> list[Case | Scale]:
    """The cases whose name holds any of ``names``; all of them if none is given."""
    known = [case.name for case in (*CASES, *SCALE)]
    for name in names:
        if not any(name in k for k in known):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise SystemExit(f"--only: no case {name!r}{hint} Choices: {', '.join(known)}, or parts of these")
    return [case for case in (*CASES, *SCALE) if not names or any(name in case.name for name in names)]


def _setting(options: argparse.Namespace) -> Setting:
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device: cuda was asked for, but torch finds no CUDA device")
    setting = Setting(device)
    if options.quick:
        setting = Setting(
            device, rounds=2, platform_images=8, reference_images=1, annealed_images=2, epoch_images=2560
        )
    return dataclasses.replace(setting, rounds=options.rounds) if options.rounds else setting


def _amount(options: argparse.Namespace) -> Amount:
    amount = QUICK if options.quick else Amount()
    return dataclasses.replace(amount, rounds=options.rounds) if options.rounds else amount


def _print_tables(console: Console, found: dict[Case, Measurement]) -> None:
    rates = Spread.of([rate for m in found.values() for rate in m.sgemm_rates])
    low, median, high = (rate / 1e9 for rate in (rates.lower, rates.median, rates.upper))
    console.print(f"sgemm: {median:.0f} GFLOP/s, quartiles {low:.0f} to {high:.0f}", highlight=False)
    if low < STEADY * high:
        console.print("[bold yellow]the machine was busy with other work: these are no numbers to report[/]")
    console.print(_times(found), _arithmetic(found))
    if any(m.memory_ratio is not None for m in found.values()):
        console.print(_memory(found))


def _times(found: dict[Case, Measurement]) -> Table:
    table = _table("Time: medians; the ratio is taken within a round", "case", "per")
    for column in ("reference", "platform", "ratio", "quartiles", "asked"):
        table.add_column(column, justify="right")
    table.add_column("")
    for case, m in found.items():
        table.add_row(
            case.name,
            case.unit,
            _seconds(m.reference_seconds.median),
            _seconds(m.platform_seconds.median),
            f"{m.ratio.median:.2f}x",
            f"{m.ratio.lower:.2f} to {m.ratio.upper:.2f}",
            _target(case.asked, "x"),
            _verdict(m.ratio.median, case.asked),
        )
    return table


def _arithmetic(found: dict[Case, Measurement]) -> Table:
    title = (
        "Arithmetic: products and factorisations each path does, and the share of the sgemm rate it reaches"
    )
    table = _table(title, "case")
    for column in ("reference GFLOP", "platform GFLOP", "reference share", "platform share", "asked"):
        table.add_column(column, justify="right")
    table.add_column("")
    table.add_column("results differ by", justify="right")
    for case, m in found.items():
        table.add_row(
            case.name,
            f"{m.reference_flops / 1e9:.2f}",
            f"{m.platform_flops / 1e9:.2f}",
            f"{m.reference_share:.0%}",
            f"{m.platform_share:.0%}",
            f"{case.asked_share:.0%}" if case.asked_share else "",
            _verdict(m.platform_share, case.asked_share),
            f"{m.difference:.0e}" + ("" if m.agrees else " [bold red]too much[/]"),
        )
    return table


def _memory(found: dict[Case, Measurement]) -> Table:
    table = _table("Peak of tensor memory during the work, above what stood before", "case")
    for column in ("reference MiB", "platform MiB", "ratio", "asked"):
        table.add_column(column, justify="right")
    table.add_column("")
    for case, m in found.items():
        if m.reference_bytes is None or m.platform_bytes is None or m.memory_ratio is None:
            continue
        table.add_row(
            case.name,
            f"{m.reference_bytes / MIB:.0f}",
            f"{m.platform_bytes / MIB:.0f}",
            f"{m.memory_ratio:.1f}x",
            _target(case.asked_memory, "x"),
            _verdict(m.memory_ratio, case.asked_memory),
        )
    return table


def _sweeps(timings: dict[Scale, Timing], amount: Amount) -> Table:
    few = (
        ""
        if amount.is_full
        else f"; {amount.planned}, {amount.recorded} and {amount.reported} runs only, which meet nothing"
    )
    table = _table(f"Sweeps: the less the better{few}", "case", "what")
    for column in ("best", "median", "asked"):
        table.add_column(column, justify="right")
    table.add_column("")
    for case, timing in timings.items():
        table.add_row(
            case.name,
            case.what,
            f"{timing.best:.2f} {case.unit}",
            f"{timing.median:.2f} {case.unit}",
            f"< {case.asked:.3g} {case.unit}",
            {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[met(case, timing, amount)],
        )
    return table


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _target(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g}{unit}"


def _verdict(value: float, asked: float | None) -> str:
    if asked is None:
        return ""
    return "[green]met[/]" if value >= asked else "[red]missed[/]"


def _report(
    facts: dict[str, Any],
    setting: Setting,
    found: dict[Case, Measurement],
    amount: Amount,
    timings: dict[Scale, Timing],
) -> dict[str, Any]:
    """Everything in the tables, and the settings, as plain values."""
    cases = {}
    for case, m in found.items():
        asked = {"ratio": case.asked, "share": case.asked_share, "memory_ratio": case.asked_memory}
        shares = {"reference_share": m.reference_share, "platform_share": m.platform_share}
        cases[case.name] = (
            dataclasses.asdict(m)
            | shares
            | {
                "unit": case.unit,
                "memory_ratio": m.memory_ratio,
                "agrees": m.agrees,
                "asked": {name: value for name, value in asked.items() if value is not None},
            }
        )
    return {
        "machine": facts,
        "setting": dataclasses.asdict(setting) | {"device": str(setting.device)},
        "cases": cases,
        "amount": dataclasses.asdict(amount),
        "sweeps": {
            case.name: {
                "figures": timing.numbers,
                "best": timing.best,
                "median": timing.median,
                "asked": case.asked,
                "unit": case.unit,
                "met": met(case, timing, amount),
            }
            for case, timing in timings.items()
        },
    }


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # not under nohup
            signal.signal(number, lambda *_: sys.exit(1))  # what waits for its turn is not left stopped
    sys.exit(main())
