"""The JSON records of a run: the fields of each, checked by pydantic when a file is read."""

import contextlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, FiniteFloat, PositiveInt, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from vlae.config.problems import format_value
from vlae.system.disk import RecordError

AS_WRITTEN = ConfigDict(strict=True, extra="allow")  # no value is converted; keys of other versions stay


def _check_time(text: str) -> str:
    with contextlib.suppress(ValueError):
        if datetime.fromisoformat(text).tzinfo is not None:
            return text
    raise ValueError("a time with its zone")


def _check_progress(progress: dict[str, Any]) -> dict[str, Any]:
    counts = [progress[key] for key in ("epoch", "epochs", "image", "images") if key in progress]
    elbo = progress.get("elbo") or 0.0  # null: it was not finite
    wrong = [each for each in (*counts, elbo) if isinstance(each, bool) or not isinstance(each, int | float)]
    if wrong or not isinstance(progress.get("doing", ""), str):
        raise ValueError("numbers by their names")
    return progress


Time = Annotated[str, AfterValidator(_check_time)]
StateName = Literal["new", "running", "interrupted", "failed", "done"]


class Claim(TypedDict):
    """attempts/<n>/claim.json: the process that executes a run; also that of a queue or of a launch."""

    __pydantic_config__ = AS_WRITTEN  # pyright: ignore[reportGeneralTypeIssues]
    pid: PositiveInt
    process_start: FiniteFloat  # seconds from the start of the machine to that of the process
    host: str
    place: str  # machine, boot and container: where process ids mean the same
    slurm_job: str | None
    slurm_restarts: int | None
    queue: str | None  # the queue whose Slurm job executes it: another cluster may have a job of the same id
    started: Time
    token: str  # distinguishes our claim from that of another thread


class Status(TypedDict):
    """status.json: what the process that executes a run last wrote."""

    __pydantic_config__ = AS_WRITTEN  # pyright: ignore[reportGeneralTypeIssues]
    run_id: str
    state: StateName
    attempt: int | None
    progress: Annotated[dict[str, Any], AfterValidator(_check_progress)] | None
    updated: Time | None  # the last sign of life
    reason: str | None
    message: str | None
    where: str | None  # the host of the attempt, and its Slurm job
    gpu_seconds: FiniteFloat  # GPU time of all attempts together
    progressed: Time | None  # when the attempt last made progress
    training: str | None  # what it shares with runs of other lengths and other scores (`vlae.runs.trainings`)
    trains: bool | None  # True while its process trains, and others of the same training wait for it


class TakenOver(TypedDict):
    """taken_over.json: the part of a run's training that another run of the same training has computed."""

    __pydantic_config__ = AS_WRITTEN  # pyright: ignore[reportGeneralTypeIssues]
    run: str  # the id of that run
    epochs: int
    seconds: FiniteFloat  # of training
    trained_with: list[dict[str, str]]  # hash of the code, and torch, of all who have trained them
    whole: bool  # False: only its best model was taken, so that nothing can be trained on


CLAIM, STATUS, TAKEN_OVER = TypeAdapter(Claim), TypeAdapter(Status), TypeAdapter(TakenOver)


def check_record(adapter: Any, file: str, content: Mapping[str, Any], way_out: str) -> Any:
    """The content of a file, checked by a TypeAdapter. RecordError: the first wrong key; way_out: what to do then."""
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    key = str(first["loc"][0])
    expected = re.sub("^(Input should be|Value error,) ", "", first["msg"])
    raise RecordError(f"{file}: {key}: expected {expected}, got {format_value(content.get(key))}. {way_out}")
