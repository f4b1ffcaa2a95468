"""A message from the broker -> a prompt, or tensors, to keep; or a refusal with its address. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agent.config import Settings
from agent.doors.http.errors import error_object
from agent.doors.inference_protocol.request import HEADER_LENGTH, Wanted, header_length, marks, read
from agent.doors.mqtt.link import Message
from agent.doors.mqtt.topics import NAME, Topics, check_response_topic
from agent.doors.openai.requests import Body, body_of, requests
from agent.doors.openai.strict_json import load_object
from agent.errors import AgentError, BadRequest, TooLarge
from agent.tensor import Inference
from cloud_sync.state import Address, Known

MAX_ACKS = 1000  # ids in one message


@dataclass(frozen=True, slots=True)
class Incoming:
    """A prompt, or tensors, that may be kept."""

    sender: str
    id: str
    body: bytes
    address: Address
    model: str  # "" is the node's default
    tensors: bool
    header_length: int | None = None  # of tensors: bytes of JSON, where raw ones follow


class Refused(Exception):
    """A message that is answered with an error and forgotten."""

    def __init__(self, error: AgentError, address: Address, payload: bytes, unless: Known | None) -> None:
        super().__init__(error.message)
        self.error, self.address, self.payload, self.unless = error, address, payload, unless


def read_body(data: bytes) -> Body:
    """Raises BadRequest."""
    return body_of(load_object(data))


def read_tensors(
    data: bytes, length: int | None, settings: Settings, *, model: str, sender: str
) -> tuple[Inference, Wanted]:
    """Raises BadRequest."""
    asked, wanted = read(data, length, model=model, sender=sender)
    if settings.mqtt_version != "5" and (wanted.binary or any(wanted.by_name.values())):
        raise BadRequest("this node speaks MQTT 3.1.1: its answers are JSON alone, without raw tensors")
    return asked, wanted


def read_message(message: Message, topics: Topics, settings: Settings) -> Incoming:
    """Raises Refused."""
    sender = id = ""
    reply: str | None = None
    length: int | None = None
    try:
        place = topics.read(message.topic)
        sender, model = place.sender, place.model
        reply = _reply(message)
        if len(message.payload) > settings.max_body_bytes:
            raise TooLarge(f"the message is over this node's {settings.max_body_bytes} bytes")
        if model is not None:
            length = _header_length(message)
        values = load_object(message.payload) if model is None else marks(message.payload, length)
        id = _id(values)
        acks = _flag(values, "acks")
        if model is None:
            body = body_of(values)
            requests(body, settings, id=id, sender=sender)
        else:
            read_tensors(message.payload, length, settings, model=model, sender=sender)
    except AgentError as error:
        raise refusal(error, message, topics, sender, id, reply) from error
    address = Address(
        reply or topics.result(sender, id), message.correlation if reply else b"", acks, message.expires_in
    )
    if model is None:
        return Incoming(sender, id, message.payload, address, body.model or "", tensors=False)
    return Incoming(sender, id, message.payload, address, model, tensors=True, header_length=length)


def refusal(
    error: AgentError, message: Message, topics: Topics, sender: str, id: str, reply: str | None
) -> Refused:
    """To the Response Topic; else where the result would be, unless another prompt's is; else to `errors`."""
    payload = error_payload(error, id, sender)
    if reply:
        return Refused(error, Address(reply, message.correlation), payload, None)
    if id:
        return Refused(error, Address(topics.result(sender, id)), payload, Known(sender, id, topics.errors))
    return Refused(error, Address(topics.errors), payload, None)


def error_payload(error: AgentError, id: str = "", sender: str = "") -> bytes:
    """`{"id", "sender", "error": {...}}`, without what is unknown."""
    told: dict[str, Any] = {"id": id} if id else {}
    if sender:
        told["sender"] = sender
    return encode(told | error_object(error))


def read_acks(message: Message, topics: Topics) -> tuple[str, list[str]]:
    """`(sender, ids)`: the payload is one id as plain text, or a JSON array of ids. Raises BadRequest."""
    sender = topics.read(message.topic).sender
    text = message.payload.strip()
    ids: Any = [text.decode("ascii", "replace")]
    if text.startswith(b"["):
        try:
            ids = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadRequest("the ids are not valid JSON") from error
    if len(ids) > MAX_ACKS:
        raise BadRequest(f"more than {MAX_ACKS} ids in one message")
    if not all(isinstance(id, str) and NAME.fullmatch(id) for id in ids):
        raise BadRequest("send one id as text, or a JSON array of ids")
    return sender, ids


def encode(value: Any) -> bytes:
    """JSON as UTF-8; half a surrogate pair, which UTF-8 cannot carry, becomes `?`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "replace")


def _reply(message: Message) -> str | None:
    if message.response_topic:
        check_response_topic(message.response_topic)
    return message.response_topic or None


def _header_length(message: Message) -> int | None:
    """HTTP's header, as a User Property. As there, its name's case does not matter."""
    given = [value for name, value in message.user if name.lower() == HEADER_LENGTH.lower()]
    return header_length(given[0]) if given else None


def _id(values: dict[str, Any]) -> str:
    id = values.get("id")
    if id is None:
        raise BadRequest("'id' is missing: it is how the answer, and a repeat, are known", param="id")
    if not isinstance(id, str) or not NAME.fullmatch(id):
        raise BadRequest("'id' must be text that matches [A-Za-z0-9._-]{1,128}", param="id")
    return id


def _flag(values: dict[str, Any], name: str) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name!r} must be true or false", param=name)
    return bool(value)
