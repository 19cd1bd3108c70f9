#!/bin/sh
# The library exports the functions that the header declares, and RegisterCustomOps: no more, no less.
# usage: symbols.sh HEADER LIBRARY
set -eu
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
{
    # Without comments; a function is a name before a bracket.
    ${CC:-gcc} -fpreprocessed -dD -E -P -x c "$1" | tr '\n' ' ' | grep -oE 'focal_loss_[a-z0-9_]+ *\(' | tr -d ' ('
    echo RegisterCustomOps
} | sort -u >"$work/declared"
nm -D --defined-only "$2" | awk '{ print $NF }' | sort -u >"$work/exported"
if ! diff "$work/declared" "$work/exported" >"$work/difference"; then
    echo "declared (<) and exported (>) differ:" >&2
    cat "$work/difference" >&2
    exit 1
fi
