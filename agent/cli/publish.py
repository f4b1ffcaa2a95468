"""`publish`: ask by MQTT, as any device could: a prompt goes out, tokens come, then the result."""

from __future__ import annotations

import json as jsonlib
import queue
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from agent.cli.errors import CommandError
from agent.cli.generate import Question, say
from agent.cli.node import find, load_settings
from agent.cli.screen import print_json
from agent.config import Settings

CONNECT_S = 10
SENDER = "cli"

Answer = dict[str, Any]


@dataclass(frozen=True)
class Broker:
    """Where the node's broker is, and what the node is called there."""

    node: str
    url: str
    version5: bool


def publish(question: Question, timeout: float, json: bool) -> None:
    settings = load_settings()
    broker = _broker(settings)
    id = f"cli-{secrets.token_hex(8)}"
    inbox: queue.Queue[tuple[str, Answer]] = queue.Queue()
    client = _connect(settings, broker, id, inbox)
    body = question.chat() | {"id": id, "stream": not json}
    client.publish(f"autoglm/v1/{broker.node}/prompts/{SENDER}", jsonlib.dumps(body), qos=1)
    try:
        result, printed = _follow(inbox, time.monotonic() + timeout, broker)
    finally:
        client.disconnect()
        client.loop_stop()
    if "error" in result:
        raise CommandError(result["error"]["message"])
    if json:
        print_json(result)
    else:
        whole = str(result["choices"][0]["message"]["content"])
        lost = whole.removeprefix(printed) if whole.startswith(printed) else f"\n{whole}"
        say(lost + "\n")


def _follow(inbox: queue.Queue[tuple[str, Answer]], until: float, broker: Broker) -> tuple[Answer, str]:
    """Print tokens as they come, until the result; returns it, and what was printed of it."""
    printed, attempt = "", 1
    while True:
        try:
            kind, message = inbox.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            hint = "Is it running, and at this broker? autoglm status"
            raise CommandError(f"no result in time from node '{broker.node}'. {hint}") from None
        if kind == "results":
            return message, printed
        if message["attempt"] != attempt and printed:
            say("\n[the answer begins anew]\n")
            printed = ""
        attempt = message["attempt"]
        printed += message["text"]
        say(message["text"])


def _broker(settings: Settings) -> Broker:
    """By this shell's settings, else by those of the running agent."""
    node, url, port = settings.node, settings.mqtt_url, settings.embedded_port
    version5 = settings.mqtt_version == "5"
    if url is None and (agent := find(settings)):
        told = agent.get("/status")["settings"]
        node, url, port = told["node"], told["mqtt_url"], told["embedded_port"]
        version5 = told["mqtt_version"] == "5"
    if url is None:
        raise CommandError(
            "no broker is known. Serve with one: autoglm serve --mqtt embedded, or set AUTOGLM_MQTT_URL"
        )
    if url == "embedded":
        return Broker(node, f"mqtt://127.0.0.1:{port + 1}", True)
    if "***@" in url:
        raise CommandError(
            f"the agent's broker {url} asks for a password: set AUTOGLM_MQTT_URL as the agent has it"
        )
    return Broker(node, url, version5)


def _connect(
    settings: Settings, broker: Broker, id: str, inbox: queue.Queue[tuple[str, Answer]]
) -> paho.Client:
    """A client that is subscribed to what will be said of `id`."""
    parts = urlsplit(broker.url)
    protocol = paho.MQTTv5 if broker.version5 else paho.MQTTv311
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=id, protocol=protocol)
    ready: queue.Queue[str] = queue.Queue()
    topics = {kind: f"autoglm/v1/{broker.node}/{kind}/{SENDER}/{id}" for kind in ("tokens", "results")}

    def on_connect(_: Any, __: Any, ___: Any, reason: ReasonCode, ____: Any) -> None:
        if reason.is_failure:
            ready.put(f"the broker refused: {reason}")
        else:
            client.subscribe([(topic, 1) for topic in topics.values()])

    def on_message(_: Any, __: Any, message: paho.MQTTMessage) -> None:
        kind = "tokens" if message.topic == topics["tokens"] else "results"
        inbox.put((kind, jsonlib.loads(message.payload)))

    client.on_connect = on_connect
    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.put("")
    username = settings.mqtt_username or (unquote(parts.username) if parts.username else None)
    password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else parts.password
    if username:
        client.username_pw_set(username, unquote(password) if password else None)
    port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
    try:
        if parts.scheme == "mqtts":
            client.tls_set(
                _name(settings.mqtt_ca_file), _name(settings.mqtt_cert_file), _name(settings.mqtt_key_file)
            )
        client.connect(parts.hostname or "localhost", port, keepalive=30)
        client.loop_start()
        problem = ready.get(timeout=CONNECT_S)
    except (OSError, queue.Empty) as error:
        raise CommandError(
            f"no broker answers at {parts.hostname}:{port}: {error or 'it is silent'}"
        ) from error
    if problem:
        raise CommandError(problem)
    return client


def _name(file: Path | None) -> str | None:
    return str(file) if file else None
