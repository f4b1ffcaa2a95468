"""The controller's settings: `AUTOGLM_CLOUD_*` variables over the defaults here. Times are seconds."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, IPvAnyNetwork, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cloud_sync.controller.tokens import Role
from cloud_sync.issuer import is_safe
from cloud_sync.tunnel.broker import Place

DAY = 86400.0


class ControllerSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="AUTOGLM_CLOUD_", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = "0.0.0.0"  # noqa: S104 - nodes come from everywhere, and everything asks for an identity
    port: int = Field(default=8090, ge=0, le=65535)
    names: Annotated[list[str], NoDecode] = []  # names and addresses beside this machine's own
    data_dir: Path = Field(default_factory=lambda: default_data_dir())
    database_url: str = ""  # empty: SQLite in data_dir
    mqtt_url: str = ""  # mqtts://user:password@host:port: nodes may come through this broker, too
    mqtt_ca_file: Path | None = None  # None: the system's store

    certificate_life_s: float = Field(default=30 * DAY, ge=60)  # of a node's
    server_certificate_life_s: float = Field(default=90 * DAY, ge=1)  # of the controller's own
    renewal_grace_s: float = Field(default=365 * DAY, ge=0)  # how long after its end it may be renewed
    heartbeat_s: float = Field(default=300, ge=1)  # of nodes, unless their Desired says otherwise
    stream_lost_s: float = Field(default=60, ge=0)  # without a node whose stream of hints broke off: lost
    notices_mqtt_url: str = ""  # mqtt:// or mqtts://user:password@host:port; empty: none by MQTT
    max_body_bytes: int = Field(default=4 << 20, ge=64 << 10)
    telemetry_max_bytes: int = Field(default=8 << 20, ge=64 << 10)  # of a batch, decompressed

    points_keep_s: float = Field(default=14 * DAY, ge=DAY)  # as they came; then by the hour
    hours_keep_s: float = Field(default=400 * DAY, ge=0)
    events_keep_s: float = Field(default=400 * DAY, ge=0)
    logs_keep_s: float = Field(default=30 * DAY, ge=0)
    samples_keep_s: float = Field(default=30 * DAY, ge=0)
    series_per_node: int = Field(default=2000, ge=1)

    behind_after_s: float = Field(default=900, ge=1)  # a node is behind for so long: an event
    backlog_rows: int = Field(default=10_000, ge=0)  # more that wait on a node: it is behind
    metrics_token: SecretStr | None = None  # opens /metrics, beside a viewer's
    metrics_nodes: int = Field(default=1000, ge=0)  # that have series of their own there

    # Operators
    public_url: str = ""  # that tokens name as their issuer; empty: by this machine's name
    access_life_s: float = Field(default=900, ge=1)  # of an operator's token
    login_life_s: float = Field(default=30 * DAY, ge=60)  # without use, of a login that renews itself
    oidc_issuer: str = ""  # whose tokens count too
    oidc_audience: str = "autoglm-controller"
    oidc_role_claim: str = "roles"
    oidc_roles: dict[str, Role] = {}  # by what the claim says; empty: it says viewer, operator or admin
    oidc_client_id: str = ""  # a public client there, for `autoglm cloud login --device`
    oidc_scope: str = "openid offline_access"  # that it asks for
    oidc_ca_file: Path | None = None  # None: the system's store

    # Behind a proxy
    tls: bool = True  # false: plain HTTP, for a proxy that has TLS
    proxies: Annotated[list[IPvAnyNetwork], NoDecode] = []  # whose headers are believed
    certificate_header: str = "x-client-certificate"  # with the client's, as the proxy verified it

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("notices_mqtt_url")
    @classmethod
    def _by_mqtt(cls, value: str) -> str:
        if value and not re.match(r"mqtts?://[^/]", value):
            raise ValueError("a broker is mqtt:// or mqtts://[user:password@]host[:port]")
        return value

    @field_validator("public_url", "oidc_issuer")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        if value and not is_safe(value):
            raise ValueError("must begin with https:// (http:// on this machine alone)")
        return value

    @field_validator("names", "proxies", mode="before")
    @classmethod
    def _by_comma(cls, value: object) -> object:
        return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value

    @field_validator("mqtt_url")
    @classmethod
    def _is_a_broker(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("mqtt", "mqtts") or not parts.hostname):
            raise ValueError("must be mqtt://host:port or mqtts://host:port")
        return value

    def broker(self) -> Place:
        """OSError."""
        return Place(self.mqtt_url, self.mqtt_ca_file.read_text() if self.mqtt_ca_file else "")

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'controller.db'}"

    @property
    def issuer(self) -> str:
        """Of the tokens that are made here."""
        host = self.names[0] if self.names else socket.gethostname()
        return self.public_url.rstrip("/") or f"https://{host}:{self.port}"


def default_data_dir() -> Path:
    if state := os.environ.get("STATE_DIRECTORY"):  # systemd's StateDirectory=
        return Path(state.split(":")[0])
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "autoglm-cloud"
