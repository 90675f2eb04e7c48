"""Writes the PTX of the GPU's linear layers, a file each: mojo run -D ARCH=sm_90a -I . tests/ptx/dump_linear.mojo FOLDER."""

from max.gpu.host.compile import get_gpu_target
from std.compile import compile_info
from std.sys import argv
from std.sys.defines import get_defined_string

from mojo_kernels.gpu.float8 import quantize_float8_kernel
from mojo_kernels.gpu.linear_hopper import LARGE, NARROW, SMALL, hopper_linear_kernel
from mojo_kernels.gpu.linear_launch import tile_outputs, warp_rows
from mojo_kernels.gpu.linear_products import BFLOAT, FLOAT8, WIDENED
from mojo_kernels.gpu.linear_rows import linear_rows_kernel
from mojo_kernels.gpu.linear_rows_hopper import hopper_linear_rows_kernel
from mojo_kernels.gpu.linear_tile import linear_tile_kernel

comptime ARCH = get_defined_string["ARCH", "sm_90a"]()
comptime TARGET = get_gpu_target[ARCH]()
comptime Y = DType.float32


def write(folder: String, name: String, text: String) raises:
    with open(folder + "/" + name + ".ptx", "w") as file:
        file.write(text)


def main() raises:
    var folder = String(argv()[1])
    comptime for format in [BFLOAT, FLOAT8, WIDENED]:
        comptime if (format != FLOAT8) if ARCH != "sm_90a" else (format != WIDENED):
            # On sm_90a e4m3 and tiles of bfloat16 stand for later GPUs: Hopper takes kernels of its own for them.
            comptime name = "bf16" if format == BFLOAT else "fp8"
            comptime for tiles in [2, 4]:
                comptime kernel = linear_rows_kernel[format, Y, tiles]
                write(folder, String("linear_rows_", name, "_", tiles), String(compile_info[kernel, emission_kind="asm", target=TARGET]().asm))
            comptime for large in [False, True]:
                comptime rows = 128 if large else 64
                comptime outputs = tile_outputs[format, large]()
                comptime kernel = linear_tile_kernel[format, Y, rows, outputs, warp_rows[format, large]()]
                write(folder, String("linear_tile_", name, "_", rows), String(compile_info[kernel, emission_kind="asm", target=TARGET]().asm))
    comptime rounding_rows = linear_rows_kernel[BFLOAT, DType.bfloat16, 2]
    write(folder, "linear_rows_to_bf16", String(compile_info[rounding_rows, emission_kind="asm", target=TARGET]().asm))
    comptime rounding_tile = linear_tile_kernel[BFLOAT, DType.bfloat16, 64, 64, 32]
    write(folder, "linear_tile_to_bf16", String(compile_info[rounding_tile, emission_kind="asm", target=TARGET]().asm))
    comptime if ARCH == "sm_90a":
        comptime for format in [BFLOAT, FLOAT8]:
            comptime for i in range(3):
                comptime name = "bf16" if format == BFLOAT else "fp8"
                comptime kernel = hopper_linear_kernel[format, Y, [LARGE, SMALL, NARROW][i]]
                comptime size = ["_large", "_small", "_narrow"][i]
                write(folder, String("hopper_linear_", name, size), String(compile_info[kernel, emission_kind="asm", target=TARGET]().asm))
        comptime rounding = hopper_linear_kernel[BFLOAT, DType.bfloat16, SMALL]
        write(folder, "hopper_linear_to_bf16", String(compile_info[rounding, emission_kind="asm", target=TARGET]().asm))
        comptime rows = hopper_linear_rows_kernel[Y]
        write(folder, "hopper_linear_fp8_rows", String(compile_info[rows, emission_kind="asm", target=TARGET]().asm))
        comptime kernel = quantize_float8_kernel
        write(folder, "quantize_float8", String(compile_info[kernel, emission_kind="asm", target=TARGET]().asm))
