"""Settings: `AUTOGLM_*` variables over the cloud's over `/etc/autoglm/agent.toml` over the defaults here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, PrivateAttr, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from agent.config_access import ApiKey, JwtSettings, Name, RateLimit
from agent.config_sources import DesiredSource, FileSource, default_data_dir, default_node
from agent.model_settings import ModelName, ModelSettings, meant
from cloud_sync.addresses import broker_url, controller_url, proxy_url
from cloud_sync.duration import Duration
from cloud_sync.settings import RedactPatterns
from models.address import without_secrets

DEFAULT_MODEL = "smollm2-135m-instruct"
CONFIG_FILE = Path("/etc/autoglm/agent.toml")
BESIDE = re.compile(r"AUTOGLM_(CONFIG|API_KEY|CLOUD_.*)")  # variables that are no settings here


BrokerUrl = Annotated[str | None, AfterValidator(broker_url)]


class Settings(JwtSettings, BaseSettings):
    """Everything that can be set. Units are in the names or the comments."""

    model_config = SettingsConfigDict(
        env_prefix="AUTOGLM_",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    _of: dict[str, Settings] = PrivateAttr(default_factory=dict)  # by Model

    def __init__(self, **given: Any) -> None:
        """`given`, on the command line for instance, is over all else."""
        super().__init__(**given)
        self._given = given

    # This node
    node: Name = Field(default_factory=lambda: default_node())
    data_dir: Path = Field(default_factory=lambda: default_data_dir())

    # Model and engine
    model: str = Field(
        default=DEFAULT_MODEL, validation_alias=AliasChoices("AUTOGLM_MODEL", "MODEL_NAME", "model")
    )
    max_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=256,
        validation_alias=AliasChoices("AUTOGLM_MAX_BATCH_SIZE", "MAX_BATCH_SIZE", "max_batch_size"),
    )  # slots; None: 32 with a GPU, 16 without, or fewer where memory is short
    engine: str = "llama"  # of GGUF files; ONNX files have their own
    opt_batch_size: int | None = Field(default=None, ge=1)  # rows of tensors worth waiting for, see delay_ms
    delay_ms: float = Field(
        default=0, ge=0, validation_alias=AliasChoices("AUTOGLM_DELAY_MS", "delay_ms")
    )  # how long tensors may wait for company; 0: not at all, which is best for most
    context: int | None = Field(
        default=None, ge=64
    )  # tokens for each Sequence; None: the model's, up to 4096
    gpu_layers: int | None = Field(default=None, ge=-1)  # None or -1: all, where a GPU build is present
    threads: int | None = Field(default=None, ge=1)  # None: the physical cores that this process may use
    kv_type: Literal["auto", "f16", "q8_0", "q4_0"] = "auto"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    step_target_ms: float = Field(default=50, gt=0)  # how long a step may take while others wait for tokens
    prefill_piece: int | None = Field(
        default=None, ge=1
    )  # fixed tokens a step; None: adapts to step_target_ms

    # Models in memory
    keep_alive: Duration = 300  # seconds that a model stays loaded without use; negative: for ever
    models: dict[ModelName, ModelSettings] = {}  # what is set for one Model; see `of`

    # Serving
    queue_requests: int = Field(default=256, ge=1)
    queue_bytes: int = Field(default=256 * 1024 * 1024, ge=1)  # of tensors, for each model
    queue_tokens: int = Field(default=262_144, ge=1)
    max_tokens: int = Field(default=131_072, ge=1)  # the most that one Request may ask for
    request_timeout_s: float = Field(default=600, gt=0)  # wall time of one Request
    priority: int = Field(default=5, ge=0, le=9)  # of Requests that name none; 9 is served first
    worker_deadline_s: float = Field(default=30, gt=0)  # a Worker silent for this long is killed
    load_deadline_s: float = Field(default=300, gt=0)  # the same while it loads
    drain_s: float = Field(default=30, ge=0)  # how long running Requests may go on at a swap or a stop

    # HTTP and gRPC
    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8080, ge=0, le=65535)
    grpc_port: int | None = Field(default=8081, ge=0, le=65535)  # on http_host; "none": no gRPC
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024, le=60 * 1024 * 1024)
    body_timeout_s: float = Field(default=30, gt=0)
    allowed_hosts: Annotated[list[str], NoDecode] = []  # besides loopback names and http_host; "*": all
    api_keys: list[ApiKey] = []  # none: no key is asked for
    anonymous_limit: RateLimit = RateLimit()  # who may enter by a JWT: see JwtSettings

    # MQTT
    mqtt_url: BrokerUrl = None  # mqtt://user:password@host:port, mqtts://..., embedded
    mqtt_version: Literal["5", "3.1.1"] = "5"
    mqtt_username: str | None = None  # these two over what the URL says
    mqtt_password: SecretStr | None = None
    mqtt_ca_file: Path | None = None  # None: the system's store
    mqtt_cert_file: Path | None = None
    mqtt_key_file: Path | None = None
    mqtt_sender_limit: RateLimit = RateLimit()
    results_keep_s: float = Field(default=7 * 86400, gt=0)  # how long a result is kept for repeats
    embedded_port: int = Field(default=1883, ge=1, le=65534)  # MQTT 3.1.1; MQTT 5 is on the next one

    # The fleet
    cloud_url: Annotated[str | None, AfterValidator(controller_url)] = None  # None: where it joined
    cloud_proxy: Annotated[str | None, AfterValidator(proxy_url)] = None  # None: as the environment says
    trial_s: float = Field(default=120, ge=1)  # how long what the cloud sets may take to be well

    # What the cloud is told of this node, once it is one of a fleet
    telemetry_quota_mb: int = Field(default=50, ge=5, le=100_000)  # of disk, for what waits
    telemetry_bytes_per_s: float = Field(default=64 * 1024, ge=256)  # of the link, at most
    telemetry_period_s: float = Field(default=60, ge=1, le=3600)  # that one row of metrics tells of
    log_excerpts: Literal["off", "error", "warning"] = "warning"  # and above
    prompt_samples: float = Field(default=0, ge=0, le=1)  # share of prompts that are told, redacted
    redact_patterns: RedactPatterns = []  # of RE2, beside those for addresses, numbers and secrets

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json"] = "auto"  # auto: text on a terminal

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _hosts_by_comma(cls, value: Any) -> Any:
        """A variable holds names with commas between, or JSON like every other list."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError:
                raise ValueError("must be names with commas between, or a JSON list") from None
        return [host.strip() for host in value.split(",") if host.strip()]

    @field_validator("grpc_port", mode="before")
    @classmethod
    def _grpc_may_be_off(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "none" and not value.strip().isdecimal():
            raise ValueError("must be a port, or 'none'")
        return None if value == "none" else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        named = os.environ.get("AUTOGLM_CONFIG")
        if named and not Path(named).exists():
            raise ValueError("there is no such file (AUTOGLM_CONFIG names it)")
        file = FileSource(settings_cls, toml_file=Path(named or CONFIG_FILE))
        return init_settings, env_settings, DesiredSource(settings_cls, file), file

    def anew(self) -> Settings:
        """As they would be for an agent that is started now in the same way. ValueError, OSError."""
        return Settings(**self._given)

    def overrides(self, name: str) -> str | None:
        """By what the node itself sets this, over the cloud."""
        if name in self._given:
            return "the command line"
        alias = Settings.model_fields[name].validation_alias
        choices = alias.choices if isinstance(alias, AliasChoices) else [f"AUTOGLM_{name}".upper()]
        return next((one for one in map(str, choices) if one.isupper() and os.environ.get(one)), None)

    @property
    def cloud_dir(self) -> Path:
        """What makes this machine a node of a fleet."""
        return self.data_dir / "cloud"

    @cached_property
    def socket(self) -> Path:
        """Where the command line finds this agent."""
        return self.data_dir / "agent.sock"

    def own(self, model: str) -> ModelSettings:
        """What is set for this Model alone."""
        return self.models.get(model, ModelSettings())

    def of(self, model: str) -> Settings:
        """The settings as they are for this Model: its own over the node's. One object, which follows."""
        if model not in self._of:
            self._of[model] = self.model_copy()
            self._follow(model)
        return self._of[model]

    def become(self, wanted: Settings, names: Iterable[str]) -> None:
        """Take these settings over, for all who hold this object or one of its Models'."""
        for name in names:
            setattr(self, name, getattr(wanted, name))
        for model in self._of:
            self._follow(model)

    def _follow(self, model: str) -> None:
        own = self.own(model).over(type(self).model_fields)
        for name in type(self).model_fields:
            setattr(self._of[model], name, own.get(name, getattr(self, name)))

    def public(self) -> dict[str, Any]:
        """The settings in force by name, fit for `/status`: no secret in it."""
        shown = self.model_dump(mode="json", exclude={"api_keys", "mqtt_password"})
        for name in ("mqtt_url", "cloud_proxy"):
            parts = urlsplit(shown[name] or "")
            if "@" in parts.netloc:
                shown[name] = parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]).geturl()
        shown["model"] = without_secrets(self.model)
        shown["api_keys"] = [key.name for key in self.api_keys]
        shown["models"] = {
            name: one.model_dump(mode="json", exclude_unset=True) for name, one in self.models.items()
        }
        return shown


def unknown_variables() -> list[str]:
    """What is said of the `AUTOGLM_*` variables that nobody reads: they are misspelt, most likely."""
    return [
        f"there is no setting {name}{meant(name.removeprefix('AUTOGLM_'), Settings.model_fields, 'AUTOGLM_')}"
        for name in sorted(name.upper() for name in os.environ)
        if name.startswith("AUTOGLM_")
        and name.removeprefix("AUTOGLM_").lower() not in Settings.model_fields
        and not BESIDE.fullmatch(name)
    ]
