"""Runs the server: what it prints, and what signals do."""

import gc
import logging
import os
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from python_layer.inference.build import build_engine, memory_summary
from python_layer.model.loading import load_model
from python_layer.server.access import Access, access_of, is_public
from python_layer.server.api import create_app
from python_layer.server.handlers import Handlers
from python_layer.server.service import Report, Service
from python_layer.utils.errors import ConfigError
from python_layer.utils.logs import configure_logging
from python_layer.utils.settings import Settings

if TYPE_CHECKING:
    from python_layer.server.tracing import RequestTracer

LOG = logging.getLogger(__name__)
SWITCH_INTERVAL = 5e-4
"""Seconds that the engine's thread, or one that makes tokens, may keep the one that answers from going on."""
OPEN_TO_ALL = (
    "other machines can reach %s, and nobody is asked for a key; "
    "--api-keys-file asks for one, --host 127.0.0.1 keeps others out"
)


def service_of(settings: Settings) -> Service:
    """A service that loads the model of the settings."""

    def load(progress: Report) -> Handlers:
        model = load_model(settings, progress)
        memory = memory_summary(model, settings)
        return Handlers(model, build_engine(model, settings), settings, memory)

    return Service(load, settings.max_waiting)


def app_of(settings: Settings) -> FastAPI:
    """The application, for a server of one's own.

    Raises:
        ConfigError: As :func:`tracer_of` and :func:`~python_layer.server.access.access_of`.
    """
    return _app_of(settings, service_of(settings), access_of(settings, os.environ))


def tracer_of(settings: Settings) -> "RequestTracer | None":
    """What makes traces; None where they are off.

    Raises:
        ConfigError: They are on, but OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None:
        return None
    try:
        from python_layer.server.tracing import RequestTracer
    except ImportError:
        raise ConfigError("traces (otlp_endpoint) need OpenTelemetry: pip install 'mili[otel]'") from None
    return RequestTracer(settings.otlp_endpoint)


def _app_of(settings: Settings, service: Service, access: Access) -> FastAPI:
    configure_logging(settings.log_format, settings.log_level)
    return create_app(service, access, tracer=tracer_of(settings), log_prompts=settings.log_prompts)


class Server(uvicorn.Server):
    """Ends as operators expect: the first signal drains, the second stops at once."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGTERM."""
        if self.should_exit:
            self.force_exit = True
            # Not here: this frame may have interrupted one that holds the engine's lock.
            threading.Thread(target=self._service.stop, daemon=True).start()
        self._service.drain()
        super().handle_exit(sig, frame)


def run_server(settings: Settings) -> int:
    """Serves until a signal ends it; tells on standard error where, and what to try.

    Returns:
        The process's exit code: 1 if the model can't be loaded.

    Raises:
        ConfigError: As :func:`~python_layer.server.access.access_of`.
    """
    service, access = service_of(settings), access_of(settings, os.environ)
    sys.setswitchinterval(SWITCH_INTERVAL)
    config = uvicorn.Config(
        _app_of(settings, service, access),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_timeout,
    )
    if is_public(settings.host) and not access.keys:
        LOG.warning(OPEN_TO_ALL, settings.host)
    server = Server(config, service)

    def announce() -> None:
        people = settings.log_format == "console"
        if people:
            _show_loading(service)
        service.wait()
        if service.failure is not None:
            server.should_exit = True
            return
        gc.collect()
        gc.freeze()  # what is there stays: later collections, which stop every answer, need not go through it
        while not (server.started or server.should_exit):
            time.sleep(0.01)
        if server.should_exit:
            return
        handlers, url = service.handlers, _url(server)
        if people:
            print(_welcome(handlers, url), file=sys.stderr)
        else:
            LOG.info("serving", extra={"model": handlers.model_name, "url": url, "memory": handlers.memory})

    threading.Thread(target=announce, daemon=True).start()
    server.run()
    return int(service.failure is not None or not server.started)


def _show_loading(service: Service) -> None:
    """A progress bar until the model is there."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Compiling, if this is the first time", total=None)
        while not service.wait(0.1):
            if service.loaded:
                bar.update(task, description="Loading weights", completed=service.loaded, total=1.0)


def _url(server: uvicorn.Server) -> str:
    """Where the server listens; port 0 has become one that was free."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _welcome(handlers: Handlers, url: str) -> str:
    body = '{"messages": [{"role": "user", "content": "What is the capital of France?"}]}'
    return (
        f"{handlers.memory}\n\nServing {handlers.model_name} on {url}\n\n"
        f"Chat in the browser:  {url}/\nThe API, to try:      {url}/docs\n\n"
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n"
    )
