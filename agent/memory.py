"""How much memory a Model takes once it is loaded, and how much there is.

Of a GPU with memory of its own (see gpu.py) that is told apart from the machine's. Where the two share one
memory, as on a Jetson, all of it is the machine's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agent import footprint
from agent.free_memory import available
from agent.gpu import Gpu
from agent.offered import Offered
from agent.space import Space
from models.errors import ModelError


class NoMemory(ModelError):
    """Says of which memory there is too little."""

    def __init__(self, model: str, need: Space, there: Space) -> None:
        short = need.without(there)
        lacks = [
            f"{needed / 1e6:,.0f} MB of {what}, and {has / 1e6:,.0f} MB are available"
            for what, needed, has, missing in (
                ("memory", need.machine, there.machine, short.machine),
                ("the GPU's memory", need.gpu, there.gpu, short.gpu),
            )
            if missing
        ]
        fewer = " or AUTOGLM_GPU_LAYERS" if short.gpu else ""
        super().__init__(
            f"{model} needs about {'; and '.join(lacks)}: unload another model, or make AUTOGLM_CONTEXT"
            f" or AUTOGLM_MAX_BATCH_SIZE{fewer} smaller"
        )


class Memory:
    """This machine's, and that of its GPU where it has memory of its own."""

    def __init__(self, gpu: Gpu | None) -> None:
        self._gpu = gpu

    def on_gpu(self, engine: str) -> bool:
        """Whether what this Engine puts on a GPU is not in the machine's memory."""
        return self._gpu is not None and engine in self._gpu.engines

    def need(self, offered: Offered, settings: Mapping[str, Any]) -> Space:
        """What a Worker will have at most. Settings as `device.engine_settings` gives them."""
        if offered.header is None:
            gpu = bool(settings.get("gpu")) and self.on_gpu("onnx")
            return footprint.of_tensors(offered.size, settings, gpu=gpu)
        gpu, features = self.on_gpu("llama"), footprint.cpu_features()
        return footprint.of_text(offered.header, settings, features, gpu=gpu)

    def to_embed(self, offered: Offered, settings: Mapping[str, Any]) -> Space:
        """What a Worker of a model that generates text takes more, once it embeds."""
        if offered.header is None or offered.header.encoder:
            return Space()
        return footprint.of_embeddings(offered.header, settings, gpu=self.on_gpu("llama"))

    async def available(self) -> Space:
        """What may be taken now."""
        return await asyncio.to_thread(lambda: Space(available(), self._gpu.free() if self._gpu else 0))
