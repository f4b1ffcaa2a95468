"""Where settings come from beside variables, and the defaults that this machine gives."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from agent.model_settings import meant
from cloud_sync import twin_file
from cloud_sync.settings import sorted_out


class DesiredSource(PydanticBaseSettingsSource):
    """What the controller has set, as the node keeps it."""

    def __init__(self, settings_cls: type[BaseSettings], file: FileSource) -> None:
        super().__init__(settings_cls)
        self._file = file

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the base class asks for it; __call__ does all

    def __call__(self) -> dict[str, Any]:
        folder = self.current_state.get("data_dir") or self._file().get("data_dir") or default_data_dir()
        found, _ = sorted_out(twin_file.settings_in_force(Path(folder) / "cloud"))
        own = {name: value for name, value in found.items() if name in self.settings_cls.model_fields}
        return InitSettingsSource(self.settings_cls, own)()  # by the keys that all sources have


class FileSource(TomlConfigSettingsSource):
    def __call__(self) -> dict[str, Any]:
        given = super().__call__()
        if unknown := sorted(self.toml_data.keys() - self.settings_cls.model_fields.keys()):
            raise ValueError(
                f"there is no setting `{unknown[0]}`{meant(unknown[0], self.settings_cls.model_fields)}"
            )
        return given


def default_node() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node())[:64] or "node"


def default_data_dir() -> Path:
    if state := os.environ.get("STATE_DIRECTORY"):  # systemd's StateDirectory=
        return Path(state.split(":")[0])
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "autoglm"
