"""The prompts of every measurement: about 100 tokens each, of which the system part is shared by all.

Deterministic: prompt `n` is the same on every machine, for every contestant. The user parts differ from their
first words on, so that nobody can reuse more than the system part.
"""

from __future__ import annotations

from itertools import count

SYSTEM = (
    "You are the assistant of an edge device in a factory hall. You read the state of machines and sensors, "
    "and you explain to the people on the floor in short and plain sentences what goes on, what it means, "
    "and what they ought to do next."
)
"""60 tokens with SmolLM2's template around it; all prompts begin with it."""

_MACHINES = ("press", "mixer", "robot arm", "conveyor", "lathe", "oven", "pump", "welding cell")
_PLACES = ("hall A", "hall B", "the paint shop", "line three", "the warehouse", "the test bay", "line seven")
_FINDINGS = (
    "vibrates more than it did an hour ago",
    "draws a third more current than usual",
    "stops for some seconds in each cycle",
    "reports a temperature that rises slowly",
    "has lost its pressure twice since the morning",
)
_QUESTIONS = (
    "Tell the shift lead what could be behind this, and what to check first.",
    "Can the work go on, and what is to be watched over the next hour?",
    "Write a short note about it for the night shift.",
)

Message = dict[str, str]


def user(n: int) -> str:
    """The user part of prompt `n` >= 0: about 40 tokens, the first of which differ from its neighbours'."""
    ticket = (
        n * 7919 % 100_003
    )  # both are prime: unique, and the leading digits differ from one prompt to the next
    machine, place = _MACHINES[n % len(_MACHINES)], _PLACES[n % len(_PLACES)]
    finding, question = _FINDINGS[n % len(_FINDINGS)], _QUESTIONS[n % len(_QUESTIONS)]
    return f"Ticket {ticket}: the {machine} in {place} {finding}. {question}"


def messages(n: int) -> list[Message]:
    """Prompt `n` as an OpenAI chat takes it."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user(n)}]


def rendered(n: int) -> str:
    """Prompt `n` as SmolLM2's own chat template renders it: what a server feeds to the model."""
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages(n))
    return turns + "<|im_start|>assistant\n"


def numbers(salt: int) -> count[int]:
    """Prompt numbers that runs with another `salt` do not use: nothing but the shared part is ever cached."""
    return count(salt * 10_000)
