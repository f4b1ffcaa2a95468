"""What this machine can carry: cores, memory, and from them the engine's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agent import memory
from agent.config import Settings
from agent.offered import Offered
from agent.probe import Probes

DEFAULT_CONTEXT = 4096  # tokens
DEFAULT_SLOTS = 32  # with a GPU; on a CPU more rows hardly gain anything, and each slot takes memory
CPU_SLOTS = 16
CAPS = (1, 2, 4, 8, 16, 32)  # rows of a batch of tensors to try; the first is the safest
STEP_TOKENS = 512  # the most that one step carries
TRIAL = {"slots": 8, "context": 256, "step_tokens": 128}
MEMORY_SHARE = 0.25  # of what is available, for the KV cache


def cores() -> int:
    """Physical cores that this process may use: hyperthreads gain nothing, and a quota or affinity counts."""
    allowed = os.sched_getaffinity(0)
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota() or len(siblings)))


def has_gpu() -> bool:
    """Whether an NVIDIA driver is here, on a card or a Jetson; the build may still not use it."""
    return any(Path(node).exists() for node in ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu"))


async def engine_settings(settings: Settings, offered: Offered) -> dict[str, Any]:
    """What the Worker's Engine is started with; see engines/llama.py and engines/onnx.py for the names."""
    if offered.tensors is not None:
        return await _tensor_settings(settings, offered)
    return await _text_settings(settings, offered)


async def _tensor_settings(settings: Settings, offered: Offered) -> dict[str, Any]:
    """Runners, threads of each and rows of a batch: what was fastest here when this Version came."""
    probes = Probes(settings.data_dir / "probes.json")
    basic = {"gpu": settings.gpu_layers != 0, **_pipeline(offered)}
    candidates = tensor_candidates(settings)
    chosen = await probes.choose("onnx", offered.path, offered.size, basic, candidates) or candidates[0]
    return {
        **basic,
        **chosen,
        "opt_batch_size": settings.opt_batch_size or 1,
        "delay_ms": settings.delay_ms,
        "run_deadline_s": settings.worker_deadline_s,
    }


def _pipeline(offered: Offered) -> dict[str, Any]:
    if offered.pipeline is None:
        return {}
    return {"pipeline": offered.pipeline.model_dump(), "folder": offered.folder}


def tensor_candidates(settings: Settings) -> list[dict[str, Any]]:
    """Ways to use the cores: several runs at once, or one on all of them; each with several caps."""
    count = settings.threads or cores()
    ways = [{"runners": count, "threads": 1}, {"runners": 1, "threads": count}][: 2 if count > 1 else 1]
    most = settings.max_batch_size or CAPS[-1]
    caps = [cap for cap in CAPS if cap <= most] if settings.max_batch_size != 1 else [1]
    return [{**way, "cap": cap} for way in ways for cap in caps]


async def _text_settings(settings: Settings, offered: Offered) -> dict[str, Any]:
    basic = {"threads": settings.threads or cores(), "gpu_layers": settings.gpu_layers}
    if offered.encoder:
        basic["encoder"] = True
    chosen = {}
    if settings.engine == "llama":
        probes = Probes(settings.data_dir / "probes.json")
        trial = {**basic, **TRIAL}
        candidates = kv_candidates(settings)[: 1 if offered.encoder else None]
        chosen = await probes.choose(settings.engine, offered.path, offered.size, trial, candidates)
    context = settings.context or min(DEFAULT_CONTEXT, offered.trained_context or DEFAULT_CONTEXT)
    if offered.encoder and offered.trained_context:
        context = min(context, offered.trained_context)  # it has no positions beyond
    return {
        "slots": settings.max_batch_size or _slots(chosen.get("kv_type", "f16"), offered, context),
        "context": context,
        **basic,
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


def _slots(kv_type: str, offered: Offered, context: int) -> int:
    """As many as MEMORY_SHARE of the memory has room for, up to the default."""
    if offered.header is None:
        return DEFAULT_SLOTS
    each = memory.kv_bytes(offered.header, kv_type) * context
    room = max(0, memory.available() - offered.size) * MEMORY_SHARE
    most = DEFAULT_SLOTS if has_gpu() else CPU_SLOTS
    return max(1, min(most, int(room / each) if each else most))


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
