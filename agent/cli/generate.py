"""`generate`: ask the running agent over HTTP."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from agent.cli.node import load_settings, need
from agent.cli.screen import print_json


@dataclass(frozen=True)
class Question:
    """What is asked; None leaves a thing to the agent."""

    prompt: str
    model: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None

    def chat(self) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {"messages": [*system, {"role": "user", "content": self.prompt}], **self._options()}

    def completion(self) -> dict[str, Any]:
        return {"prompt": f"{self.system or ''}{self.prompt}", **self._options()}

    def _options(self) -> dict[str, Any]:
        options = {
            "model": self.model,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }
        return {name: value for name, value in options.items() if value is not None}


def generate(question: Question, raw: bool, json: bool) -> None:
    node = need(load_settings())
    path, body = (
        ("/v1/completions", question.completion()) if raw else ("/v1/chat/completions", question.chat())
    )
    if json:
        print_json(node.post(path, body))
        return
    for event in node.events(path, body):
        for choice in event["choices"]:
            say(choice["text"] if raw else choice["delta"].get("content") or "")
    print()


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
