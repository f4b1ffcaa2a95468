"""What is on the shelf, as `autoglm models` and `/api/models` show it: with how this device runs each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import device
from agent.config import Settings
from agent.engines.engine import EngineInfo, TensorInfo
from agent.probe import Measured, Probes
from models.shelf import Shelf, Version

CHOSEN = ("cap", "runners", "threads", "lone_threads", "rows_per_s", "kv_type", "flash_attention")
"""What a trial or the settings choose: rows of a batch, runs at once, threads of each; of text, the cache."""

Loaded = Mapping[tuple[str, str], EngineInfo | TensorInfo]


def rows(
    settings: Settings, shelf: Shelf, loaded: Loaded, parts: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One for each Version; `loaded`, and the `parts` of live ones, by Model and Version. Reads the disk.

    `chosen` is in force, of a loaded one; of another it is what was remembered for these settings.
    """
    probes = Probes(settings.data_dir / "probes.json")
    return [
        _row(settings, one, loaded.get((one.model, one.version)), probes)
        | _part(parts.get((one.model, one.version), {}))
        for one in shelf.versions()
    ]


def _row(
    settings: Settings, version: Version, info: EngineInfo | TensorInfo | None, probes: Probes
) -> dict[str, Any]:
    engine = version.manifest.engine
    chosen = info.details if info else _remembered(settings, version, probes)
    return {
        "model": version.model,
        "version": version.version,
        "size": version.size,
        "path": str(version.path),
        "loaded": info is not None,
        "engine": info.engine if info else settings.engine if engine == "llama" else engine,
        "chosen": {name: chosen[name] for name in CHOSEN if chosen.get(name) is not None},
    }


def _part(live: Mapping[str, Any]) -> dict[str, Any]:
    """Its role and its percent of the Model's traffic; null where it is not live."""
    return {"role": live.get("role"), "weight": live.get("weight")}


def _remembered(settings: Settings, version: Version, probes: Probes) -> Mapping[str, Any]:
    about = device.pipeline_settings(version.manifest.pipeline, str(version.folder))
    for kind in ({}, {"encoder": True}):  # the file's header would tell, and it may be long: ask for both
        trial = device.trial_of(settings, version.model, version.manifest.engine, about | kind)
        if trial is None:
            return {}
        found = _recalled(probes, trial, version)
        if found.choice and trial.engine == "onnx":
            lone = device.lone_trial(settings, version.model, trial.basic, found, version.size)
            return {**device.with_speed(*found), **_recalled(probes, lone, version).choice}
        if found.choice:
            return found.choice
    return {}


def _recalled(probes: Probes, trial: device.Trial, version: Version) -> Measured:
    if trial.decided:
        return Measured(trial.candidates[0], None)
    known = probes.recall(trial.engine, str(version.path), trial.basic, trial.candidates)
    return known or Measured({}, None)
