"""Claimed tensors on their way through serving: one Inference, then its Outputs in the protocol's words."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from agent.config import Settings
from agent.doors.inference_protocol.answer import write
from agent.doors.mqtt.intake import read_tensors
from agent.doors.openai.strict_json import LARGE
from agent.errors import TooLarge
from agent.serving import Serving
from agent.tensor_lane import TensorTicket
from cloud_sync.state import Prompt, State


class TensorRun:
    """`submit`, then `answer`, and `close` in any case. The constructor reads the body: BadRequest."""

    def __init__(self, prompt: Prompt, settings: Settings, serving: Serving, state: State) -> None:
        self._settings, self._serving = settings, serving
        sender = f"mqtt:{prompt.sender}"
        asked, self._wanted = read_tensors(
            prompt.body, prompt.header_length, settings, model=prompt.model or "", sender=sender
        )
        deadline = asked.deadline
        if deadline is not None:  # the caller's time runs from the arrival
            deadline -= state.now() - prompt.received_at
        self._asked = replace(asked, id=f"mqtt-{prompt.seq}", deadline=deadline, patient=deadline is None)
        self._ticket: TensorTicket | None = None

    def submit(self) -> None:
        """Raises as `Serving.infer` does."""
        self._ticket = self._serving.infer(self._asked)

    async def answer(self) -> tuple[bytes, int | None]:
        """The body, and the length of its JSON where raw tensors follow. Raises what ended it."""
        if self._ticket is None:
            raise RuntimeError("submit() was not called")
        ticket = self._ticket
        outputs = await ticket.only()
        version = ticket.version
        size = sum(len(tensor.data) for tensor in outputs.tensors)
        if size > LARGE:
            body, length = await asyncio.to_thread(
                write, outputs, self._wanted, model=ticket.model, version=version
            )
        else:
            body, length = write(outputs, self._wanted, model=ticket.model, version=version)
        most = self._settings.max_body_bytes
        if len(body) > most:
            raise TooLarge(f"the answer has {len(body)} bytes; by MQTT this node sends at most {most}")
        return body, length

    def close(self) -> None:
        if self._ticket:
            self._ticket.cancel()
