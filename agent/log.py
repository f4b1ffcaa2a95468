"""Structured logs on standard error: lines for people on a terminal, one JSON object a line otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog

from agent.excerpts import Excerpts

SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,  # what a door bound, such as the request id
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def configure(level: str = "info", format: Literal["auto", "text", "json"] = "auto") -> None:
    """Send structlog's events, and what libraries log by `logging`, to standard error in one format."""
    text = format == "text" or (format == "auto" and sys.stderr.isatty())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    handler = _StandardError()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=(*SHARED, structlog.stdlib.add_logger_name),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(text)],
        )
    )
    others = [one for one in logging.getLogger().handlers if isinstance(one, Excerpts)]
    logging.basicConfig(handlers=[handler, *others], level=threshold, force=True)
    for chatty in ("alembic", "httpx", "httpcore", "asyncio", "grpc"):
        logging.getLogger(chatty).setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a second configure(), as in tests, must count
    )


class _StandardError(logging.StreamHandler[TextIO]):
    """Whatever sys.stderr is at the time: a progress bar takes its place, to print above itself."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def _renderers(text: bool) -> list[structlog.typing.Processor]:
    # Tracebacks without local variables: those may hold prompts and keys.
    if text:
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
