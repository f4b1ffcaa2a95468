"""What can be set for one Model: a `[models.NAME]` table. What it leaves out is the node's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from cloud_sync.duration import Duration
from cloud_sync.settings import Percent
from models.manifest import NAME

TRITONS = {"preferred_batch_size": "opt_batch_size", "max_queue_delay_microseconds": "delay_ms"}
"""Triton's names of two settings, and ours."""

ModelName = Annotated[str, StringConstraints(pattern=NAME)]


class ModelSettings(BaseModel):
    """None: the node's own setting of that name, or what a trial finds."""

    model_config = ConfigDict(frozen=True)

    # In memory
    pinned: bool = False  # loaded at the start, and never unloaded but by command
    keep_alive: Duration | None = None
    instances: int = Field(default=1, ge=1, le=16)  # Workers
    cpu_share: float = Field(default=1.0, gt=0, le=1000)  # of the CPU, beside other busy models' shares
    threads: int | None = Field(default=None, ge=1)  # of all its runs together
    gpu_layers: int | None = Field(default=None, ge=-1)
    weights: dict[str, Percent] | None = None  # of Versions beside the stable one: percent of the traffic

    # Text
    max_batch_size: int | None = Field(default=None, ge=1, le=256)
    context: int | None = Field(default=None, ge=64)
    kv_type: Literal["auto", "f16", "q8_0", "q4_0"] | None = None
    flash_attention: Literal["auto", "on", "off"] | None = None

    # Tensors
    cap: int | None = Field(default=None, ge=1, le=256)  # rows of a batch; None: by trial
    runners: int | None = Field(default=None, ge=1, le=64)  # runs at once; None: by trial
    lone_threads: int | None = Field(default=None, ge=1)  # of a run that is alone; None: by trial
    opt_batch_size: int | None = Field(default=None, ge=1)
    delay_ms: float | None = Field(default=None, ge=0)

    # Requests
    priority: int | None = Field(default=None, ge=0, le=9)  # of those that name none
    request_timeout_s: float | None = Field(default=None, gt=0)
    queue_requests: int | None = Field(default=None, ge=1)
    queue_bytes: int | None = Field(default=None, ge=1)
    queue_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _is_known(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for key, value in given.items():
            if key in cls.model_fields or key in TRITONS:
                continue
            if isinstance(value, dict):
                raise ValueError('a name with a dot in it stands in quotes: [models."NAME"]')
            raise ValueError(f"there is no setting `{key}`{meant(str(key), [*cls.model_fields, *TRITONS])}")
        return _from_triton(given)

    def over(self, node: Iterable[str]) -> dict[str, Any]:
        """What is set here of the settings that the node has too."""
        names = self.model_fields_set.intersection(node)
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def _from_triton(given: dict[str, Any]) -> dict[str, Any]:
    """Our names and units. Of several preferred sizes, the largest that is not over the cap is the one."""
    for theirs, name in TRITONS.items():
        if theirs in given and name in given:
            raise ValueError(f"`{theirs}` is Triton's name of `{name}`: set one of the two")
    ours = {key: value for key, value in given.items() if key not in TRITONS}
    if (delay := given.get("max_queue_delay_microseconds")) is not None:
        if isinstance(delay, bool) or not isinstance(delay, int | float):
            raise ValueError("`max_queue_delay_microseconds` must be a number")
        ours["delay_ms"] = delay / 1000
    if (sizes := given.get("preferred_batch_size")) is not None:
        listed = sizes if isinstance(sizes, list) else [sizes]
        if not listed or any(type(one) is not int or one < 1 for one in listed):
            raise ValueError("`preferred_batch_size` must be a whole number from 1, or a list of such")
        caps = [cap for cap in (given.get("cap"), given.get("max_batch_size")) if type(cap) is int]
        fitting = [one for one in listed if all(one <= cap for cap in caps)]
        ours["opt_batch_size"] = max(fitting or [min(listed)])
    return ours


def meant(key: str, names: Iterable[str], prefix: str = "") -> str:
    """A question that names the nearest of the known ones, as a variable with a prefix; "": none is near."""
    close = difflib.get_close_matches(key.lower(), list(names), n=1)
    return "".join(f": is {prefix}{name.upper() if prefix else name} meant?" for name in close)
