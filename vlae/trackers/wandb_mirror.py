"""The mirror on Weights & Biases. The only module of a run that imports wandb."""

import contextlib
import http.client
import io
import os
import random
import re
import ssl
import time
import urllib.error
import urllib.request
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from numpy.lib.npyio import NpzFile

from vlae.errors import UserError
from vlae.runs import snapshot
from vlae.runs.lease import now
from vlae.system.disk import RecordError
from vlae.system.files import json_bytes, make_directory, read_bytes, write_atomically
from vlae.trackers.run_history import (
    OFFLINE,
    WANDB,
    Epochs,
    RunHistory,
    Settings,
    flat,
    generation,
    wandb_id,
)

ANSWER_WITHIN = 5.0
"""Seconds in which somebody has to answer at its address."""
INIT_WITHIN = 15.0
"""Seconds that W&B has to answer at the start; then the run goes on offline."""
FINISH_WITHIN = 30.0
"""Seconds that it has to take what is left at the end, where nobody waits less."""
LOOKS, PATIENT_LOOKS = 3, 15
"""At what has arrived, one a second, which the service may see later than it took it; the second where nobody waits."""
JITTER = 10.0
"""Seconds over which jobs of Slurm that start together are spread; a local queue starts a few at a time."""
PATIENCE = 60.0
"""Seconds for which a run waits until another process has sent what it had of it: the attempt before, or a sync."""
LIKE_A_KEY = re.compile(r"(local-)?[0-9A-Za-z_]{40,}")
STATES = {"done": 0, "failed": 1}
"""Exit codes, by which W&B calls a run finished or failed; it calls others crashed or preempted."""


class WandbError(UserError, RuntimeError):
    """Weights & Biases cannot be reached, or refuses."""


class NoAccess(WandbError):
    """To anything of it."""


class Busy(WandbError):
    """Another process sends this run."""


class Streamed:
    """A run as it goes on, online or offline; what W&B has already is not sent again.

    One process at a time sends a run: two would write each other's steps of its history anew.
    """

    def __init__(self, run_history: RunHistory, *, later: bool = False, anew: bool = False) -> None:
        """later: uploaded, whatever the configuration and the environment say, and with an error where W&B does not
        take it. Else as they say, and offline where W&B cannot be reached.

        anew: under another id, with nothing of it there yet.
        """
        self.run_history, self._later, self._anew = run_history, later, anew
        self._mode, self._kept = "", dict[str, Any]()
        self._run: Any = None
        self._lock = FileLock(run_history.place / "lock")
        self._epochs = Epochs(run_history.directory.path)
        self.arrived = False
        """Whether W&B has all that the run directory told at the end; where that was looked at."""

    def start(self) -> None:
        """Errors: Busy, where it is sent later."""
        reason = "" if self._later else self._why_offline()
        if not reason:
            reason = self._go_online()
        if reason:
            self._go_offline()
        for key in ("epoch", "global_step"):
            self._run.define_metric(key)
        self._run.define_metric("*", step_metric="epoch")
        if self._mode == "online":  # how much W&B has, it knows better than we do
            self._kept["sent"] = self._run.starting_step
        self._keep(complete=False, told=None, reason=reason or None)
        if self._mode == "online":
            (self.run_history.place / f"{OFFLINE}.json").unlink(missing_ok=True)

    def _why_offline(self) -> str:
        os.environ.update(own_places(self.run_history.place / "wandb-client"))
        try:
            return why_offline(self.run_history.settings.mode)
        except Exception as error:  # settings that the client refuses
            return told(error)

    def _go_online(self) -> str:
        """Why it cannot; else nothing."""
        try:
            self._take_turn()
            if not self._later:
                time.sleep(jitter())
                if trouble := unreachable():
                    return trouble
            self._init("online")
        except Exception as error:
            if self._later:
                raise
            return told(error)
        return ""

    def _go_offline(self) -> None:
        if self._mode == "online":
            client().teardown()  # which holds the id
        self._lock.release()
        self._init("offline")

    def _take_turn(self) -> None:
        make_directory(self.run_history.place)
        try:
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                if self._later:
                    raise
                print("another process is sending this run; waiting", flush=True)
                self._lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise Busy("it is being sent by another process") from error
        except (OSError, NotImplementedError):  # a file system without locks: the claim of a run has to do
            pass

    def catch_up(self) -> None:
        wandb, sent = client(), self._kept["sent"]
        for number, step in self._epochs.more():
            if number >= sent:
                pictures = {
                    key: wandb.Image(str(value)) for key, value in step.items() if isinstance(value, Path)
                }
                self._run.log(step | pictures)
        if self._epochs.length > sent:
            self._keep(sent=self._epochs.length)

    def finish(self) -> None:
        self.catch_up()  # what came since
        wandb, status, steps = client(), self.run_history.directory.status(), self._epochs.length
        results = self.run_history.results() if status["state"] == "done" else None
        self._run.summary.update(
            {f"status/{key}": status[key] or "" for key in ("state", "reason", "message")}
        )
        if results is not None:
            self._run.summary.update(flat(results))
            if self._kept["sent"] == steps:
                self._run.log(self._last_step(results))
                self._kept["sent"] += 1
            if self.run_history.settings.artifacts and (model := self.run_history.best_checkpoint()):
                artifact = wandb.Artifact(f"{self._run.id}-model", "model")
                artifact.add_file(str(model))
                self._run.log_artifact(artifact)
        elif status["state"] != "failed":  # it goes on, or may
            self._run.mark_preempting()
        self._run.finish(exit_code=STATES.get(status["state"], 255))
        if self._mode == "online" and (self._later or results is not None):
            whole = self._kept["sent"] >= steps + (results is not None)
            self.arrived = whole and self._has_arrived(results is not None)
        self._keep(
            complete=self.arrived and results is not None,
            told=digest(self.run_history, self._epochs) if self.arrived else None,
        )
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
                self._keep(reason=told(error))
        self._lock.release()

    def _last_step(self, results: dict[str, Any]) -> dict[str, Any]:
        wandb = client()
        step: dict[str, Any] = {"epoch": results["epochs"]}
        step |= {
            f"final/{name}": wandb.Image(str(file)) for name, file in self.run_history.last_pictures().items()
        }
        if file := self.run_history.per_image():
            step["test/per_image"] = per_image_table(file)
        return step

    def _has_arrived(self, done: bool) -> bool:
        """Asked of W&B: a key that is refused in mid-run ends the client's work without a word."""
        path = f"{self._run.entity}/{self._run.project}/{self._run.id}"
        for _ in range(PATIENT_LOOKS if self._later else LOOKS):
            there = client().Api(timeout=10).run(path)
            if there.lastHistoryStep + 1 >= self._kept["sent"] and ("run_id" in there.summary or not done):
                return True
            time.sleep(1)
        return False

    def _init(self, mode: str) -> None:
        settings, place, wandb = self.run_history.settings, make_directory(self.run_history.place), client()
        self._mode = mode
        number = generation(self.run_history.directory.path) + self._anew or 1
        sent = [self.run_history.kept(name).get("sent", 0) for name in (WANDB, OFFLINE)]
        self._kept = {"generation": number, "sent": max(sent), **self._kept}
        self._run = wandb.init(
            id=wandb_id(self.run_history.run_id, number),
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=settings.name or self.run_history.run_id,
            tags=self.run_history.tags,
            notes=self.run_history.notes(snapshot.description()),
            config=self.run_history.shown_config,
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

    def _keep(self, **changes: Any) -> None:
        """What W&B has, is written by those who send it to W&B alone."""
        self._kept.update(changes)
        online = self._mode == "online"
        about = {"mode": self._mode, "updated": now()}
        if self._run is not None:
            about |= {"id": self._run.id, "url": self._run.url if online else None}
        elif online:
            return  # nothing is known of it yet
        name, place = WANDB if online else OFFLINE, make_directory(self.run_history.place)
        write_atomically(place / f"{name}.json", json_bytes(self.run_history.kept(name) | self._kept | about))


def digest(run_history: RunHistory, epochs: Epochs | None = None) -> list[Any]:
    """The part of a run directory that can change: where it is the same, there is nothing new to send.

    epochs: of it, as far as it was read; None: all of it.
    """
    if epochs is None:
        epochs = Epochs(run_history.directory.path)
        epochs.more()
    status = run_history.directory.status()
    return [status["state"], status["attempt"], epochs.length]


def delete(settings: Settings, wandb_id: str) -> bool:
    """A run on W&B. Returns whether it was there: one that was offline may never have arrived."""
    wandb = client()
    path = "/".join(filter(None, [settings.entity, settings.project, wandb_id]))
    try:
        found = wandb.Api().run(path)
    except (wandb.errors.CommError, ValueError) as error:
        if "could not find" not in str(error).lower():
            raise
        return False
    found.delete()
    return True


@cache
def client() -> Any:
    """Its package, which from now on says nothing to anybody, writes no key to its logs, and does what it is told.

    Changes the environment of this process.
    """
    # reports of its own errors hold the end of a process for 20 seconds where there is no internet
    os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    for name in ("WANDB_DEBUG", "WANDB_CORE_DEBUG", "WANDB_MODE"):
        os.environ.pop(name, None)
    import wandb

    return wandb


def own_places(folder: Path) -> dict[str, str]:
    """Variables for a client that puts its files in there, but where the user says."""
    places = {f"WANDB_{name}_DIR": str(folder) for name in ("CACHE", "DATA")}
    return {name: place for name, place in places.items() if name not in os.environ}


def why_offline(asked: str) -> str:
    """Of a run with this tracker.mode, as far as this machine knows; empty: it is online.

    WANDB_MODE decides where it is auto.
    """
    if asked == "auto":
        asked = os.environ.get("WANDB_MODE") or "auto"
    if asked in ("offline", "dryrun"):
        return "offline"
    return "" if has_key() else "offline, without a key"


def has_key() -> bool:
    """Whether this user has a key for W&B: in the environment, or by `wandb login`. Sends nothing.

    The client has no public function for the key that `wandb login` has kept: which machine of ~/.netrc it is for, and
    where that file is, only the client's own search knows.
    """
    settings = client().setup().settings
    from wandb.errors import AuthenticationError
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        netrc = read_netrc_auth(host=settings.base_url)
    except AuthenticationError:  # it is there, and the client says what is wrong with it
        return True
    return bool(settings.api_key or settings.identity_token_file or netrc)


def check_access() -> None:
    """Before what cannot be done without it. NoAccess: there is no key, or nobody answers."""
    try:
        key = has_key()
    except Exception as error:  # settings that the client refuses
        raise NoAccess(f"Weights & Biases: {told(error)}") from error
    if not key:
        url = client().setup().settings.base_url
        raise NoAccess(f"no key for Weights & Biases at {url}: set WANDB_API_KEY, or run `wandb login`")
    if trouble := unreachable():
        raise NoAccess(f"Weights & Biases: {trouble}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """To be sent elsewhere is an answer."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        return None


def unreachable() -> str:
    """Why nobody answers at the address of W&B; empty: somebody does, whatever the answer.

    The client says of a network that is not there, after half a minute, that credentials could not be verified.
    """
    settings = client().setup().settings
    given = {"http": settings.http_proxy, "https": settings.https_proxy}
    proxies = {scheme: proxy for scheme, proxy in given.items() if proxy}
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies or None))
    try:
        opener.open(settings.base_url, timeout=ANSWER_WITHIN).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError):  # the client may know the certificate
            return ""
        return f"{settings.base_url} could not be reached ({_in_one_line(reason)})"
    return ""


def told(error: Exception) -> str:
    """What has gone wrong with W&B, in one line."""
    if isinstance(error, UserError):
        return str(error)
    with contextlib.suppress(Exception):  # then the error is about what it would ask
        if trouble := unreachable():
            return trouble
    # what it advises is about the client's settings, which are ours
    text = _in_one_line(error).partition(" Consider increasing")[0]
    what = "the key is refused" if re.search(r"\b40[13]\b", text) else "it fails or refuses"
    return f"{what}: {text} ({type(error).__name__})"


def jitter() -> float:
    """Seconds that this job waits before it asks the service."""
    return random.uniform(0, JITTER) if "SLURM_JOB_ID" in os.environ else 0.0


def per_image_table(file: Path) -> Any:
    """Of each test image: its log-likelihood and ELBO by each proposal, in nats."""
    try:
        with NpzFile(io.BytesIO(read_bytes(file) or b"")) as archive:
            names = sorted(name for name in archive.files if name.startswith(("elbo", "log_likelihood")))
            columns = {name: archive[name].tolist() for name in names}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RecordError(f"{file.name} cannot be read ({_in_one_line(error)})") from error
    data: list[Any] = [[i, *values] for i, values in enumerate(zip(*columns.values(), strict=True))]
    return client().Table(columns=["image", *columns], data=data)


def _in_one_line(error: object) -> str:
    """Without what could be a key, which no message of the client's should have."""
    return LIKE_A_KEY.sub("***", " ".join(str(error).split()))[:300]
