"""The controller's settings: `AUTOGLM_CLOUD_*` variables over the defaults here. Times are seconds."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

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

    certificate_life_s: float = Field(default=30 * DAY, ge=60)  # of a node's
    server_certificate_life_s: float = Field(default=90 * DAY, ge=1)  # of the controller's own
    renewal_grace_s: float = Field(default=365 * DAY, ge=0)  # how long after its end it may be renewed
    heartbeat_s: float = Field(default=300, ge=1)  # of nodes, unless their Desired says otherwise
    stream_lost_s: float = Field(default=60, ge=0)  # without a node whose stream of hints broke off: lost
    notices_mqtt_url: str = ""  # mqtt:// or mqtts://user:password@host:port; empty: none by MQTT
    max_body_bytes: int = Field(default=4 << 20, ge=64 << 10)

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("notices_mqtt_url")
    @classmethod
    def _by_mqtt(cls, value: str) -> str:
        if value and not re.match(r"mqtts?://[^/]", value):
            raise ValueError("a broker is mqtt:// or mqtts://[user:password@]host[:port]")
        return value

    @field_validator("names", mode="before")
    @classmethod
    def _by_comma(cls, value: object) -> object:
        return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'controller.db'}"


def default_data_dir() -> Path:
    if state := os.environ.get("STATE_DIRECTORY"):  # systemd's StateDirectory=
        return Path(state.split(":")[0])
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "autoglm-cloud"
