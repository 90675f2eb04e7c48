"""The timer slack of threads, as the kernel tells it."""

import ctypes
import sys
import threading

import pytest

from python_layer.utils.timers import COARSE_NS, PR_GET_TIMERSLACK, coarse_timers


def slack() -> int:
    """Of this thread, in ns."""
    return ctypes.CDLL(None).prctl(PR_GET_TIMERSLACK)


@pytest.mark.skipif(sys.platform != "linux" or slack() <= 0, reason="this system has no timer slack")
def test_threads_started_meanwhile_have_coarse_timers_and_others_keep_theirs() -> None:
    seen: list[int] = []
    before = slack()
    with coarse_timers():
        inside = threading.Thread(target=lambda: seen.append(slack()))
        inside.start()
        inside.join()
    outside = threading.Thread(target=lambda: seen.append(slack()))
    outside.start()
    outside.join()
    assert seen == [COARSE_NS, before]
    assert slack() == before
