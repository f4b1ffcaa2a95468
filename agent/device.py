"""What this machine can carry: cores, memory, and from them the engine's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import footprint, gpu
from agent.config import Settings
from agent.memory import Memory
from agent.model_settings import ModelSettings
from agent.offered import Offered
from agent.probe import BETTER, Measured, Probes
from models.pipelines.table import Pipeline

DEFAULT_CONTEXT = 4096  # tokens
DEFAULT_SLOTS = 32  # with a GPU; on a CPU more rows hardly gain anything, and each slot takes memory
CPU_SLOTS = 16
CAPS = (1, 2, 4, 8, 16, 32)  # rows of a batch of tensors to try; the first is the safest
STEP_TOKENS = 512  # the most that one step carries
TRIAL = {"slots": 8, "context": 256, "step_tokens": 128}
MEMORY_SHARE = 0.25  # of what is available, for the KV cache, or a second session
LONE_BYTES = 64 << 20  # of a model that may have two sessions
NO_LONE: dict[str, Any] = {"lone_threads": None}  # a run that is alone is as the others
LONE_LEAST_S = 0.0003  # that a run takes
LONE_BETTER = 0.9  # of a lone run's time, for a second session to pay


def cores() -> int:
    """Physical cores that this process may use: hyperthreads gain nothing, and a quota or affinity counts."""
    allowed = os.sched_getaffinity(0)
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota() or len(siblings)))


async def engine_settings(settings: Settings, offered: Offered, memory: Memory) -> dict[str, Any]:
    """What the Worker's Engine is started with; see the Engines in engines/ for the names."""
    if offered.remote is not None:
        return {"keys": str(settings.data_dir / "keys")}  # where the file of its key would be
    kind = "llama" if offered.tensors is None else "onnx"
    about = pipeline_settings(offered.pipeline, offered.folder) | (
        {"encoder": True} if offered.encoder else {}
    )
    trial = trial_of(settings, offered.name, kind, about)
    chosen = await _chosen(settings, offered, trial) if trial else Measured({}, None)
    own = settings.of(offered.name)
    if offered.tensors is None or trial is None:
        context = _context(own, offered)
        slots = own.max_batch_size or await _slots(own, offered, context, chosen.choice, memory)
        return {**_text_settings(own, context, slots, chosen.choice), **about}
    way = chosen.choice or trial.candidates[0]
    lone = lone_trial(settings, offered.name, trial.basic, Measured(way, chosen.seconds), offered.size)
    found = await _chosen(settings, offered, lone, LONE_BETTER)
    if not lone.decided and not await _has_room(offered.size, way, memory):
        found = Measured(NO_LONE, None)
    return _tensor_settings(own, trial.basic, {**way, **(found.choice or NO_LONE)}, chosen.seconds)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried on this device when a Version is first loaded."""

    engine: str
    basic: dict[str, Any]  # engine settings that all candidates have
    candidates: list[dict[str, Any]]

    @property
    def decided(self) -> bool:
        """Whether there is nothing to find out. Of text even the only candidate may crash this CPU."""
        return self.engine == "onnx" and len(self.candidates) == 1


def trial_of(settings: Settings, model: str, kind: str, about: Mapping[str, Any]) -> Trial | None:
    """For this Model's file, of kind "llama" or "onnx"; None: its Engine is of another make.

    `about` are engine settings that come of the file: its pipeline, or that it is an encoder.
    """
    here, own = settings.of(model), settings.own(model)
    if kind == "onnx":
        return Trial("onnx", {"gpu": here.gpu_layers != 0, **about}, tensor_candidates(here, own))
    if settings.engine != "llama":
        return None
    candidates = kv_candidates(here)[: 1 if "encoder" in about else None]  # it has no cache
    return Trial("llama", {**_basic(here), **TRIAL, **about}, candidates)


async def _chosen(settings: Settings, offered: Offered, trial: Trial, better: float = BETTER) -> Measured:
    if trial.decided:
        return Measured(trial.candidates[0], None)
    probes = Probes(settings.data_dir / "probes.json")
    what = trial.engine, offered.path, offered.size, trial.basic, trial.candidates
    return await probes.choose(*what, better)


def pipeline_settings(pipeline: Pipeline | None, folder: str) -> dict[str, Any]:
    """What the Worker is told of it, and of where its files lie."""
    return {} if pipeline is None else {"pipeline": pipeline.model_dump(), "folder": folder}


def tensor_candidates(settings: Settings, own: ModelSettings) -> list[dict[str, Any]]:
    """Ways to use the cores: several runs at once, or one on all of them; each with several caps.

    What is set is not tried.
    """
    count = settings.threads or cores()
    runners = [own.runners] if own.runners else sorted({count, 1}, reverse=True)
    most = settings.max_batch_size or CAPS[-1]
    caps = [own.cap] if own.cap else [cap for cap in CAPS if cap <= most]
    return [
        {"runners": many, "threads": max(1, count // many), "cap": cap} for many in runners for cap in caps
    ]


def lone_trial(settings: Settings, model: str, basic: dict[str, Any], others: Measured, size: int) -> Trial:
    """Whether a run that is alone has a session of its own, with all threads. What is set is not tried.

    Neither is what would take much memory for it, or gain nothing that anybody would notice.
    """
    way = others.choice
    pays = size <= LONE_BYTES and (others.seconds is None or others.seconds * way["runners"] >= LONE_LEAST_S)
    own = settings.own(model).lone_threads
    most = own or settings.of(model).threads or cores()
    candidates = [] if own else [NO_LONE]
    if most != way["threads"] and (own or pays):
        candidates.append({"lone_threads": most})
    return Trial("onnx", {**basic, **way}, candidates or [NO_LONE])


async def _has_room(size: int, way: Mapping[str, Any], memory: Memory) -> bool:
    """Whether a second session takes little of the memory: no other model is to go for its sake."""
    return footprint.lone_session(size, way) <= MEMORY_SHARE * (await memory.available()).machine


def with_speed(chosen: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """A way to run tensors, and the rows a second that it was measured at; None: it was not."""
    return {**chosen, "rows_per_s": round(1 / seconds, 1) if seconds else None}


def _tensor_settings(
    settings: Settings, basic: dict[str, Any], chosen: dict[str, Any], seconds: float | None
) -> dict[str, Any]:
    return {
        **basic,
        **with_speed(chosen, seconds),
        "opt_batch_size": min(settings.opt_batch_size or 1, chosen["cap"]),
        "delay_ms": settings.delay_ms,
        "run_deadline_s": settings.worker_deadline_s,
    }


def _basic(settings: Settings) -> dict[str, Any]:
    return {"threads": settings.threads or cores(), "gpu_layers": settings.gpu_layers}


def _context(settings: Settings, offered: Offered) -> int:
    """Tokens of a slot."""
    context = settings.context or min(DEFAULT_CONTEXT, offered.trained_context or DEFAULT_CONTEXT)
    if offered.encoder and offered.trained_context:
        context = min(context, offered.trained_context)  # it has no positions beyond
    return context


def _text_settings(settings: Settings, context: int, slots: int, chosen: dict[str, Any]) -> dict[str, Any]:
    return {
        "slots": slots,
        "context": context,
        **_basic(settings),
        "kv_type": settings.kv_type,
        "flash_attention": settings.flash_attention,
        **chosen,
        "step_tokens": STEP_TOKENS,
        "step_target_ms": settings.step_target_ms,
        "prefill_piece": settings.prefill_piece,
    }


def kv_candidates(settings: Settings) -> list[dict[str, Any]]:
    """Kinds of KV cache to try, the default first. A quantised one needs flash attention."""
    kinds = [
        {"kv_type": "q8_0", "flash_attention": "on"},
        {"kv_type": "f16", "flash_attention": "on"},
        {"kv_type": "f16", "flash_attention": "off"},
    ]
    if settings.kv_type != "auto":
        kinds = [{"kv_type": settings.kv_type, "flash_attention": "on"}, *kinds[2:]]
    fitting = [
        kind
        for kind in kinds
        if settings.kv_type in ("auto", kind["kv_type"])
        and settings.flash_attention in ("auto", kind["flash_attention"])
    ]
    return fitting or [{"kv_type": settings.kv_type, "flash_attention": settings.flash_attention}]


async def _slots(
    settings: Settings, offered: Offered, context: int, chosen: dict[str, Any], memory: Memory
) -> int:
    """As many as MEMORY_SHARE of the memory that the cache is in has room for, up to the default."""
    if (header := offered.header) is None:
        return DEFAULT_SLOTS
    each = footprint.kv_bytes(header, chosen.get("kv_type", "f16")) * context
    layers = footprint.on_gpu(header, _basic(settings))[0] if memory.on_gpu("llama") else 0
    share, there = layers / header.layers, await memory.available()
    most = DEFAULT_SLOTS if gpu.is_visible() else CPU_SLOTS
    for part, has in ((1 - share, there.machine), (share, there.gpu)):
        room = max(0, has - offered.size * part) * MEMORY_SHARE
        most = min(most, int(room / (each * part)) if each * part else most)
    return max(1, most)


def _siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int | None:
    """Whole CPUs of the cgroup's quota; None: no quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
