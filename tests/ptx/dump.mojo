"""Writes the PTX of the GPU kernels, a file each: mojo run -D ARCH=sm_90a -I . tests/ptx/dump.mojo FOLDER."""

from max.gpu.host.compile import get_gpu_target
from std.compile import compile_info
from std.sys import argv
from std.sys.defines import get_defined_string

from mojo_kernels.gpu.attention import attention_kernel
from mojo_kernels.gpu.attention_hopper import hopper_attention_kernel
from mojo_kernels.gpu.attention_results import merge_kernel
from mojo_kernels.gpu.elementwise import gather_kernel, rope_table_kernel, swiglu_kernel
from mojo_kernels.gpu.normalization import rms_norm_kernel
from mojo_kernels.gpu.sampling import sample_kernel
from mojo_kernels.gpu.qk_norm_rope import qk_norm_rope_store_kernel

comptime B = DType.bfloat16
comptime F = DType.float32
comptime ARCH = get_defined_string["ARCH", "sm_90a"]()
comptime TARGET = get_gpu_target[ARCH]()


def write(folder: String, name: String, text: String) raises:
    with open(folder + "/" + name + ".ptx", "w") as file:
        file.write(text)


def main() raises:
    var folder = String(argv()[1])
    comptime gather = gather_kernel[B, F]
    write(folder, "gather", String(compile_info[gather, emission_kind="asm", target=TARGET]().asm))
    comptime gather_same = gather_kernel[B, B]
    write(folder, "gather_bf16", String(compile_info[gather_same, emission_kind="asm", target=TARGET]().asm))
    comptime swiglu = swiglu_kernel[B, B]
    write(folder, "swiglu", String(compile_info[swiglu, emission_kind="asm", target=TARGET]().asm))
    write(folder, "rope_table", String(compile_info[rope_table_kernel, emission_kind="asm", target=TARGET]().asm))
    write(folder, "sample", String(compile_info[sample_kernel, emission_kind="asm", target=TARGET]().asm))
    comptime for chunks in [1, 2, 4]:
        comptime norm = rms_norm_kernel[F, B, chunks, False]
        write(folder, String("rms_norm_", chunks), String(compile_info[norm, emission_kind="asm", target=TARGET]().asm))
        comptime add = rms_norm_kernel[B, B, chunks, True]
        write(folder, String("add_rms_norm_", chunks), String(compile_info[add, emission_kind="asm", target=TARGET]().asm))
    comptime for head_dim in [64, 128]:
        comptime qk = qk_norm_rope_store_kernel[B, B, head_dim]
        write(folder, String("qk_norm_rope_store_", head_dim), String(compile_info[qk, emission_kind="asm", target=TARGET]().asm))
        comptime whole = attention_kernel[head_dim, False]
        write(folder, String("attention_", head_dim), String(compile_info[whole, emission_kind="asm", target=TARGET]().asm))
        comptime one = attention_kernel[head_dim, True]
        write(folder, String("attention_one_token_", head_dim), String(compile_info[one, emission_kind="asm", target=TARGET]().asm))
        comptime merge = merge_kernel[head_dim]
        write(folder, String("attention_merge_", head_dim), String(compile_info[merge, emission_kind="asm", target=TARGET]().asm))
        comptime if ARCH == "sm_90a":
            comptime hopper = hopper_attention_kernel[head_dim, False]
            write(folder, String("hopper_attention_", head_dim), String(compile_info[hopper, emission_kind="asm", target=TARGET]().asm))
            comptime hopper_one = hopper_attention_kernel[head_dim, True]
            write(folder, String("hopper_attention_one_token_", head_dim), String(compile_info[hopper_one, emission_kind="asm", target=TARGET]().asm))
