"""What the pretended driver was asked for."""

from pathlib import Path

WAITS = ("synchronize", "wait for event")
ALLOCATIONS = ("reserve", "allocate", "release")


class DriverLog:
    """The driver's log, read on from where it was read last."""

    def __init__(self, file: Path) -> None:
        self._file = file.open()

    def calls(self) -> list[str]:
        """The calls since the last time, one line each."""
        return self._file.read().splitlines()


def those(calls: list[str], *beginnings: str) -> list[str]:
    """Calls that begin with one of these."""
    return [call for call in calls if call.startswith(beginnings)]


def without_max_events(calls: list[str]) -> list[str]:
    """Calls but for the events that tell MAX when it may use memory again; ours follow a copy to the host."""
    return [
        call
        for before, call in zip(["", *calls], calls, strict=False)
        if not call.startswith("record event") or before.startswith("copy to host")
    ]
