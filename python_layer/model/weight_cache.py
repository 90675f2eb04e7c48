"""Packed weights on disk, so that the next start maps them instead of converting, rounding and packing them again."""

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from python_layer.utils.file_pages import FilePages

LOG = logging.getLogger(__name__)

HEADER = 1 << 16
"""Bytes before the weights, of whole pages on any system: what they were made from, as JSON."""
FREE_AFTER = 1 << 30
"""Bytes that must be left free on the disk."""

Block = NDArray[np.uint8]


def fingerprint(path: Path) -> str:
    """A digest of a checkpoint's files, by their names, sizes and times, and of the code that packs them."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    seen = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    digest = hashlib.sha256(repr(seen).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


class WeightCache:
    """A folder with one file for each checkpoint and format, written anew when either or the code has changed.

    Args:
        folder: Made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, slot: str, made_from: str, block: Block, progress: Callable[[int], None]) -> FilePages | None:
        """Fills ``block`` with what was kept under ``slot``, if it was made from the same.

        Args:
            slot: Names the checkpoint and the format.
            made_from: From :func:`fingerprint`.
            block: The weights; from :func:`~python_layer.utils.host_memory.anonymous_buffer`.
            progress: Told the bytes that were read, one call after the other.

        Returns:
            What the block consists of; None where nothing fits.
        """
        with contextlib.ExitStack() as unless_kept:
            try:
                file = unless_kept.enter_context(self._file(slot).open("rb"))
                header = json.loads(file.read(HEADER))
                if header != {"made_from": made_from, "bytes": block.nbytes}:
                    return None
                pages = FilePages(file, HEADER, block)
                pages.fetch(progress)
            except (OSError, ValueError, EOFError):
                return None  # not there, or damaged
            unless_kept.pop_all()
            return pages

    def write(self, slot: str, made_from: str, block: Block) -> None:
        """Keeps a block under ``slot``; where the disk is full or can't be written, says so and goes on."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free < block.nbytes + FREE_AFTER:
                LOG.warning("packed weights are not kept: %s has too little space", self._folder)
                return
            header = json.dumps({"made_from": made_from, "bytes": block.nbytes}).encode().ljust(HEADER)
            # Two processes may do this at once: each writes its own file, the last rename wins.
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                made = Path(scratch) / slot
                with made.open("wb") as file:
                    file.write(header)
                    file.write(block.data)
                made.replace(self._file(slot))
        except OSError as error:
            LOG.warning("packed weights are not kept in %s: %s", self._folder, error.strerror)

    def _file(self, slot: str) -> Path:
        return self._folder / f"{slot}.bin"
