"""The Worker's end of the socket pair."""

from __future__ import annotations

import socket

from agent.frames import ToAgent, encode


class AgentGone(Exception):
    """The socket's other end is closed."""


def send(link: socket.socket, frame: ToAgent) -> None:
    """The whole frame. AgentGone."""
    try:
        link.sendall(encode(frame))
    except (BrokenPipeError, ConnectionResetError) as error:
        raise AgentGone from error
