"""What can be set from the cloud: the Desired document's settings, as controller and node both check them.

A name here is the agent's own setting of that name (docs/configuration.md). Where a node keeps its data, on
which addresses it listens and who may enter it (keys, certificates) is not for the cloud to say.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from cloud_sync.addresses import broker_url, controller_url, proxy_url
from cloud_sync.duration import Duration
from cloud_sync.telemetry.redaction import compiled

MOST_BYTES = 1 << 20  # of a document, as JSON

LINK = frozenset({"cloud_url", "cloud_proxy"})  # a mistake in these cuts the node off

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400)]
Percent = Annotated[float, Field(ge=0, le=100)]
KvType = Literal["auto", "f16", "q8_0", "q4_0"]
Choice = Literal["auto", "on", "off"]


def _is_pattern(text: str) -> str:
    compiled(text)
    return text


RedactPattern = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_is_pattern)]
RedactPatterns = Annotated[list[RedactPattern], Field(max_length=50)]


class BadSettings(ValueError):
    """They cannot be set; the message names the first thing that is wrong."""


def _broker(value: str) -> str:
    """As it was given: "none" is a value here."""
    broker_url(value)
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DesiredLimit(_Strict):
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)


class DesiredModel(_Strict):
    """Of one Model; what it leaves out is the node's."""

    # In memory
    pinned: bool | None = None
    keep_alive: Duration | None = None
    instances: int | None = Field(default=None, ge=1, le=16)
    cpu_share: float | None = Field(default=None, gt=0, le=1000)
    threads: int | None = Field(default=None, ge=1, le=1024)
    gpu_layers: int | None = Field(default=None, ge=-1)
    weights: dict[VersionName, Percent] | None = Field(default=None, max_length=16)

    # Batches
    max_batch_size: int | None = Field(default=None, ge=1, le=256)
    context: int | None = Field(default=None, ge=64)
    kv_type: KvType | None = None
    flash_attention: Choice | None = None
    cap: int | None = Field(default=None, ge=1, le=256)
    runners: int | None = Field(default=None, ge=1, le=64)
    lone_threads: int | None = Field(default=None, ge=1)
    opt_batch_size: int | None = Field(default=None, ge=1)
    delay_ms: float | None = Field(default=None, ge=0)

    # Requests
    priority: int | None = Field(default=None, ge=0, le=9)
    request_timeout_s: Seconds | None = None
    queue_requests: int | None = Field(default=None, ge=1)
    queue_bytes: int | None = Field(default=None, ge=1)
    queue_tokens: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _leaves_some_to_the_stable_one(self) -> DesiredModel:
        if self.weights and sum(self.weights.values()) > 100:
            raise ValueError("the weights are together at most 100 percent")
        return self


class DesiredSettings(_Strict):
    """None: not set from the cloud."""

    # Model and engine
    model: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    max_batch_size: int | None = Field(default=None, ge=1, le=256)
    opt_batch_size: int | None = Field(default=None, ge=1)
    delay_ms: float | None = Field(default=None, ge=0)
    context: int | None = Field(default=None, ge=64)
    gpu_layers: int | None = Field(default=None, ge=-1)
    threads: int | None = Field(default=None, ge=1, le=1024)
    kv_type: KvType | None = None
    flash_attention: Choice | None = None
    step_target_ms: float | None = Field(default=None, gt=0)
    prefill_piece: int | None = Field(default=None, ge=1)
    keep_alive: Duration | None = None
    models: dict[ModelName, DesiredModel] | None = Field(default=None, max_length=200)

    # Serving
    queue_requests: int | None = Field(default=None, ge=1)
    queue_bytes: int | None = Field(default=None, ge=1)
    queue_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    request_timeout_s: Seconds | None = None
    priority: int | None = Field(default=None, ge=0, le=9)
    worker_deadline_s: Seconds | None = None
    load_deadline_s: Seconds | None = None
    drain_s: Annotated[float, Field(ge=0, le=86400)] | None = None

    # HTTP and gRPC
    http_port: int | None = Field(default=None, ge=1, le=65535)
    grpc_port: Annotated[int, Field(ge=1, le=65535)] | Literal["none"] | None = None
    max_body_bytes: int | None = Field(default=None, ge=1024, le=60 * 1024 * 1024)
    body_timeout_s: Seconds | None = None
    anonymous_limit: DesiredLimit | None = None

    # MQTT
    mqtt_url: Annotated[str, Field(max_length=500), AfterValidator(_broker)] | None = None
    mqtt_version: Literal["5", "3.1.1"] | None = None
    mqtt_sender_limit: DesiredLimit | None = None
    results_keep_s: Seconds | None = None
    embedded_port: int | None = Field(default=None, ge=1, le=65534)

    # The link
    heartbeat_s: Annotated[float, Field(ge=1, le=86400)] | None = None
    cloud_url: Annotated[str, Field(max_length=500), AfterValidator(controller_url)] | None = None
    cloud_proxy: Annotated[str, Field(max_length=500), AfterValidator(proxy_url)] | None = None
    trial_s: Annotated[float, Field(ge=1, le=86400)] | None = None

    # Telemetry
    telemetry_quota_mb: int | None = Field(default=None, ge=5, le=100_000)
    telemetry_bytes_per_s: float | None = Field(default=None, ge=256)
    telemetry_period_s: float | None = Field(default=None, ge=1, le=3600)
    log_excerpts: Literal["off", "error", "warning"] | None = None
    prompt_samples: float | None = Field(default=None, ge=0, le=1)
    redact_patterns: RedactPatterns | None = None

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    log_format: Literal["auto", "text", "json"] | None = None


def checked(settings: Any) -> dict[str, Any]:
    """The settings that are set, as plain JSON. BadSettings."""
    try:
        return _plain(DesiredSettings.model_validate(settings))
    except ValidationError as error:
        where, what = _first(error, "there is no such setting")
        raise BadSettings(f"{'.'.join(where) or 'the document'}: {what}") from None


def sorted_out(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What of a document this release can take, and of the rest by name why not.

    A controller of another release may know more, and one such setting must not cost the others.
    """
    left, refused = settings, dict[str, str]()
    while True:
        try:
            return _plain(DesiredSettings.model_validate(left)), refused
        except ValidationError as error:
            where, what = _first(error, "unknown to this release")
            path = where[: 3 if where[0] == "models" else 1]
            if path[-1] == "[key]":
                path = path[:-1]
            refused[".".join(path)] = what
            left = _without(left, path)


def named(settings: dict[str, Any]) -> dict[str, Any]:
    """By the names under which is told what became of them: `priority`, `models.NAME`."""
    models = settings.get("models")
    found = {name: value for name, value in settings.items() if name != "models"}
    return found | {f"models.{name}": value for name, value in (models or {}).items()}


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The names, as `named` gives them, of what is not the same in both."""
    one, other = named(before), named(after)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def merged(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Later ones over earlier ones; objects are merged name by name."""
    found: dict[str, Any] = {}
    for layer in layers:
        found = _over(found, layer)
    return found


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    made = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(name), dict):
            made[name] = _over(below[name], value)
        else:
            made[name] = value
    return made


def _plain(settings: DesiredSettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_none=True)


def _first(error: ValidationError, unknown: str) -> tuple[tuple[str, ...], str]:
    """Where, and what."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    what = unknown if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return tuple(map(str, first["loc"])), what


def _without(settings: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    name, *rest = path
    left = dict(settings)
    if rest and isinstance(left.get(name), dict):
        left[name] = _without(left[name], tuple(rest))
    else:
        left.pop(name, None)
    return left
