"""What OpenAI's clients may send: the fields that are honoured, and the ones that are refused by name.

Unknown fields are ignored, as compatible servers do. A field that would change the answer, and that is not
supported, is refused: an answer that silently ignored it would be wrong.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from agent.doors.openai.fields import (
    Biases,
    Content,
    Inputs,
    LongText,
    Prompts,
    ShortText,
    Stops,
    TemplateKwargs,
    wrong,
)
from cloud_sync.duration import Duration

MAX_MESSAGES = 4096

_STRUCTURED = "structured output is not supported yet"
_TOOLS = "tools are not supported yet"
_GRAMMAR = "raw grammars are refused: a nested one can crash the engine"
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    # field: (why, the values that mean "not asked for"); null always does
    "grammar": (_GRAMMAR, ("",)),
    "guided_grammar": (_GRAMMAR, ("",)),
    "json_schema": (_STRUCTURED, ()),
    "guided_json": (_STRUCTURED, ()),
    "guided_regex": (_STRUCTURED, ()),
    "guided_choice": (_STRUCTURED, ()),
    "structured_outputs": (_STRUCTURED, ({},)),
    "response_format": (_STRUCTURED + ": only {'type': 'text'} is", ({"type": "text"},)),
    "tools": (_TOOLS, ([],)),
    "tool_choice": (_TOOLS, ("none",)),
    "functions": (_TOOLS, ([],)),
    "function_call": (_TOOLS, ("none",)),
    "web_search_options": (_TOOLS, ()),
    "audio": ("this node answers with text only", ()),
    "modalities": ("this node answers with text only", (["text"], [])),
    "suffix": ("inserting text before a suffix is not supported", ("",)),
}


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, populate_by_name=True)


def _example(**body: Any) -> ConfigDict:
    """What `/docs` proposes to send."""
    return ConfigDict(json_schema_extra={"examples": [body]})


class StreamOptions(_Strict):
    include_usage: bool = False


class ChatMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content = Field(validate_default=True, default="")
    name: ShortText | None = None
    tool_calls: list[Any] | None = None

    @model_validator(mode="after")
    def _is_supported(self) -> ChatMessage:
        if self.tool_calls or self.role in ("tool", "function"):
            raise wrong(_TOOLS)
        return self


class _Shared(_Strict):
    """What both kinds of completion share."""

    model: ShortText | None = Field(None, description="Left out: the node's default model.")
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="0 and -1: all.")
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repeat_penalty: float | None = Field(
        None, ge=0.01, le=10, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty")
    )
    penalty_last_n: int | None = Field(
        None, ge=0, le=65536, validation_alias=AliasChoices("penalty_last_n", "repeat_last_n")
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logit_bias: Biases = Field(default_factory=dict)
    stop: Stops = Field(default_factory=list)
    n: int | None = Field(None, ge=1, le=16)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: ShortText | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    priority: int | None = Field(
        None, ge=0, le=9, description="9 is served first; the default is 5, or as it is set."
    )
    timeout: float | None = Field(None, gt=0, le=86400, description="Seconds until the answer is useless.")
    ignore_eos: bool | None = None
    keep_alive: Duration | None = Field(
        None, description="How long the model stays loaded after it: seconds, or 5m; negative: for ever."
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_refused(cls, values: Any) -> Any:
        for field, (why, harmless) in REFUSED.items():
            value = values.get(field)
            if value is not None and value not in harmless:
                raise wrong(why, param=field)
        return values


class ChatBody(_Shared):
    """`POST /v1/chat/completions`."""

    model_config = _example(messages=[{"role": "user", "content": "What is an edge device?"}], max_tokens=64)

    messages: list[ChatMessage] = Field(max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    chat_template_kwargs: TemplateKwargs = Field(default_factory=dict)


class CompletionBody(_Shared):
    """`POST /v1/completions`."""

    model_config = _example(prompt="An edge device is", max_tokens=32)

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=1, description="The default is 16, as OpenAI's is.")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    best_of: int | None = Field(None, description="Refused unless it equals n.")


class TrialBody(_Strict):
    """How a canary is tried."""

    weight: float = Field(0, ge=0, le=100, description="Its percent of the model's traffic.")
    shadow: bool = Field(False, description="It answers copies when the node is quiet; nobody sees it.")


class EmbeddingBody(_Strict):
    """`POST /v1/embeddings`."""

    model_config = _example(input=["An edge device is a small computer.", "So is a phone."])

    model: ShortText | None = Field(None, description="Left out: the node's default model.")
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = Field(None, description="The default is float.")
    dimensions: int | None = Field(
        None, ge=1, description="Only the first so many, made a vector of length 1 again."
    )
    user: ShortText | None = None
    priority: int | None = Field(None, ge=0, le=9, description="9 is served first; the default is 5.")
    timeout: float | None = Field(None, gt=0, le=86400, description="Seconds until the answer is useless.")
    keep_alive: Duration | None = Field(
        None, description="How long the model stays loaded after it: seconds, or 5m; negative: for ever."
    )


class PullBody(_Strict):
    """`POST /api/pull`."""

    source: LongText = Field(min_length=1, description="A catalog name, a file, a URL, owner/repo.")
    name: ShortText | None = None
    quantize: bool = Field(False, description="Of an ONNX model: keep an int8 Version if it is better here.")
    trial: TrialBody | None = Field(None, description="Try it beside the Version that serves `name`.")

    @model_validator(mode="after")
    def _trial_is_of_a_model(self) -> PullBody:
        if self.trial and not self.name:
            raise wrong("name the model whose next version this is", param="name")
        return self
