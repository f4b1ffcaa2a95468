"""One claimed prompt on its way through serving: Requests, tokens as they come, then the completion."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from agent.config import Settings
from agent.doors.mqtt.intake import encode, read_body
from agent.doors.mqtt.tokens import Tokens
from agent.doors.openai.answers import Answer
from agent.doors.openai.requests import requests
from agent.errors import InternalError
from agent.job import TextTicket
from agent.request import Request
from agent.serving import Serving
from cloud_sync.state import MAX_LIVES, Prompt, State, StateError

log = structlog.get_logger()


class TextRun:
    """`submit`, then `answer`, and `close` in any case. The constructor reads the body: BadRequest."""

    def __init__(
        self,
        prompt: Prompt,
        settings: Settings,
        serving: Serving,
        state: State,
        send: Callable[[bytes], None],
    ) -> None:
        self._prompt, self._settings, self._serving, self._state = prompt, settings, serving, state
        self._body = read_body(prompt.body)
        self._tokens = Tokens(prompt.id, prompt.attempts, send)
        self._tickets: list[TextTicket] = []

    def submit(self) -> None:
        """Raises as `Serving.submit` does."""
        self._tickets = self._serving.submit_all(self._requests())

    async def answer(self) -> tuple[bytes, None]:
        """OpenAI's completion object. Raises the AgentError that ended it."""
        first = self._tickets[0]
        answer = Answer(self._body, id=self._prompt.id, model=first.model, version=lambda: first.version)
        await self._gather(answer)
        return encode(answer.completion()), None

    def close(self) -> None:
        self._tokens.close()
        for ticket in self._tickets:
            ticket.cancel()

    def _requests(self) -> list[Request]:
        prompt, body = self._prompt, self._body
        sender = f"mqtt:{prompt.sender}"
        made = requests(body, self._settings, id=f"mqtt-{prompt.seq}", sender=sender, durable=True)
        if body.timeout is None:  # it waits for as long as it takes
            return [replace(one, patient=True) for one in made]
        # The caller's time runs from the prompt's arrival.
        waited = self._state.now() - prompt.received_at
        return [replace(one, deadline=time.monotonic() + body.timeout - waited) for one in made]

    async def _gather(self, answer: Answer) -> None:
        deaths = 0
        for place, ticket in enumerate(self._tickets):
            attempt = 1
            async for chunk in ticket:
                if chunk.attempt > attempt:
                    again, died = chunk.attempt - attempt, max(one.deaths for one in self._tickets) - deaths
                    await self._began_again(again, died)
                    self._tokens.begin_again(again)
                    attempt, deaths = chunk.attempt, deaths + died
                answer.add(chunk, place)
                if self._body.stream:
                    self._tokens.add(place * (self._body.n or 1) + chunk.index, chunk)

    async def _began_again(self, attempts: int, deaths: int) -> None:
        """Kept before a token of the new attempt is sent."""
        prompt = self._prompt
        log.warning("a prompt's Worker was lost", id=prompt.id, sender=prompt.sender, deaths=deaths)
        with contextlib.suppress(StateError):
            lives = await self._state.began_again(prompt.seq, attempts=attempts, deaths=deaths)
            if deaths and lives >= MAX_LIVES:
                raise InternalError(f"the prompt cost {MAX_LIVES} Workers their lives")
