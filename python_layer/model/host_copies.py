"""What the device computes, copied to the host while the device goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from max.driver import Buffer, DeviceEvent, Usage
from numpy.typing import NDArray


class HostCopies:
    """Copies results to the host while the device goes on.

    Results of a GPU go to page-locked memory, in the order of its work, and an event tells when they are there: a copy
    that is asked for later would wait for all that was launched meanwhile.

    Args:
        device: The driver's device.
        staged: Whether to copy at all; the CPU's results are on the host already, and complete.
    """

    def __init__(self, device: Any, staged: bool) -> None:
        self._device = device
        self._staged = staged
        self._places: dict[int, Buffer] = {}

    def begin(self, outputs: Sequence[Buffer]) -> "Copying":
        """Begins to copy; the copies that were begun before must have been read, for their memory is used again."""
        if not self._staged:
            return Copying(outputs, outputs, None)
        places = []
        for number, output in enumerate(outputs):
            place = self._places.get(number)
            if place is None or place.shape[0] < output.shape[0]:
                shape = (2 * output.shape[0], *output.shape[1:])
                place = Buffer(output.dtype, shape, self._device, Usage.STAGING | Usage.UNTRACKED)
                self._places[number] = place
            places.append(place[(slice(output.shape[0]), *(slice(None) for _ in output.shape[1:]))])
            places[-1].inplace_copy_from(output)
        return Copying(outputs, places, self._device.default_queue.record_event())


@dataclass(frozen=True)
class Copying:
    """Results on their way to the host.

    Attributes:
        sources: What is copied, which must stay until then.
        places: Where they will be.
        copied: Tells when; None where they are there already.
    """

    sources: Sequence[Buffer]
    places: Sequence[Buffer]
    copied: DeviceEvent | None

    def wait(self) -> list[NDArray[np.generic]]:
        """The results, once they are there."""
        if self.copied is not None:
            self.copied.synchronize()
        return [place.to_numpy() for place in self.places]
