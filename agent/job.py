"""A Request between its door and its Worker: what it may ask, and what it will about cost."""

from __future__ import annotations

from dataclasses import dataclass

from agent.admission import Waiting
from agent.config import Settings
from agent.errors import BadRequest, PromptTooLong, Unavailable
from agent.frames import Start
from agent.offered import Offered
from agent.request import Chunk, Prompt, Request
from agent.ticket import Ticket

TextTicket = Ticket[Request, Chunk]

LIVES = 3
"""Workers that one Request may cost. Its last life it has alone, so that the guilty one is found."""
GUESSED_ANSWER = 256  # tokens, where a Request does not bound its answer
BYTES_PER_TOKEN = 4  # for estimates
MOST_BYTES_PER_TOKEN = 32  # beyond, a prompt is too long whatever the tokenizer says


@dataclass(slots=True, eq=False)
class Job:
    ticket: TextTicket
    cost: float  # tokens, estimated
    arrived: float
    deadline: float
    left: int  # answers that have not finished
    prompt: Prompt | None = None  # rendered
    priority: int = 5
    attempt: int = 1
    last: float = 0.0  # when the last Chunk came; 0: none has
    tokens: int = 0  # of the answer, so far

    @property
    def request(self) -> Request:
        return self.ticket.request

    @property
    def alone(self) -> bool:
        return self.ticket.deaths >= LIVES - 1

    def again(self) -> None:
        """Its Worker is gone: the next attempt."""
        self.attempt += 1
        self.last = 0.0
        self.tokens = 0
        self.left = self.request.n

    def entry(self) -> Waiting[Job]:
        return Waiting(self, self.request.sender, self.priority, self.cost, self.arrived)

    def start(self, prompt: Prompt, deadline: float, *, templated_there: bool) -> Start:
        request = self.request
        as_messages = templated_there and request.messages is not None
        return Start(
            id=request.id,
            prompt=prompt,
            sampling=request.sampling,
            max_tokens=request.max_tokens,
            stop=request.stop,
            n=request.n,
            priority=self.priority,
            deadline=deadline,
            attempt=self.attempt,
            echo=request.echo,
            messages=tuple(request.messages or ()) if as_messages else None,
            template_kwargs=request.template_kwargs if as_messages else {},
            embed=request.embed,
            texts=request.texts,
        )


def check(request: Request, model: Offered, settings: Settings) -> None:
    """What can be told before the Worker counts tokens. Raises BadRequest."""
    if model.encoder and not request.embed:
        raise BadRequest(f"{model.name} makes embeddings alone: ask it by /v1/embeddings", param="model")
    if request.texts and model.remote is None:  # they were for another Version
        raise Unavailable("another version of the model took over meanwhile", retry_after=1)
    if request.messages is not None and model.template is None and model.remote is None:
        raise BadRequest(
            f"{model.name} is a base model without a chat template: use /v1/completions", param="messages"
        )
    if request.max_tokens is not None and request.max_tokens > settings.max_tokens:
        raise BadRequest(f"max_tokens is over this node's {settings.max_tokens}", param="max_tokens")
    if model.context is None:
        return
    most = model.context if request.embed else model.context - 1
    for prompt in request.texts or (request.prompt,):
        if isinstance(prompt, tuple) and len(prompt) > most:
            raise PromptTooLong(f"the prompt has {len(prompt)} tokens; the context is {model.context}")
    for size in map(_bytes, request.texts) if request.texts else (_size(request),):
        check_size(size, model)


def check_size(size: int, model: Offered) -> None:
    """Whether so many bytes of text can be a prompt at all. Raises PromptTooLong."""
    if model.context is not None and size > model.context * MOST_BYTES_PER_TOKEN:
        raise PromptTooLong(f"the prompt has {size} bytes, far more than {model.context} tokens of context")


def cost(request: Request, model: Offered) -> float:
    """Tokens that the Request will take, about; no answer is longer than what the context has left."""
    prompt = prompt_cost(request)
    answer: float = GUESSED_ANSWER if request.max_tokens is None else request.max_tokens
    if model.context is not None:
        answer = min(answer, max(0.0, model.context - prompt))
    return prompt + answer * request.n


def prompt_cost(request: Request) -> float:
    """Tokens of its prompt, about."""
    if request.messages is not None:
        return _size(request) / BYTES_PER_TOKEN
    return sum(map(_tokens, request.texts or (request.prompt or "",)))


def prompt_text(request: Request) -> str:
    """What was asked, for people to read; "" where it came as token ids."""
    if request.messages is None:
        return request.prompt if isinstance(request.prompt, str) else ""
    return "\n".join(f"{one.get('role')}: {one.get('content') or ''}" for one in request.messages)


def _size(request: Request) -> int:
    """Bytes of the prompt's text, about."""
    if request.messages is not None:
        return sum(len(str(message.get("content") or "").encode()) for message in request.messages)
    return _bytes(request.prompt)


def _bytes(prompt: Prompt | None) -> int:
    return len(prompt.encode()) if isinstance(prompt, str) else 0


def _tokens(prompt: Prompt) -> float:
    return _bytes(prompt) / BYTES_PER_TOKEN if isinstance(prompt, str) else len(prompt)
