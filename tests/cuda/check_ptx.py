"""Assembles the PTX as drivers do, and looks at what comes out.

The oldest and the newest ptxas assemble it for every architecture they know, those between for one each. Then: nothing
spills, registers leave room for the blocks that the kernels count on, memory moves 16 bytes at a time where it should,
and the quick formula is as short as it was made to be.
"""

import collections
import concurrent.futures
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PTX = ROOT / "src/cuda/kernels/focal_loss.ptx"
TOOLS, BUILD = ROOT / "target/ptxas", ROOT / "target/cuda-sass"
ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]
ALL_OF = ["11.8.89", "13.5.37"]
ONE_OF = {"12.0.76": "sm_90", "12.9.86": "sm_120", "13.0.88": "sm_100"}
#: Kernels per type: count, strided, warp, thread, finish, and three times three.
KERNELS = 4 * (5 + 9)

failures = []


def expect(condition, *what):
    if not condition:
        failures.append(" ".join(map(str, what)))


def tool(name, version):
    (found,) = TOOLS.glob(f"*=={version}/**/bin/{name}")
    return found


def known(version):
    text = subprocess.run([tool("ptxas", version), "--help"], capture_output=True, text=True, check=True).stdout
    return [arch for arch in ARCHITECTURES if f"'{arch}'" in text]


def assemble(version, arch):
    """What ptxas says of each kernel: registers, stack and spills. Kept until the PTX changes."""
    cubin = BUILD / f"{version}-{arch}.cubin"
    said = cubin.with_suffix(".txt")
    if not said.exists() or said.stat().st_mtime < PTX.stat().st_mtime:
        command = [tool("ptxas", version), "-v", f"-arch={arch}", PTX, "-o", cubin]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return done.stdout + done.stderr
        said.write_text(done.stderr)
    numbers = r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers"
    return {name: tuple(map(int, rest)) for name, *rest in re.findall(numbers, said.read_text(), re.S)}


def registers_allowed(kernel):
    # 65536 registers hold 4 blocks of 256 threads, or as many as the kernel was declared with.
    if "_f64" in kernel:
        return 255
    return 64 if "sigmoid_rows" in kernel or "count" in kernel else 128 if "sigmoid" in kernel else 255


def check_numbers(version, arch):
    kernels = assemble(version, arch)
    where = f"ptxas {version} {arch}"
    if isinstance(kernels, str):
        return expect(False, where, kernels)
    expect(len(kernels) == KERNELS, where, "has", len(kernels), "kernels")
    for name, (stack, spills, registers) in kernels.items():
        expect(spills == 0, where, name, "spills", spills, "bytes")
        expect(stack == 0, where, name, "has a stack of", stack, "bytes")
        expect(registers <= registers_allowed(name), where, name, "takes", registers, "registers")
    most = max(registers for name, (_, _, registers) in kernels.items() if "rows_f32" in name)
    print(f"{where}: {len(kernels)} kernels; f32 rows take at most {most} registers", flush=True)


def check_code(version, arch):
    """Of the kernels that a detector's loss comes down to."""
    cubin = BUILD / f"{version}-{arch}.cubin"
    sass = subprocess.run([tool("nvdisasm", "13.5.37"), "-c", cubin], capture_output=True, text=True, check=True).stdout
    functions = dict(re.findall(r"\.text\.(focal_loss_\w+):\n(.*?)(?=\n\s*//-+|\Z)", sass, re.S))
    for dtype, group, vectors in [("f32", 8, 2), ("f16", 8, 1), ("bf16", 8, 1)]:
        for out in ("loss", "grad", "both"):
            name = f"focal_loss_sigmoid_rows_{dtype}_{out}"
            count = collections.Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([\w.]+)", functions[name]))
            total = lambda start: sum(n for opcode, n in count.items() if opcode.startswith(start))
            where = f"ptxas {version} {arch} {name}:"
            # Before the loop and within it.
            loads = sum(n for opcode, n in count.items() if opcode.startswith("LDG") and ".128" in opcode)
            expect(loads == 2 * vectors, where, loads, "loads of 16 bytes")
            # Losses where they are not added up, gradients.
            stores = sum(n for opcode, n in count.items() if opcode.startswith("STG") and ".128" in opcode)
            expect(stores == vectors * (2 if out == "both" else 1), where, stores, "stores of 16 bytes")
            # Two for each element, and two for the positive.
            expect(count["MUFU.EX2"] == 2 * group + 2, where, count["MUFU.EX2"], "MUFU.EX2")
            expect(total("CALL") <= 12, where, total("CALL"), "calls")
            length = sum(count.values())
            expect(length <= 1700, where, length, "instructions")
        # The way from the first to the last power of the group, instruction by instruction.
        body = functions[f"focal_loss_sigmoid_rows_{dtype}_loss"].splitlines()
        powers = [i for i, line in enumerate(body) if "MUFU.EX2" in line]
        groups = [powers[i : i + 2 * group] for i in range(len(powers) - 2 * group + 1)]
        span = min(g[-1] - g[0] for g in groups) / group
        expect(span <= 25, f"ptxas {version} {arch} {dtype}:", span, "instructions for an element")
        print(f"ptxas {version} {arch} {dtype}: {span:.1f} instructions for an element's loss", flush=True)


def main():
    BUILD.mkdir(parents=True, exist_ok=True)
    jobs = [(version, arch) for version in ALL_OF for arch in known(version)] + list(ONE_OF.items())
    for arch in ARCHITECTURES:
        expect(("13.5.37", arch) in jobs, "the newest ptxas does not know", arch)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: assemble(*job), jobs))
    for job in jobs:
        check_numbers(*job)
    for job in [("11.8.89", "sm_75"), ("11.8.89", "sm_90"), ("13.5.37", "sm_90")]:
        check_code(*job)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
