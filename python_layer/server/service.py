"""The served model's life: loading in the background, ready, draining, gone."""

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import psutil

from python_layer.server.errors import ModelNotLoadedError
from python_layer.server.handlers import Handlers
from python_layer.server.metrics import Served
from python_layer.utils.errors import MiliError

LOG = logging.getLogger(__name__)
FULL_QUEUE = 0.8
"""Share of the queue from which the server counts as degraded."""
SCARCE_MEMORY = 0.03
"""Likewise, the share of the memory that is still free."""

State = Literal["loading", "ready", "draining", "failed"]
Report = Callable[[int, int], None]


class Service:
    """Loads the model on a thread of its own, so that the server can answer meanwhile.

    Args:
        load: Loads the model and starts its engine; told a callback for (bytes loaded, bytes in all).
        max_waiting: Size of the engine's queue.
    """

    def __init__(self, load: Callable[[Report], Handlers], max_waiting: int) -> None:
        self._load = load
        self.max_waiting = max_waiting
        self._handlers: Handlers | None = None
        self._draining = False
        self._settled = threading.Event()
        self.loaded = 0.0
        """Share of the weights that is in memory."""
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="mili-load", daemon=True)

    def start(self) -> None:
        """Begins to load."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the model is loaded or has failed to; whether that is so."""
        return self._settled.wait(timeout)

    @property
    def state(self) -> State:
        """What the server can do now."""
        engine_failed = self._handlers is not None and self._handlers.engine.failure is not None
        if self.failure is not None or engine_failed:
            return "failed"
        if self._draining:
            return "draining"
        return "loading" if self._handlers is None else "ready"

    @property
    def handlers(self) -> Handlers:
        """Serves requests.

        Raises:
            ModelNotLoadedError: There is no model yet, or none any more.
        """
        state = self.state
        if state == "ready" and self._handlers is not None:
            return self._handlers
        if self._handlers is not None and self._handlers.engine.failure is not None:
            raise ModelNotLoadedError(f"the engine has failed: {self._handlers.engine.failure}; restart the server")
        raise ModelNotLoadedError(
            {
                "loading": f"the model is loading, {100 * self.loaded:.0f} % of the weights so far; /ready tells when",
                "draining": "the server is shutting down and takes no new requests",
            }.get(state, f"the model could not be loaded: {self.failure}")
        )

    def check_room(self, entering: int) -> None:
        """Refuses one more request that is sure to find the queue full; says nothing while there is no model.

        Args:
            entering: Requests on their way to the engine.

        Raises:
            OverloadedError: The queue is full.
        """
        if self._handlers is not None:
            self._handlers.engine.check_room(entering)

    def served(self) -> Served | None:
        """The engine and its model, also when they take no requests any more; None until they are there."""
        if self._handlers is None:
            return None
        times = self._handlers.model.load_times
        calls = self._handlers.tool_calls
        return Served(self._handlers.engine, self._handlers.model_name, times.load_s, times.compile_s, calls)

    def health(self) -> dict[str, Any]:
        """The state of every part, and ``status``: healthy, degraded or unhealthy."""
        memory = psutil.virtual_memory()
        report: dict[str, Any] = {
            "status": "unhealthy",
            "state": self.state,
            "device": {"kind": "cpu", "cores": psutil.cpu_count()},
            "memory": {"total_bytes": memory.total, "available_bytes": memory.available},
            "model": None,
            "tokenizer": None,
            "queue": None,
        }
        if self.state == "failed":
            report["error"] = str(self.failure or (self._handlers and self._handlers.engine.failure))
        if self._handlers is None:
            report["loaded"] = round(self.loaded, 3)
            return report
        stats = self._handlers.engine.stats()
        report["model"], report["tokenizer"] = self._handlers.model_name, self._handlers.has_tokenizer
        report["queue"] = {"waiting": stats.waiting, "running": stats.running, "most_waiting": self.max_waiting}
        report["engine"] = asdict(stats)
        if self.state == "ready":
            full = stats.waiting >= FULL_QUEUE * self.max_waiting
            scarce = memory.available < SCARCE_MEMORY * memory.total
            report["status"] = "degraded" if full or scarce else "healthy"
        return report

    def drain(self) -> None:
        """Takes no new requests from now on; those under way go on."""
        self._draining = True

    def stop(self) -> None:
        """Ends the engine; what is still under way is given up."""
        self._draining = True
        if self._handlers is not None:
            self._handlers.engine.shutdown(drain=False)

    def _run(self) -> None:
        try:
            handlers = self._load(self._progress)
            if self._draining:  # told to end meanwhile
                handlers.engine.shutdown(drain=False)
            self._handlers = handlers
        except MiliError as error:
            self.failure = error
            LOG.error("mili: error: %s", error)
        except Exception as error:
            self.failure = error
            LOG.exception("loading failed")
        self._settled.set()

    def _progress(self, done: int, total: int) -> None:
        self.loaded = done / total if total else 1.0
