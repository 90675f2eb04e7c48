"""How exactly a thread's timed waits end."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 29, 30
"""Of Linux's prctl(2)."""

COARSE_NS = 50_000_000
"""Nanoseconds that a coarse timed wait may take longer than asked."""


@contextlib.contextmanager
def coarse_timers() -> Iterator[None]:
    """Lets the timed waits of threads that this thread starts meanwhile end up to 50 ms late.

    A thread inherits the timer slack (prctl(2), PR_SET_TIMERSLACK) of the one that starts it. A library's thread
    that polls in vain some thousand times a second then wakes 20 times. Without effect on systems but Linux.
    """
    if sys.platform != "linux":
        yield
        return
    prctl = ctypes.CDLL(None).prctl
    before = prctl(PR_GET_TIMERSLACK)
    prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(COARSE_NS))
    try:
        yield
    finally:
        prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(before))
