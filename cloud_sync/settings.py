"""What can be set from the cloud: the Desired document's settings, as controller and node both check them.

A name here is the agent's own setting of that name (docs/configuration.md). Where a node is and who may
enter it (its folder, ports, keys, certificates) is not for the cloud to say.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cloud_sync.telemetry.redaction import compiled

MOST_BYTES = 1 << 20  # of a document, as JSON

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400)]


def _is_pattern(text: str) -> str:
    compiled(text)
    return text


RedactPattern = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_is_pattern)]
RedactPatterns = Annotated[list[RedactPattern], Field(max_length=50)]


class BadSettings(ValueError):
    """They cannot be set; the message names the first thing that is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DesiredLimit(_Strict):
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)


class DesiredModel(_Strict):
    """Of one Model; what it leaves out is the node's."""

    pinned: bool | None = None
    keep_alive: Annotated[float, Field(ge=-1)] | str | None = None
    instances: int | None = Field(default=None, ge=1, le=16)
    cpu_share: float | None = Field(default=None, gt=0, le=1000)
    max_batch_size: int | None = Field(default=None, ge=1, le=256)
    context: int | None = Field(default=None, ge=64)
    opt_batch_size: int | None = Field(default=None, ge=1)
    delay_ms: float | None = Field(default=None, ge=0)
    priority: int | None = Field(default=None, ge=0, le=9)
    queue_requests: int | None = Field(default=None, ge=1)
    request_timeout_s: Seconds | None = None


class DesiredSettings(_Strict):
    """None: not set from the cloud."""

    # Model and engine
    model: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    max_batch_size: int | None = Field(default=None, ge=1, le=256)
    opt_batch_size: int | None = Field(default=None, ge=1)
    delay_ms: float | None = Field(default=None, ge=0)
    context: int | None = Field(default=None, ge=64)
    keep_alive: Annotated[float, Field(ge=-1)] | str | None = None
    models: dict[ModelName, DesiredModel] | None = Field(default=None, max_length=200)

    # Serving
    queue_requests: int | None = Field(default=None, ge=1)
    queue_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    request_timeout_s: Seconds | None = None
    priority: int | None = Field(default=None, ge=0, le=9)
    anonymous_limit: DesiredLimit | None = None
    mqtt_sender_limit: DesiredLimit | None = None
    results_keep_s: Seconds | None = None

    # MQTT
    mqtt_url: Annotated[str, Field(max_length=500)] | None = None

    # The link
    heartbeat_s: Annotated[float, Field(ge=1, le=86400)] | None = None

    # Telemetry
    telemetry_quota_mb: int | None = Field(default=None, ge=5, le=100_000)
    telemetry_bytes_per_s: float | None = Field(default=None, ge=256)
    telemetry_period_s: float | None = Field(default=None, ge=1, le=3600)
    log_excerpts: Literal["off", "error", "warning"] | None = None
    prompt_samples: float | None = Field(default=None, ge=0, le=1)
    redact_patterns: RedactPatterns | None = None

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] | None = None


def checked(settings: Any) -> dict[str, Any]:
    """The settings that are set, as plain JSON. BadSettings."""
    try:
        found = DesiredSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        what = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise BadSettings(f"{where}: {what}") from None
    return found.model_dump(mode="json", exclude_none=True)


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
