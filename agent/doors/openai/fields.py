"""The fields of OpenAI's bodies that pydantic's own types cannot check, with messages fit for a caller."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

MAX_PROMPTS = 64
MAX_INPUTS = 256  # texts to make vectors of
MAX_CHARACTERS = 2_000_000  # of all messages, or all prompts, together
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_BIASES = 1024
MAX_TEMPLATE_KWARGS = 16
MAX_TOKEN_ID = 2**31 - 1
_TEMPLATES_OWN = ("messages", "add_generation_prompt", "bos_token", "eos_token", "tools")


def wrong(message: str, *, param: str = "") -> PydanticCustomError:
    """`param` names the field where pydantic's own location does not."""
    return PydanticCustomError("wrong", "{message}", {"message": message, "param": param})


def text(value: Any) -> str:
    """A string that any tokenizer can take: no NUL, no half of a surrogate pair."""
    if not isinstance(value, str):
        raise wrong("must be a string")
    if "\0" in value:
        raise wrong("must not contain a NUL character")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise wrong("must not contain a lone surrogate")
    return value


def _content(value: Any) -> str:
    """OpenAI's message content, a string or a list of text parts, as one string."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return text(value)
    parts = []
    for part in value:
        if not isinstance(part, dict):
            raise wrong("must be a string, or a list of {'type': 'text', 'text': ...} parts")
        if part.get("type") != "text":
            raise wrong("only content parts of the type 'text' are supported")
        parts.append(text(part.get("text")))
    return "\n".join(parts)


def _prompts(value: Any, most: int = MAX_PROMPTS) -> list[str | tuple[int, ...]]:
    """OpenAI's four forms of `prompt` and `input` as a list of prompts."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise wrong("must be a string, a list of strings, a list of token ids, or a list of such lists")
    if value and type(value[0]) is int:
        value = [value]
    if len(value) > most:
        raise wrong(f"must hold at most {most} {'prompts' if most == MAX_PROMPTS else 'inputs'}")
    prompts = [_tokens(item) if isinstance(item, list) else text(item) for item in value]
    if not prompts or not all(prompts):
        raise wrong("must not be empty")
    if sum(map(len, prompts)) > MAX_CHARACTERS:
        raise wrong(f"must hold at most {MAX_CHARACTERS} characters")
    return prompts


def _tokens(value: list[Any]) -> tuple[int, ...]:
    if not all(type(token) is int and 0 <= token <= MAX_TOKEN_ID for token in value):
        raise wrong("token ids must be integers from 0")
    return tuple(value)


def _stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list):
        raise wrong("must be a string or a list of strings")
    if len(stops) > MAX_STOPS:
        raise wrong(f"must hold at most {MAX_STOPS} strings, not {len(stops)}")
    for stop in stops:
        if not text(stop):
            raise wrong("must not hold an empty string")
        if len(stop) > MAX_STOP_CHARACTERS:
            raise wrong(f"must hold strings of at most {MAX_STOP_CHARACTERS} characters")
    return stops


def _biases(value: Any) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong("must be an object: token id to bias")
    if len(value) > MAX_BIASES:
        raise wrong(f"must hold at most {MAX_BIASES} entries")
    biases = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) <= MAX_TOKEN_ID):
            raise wrong("keys must be token ids")
        if type(bias) not in (int, float) or not -100 <= bias <= 100:
            raise wrong("biases must be numbers from -100 to 100")
        biases[int(key)] = float(bias)
    return biases


def _template_kwargs(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_TEMPLATE_KWARGS:
        raise wrong(f"must be an object of at most {MAX_TEMPLATE_KWARGS} entries")
    for key, item in value.items():
        if not key.isidentifier() or not isinstance(item, str | int | float | None):
            raise wrong("must map names to strings, numbers, booleans or null")
        if key in _TEMPLATES_OWN:
            raise wrong(f"must not set '{key}'")
        if isinstance(item, str):
            text(item)
    return value


_TEXT_PARTS = {"type": "array", "items": {"type": "object", "required": ["type", "text"]}}
_TOKEN_IDS = {"type": "array", "items": {"type": "integer"}}
Content = Annotated[
    str,
    PlainValidator(_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXT_PARTS, {"type": "null"}]}),
]
_TEXTS = {"type": "array", "items": {"type": "string"}}
_FOUR_FORMS = WithJsonSchema(
    {"anyOf": [{"type": "string"}, _TEXTS, _TOKEN_IDS, {"type": "array", "items": _TOKEN_IDS}]}
)
Prompts = Annotated[list[str | tuple[int, ...]], PlainValidator(_prompts), _FOUR_FORMS]
Inputs = Annotated[
    list[str | tuple[int, ...]], PlainValidator(partial(_prompts, most=MAX_INPUTS)), _FOUR_FORMS
]
Stops = Annotated[
    list[str],
    PlainValidator(_stops),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": MAX_STOPS}]}
    ),
]
_OBJECT = WithJsonSchema({"type": "object"})
Biases = Annotated[dict[int, float], PlainValidator(_biases), _OBJECT]
TemplateKwargs = Annotated[dict[str, Any], PlainValidator(_template_kwargs), _OBJECT]
ShortText = Annotated[str, BeforeValidator(text), StringConstraints(max_length=512)]
LongText = Annotated[str, BeforeValidator(text), StringConstraints(max_length=4096)]
