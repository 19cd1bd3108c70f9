#!/usr/bin/env bash
# The C ABI, and ONNX Runtime with concurrent runs, under every sanitizer that the machine has. What it lacks is said and
# left out; what finds something ends with an error.
# NIGHTLY: the toolchain for sanitizers and Miri. PYTHON: one with ONNX Runtime.
set -euo pipefail
cd "$(dirname "$0")/../.."
nightly=${NIGHTLY:-nightly}
python=${PYTHON:-target/venv/bin/python}
target=$(rustc -vV | sed -n 's/^host: //p')
work=$PWD/target/sanitize
mkdir -p "$work"
flags="-std=c99 -D_POSIX_C_SOURCE=200809L -O1 -g -Wall -Wextra -Werror -Iinclude -Itests/c -pthread"
missing=()

has() { command -v "$1" >/dev/null; }
say() { echo "== $*"; }
# program SOURCE FOLDER [FLAGS]: a test program against the library there.
program() {
    local out="$work/$1-$(basename "$(dirname "$2")")${3:+-sanitized}"
    gcc $flags ${3:-} "tests/sanitize/$1.c" -o "$out" -L"$2" -lfocal_loss -Wl,-rpath,"$2" -lm
    echo "$out"
}

if cargo "+$nightly" --version >/dev/null 2>&1; then
    say "AddressSanitizer, LeakSanitizer and UBSan: the C tests"
    RUSTFLAGS=-Zsanitizer=address cargo "+$nightly" build --release --target "$target" --target-dir "$work/address"
    library=$work/address/$target/release
    asan="-fsanitize=address,undefined -fno-sanitize-recover=all"
    # The flags belong to the C programs: they are new each time.
    rm -rf "$work/address/c"
    make --no-print-directory -C tests/c run LIBRARY_DIR="$library" BUILD="$work/address/c" \
        C_STANDARDS=c17 CXX_STANDARDS=c++20 SANITIZE="$asan"
    "$(program threads "$library" "$asan")"
    say "AddressSanitizer notices a tensor that is one element short"
    short=$(program beyond "$library" "$asan")
    if "$short" >"$work/beyond.log" 2>&1 || ! grep -q heap-buffer-overflow "$work/beyond.log"; then
        echo "it does not: the library is not instrumented" >&2
        exit 1
    fi
    say "AddressSanitizer: sessions of ONNX Runtime that run, fail, come and go at once"
    # Python and ONNX Runtime are not instrumented, and leak by themselves.
    (cd tests/python && LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)" \
        ASAN_OPTIONS=detect_leaks=0 FOCAL_LOSS_LIBRARY=$library/libfocal_loss.so \
        "$python" -m pytest -q -s test_ort_sessions.py -k "concurrent or disturb or come_and_go or many_threads")

    if [ -d "$(rustc "+$nightly" --print sysroot)/lib/rustlib/src/rust/library" ]; then
        say "ThreadSanitizer, the standard library included: calls of the C ABI on many threads"
        RUSTFLAGS="-Zsanitizer=thread --cfg fuzzing" cargo "+$nightly" test -Zbuild-std --target "$target" \
            --manifest-path fuzz/Cargo.toml --test seeded --target-dir "$work/thread"
    else
        missing+=("ThreadSanitizer (rust-src: rustup component add rust-src --toolchain $nightly)")
    fi
    if cargo "+$nightly" miri --version >/dev/null 2>&1; then
        say "Miri: calls of the C ABI from a seed, with memory of exactly the right size"
        export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance -Zmiri-tree-borrows -Zmiri-ignore-leaks"
        RUSTFLAGS="--cfg fuzzing" cargo "+$nightly" miri test --manifest-path fuzz/Cargo.toml --test seeded \
            --target-dir "$work/miri-fuzz"
    else
        missing+=("Miri (rustup component add miri --toolchain $nightly)")
    fi
else
    missing+=("AddressSanitizer, ThreadSanitizer, Miri (a nightly toolchain)")
fi

if has valgrind; then
    threads=$(program threads "$PWD/target/release")
    say "Valgrind's memcheck, with leaks"
    valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect \
        --errors-for-leak-kinds=definite,indirect "$threads"
    say "Valgrind's helgrind"
    valgrind -q --error-exitcode=9 --tool=helgrind "$threads"
else
    missing+=("Valgrind")
fi

for what in "${missing[@]+"${missing[@]}"}"; do echo "NOT RUN, not on this machine: $what"; done
echo "make sanitize: nothing was found"
