"""Runs on the recording W&B server, and commands that talk to it."""

import json
import os
import subprocess
import zlib
from pathlib import Path

import numpy as np
import yaml
from launching import run_command
from wandb_server import ENTITY, RecordedRun, WandbServer

from vlae.trackers.run_history import flat

PROJECT = "vlae"
TABLE = "media/table/test/per_image_1.table.json"


class Commands:
    """``vlae`` in processes of their own, whose W&B client writes below ``folder`` only."""

    def __init__(self, folder: Path, server: WandbServer | None) -> None:
        self.home, self.cwd = folder / "home", folder / "cwd"
        for place in (self.home, self.cwd):
            place.mkdir(parents=True, exist_ok=True)
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "SLURM_"))
        }
        self.environment = {**kept, "HOME": str(self.home), "COLUMNS": "200"}
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), kept.get("PYTHONPATH")]))
        if server is not None:
            self.environment |= server.environment(folder / "client")

    def __call__(self, *words: object, status: int = 0, **variables: str) -> str:
        """The output of the command, whose exit status is ``status``."""
        done = run_command("vlae.cli", *words, cwd=self.cwd, env=self.environment | variables)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def process(self, command: list[str], status: int = 0, **variables: str) -> str:
        done = subprocess.run(
            command,
            env=self.environment | variables,
            cwd=self.cwd,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


def mirror(
    server: WandbServer, run: Path, group: str = "s", generation: int = 1, state: str = "finished"
) -> RecordedRun:
    """The run as a mirror of it arrives: config, summary, and the table of its test images."""
    server.projects.add((ENTITY, PROJECT))
    name = run.name if generation == 1 else f"{run.name}-g{generation}"
    recorded = RecordedRun(ENTITY, PROJECT, name, created=len(server.runs), state=state)
    server.runs[ENTITY, PROJECT, name] = recorded
    config = yaml.safe_load((run / "config.yaml").read_text())
    recorded.raw_config = {key: {"value": config[key]} for key in sorted(config) if key != "tracker"}
    recorded.fields["groupName"] = group
    summary = {"epoch": 4, "validation/elbo_nats": -7.0, "train/elbo_nats": -8.0, "_step": 9, "_wandb": {}}
    if (run / "results.json").exists():
        summary |= flat(json.loads((run / "results.json").read_text()))
        summary["test/per_image"] = {"_type": "table-file", "path": TABLE}
        with np.load(run / "test_log_likelihood.npz") as arrays:
            names = sorted(arrays.files)
            rows = zip(*(arrays[name].tolist() for name in names), strict=True)
            table = {"columns": ["image", *names], "data": [[i, *row] for i, row in enumerate(rows)]}
        recorded.files[TABLE] = json.dumps(table).encode()
    shuffled = dict(
        sorted(summary.items(), key=lambda item: zlib.crc32(item[0].encode()))
    )  # Go's maps have no order
    recorded.lines["wandb-summary.json"] = {0: json.dumps(shuffled)}
    return recorded
