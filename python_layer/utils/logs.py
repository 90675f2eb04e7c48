"""Log lines: one format for everything that is logged, on standard error."""

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["console", "json"]


def configure_logging(log_format: Format, log_level: str, stream: TextIO | None = None) -> None:
    """Sends the logs of this project and of every library through one formatter.

    A line has the time, the level, the logger, the event, what the record's ``extra`` holds, and what
    :mod:`structlog.contextvars` holds, such as the request's id. In JSON a line is one object, tracebacks included.

    Args:
        log_format: console, for people, or json.
        log_level: The least level that is written.
        stream: Where to; None is standard error.
    """
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.contextvars.merge_contextvars,
        _without_colors,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor]
    if log_format == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Not the default's tracebacks, which would show local variables: prompts, for one.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    formatter = structlog.stdlib.ProcessorFormatter
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(foreign_pre_chain=shared, processors=[formatter.remove_processors_meta, *last]))
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    logging.captureWarnings(True)
    # What uvicorn says of requests and of its life is said elsewhere.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel("DEBUG" if log_level == "debug" else "WARNING")
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("sse_starlette").setLevel("INFO")  # below that it writes answers


def _without_colors(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """Without the second message, for terminals, that uvicorn adds to its records."""
    event.pop("color_message", None)
    return event
