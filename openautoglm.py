"""The agent from Python.

from openautoglm import AutoGLMEngine

engine = AutoGLMEngine(model_path="/models/qwen2.5-0.5b-q4_k_m.gguf", max_batch_size=32, use_gpu=True)
engine.start_server(host="0.0.0.0", port=8080)

And one that runs, from another process:

node = RunningNode()
node.canary("qwen:0a1b2c3d4e5f", weight=5)  # that version has 5% of the traffic
node.promote("qwen")                        # or node.abort("qwen")
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


class RunningNode:
    """The agent that runs on this machine, found as the command line finds it (by its socket, else its port).

    `settings` are those that tell where it is, such as `data_dir` or `http_port`. Every call raises
    `agent.cli.errors.CommandError`, with what to do, where there is no agent or it refuses.
    """

    def __init__(self, **settings: Any) -> None:
        from agent.cli.node import load_settings, need

        self._node = need(load_settings(**settings))

    def status(self) -> dict[str, Any]:
        """The node, its models with their live versions, queue and Workers; see `/status`."""
        told: dict[str, Any] = self._node.get("/status")
        return told

    def canary(self, name: str, weight: float = 5, shadow: bool = False) -> None:
        """Give `model:version`, which is on the shelf, `weight` percent of the model's traffic.

        As a `shadow` it has none: it answers copies while the node is quiet, which are compared and counted.
        """
        self._change(name, "canary", {"shadow": True} if shadow else {"weight": weight})

    def promote(self, name: str) -> str:
        """Let the canary of `model` (or `model:version`) serve alone: the version that does now."""
        return str(self._change(name, "promote", {})["promoted"])

    def abort(self, name: str) -> list[str]:
        """End the trials of `model`, or that of `model:version`: the versions that are tried no longer."""
        return [str(one) for one in self._change(name, "abort", {})["aborted"]]

    def _change(self, name: str, how: str, body: dict[str, Any]) -> dict[str, Any]:
        from agent.cli.trials import change

        return change(self._node, name, how, body)
