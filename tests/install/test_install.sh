#!/usr/bin/env bash
# Installs into prefixes under target/, and builds a project that knows nothing of this checkout against what is there:
# through pkg-config and through CMake, in C and C++, shared and static, where it was installed and where it was moved to.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$root/target/install-test
outside=$root/tests/install/outside
flags="-Wall -Wextra -pedantic -Werror"

missing=
for tool in cmake pkg-config readelf; do command -v $tool >/dev/null || missing="$missing $tool"; done
if [ -n "$missing" ]; then
    echo "test-install: NOT RUN: not found:$missing (Debian: apt-get install cmake pkg-config binutils)" >&2
    exit 1
fi
fail() {
    echo "test-install: $*" >&2
    exit 1
}

rm -rf "$work"
mkdir -p "$work/moved"

# install PREFIX LIBDIR: into PREFIX by way of DESTDIR, as packages are made; nothing else may be written.
install() {
    make --no-print-directory -s -C "$root" install PREFIX="$1" LIBDIR="$2" DESTDIR="$work/stage" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; fail "make install failed"; }
    test ! -e "$1" || fail "$1 was written to in spite of DESTDIR"
    mkdir -p "$(dirname "$1")"
    mv "$work/stage$1" "$1"
    rm -r "$work/stage"
}

# check_files PREFIX LIBDIR: all that there should be, and no more; each is what it should be.
check_files() {
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1)
    library=$2/libfocal_loss.so
    sort >"$work/expected" <<END
include/focal_loss.h
include/focal_loss.hpp
$2/libfocal_loss.a
$library
$library.0
$library.$version
$2/pkgconfig/focal_loss.pc
share/cmake/focal_loss/focal_loss-config-version.cmake
share/cmake/focal_loss/focal_loss-config.cmake
END
    (cd "$1" && find . ! -type d | sed 's,^\./,,' | sort) | diff "$work/expected" - || fail "expected (<) and installed (>) differ"
    cmp "$root/include/focal_loss.h" "$1/include/focal_loss.h"
    cmp "$root/include/focal_loss.hpp" "$1/include/focal_loss.hpp"
    test "$(readlink "$1/$library")" = "libfocal_loss.so.$version" || fail "$library links elsewhere"
    test "$(readlink "$1/$library.0")" = "libfocal_loss.so.$version" || fail "$library.0 links elsewhere"
    readelf -d "$1/$library" | grep -q 'soname: \[libfocal_loss.so.0\]' || fail "the soname is another"
    "$root/tests/c/symbols.sh" "$1/include/focal_loss.h" "$1/$library"
    test "$(PKG_CONFIG_PATH=$1/$2/pkgconfig pkg-config --modversion focal_loss)" = "$version" || fail "focal_loss.pc has another version"
}

# runs PROGRAM LIBDIR shared|static: it runs, and loads the library from LIBDIR, or none.
runs() {
    readelf -d "$1" | grep -q 'NEEDED.*\[libfocal_loss.so.0\]' && needs=shared || needs=static
    test "$needs" = "$3" || fail "$1 is $needs, not $3"
    if [ "$3" = shared ]; then
        LD_LIBRARY_PATH=$2 ldd "$1" | grep -q "libfocal_loss.so.0 => $2/" || fail "$1 loads another library"
    fi
    said=$(LD_LIBRARY_PATH=$2 "$1") || fail "$1 failed: $said"
    echo "  $(basename "$(dirname "$1")")/$(basename "$1"): $said"
}

# by_pkg_config PREFIX LIBDIR FOLDER: with the compiler alone.
by_pkg_config() {
    mkdir -p "$3"
    export PKG_CONFIG_PATH=$1/$2/pkgconfig
    # Ask for where the file is, not for where it was installed: that serves both.
    pc="pkg-config --define-prefix"
    [ "$2" = lib ] || pc=pkg-config
    ${CC:-gcc} -std=c99 $flags "$outside/program.c" $($pc --cflags --libs focal_loss) -lm -o "$3/shared_c"
    ${CXX:-g++} -std=c++17 $flags "$outside"/*.cpp $($pc --cflags --libs focal_loss) -o "$3/shared_cpp"
    archive=$($pc --static --libs focal_loss | sed 's/-lfocal_loss/-l:libfocal_loss.a/')
    ${CC:-gcc} -std=c99 $flags "$outside/program.c" $($pc --cflags focal_loss) $archive -o "$3/static_c"
    ${CXX:-g++} -std=c++17 $flags "$outside"/*.cpp $($pc --cflags focal_loss) $archive -o "$3/static_cpp"
    unset PKG_CONFIG_PATH
    run_all "$1/$2" "$3"
}

by_cmake() {
    cmake -S "$outside" -B "$3" -DCMAKE_PREFIX_PATH="$1" -DNEEDED=0.1 -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" >"$work/log" 2>&1 &&
        cmake --build "$3" >>"$work/log" 2>&1 || { cat "$work/log" >&2; fail "CMake failed"; }
    run_all "$1/$2" "$3"
}

run_all() {
    for kind in shared static; do
        runs "$2/${kind}_c" "$1" $kind
        runs "$2/${kind}_cpp" "$1" $kind
    done
}

# cmake_refuses PREFIX VERSION: find_package does not take what is installed for VERSION, and says why.
cmake_refuses() {
    rm -rf "$work/refused"
    if cmake -S "$outside" -B "$work/refused" -DCMAKE_PREFIX_PATH="$1" -DNEEDED="$2" >"$work/log" 2>&1; then
        fail "CMake took what is in $1 for version $2"
    fi
    grep -q "$3" "$work/log" || { cat "$work/log" >&2; fail "CMake gave another reason"; }
}

echo "PREFIX/lib"
install "$work/prefix" "$work/prefix/lib"
check_files "$work/prefix" lib
by_pkg_config "$work/prefix" lib "$work/pkg-config"
by_cmake "$work/prefix" lib "$work/cmake"
cmake_refuses "$work/prefix" 0.2 'version: 0.1'
cmake_refuses "$work/prefix" 1.0 'version: 0.1'

echo "the same, moved"
mv "$work/prefix" "$work/moved/here"
by_pkg_config "$work/moved/here" lib "$work/pkg-config-moved"
by_cmake "$work/moved/here" lib "$work/cmake-moved"
rm "$work/moved/here/lib/libfocal_loss.so"
cmake_refuses "$work/moved/here" 0.1 'there is no libfocal_loss.so in'

triplet=$(${CC:-gcc} -dumpmachine)
echo "PREFIX/lib/$triplet"
install "$work/multiarch" "$work/multiarch/lib/$triplet"
check_files "$work/multiarch" "lib/$triplet"
by_pkg_config "$work/multiarch" "lib/$triplet" "$work/pkg-config-multiarch"
# What lib/ARCHITECTURE is, CMake knows where the system has such folders.
if cmake --system-information 2>/dev/null | grep -q "^CMAKE_LIBRARY_ARCHITECTURE \"$triplet\""; then
    by_cmake "$work/multiarch" "lib/$triplet" "$work/cmake-multiarch"
else
    echo "  CMake knows no lib/$triplet on this system: not tried"
fi
echo "test-install: everything passed"
