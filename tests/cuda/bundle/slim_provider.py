#!/usr/bin/env python3
"""Make ONNX Runtime's CUDA provider small enough to carry: device code that a given GPU never loads becomes zeros.

    slim_provider.py libonnxruntime_providers_cuda.so SLIM.so --architecture 90 [--drop REGEX]

Offsets stay, so the file is the same but for runs of zeros, which xz makes disappear. The device code is in the ELF
section `.nv_fatbin`: containers with a header each, and in them entries, one for each architecture. With --drop,
entries of the wanted architecture go too if the names of all their kernels match. Needs the package zstandard.
"""

import argparse
import pathlib
import re
import struct
import sys

import zstandard

CONTAINER = struct.pack("<I", 0xBA55ED50)
#: magic, version, size of this header, size of the entries
CONTAINER_HEADER = struct.Struct("<IHHQ")
#: kind, version, size of this header, size of the payload, its size where compressed (else 0), -, architecture
ENTRY_HEADER = struct.Struct("<HHIQI8xI")
FLAGS = 40
CUBIN, ZSTD = 2, 0x8000


def fatbin(image):
    """Start and end of the section in the file, from the ELF64 section headers."""
    assert image[:5] == b"\x7fELF\x02", "no 64-bit ELF file"
    table, = struct.unpack_from("<Q", image, 40)
    size, count, names = struct.unpack_from("<HHH", image, 58)
    headers = [struct.unpack_from("<II8x8xQQ", image, table + i * size) for i in range(count)]
    strings = headers[names][2]
    for name, _, offset, length in headers:
        if image[strings + name :].startswith(b".nv_fatbin\0"):
            return offset, offset + length
    sys.exit("there is no section .nv_fatbin")


def entries(image, start, end):
    """(offset of the payload, its size, kind, architecture, bytes that hold content, flags) of every entry."""
    at = image.find(CONTAINER, start, end)
    while at >= 0:
        _, _, header, size = CONTAINER_HEADER.unpack_from(image, at)
        entry, stop = at + header, at + header + size
        while entry < stop:
            kind, _, head, payload, compressed, architecture = ENTRY_HEADER.unpack_from(image, entry)
            (flags,) = struct.unpack_from("<Q", image, entry + FLAGS)
            yield entry + head, payload, kind, architecture, compressed or payload, flags
            entry += head + payload
        at = image.find(CONTAINER, stop, end)


def kernels(image, offset, content, flags):
    cubin = image[offset : offset + content]
    if flags & ZSTD:
        cubin = zstandard.ZstdDecompressor().decompress(cubin, max_output_size=1 << 28)
    names = re.findall(rb"\0\.text\.([\w$]+)", cubin)
    # CUB's placeholder is everywhere.
    return [name for name in names if b"EmptyKernel" not in name]


def slim(image, architecture, drop=None):
    """The slimmed image, and how many bytes of device code stayed."""
    result, kept = bytearray(image), 0
    for offset, size, kind, of, content, flags in entries(image, *fatbin(image)):
        wanted = kind == CUBIN and of == architecture
        if wanted and drop:
            names = kernels(image, offset, content, flags)
            wanted = not names or not all(drop.search(name) for name in names)
        if wanted:
            kept += size
        else:
            result[offset : offset + size] = bytes(size)
    return bytes(result), kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("result", type=pathlib.Path)
    parser.add_argument("--architecture", type=int, required=True)
    parser.add_argument("--drop", type=lambda text: re.compile(text.encode()))
    given = parser.parse_args()
    image = given.source.read_bytes()
    result, kept = slim(image, given.architecture, given.drop)
    if not kept:
        sys.exit(f"{given.source} has nothing for sm_{given.architecture}")
    given.result.write_bytes(result)
    print(f"{given.source.name}: {kept / 1e6:.1f} MB of device code stay of {len(image) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
