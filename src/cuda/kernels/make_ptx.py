#!/usr/bin/env python3
"""Write focal_loss.ptx, which the library carries, from focal_loss.cu; with --check, only compare.

Needs nothing but the wheel in requirements.txt: NVRTC, CUDA's compiler as a library, called through ctypes. Its
version decides which drivers can read the PTX, and its output is the same byte for byte on every machine.
"""

import ctypes
import importlib.metadata
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
SOURCE, PTX = HERE / "focal_loss.cu", HERE / "focal_loss.ptx"
# The oldest architecture in use; later ones are reached by the driver's own assembler.
OPTIONS = ["--gpu-architecture=compute_75", "--std=c++17", "--fmad=false", "--extra-device-vectorization"]


def nvrtc():
    files = importlib.metadata.files("nvidia-cuda-nvrtc-cu11")
    path = next(f for f in files if f.name.startswith("libnvrtc.so"))
    return ctypes.CDLL(str(path.locate()))


def compile_ptx():
    lib = nvrtc()
    headers = sorted(HERE.glob("*.h"))
    strings = lambda values: (ctypes.c_char_p * len(values))(*values)
    program = ctypes.c_void_p()
    check = lambda status: status and sys.exit(f"NVRTC: error {status}\n{log(lib, program)}")
    check(lib.nvrtcCreateProgram(
        ctypes.byref(program), SOURCE.read_bytes(), SOURCE.name.encode(), len(headers),
        strings([h.read_bytes() for h in headers]), strings([h.name.encode() for h in headers])))
    check(lib.nvrtcCompileProgram(program, len(OPTIONS), strings([o.encode() for o in OPTIONS])))
    warnings = log(lib, program)
    if warnings:
        sys.exit(f"NVRTC warns:\n{warnings}")
    return text(lib.nvrtcGetPTXSize, lib.nvrtcGetPTX, program)


def log(lib, program):
    return text(lib.nvrtcGetProgramLogSize, lib.nvrtcGetProgramLog, program)


def text(get_size, get, program):
    size = ctypes.c_size_t()
    get_size(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    get(program, buffer)
    return buffer.value.decode().strip()


def main():
    ptx = compile_ptx() + "\n"
    if sys.argv[1:] == ["--check"]:
        if PTX.read_text() != ptx:
            sys.exit("focal_loss.ptx is not fresh: run `make ptx` and commit it")
    else:
        PTX.write_text(ptx)
        print(f"{PTX.name}: {len(ptx) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
