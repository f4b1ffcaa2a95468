"""Chat templates, rendered in a process of their own.

A template comes with a model, and one that loops for ever can only be ended by ending its process. The child
has no data but what it is sent, and its memory is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.errors import BadRequest, Unavailable
from agent.request import Message

DEADLINE_S = 2.0
MEMORY = 1 << 30  # bytes of address space for the child
MOST = 32 << 20  # bytes of a line between the two


class Templates:
    """`render` for many callers through one child, one at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None

    async def render(self, template: str, messages: Sequence[Message], context: Mapping[str, Any]) -> str:
        """The prompt. Raises BadRequest where the template refuses the messages, fails, or takes too long."""
        task = json.dumps({"template": template, "messages": list(messages), "context": dict(context)})
        async with self._lock:
            answer = await self._ask(task)
        if "error" in answer:
            raise BadRequest(
                f"the model's chat template refused the messages: {answer['error']}", param="messages"
            )
        prompt: str = answer["prompt"]
        if not prompt.isascii() and any("\ud800" <= one <= "\udfff" for one in prompt):
            raise BadRequest(
                "the model's chat template makes invalid Unicode of the messages", param="messages"
            )
        return prompt

    async def start(self) -> None:
        """Have the child ready, so that the first Request need not wait for it."""
        async with self._lock:
            await self._running()

    async def close(self) -> None:
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()

    async def _ask(self, task: str) -> dict[str, Any]:
        try:
            child = await self._running()
        except OSError as error:
            raise Unavailable(f"the chat template cannot be rendered now: {error}", retry_after=5) from error
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the child was started without pipes")
        finished = False
        try:
            async with asyncio.timeout(DEADLINE_S):
                child.stdin.write(task.encode() + b"\n")
                await child.stdin.drain()
                line = await child.stdout.readline()
            answer: dict[str, Any] = json.loads(line) if line else {"error": "it needs too much memory"}
            finished = bool(line)
        except TimeoutError:
            answer = {"error": f"it did not end within {DEADLINE_S:g} s"}
        except (ConnectionError, ValueError):
            answer = {"error": "it made too long a prompt"}
        finally:
            if (
                not finished
            ):  # also where the caller was cancelled: an answer in the pipe would be the next one's
                await self.close()
        return answer

    async def _running(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "agent.templates"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=MOST,
            )
        return self._child


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _environment() -> ImmutableSandboxedEnvironment:
    """As Hugging Face's tokenizers set it up, which is what templates are written for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    compiled = lru_cache(maxsize=16)(_environment().from_string)
    for line in sys.stdin:
        task = json.loads(line)
        try:
            prompt = compiled(task["template"]).render(
                messages=task["messages"], add_generation_prompt=True, **task["context"]
            )
            answer = {"prompt": prompt}
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            answer = {"error": f"{error or type(error).__name__}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
