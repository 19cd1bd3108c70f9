#!/usr/bin/env python3
"""The ABI, as the compiler sees the header and `nm` the library, against its record in docs/abi.txt.

    python3 tests/c/abi.py HEADER LIBRARY            compare
    python3 tests/c/abi.py HEADER LIBRARY --record   write docs/abi.txt

What is in the record and gone, or different, is a break, which docs/abi.md forbids; what is new has to be recorded.
"""

import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile

RECORD = pathlib.Path(__file__).resolve().parents[2] / "docs" / "abi.txt"
CC = os.environ.get("CC", "gcc")
HEAD = """\
# The ABI: what a program that was built holds the library to; docs/abi.md has the rules. Written by `make abi`, compared
# with header and library by `make test-c`. Sizes and offsets are bytes, on 64-bit Linux.
"""


def without_comments(header):
    """The header's C without comments and preprocessor lines."""
    text = subprocess.run([CC, "-fpreprocessed", "-dD", "-E", "-P", "-x", "c", header], check=True, capture_output=True, text=True)
    return "\n".join(line for line in text.stdout.splitlines() if not line.startswith("#"))


def squeeze(text):
    return re.sub(r"\s*([*(),])\s*", r"\1", " ".join(text.split())).replace(",", ", ").replace("*", " *").replace("* *", "**")


def declarations(text):
    """(enumerators by enum, fields by struct, prototypes)"""
    enums = {
        name: re.findall(r"(\w+) = -?\d+", body)
        for name, body in re.findall(r"\benum (\w+)\s*(?::\s*\w+\s*)?\{([^}]*)\}", text)
    }
    structs = {
        name: [re.fullmatch(r"(.*?[\s*])(\w+)", field.strip(), re.DOTALL).groups() for field in body.split(";") if field.strip()]
        for name, body in re.findall(r"\bstruct (\w+)\s*\{([^}]*)\}", text)
    }
    prototypes = {name: squeeze(whole) for whole, name in re.findall(r"((?:const )?\w+\s[*\s]*(focal_loss_\w+)\s*\([^)]*\))\s*;", text)}
    return enums, structs, prototypes


def measured(header, enums, structs):
    """What a C program says of values, sizes and offsets."""
    lines = ["#include <stdio.h>", f'#include "{header}"', "#define SIZE(s, f) sizeof(((s *)0)->f)", "int main(void) {"]
    for name, enumerators in enums.items():
        lines += [f'printf("enum {name} {e} %d\\n", (int){e});' for e in enumerators]
    for name, fields in structs.items():
        lines.append(f'printf("struct {name} size %zu align %zu\\n", sizeof({name}), _Alignof({name}));')
        for kind, field in fields:
            lines.append(
                f'printf("struct {name} %zu %zu {squeeze(kind + field)}\\n", offsetof({name}, {field}), SIZE({name}, {field}));'
            )
    lines.append("return 0; }")
    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder, "layout.c"), pathlib.Path(folder, "layout")
        source.write_text("\n".join(lines))
        subprocess.run([CC, "-std=c11", "-Wall", "-Werror", source, "-o", program], check=True)
        return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def abi(header, library):
    enums, structs, prototypes = declarations(without_comments(header))
    assert len(enums) >= 6 and len(structs) >= 5 and len(prototypes) >= 7, "the header was not understood"
    exported = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    names = sorted(line.split()[-1] for line in exported.splitlines())
    functions = [f"function {prototypes.get(name, name)}" for name in names]
    return functions + measured(header, enums, structs)


def main():
    arguments = sys.argv[1:]
    if len(arguments) not in (2, 3) or arguments[2:] not in ([], ["--record"]):
        sys.exit(__doc__)
    header, library = (pathlib.Path(argument).resolve() for argument in arguments[:2])
    found = abi(header, library)
    if arguments[2:]:
        RECORD.write_text(HEAD + "\n".join(found) + "\n")
        return
    recorded = [line for line in RECORD.read_text().splitlines() if line and not line.startswith("#")]
    if found == recorded:
        print(f"  ABI: {len(found)} functions, values, sizes and offsets as recorded")
        return
    print("\n".join(difflib.unified_diff(recorded, found, str(RECORD.name), "header and library", n=0, lineterm="")))
    broken = set(recorded) - set(found)
    # The size of a struct that starts with its own size may grow.
    grown = {line for line in broken if re.match(r"struct focal_loss_(options|inputs) size", line)}
    if broken - grown:
        sys.exit("abi.py: the ABI is broken: what was built against the record does not run, or compile, with this (docs/abi.md)")
    sys.exit("abi.py: the ABI has grown: look at docs/abi.md, then `make abi` and commit docs/abi.txt")


if __name__ == "__main__":
    main()
