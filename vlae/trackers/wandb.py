"""The mirror on Weights & Biases. The only module of a run that imports wandb."""

import contextlib
import http.client
import os
import random
import ssl
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from vlae import code
from vlae.attempts import FORCED, now
from vlae.errors import UserError
from vlae.files import RecordError, json_bytes, make_directory, read_json, write_atomically
from vlae.trackers.story import TRACKING, Settings, Story, flat

NAME = "wandb"
ANSWER_WITHIN = 5.0
"""Seconds in which somebody has to answer at its address."""
INIT_WITHIN = 15.0
"""Seconds that W&B has to answer at the start; then the run goes on offline."""
FINISH_WITHIN = 30.0
"""Seconds that it has to take what is left at the end, where nobody waits less."""
LOOKS = 3
"""At what has arrived, which the service may see a second later than it took it."""
JITTER = 10.0
"""Seconds over which jobs of Slurm that start together are spread; a local queue starts a few at a time."""
PATIENCE = 60.0
"""Seconds for which a run waits until another process has sent what it had of it: the attempt before, or a sync."""
STATES = {"done": 0, "failed": 1}
"""Exit codes, by which W&B calls a run finished or failed; it calls others crashed or preempted."""


class WandbError(UserError, RuntimeError):
    """Weights & Biases cannot be reached, or refuses."""


class Busy(WandbError):
    """Another process sends this run."""


class Streamed:
    """A run as it goes on, online or offline; what W&B has already is not sent again.

    One process at a time sends a run: two would write each other's steps of its history anew.
    """

    def __init__(self, story: Story, *, later: bool = False, anew: bool = False) -> None:
        """later: uploaded, whatever the configuration and the environment say, and with an error where W&B does not
        take it. Else as they say, and offline where W&B cannot be reached.

        anew: under another id, with nothing of it there yet.
        """
        self.story, self._later, self._anew = story, later, anew
        self._mode, self._kept = "", dict[str, Any]()
        self._run: Any = None
        self._lock = FileLock(story.place / "lock")

    def start(self) -> None:
        """Errors: Busy, after a wait where it is not sent later."""
        os.environ.update(self._environment())
        reason = "" if self._later else why_offline(self.story.settings.mode)
        if not reason:
            reason = self._go_online()
        if reason:
            self._go_offline(reason)
        for key in ("epoch", "global_step"):
            self._run.define_metric(key)
        self._run.define_metric("*", step_metric="epoch")
        if self._mode == "online":  # how much W&B has, it knows better than we do
            self._kept["sent"] = self._run.starting_step
        self._keep(complete=False, reason=reason or None)

    def _go_online(self) -> str:
        """Why it cannot; else nothing."""
        self._take_turn()
        if not self._later:
            time.sleep(jitter())
            if trouble := unreachable():
                return trouble
        try:
            self._init("online")
        except Exception as error:
            if self._later:
                raise
            return told(error)
        return ""

    def _go_offline(self, reason: str) -> None:
        if self._mode == "online":
            client().teardown()  # which holds the id
        self._lock.release()
        self._init("offline")

    def _take_turn(self) -> None:
        make_directory(self.story.place)
        try:
            self._lock.acquire(timeout=0 if self._later else PATIENCE)
        except Timeout as error:
            raise Busy("another process is sending this run") from error
        except (OSError, NotImplementedError):  # a file system without locks: the claim of a run has to do
            pass

    def catch_up(self) -> None:
        wandb, steps = client(), self._steps()
        for step in steps[self._kept["sent"] :]:
            pictures = {
                key: wandb.Image(str(value)) for key, value in step.items() if isinstance(value, Path)
            }
            self._run.log(step | pictures)
        if len(steps) > self._kept["sent"]:
            self._keep(sent=len(steps))

    def _steps(self) -> list[dict[str, Any]]:
        """All that the run directory tells so far, one entry for each step of the history on W&B.

        A longer story begins with the same steps: pictures are there before the next epoch is. So a number tells
        what is still to be sent, whoever has sent the rest.
        """
        steps = []
        for line, pictures in self.story.chapters():
            steps.append(line)
            if pictures:
                steps.append(
                    {"epoch": line["epoch"], **{f"images/{n}": file for n, file in pictures.items()}}
                )
        return steps

    def finish(self) -> None:
        wandb, status, results = client(), self.story.directory.status(), self.story.results()
        self._run.summary.update(
            {f"status/{key}": status[key] or "" for key in ("state", "reason", "message")}
        )
        if results is not None:
            self._run.summary.update(flat(results))
            if self._kept["sent"] == len(self._steps()):
                self._run.log(self._last_step(results))
                self._kept["sent"] += 1
            if self.story.settings.artifacts and (model := self.story.best_checkpoint()):
                artifact = wandb.Artifact(f"{self._run.id}-model", "model")
                artifact.add_file(str(model))
                self._run.log_artifact(artifact)
        elif status["state"] != "failed":  # it goes on, or may
            self._run.mark_preempting()
        self._run.finish(exit_code=STATES.get(status["state"], 255))
        whole = results is not None and self._mode == "online" and self._has_arrived()
        self._keep(complete=whole)
        self._lock.release()

    def give_up(self, error: BaseException) -> None:
        """Ends the client's work on this run, or the next one of this process would go on with it."""
        wandb = client()
        if wandb.run is not None:
            with contextlib.suppress(Exception):
                wandb.run.finish(exit_code=255)
        with contextlib.suppress(Exception):
            wandb.teardown()
        if isinstance(error, Exception) and not isinstance(error, Busy):  # else the other one knows more
            with contextlib.suppress(RecordError):
                self._keep(complete=False, reason=told(error))
        self._lock.release()

    def _last_step(self, results: dict[str, Any]) -> dict[str, Any]:
        wandb = client()
        step: dict[str, Any] = {"epoch": results["epochs"]}
        step |= {f"final/{name}": wandb.Image(str(file)) for name, file in self.story.last_pictures().items()}
        if file := self.story.per_image():
            step["test/per_image"] = per_image_table(file)
        return step

    def _has_arrived(self) -> bool:
        """Asked of W&B: a key that is refused in mid-run ends the client's work without a word."""
        path = f"{self._run.entity}/{self._run.project}/{self._run.id}"
        for _ in range(LOOKS):
            there = client().Api(timeout=10).run(path)
            if there.lastHistoryStep + 1 >= self._kept["sent"] and "run_id" in there.summary:
                return True
            time.sleep(1)
        return False

    def _init(self, mode: str) -> None:
        settings, place, wandb = self.story.settings, make_directory(self.story.place), client()
        self._mode, kept = mode, self.story.kept(NAME)
        if self._anew or not kept:
            kept = {"generation": generation_before(self.story) + 1}
        self._kept = {"sent": 0, "reason": None, **kept}
        self._run = wandb.init(
            id=wandb_id(self.story.run_id, self._kept["generation"]),
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=settings.name or self.story.run_id,
            tags=self.story.tags,
            notes=self.story.notes(code.description()),
            config=self.story.shown_config,
            dir=str(place),
            mode=mode,
            resume="allow",
            settings=wandb.Settings(
                init_timeout=INIT_WITHIN,
                finish_timeout=FINISH_WITHIN,
                finish_timeout_raises=True,
                silent=True,
                console="off",
                x_transaction_log_flush_interval=1,  # what a SIGKILL loses
                # the run's own record has what is worth knowing of code and machine
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
            ),
        )

    def _environment(self) -> dict[str, str]:
        """For no file outside of the run directory, but where the user says."""
        places = {f"WANDB_{name}_DIR": str(self.story.place / "wandb-client") for name in ("CACHE", "DATA")}
        return {name: place for name, place in places.items() if name not in os.environ}

    def _keep(self, **changes: Any) -> None:
        self._kept.update(changes)
        about = {"mode": self._mode, "updated": now()}
        if self._run is not None:
            about |= {"id": self._run.id, "url": self._run.url if self._mode == "online" else None}
        write_atomically(self.story.place / f"{NAME}.json", json_bytes(self._kept | about))


def generation_before(story: Story) -> int:
    """How often there was a run of this id on W&B: a run that is done anew, or mirrored anew, gets another one.

    What has happened under an id there can be neither taken back nor, once deleted, used again.
    """
    path = story.directory.path
    found = _generation(path)
    if path.parent.name == FORCED:
        found = max(found, _generation(path.parent.parent / story.run_id))
    return found


def other_generations(run: Path) -> list[str]:
    """Ids on W&B under which the run in this directory was mirrored before, or is being done anew."""
    own = _generation(run)
    newest = max(own, _generation(run.parent / FORCED / run.name))
    return [wandb_id(run.name, number) for number in range(1, newest + 1) if number != own]


def _generation(run: Path) -> int:
    return (read_json(run / TRACKING / f"{NAME}.json") or {}).get("generation", 0)


def delete(settings: Settings, wandb_id: str) -> bool:
    """A run on W&B. Returns whether it was there: one that was offline may never have arrived."""
    from wandb.errors import CommError

    import wandb

    path = "/".join(filter(None, [settings.entity, settings.project, wandb_id]))
    try:
        found = wandb.Api().run(path)
    except (CommError, ValueError) as error:
        if "could not find" not in str(error).lower():
            raise
        return False
    found.delete()
    return True


def wandb_id(run_id: str, generation: int) -> str:
    """The same for all attempts of a run."""
    return run_id if generation == 1 else f"{run_id}-g{generation}"


def client() -> Any:
    """Its package, which says nothing to anybody and writes no key to its logs. What it has to do, it is told."""
    # reports of its own errors hold the end of a process for 20 seconds where there is no internet
    os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    for name in ("WANDB_DEBUG", "WANDB_CORE_DEBUG", "WANDB_MODE"):
        os.environ.pop(name, None)
    import wandb

    return wandb


def why_offline(asked: str) -> str:
    """Of a run with this tracker.mode, as far as this machine knows; empty: it is online.

    WANDB_MODE wins over auto.
    """
    if asked == "auto":
        asked = os.environ.get("WANDB_MODE", "auto")
    if asked in ("offline", "dryrun"):
        return "offline"
    return "" if has_key() else "offline, without a key"


def has_key() -> bool:
    """Whether this user has a key for W&B: in the environment, or by `wandb login`. Asks nobody."""
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib.wbauth import read_netrc_auth  # its own search: for which machine, it knows

    settings = client().setup().settings
    try:
        netrc = read_netrc_auth(host=settings.base_url)
    except AuthenticationError:  # it is there, and the client says what is wrong with it
        return True
    return bool(settings.api_key or settings.identity_token_file or netrc)


def check_access() -> None:
    """Before what cannot be done without it. WandbError: there is no key, or nobody answers."""
    if not has_key():
        raise WandbError("no key for Weights & Biases: set WANDB_API_KEY, or run `wandb login`")
    if trouble := unreachable():
        raise WandbError(trouble)


def unreachable() -> str:
    """Why nobody answers at the address of W&B; empty: somebody does, whatever the answer.

    The client says of a network that is not there, after half a minute, that credentials could not be verified.
    """
    url = client().setup().settings.base_url
    try:
        urllib.request.urlopen(url, timeout=ANSWER_WITHIN).close()
    except urllib.error.HTTPError:
        return ""
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):  # the client may know the certificate
            return ""
        return f"{url} could not be reached ({_in_one_line(error.reason)})"
    except (OSError, http.client.HTTPException) as error:
        return f"{url} could not be reached ({_in_one_line(error)})"
    return ""


def told(error: Exception) -> str:
    """What has gone wrong with W&B, in one line."""
    if isinstance(error, UserError):
        return str(error)
    if trouble := unreachable():
        return trouble
    text = _in_one_line(error).partition(" Consider increasing")[
        0
    ]  # of the client's settings, which are ours
    return f"it fails or refuses: {text} ({type(error).__name__})"


def jitter() -> float:
    """Seconds that this job waits before it asks the service."""
    return random.uniform(0, JITTER) if "SLURM_JOB_ID" in os.environ else 0.0


def per_image_table(file: Path) -> Any:
    """Of each test image: its log-likelihood and ELBO by each proposal, in nats."""
    try:
        with np.load(file) as arrays:
            names = sorted(name for name in arrays.files if name.startswith(("elbo", "log_likelihood")))
            columns = {name: arrays[name].tolist() for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RecordError(f"{file.name} cannot be read ({_in_one_line(error)})") from error
    data: list[Any] = [[i, *values] for i, values in enumerate(zip(*columns.values(), strict=True))]
    return client().Table(columns=["image", *columns], data=data)


def _in_one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
