"""The KV cache's pages, wherever they are, and the swap space beside them in host memory."""

import mmap
from typing import Protocol

from max.driver import Buffer

from python_layer.model.device import ComputeDevice
from python_layer.model.kv_cache import KVCacheLayout

READY_BYTES = 128 << 20
"""Memory that is kept ready for pages: a prompt of a thousand tokens or so."""


class Pages(Protocol):
    """Pages 0 to n - 1 and swap slots."""

    cache: Buffer

    def ready(self, reached: int) -> bool:
        """Takes memory for one of the pages that come after the first ``reached``, whose content means nothing.

        Returns:
            Whether there was one that is needed soon and had none.
        """

    def copy(self, source: int, target: int) -> None:
        """Copies a page, every layer of it."""

    def swap_out(self, page: int, slot: int) -> None:
        """Copies a page to a slot of the swap space."""

    def swap_in(self, slot: int, page: int) -> None:
        """Copies it back."""


class HostPages:
    """Pages in the process's memory, which is taken from the system as they are first written.

    That takes long, on a virtual machine above all, so whoever has nothing else to do makes pages ready before.

    Args:
        layout: Of a page.
        pages: Number of pages.
        swap_slots: Number of slots.
    """

    def __init__(self, layout: KVCacheLayout, pages: int, swap_slots: int) -> None:
        self._swap, _ = layout.allocate_with_memory(max(1, swap_slots))
        self._memory, self.cache = layout.allocate_with_memory(pages)
        self._ready = 0

    def ready(self, reached: int) -> bool:
        """As in :class:`Pages`; some are kept ready, not all that there are."""
        self._ready = max(self._ready, reached)
        pages, size = self._memory.shape
        if self._ready >= min(pages, reached + READY_BYTES // size):
            return False
        self._memory[self._ready, :: mmap.PAGESIZE] = 0
        self._ready += 1
        return True

    def copy(self, source: int, target: int) -> None:
        """As in :class:`Pages`."""
        self._memory[target] = self._memory[source]

    def swap_out(self, page: int, slot: int) -> None:
        """As in :class:`Pages`."""
        self._swap[slot] = self._memory[page]

    def swap_in(self, slot: int, page: int) -> None:
        """As in :class:`Pages`."""
        self._memory[page] = self._swap[slot]


class DevicePages:
    """Pages in a GPU's memory; the driver copies them, in the order of the model's steps.

    Args:
        layout: Of a page.
        pages: Number of pages.
        swap_slots: Number of slots, in host memory.
        device: The GPU.

    Raises:
        ConfigError: The GPU has no memory for so many pages.
    """

    def __init__(self, layout: KVCacheLayout, pages: int, swap_slots: int, device: ComputeDevice) -> None:
        _, self._swap = layout.allocate_with_memory(max(1, swap_slots))
        with device.explaining(f"hold a KV cache of {pages * layout.page_bytes / 2**30:.2f} GiB"):
            self.cache = Buffer(layout.dtype, (pages, *layout.page_shape), device.open())

    def ready(self, reached: int) -> bool:
        """As in :class:`Pages`; a GPU's memory is taken at once."""
        return False

    def copy(self, source: int, target: int) -> None:
        """As in :class:`Pages`."""
        page_view(self.cache, target).inplace_copy_from(page_view(self.cache, source))

    def swap_out(self, page: int, slot: int) -> None:
        """As in :class:`Pages`."""
        page_view(self._swap, slot).inplace_copy_from(page_view(self.cache, page))

    def swap_in(self, slot: int, page: int) -> None:
        """As in :class:`Pages`."""
        page_view(self.cache, page).inplace_copy_from(page_view(self._swap, slot))


def page_view(cache: Buffer, page: int) -> Buffer:
    """One page of a cache, in its place."""
    return cache[(slice(page, page + 1), *(slice(None) for _ in cache.shape[1:]))]


def make_pages(layout: KVCacheLayout, device: ComputeDevice, pages: int, swap_slots: int = 0) -> Pages:
    """Pages on a device; arguments and errors as in :class:`DevicePages`."""
    return DevicePages(layout, pages, swap_slots, device) if device.is_gpu else HostPages(layout, pages, swap_slots)
