"""Assembles PTX with the compiler that MAX carries (NVIDIA's PTX Compiler API): no CUDA toolkit, no driver, no GPU."""

import ctypes
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    """What one kernel takes.

    Attributes:
        registers: Of a thread.
        stack: Bytes of local memory of a thread: arrays that are not in registers.
        spills: Bytes that a thread stores because registers are short.
        shared: Bytes of static shared memory of a block.
        serialized: Whether the assembler could not leave wgmma asynchronous, and waits after each.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    serialized: bool


class Assembler:
    """The PTX compiler.

    Raises:
        RuntimeError: MAX's libraries are not where they were.
    """

    def __init__(self) -> None:
        package = find_spec("mojo")
        folders = list(package.submodule_search_locations or []) if package else []
        files = [Path(folder).parent / "modular" / "lib" / "libNVPTX.so" for folder in folders]
        found = next((file for file in files if file.exists()), None)
        if found is None:
            raise RuntimeError(f"MAX's PTX compiler is not at any of {[str(file) for file in files]}")
        self._library = ctypes.CDLL(str(found))

    def resources(self, ptx: str, architecture: str) -> Resources:
        """What a module with one kernel takes once it is assembled.

        Raises:
            RuntimeError: It can't be assembled; says why.
        """
        log = self._assemble(ptx.encode(), [f"--gpu-name={architecture}", "--verbose"])

        def number(pattern: str) -> int:
            found = re.search(pattern, log)
            return int(found[1]) if found else 0

        return Resources(
            registers=number(r"Used (\d+) registers"),
            stack=number(r"(\d+) bytes stack frame"),
            spills=number(r"(\d+) bytes spill stores"),
            shared=number(r"(\d+) bytes smem"),
            serialized="serialized" in log,
        )

    def _assemble(self, ptx: bytes, options: list[str]) -> str:
        library, handle = self._library, ctypes.c_void_p()
        if library.nvPTXCompilerCreate(ctypes.byref(handle), ctypes.c_size_t(len(ptx)), ptx) != 0:
            raise RuntimeError("the PTX compiler can't be made")
        try:
            array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = library.nvPTXCompilerCompile(handle, len(options), array) != 0
            log = self._log(handle, "Error" if failed else "Info")
        finally:
            library.nvPTXCompilerDestroy(ctypes.byref(handle))
        if failed:
            raise RuntimeError(f"the PTX can't be assembled: {log}")
        return log

    def _log(self, handle: ctypes.c_void_p, kind: str) -> str:
        size = ctypes.c_size_t()
        getattr(self._library, f"nvPTXCompilerGet{kind}LogSize")(handle, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value + 1)
        getattr(self._library, f"nvPTXCompilerGet{kind}Log")(handle, text)
        return text.value.decode(errors="replace")
