"""The agent from Python.

from openautoglm import AutoGLMEngine

engine = AutoGLMEngine(model_path="/models/qwen2.5-0.5b-q4_k_m.gguf", max_batch_size=32, use_gpu=True)
engine.start_server(host="0.0.0.0", port=8080)
"""

from __future__ import annotations

from typing import Any


class AutoGLMEngine:
    """An agent with one model.

    `model_path` is whatever `MODEL_NAME` takes: a GGUF file, a catalog name, a URL, or `owner/repo[:file]`;
    None is the node's default. `max_batch_size` is how many answers are computed at once. `use_gpu` offloads
    all layers where the engine was built with CUDA; False keeps to the CPU. Other settings go by their names
    in docs/configuration.md in lower case and without the prefix, such as `context=8192`. Raises pydantic's
    ValidationError (a ValueError) on a setting that is wrong, TypeError on one that is unknown.
    """

    def __init__(
        self,
        model_path: str | None = None,
        max_batch_size: int | None = None,
        use_gpu: bool = True,
        **settings: Any,
    ) -> None:
        from agent.config import Settings

        if unknown := settings.keys() - Settings.model_fields.keys():
            raise TypeError(f"unknown settings: {', '.join(sorted(unknown))}")
        given = {"model": model_path, "max_batch_size": max_batch_size, "gpu_layers": None if use_gpu else 0}
        self._given = {name: value for name, value in given.items() if value is not None} | settings
        Settings(**self._given)

    def start_server(self, host: str = "127.0.0.1", port: int = 8080) -> None:
        """Serve until SIGTERM or Ctrl-C; this call blocks, and must be made in the main thread.

        Beyond loopback, name what clients call this host in `allowed_hosts`, and give out `api_keys`.
        """
        from agent.cli.serve import serve_until_stopped
        from agent.config import Settings

        serve_until_stopped(Settings(**self._given, http_host=host, http_port=port))
