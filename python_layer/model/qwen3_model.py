"""A Qwen3 model that is compiled, has its weights, and runs."""

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from max.driver import Buffer
from max.dtype import DType
from max.engine import InferenceSession
from numpy.typing import NDArray

from python_layer.model.batch import RaggedBatch, RequestRows
from python_layer.model.captured import CapturedDecodes
from python_layer.model.compile_cache import CompileCache, CompiledGraphs
from python_layer.model.compiled_folder import CompiledFolder
from python_layer.model.config import Qwen3Config
from python_layer.model.device import resolve_device
from python_layer.model.drawn_tokens import TokenGatherer
from python_layer.model.generation import GeneratedToken, Generation, Generator
from python_layer.model.graph_choice import model_graph
from python_layer.model.kernels import assembly_error, default_cache_dir
from python_layer.model.pages import make_pages
from python_layer.model.precision import Precision
from python_layer.model.quantization import describe
from python_layer.model.sampler import Drawn, Sampler, SamplingRow
from python_layer.model.sampling import SamplingParams
from python_layer.model.step_runner import StepRunner
from python_layer.model.thread_pool import start_thread_pool
from python_layer.model.weight_loader import LoadedWeights, WeightLoader
from python_layer.model.weights import ignored_tensors
from python_layer.tokenizer import QwenTokenizer
from python_layer.tokenizer.gguf_tokenizer import gguf_has_tokenizer
from python_layer.tokenizer.tokenizer_files import has_tokenizer
from python_layer.utils.errors import ConfigError
from python_layer.utils.timers import coarse_timers

SETTLE_AFTER_S = 1.0
"""Seconds after the start when weights begin to be copied: a first answer is faster without that beside it."""


@dataclass(frozen=True)
class LoadTimes:
    """What making a model took.

    Attributes:
        load_s: Seconds for the weights, from file to memory.
        compile_s: Seconds to compile the graph, or to read it from the cache.
        compile_cached: Whether it came from the cache.
        total_s: Seconds until the model could run.
    """

    load_s: float
    compile_s: float
    compile_cached: bool
    total_s: float


def read_tokenizer(path: Path) -> QwenTokenizer | None:
    """The tokenizer in a checkpoint's folder or GGUF file; None where there is none."""
    has = gguf_has_tokenizer if path.is_file() else has_tokenizer
    return QwenTokenizer.from_pretrained(path) if has(path) else None


class Qwen3Model:
    """Runs ragged batches, and generates text for one request at a time.

    Args:
        config: The model's configuration.
        weight_loader: Its checkpoint.
        dtype: Type of the matrices in memory: auto (the checkpoint's own), float32, bfloat16 or float16.
            Activations are float32.
        kv_dtype: Type of the KV cache: auto (float32 beside float32 matrices, float16 or int16 where that is
            multiplied, else bfloat16), float32, bfloat16, float16 on CPUs with AVX512-FP16, int16 where that may be
            multiplied, or int8; integers have a scale for each position and head.
        quantization: auto (as the checkpoint has its matrices), none (dequantized to ``dtype``), int8 or int4; see
            :mod:`~python_layer.model.quantization`. What is multiplied with such matrices is rounded to int8.
        compute_dtype: What is multiplied with the matrices: float32, or, with matrices of 16 bits, bfloat16 on CPUs
            with AMX or AVX512-BF16, float16 on those with AVX512-FP16 and int16 on others with VNNI or AVX2, which is
            up to twice as fast for prompts and batches, or auto: the fastest of what is possible. Sums are float32,
            with float16 from 32 columns to the next, with int16 from 128.
        cpu_isa: Instruction set of the linear layers, see :data:`~python_layer.utils.cpu.ISAS`; auto is the fastest.
        page_size: Positions per page of the KV cache; on a GPU a power of two.
        threads: Threads that compute, of which a process has one pool; 0 is one for each physical core that affinity
            and cgroups leave the process.
        device: cpu, gpu, gpu:N or auto; see :func:`~python_layer.model.device.resolve_device`. On a GPU dtype,
            kv_dtype and compute_dtype must be bfloat16 or auto, and quantization none or auto.
        compiled: Folder with graphs that ``mili compile`` made; none compiles them here.
        cache_dir: Folder of compiled kernels and graphs; the default is the user's cache folder.

    Raises:
        ConfigError: An argument that is not supported.
        WeightError: The checkpoint does not fit the configuration, or is damaged.
        CompileError: The kernels or the graph can't be compiled here.
    """

    def __init__(
        self,
        config: Qwen3Config,
        weight_loader: WeightLoader,
        *,
        dtype: str = "auto",
        kv_dtype: str = "auto",
        quantization: str = "auto",
        compute_dtype: str = "float32",
        cpu_isa: str = "auto",
        page_size: int = 16,
        threads: int = 0,
        device: str = "cpu",
        compiled: Path | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        started = time.perf_counter()
        if page_size < 1:
            raise ConfigError(f"page_size is {page_size}; it must be 1 or more")
        self.threads = start_thread_pool(threads)
        self.config = config
        self.device = resolve_device(device)
        precision = Precision(dtype, kv_dtype, quantization, compute_dtype, cpu_isa)
        graph = model_graph(config, self.device, precision, page_size, weight_loader.formats())
        self.dtype, self.kv_dtype = graph.dtype.name, graph.layout.dtype.name
        self.compute_dtype = graph.compute.name if graph.device.is_cpu() else "bfloat16"
        self.isa, self.formats, self.float8 = graph.isa, dict(graph.formats), graph.float8
        self.layout = graph.layout
        self.folder = weight_loader.path
        specs, unused = graph.specs(), ignored_tensors(config)
        weight_loader.check(specs, unused=unused)  # before a long compilation
        cache: CompiledGraphs = (
            CompileCache(cache_dir or default_cache_dir(), self.device)
            if compiled is None
            else CompiledFolder(compiled, self.device)
        )
        self._graphs = cache
        # Compiling a graph keeps one core busy, and so does reading a tokenizer.
        others = ThreadPoolExecutor(2)
        sampler = others.submit(Sampler, cache, self.device) if self.device.is_gpu else None
        self._tokenizer = others.submit(read_tokenizer, self.folder)
        others.shutdown(wait=False)
        executable, cached = cache.get(graph)
        drawing = None if sampler is None else sampler.result()
        compiled_at = time.perf_counter()
        self._weights = weight_loader.load(specs, self.dtype, unused=unused)
        loaded_at = time.perf_counter()
        session = InferenceSession(devices=[self.device.open()])
        self._capture_keys = itertools.count()
        try:
            self._model = session.init(executable, weights_registry=_registry(self._weights))
            self._runner = StepRunner(self._model, self.device, config.vocab_size, drawing)
            with coarse_timers():  # the runtime's log thread, which the first step starts, polls every 100 µs
                self.step(RaggedBatch.of([RequestRows([0], start=0, pages=[0])]), self.allocate_cache(1))
        except (RuntimeError, ValueError) as error:
            gpu, doing = self.device.is_gpu, "load the weights and run a first step"
            told = self.device.failure(error, doing) if gpu else assembly_error(str(error), self.isa)
            if told is None:
                raise
            raise told from error
        self.weight_bytes = self._weights.nbytes
        """Bytes of the weights in the device's memory."""
        if self.device.is_gpu:  # it has its own
            self._model.release_weights()
            del self._weights
        else:
            self._weights.settle_after(SETTLE_AFTER_S)
        self.load_times = LoadTimes(
            load_s=loaded_at - compiled_at,
            compile_s=compiled_at - started,
            compile_cached=cached,
            total_s=time.perf_counter() - started,
        )

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | Path, **options: object) -> "Qwen3Model":
        """A model from a checkpoint folder, GGUF file or hub id; ``options`` are those of the constructor."""
        loader = WeightLoader(path_or_hub_id)
        return cls(Qwen3Config.from_pretrained(loader.path), loader, **options)  # type: ignore[arg-type]

    def settle_weights(self) -> None:
        """Waits until weights that were mapped from a file are in a CPU's memory of the process's own.

        That begins by itself soon after the start. Steps may run meanwhile, more slowly.
        """
        if not self.device.is_gpu:
            self._weights.settle()

    def free_memory(self) -> int:
        """Bytes that are free where the model runs, once its weights have settled."""
        if self.device.is_gpu:
            return self.device.free_memory()
        return max(0, psutil.virtual_memory().available - self._weights.unsettled_bytes)

    @property
    def name(self) -> str:
        """The name of the checkpoint's folder, or of its GGUF file without the ending."""
        # The hub's cache links files to others whose names are digests.
        return self.folder.stem if self.folder.is_file() else self.folder.resolve().name

    @property
    def matrix_format(self) -> str:
        """The type of the matrices, such as bfloat16, int8 or float8_e4m3."""
        return describe(self.formats, self.dtype, self.float8)

    @property
    def tokenizer(self) -> QwenTokenizer | None:
        """The checkpoint's tokenizer; None where there is none.

        Raises:
            TokenizerError: Its files are damaged or not supported.
        """
        return self._tokenizer.result()

    def allocate_cache(self, pages: int) -> Buffer:
        """A KV cache of so many pages on the model's device.

        Raises:
            ConfigError: It is a GPU without memory for them.
        """
        return make_pages(self.layout, self.device, pages).cache

    def forward(self, batch: RaggedBatch, cache: Buffer) -> NDArray[np.float32]:
        """Computes one step.

        Args:
            batch: The rows to compute.
            cache: From :meth:`allocate_cache`; receives the keys and values of the batch's rows, and must hold
                those of every earlier position of its requests.

        Returns:
            Logits [R, vocab_size] of the batch's ``logit_rows``.

        Raises:
            InvalidRequestError: The batch is inconsistent or points outside the cache or vocabulary.
        """
        result: NDArray[np.float32] = self.step(batch, cache).to_numpy()
        return result

    def step(self, batch: RaggedBatch, cache: Buffer, token_ids: Buffer | None = None) -> Buffer:
        """As :meth:`forward`, with the logits left on the device.

        Args:
            batch: Likewise.
            cache: Likewise.
            token_ids: The batch's on the device, int32 [T], where the batch does not have them all.
        """
        self.check(batch, cache)
        return self._runner.step(batch, cache, token_ids)

    def drawn_step(
        self, batch: RaggedBatch, cache: Buffer, rows: Sequence[SamplingRow], token_ids: Buffer | None = None
    ) -> Drawn:
        """As :meth:`step`, with a token drawn from each of the wanted rows, as one of ``rows`` says."""
        self.check(batch, cache)
        return self._runner.drawn_step(batch, cache, rows, token_ids)

    def draw(self, logits: Buffer, rows: Sequence[SamplingRow]) -> Drawn:
        """Draws a token from each of a GPU's logits; what was drawn before must have been read. ValueError on a CPU."""
        return self._runner.draw(logits, rows)

    def token_gatherer(self) -> TokenGatherer:
        """Puts tokens that were drawn on the device into batches; errors as in :class:`TokenGatherer`."""
        return TokenGatherer(self._graphs, self.device)

    def check(self, batch: RaggedBatch, cache: Buffer) -> None:
        """Refuses what :meth:`forward` refuses."""
        batch.check(self.config.vocab_size, cache.shape[0], self.layout.page_size)

    def captured_decodes(self, cache: Buffer, spare_page: int) -> CapturedDecodes:
        """The model's decodes on a GPU's KV cache, as graphs of the driver; ``spare_page`` belongs to no request."""
        return CapturedDecodes(self._model, cache, spare_page, self.device.open(), self._capture_keys)

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        logprobs: int = 0,
        ignore_eos: bool = False,
    ) -> Generation:
        """Continues one prompt and returns the whole answer; arguments as in :meth:`generate_stream`."""
        params = SamplingParams(temperature, top_k, top_p, seed)
        return Generator(self).generate(prompt, params, max_tokens, logprobs, ignore_eos)

    def generate_stream(
        self,
        prompt: str | Sequence[int],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        logprobs: int = 0,
        ignore_eos: bool = False,
    ) -> Iterator[GeneratedToken]:
        """Continues one prompt token by token.

        Args:
            prompt: Text (special tokens in it are recognised) or token ids.
            max_tokens: Most tokens to generate.
            temperature: 0 is greedy.
            top_p: See :class:`~python_layer.model.sampling.SamplingParams`.
            top_k: Likewise.
            seed: Likewise.
            logprobs: Number of likeliest tokens to report with each token, up to 20.
            ignore_eos: Go on after an end-of-sequence token.

        Yields:
            One token at a time, with the text that became final with it.

        Raises:
            InvalidRequestError: A parameter out of range, an empty prompt, a token id outside the vocabulary,
                or more tokens than the model's context or the memory holds.
        """
        params = SamplingParams(temperature, top_k, top_p, seed)
        return Generator(self).stream(prompt, params, max_tokens, logprobs, ignore_eos)


def _registry(weights: LoadedWeights) -> dict[str, Buffer]:
    """The weights as buffers that share their memory."""
    registry = {}
    for name, array in weights.items():
        dtype = DType[weights.dtype_of(name)]
        buffer = Buffer.from_numpy(array)
        registry[name] = buffer if buffer.dtype == dtype else buffer.view(dtype, array.shape)
    return registry
