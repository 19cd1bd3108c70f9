// Element types in memory, 16 bytes at a time; where a row's operands are; what class indices mean.
#pragma once
#include "elementary.h"
#include "problem.h"

struct F16 {
    unsigned short bits;
};
struct BF16 {
    unsigned short bits;
};

// How an element type is loaded into the type that arithmetic is done in (never rounds) and stored (rounds once).
// `word` is 32 bits of 16 bytes in memory.
template <class S> struct Storage;

template <> struct Storage<float> {
    typedef float Arithmetic;
    static constexpr int LANES = 4;
    static constexpr bool SHORT = false;
    static FOCAL_LOSS_DEVICE float load(float x) { return x; }
    static FOCAL_LOSS_DEVICE float store(float x) { return x; }
    static FOCAL_LOSS_DEVICE void unpack(const unsigned *word, float *x) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[i] = from_bits(word[i]);
    }
    static FOCAL_LOSS_DEVICE void pack(const float *x, unsigned *word) {
#pragma unroll
        for (int i = 0; i < 4; ++i) word[i] = to_bits(x[i]);
    }
};

template <> struct Storage<double> {
    typedef double Arithmetic;
    static constexpr int LANES = 2;
    static constexpr bool SHORT = false;
    static FOCAL_LOSS_DEVICE double load(double x) { return x; }
    static FOCAL_LOSS_DEVICE double store(double x) { return x; }
    static FOCAL_LOSS_DEVICE void unpack(const unsigned *word, double *x) {
#pragma unroll
        for (int i = 0; i < 2; ++i) x[i] = from_bits((u64)word[2 * i + 1] << 32 | word[2 * i]);
    }
    static FOCAL_LOSS_DEVICE void pack(const double *x, unsigned *word) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            word[2 * i] = (unsigned)to_bits(x[i]);
            word[2 * i + 1] = (unsigned)(to_bits(x[i]) >> 32);
        }
    }
};

// Of 16 bits, computed in f32.
template <class S> struct Narrow {
    typedef float Arithmetic;
    static constexpr int LANES = 8;
    static constexpr bool SHORT = true;
    static FOCAL_LOSS_DEVICE void unpack(const unsigned *word, float *x) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            x[2 * i] = Storage<S>::load(S{(unsigned short)word[i]});
            x[2 * i + 1] = Storage<S>::load(S{(unsigned short)(word[i] >> 16)});
        }
    }
    static FOCAL_LOSS_DEVICE void pack(const float *x, unsigned *word) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            word[i] = Storage<S>::store(x[2 * i]).bits | (unsigned)Storage<S>::store(x[2 * i + 1]).bits << 16;
    }
};

template <> struct Storage<F16> : Narrow<F16> {
    static FOCAL_LOSS_DEVICE float load(F16 x) { return half_to_float(x.bits); }
    static FOCAL_LOSS_DEVICE F16 store(float x) { return {float_to_half(x)}; }
};

template <> struct Storage<BF16> : Narrow<BF16> {
    static FOCAL_LOSS_DEVICE float load(BF16 x) { return from_bits((unsigned)x.bits << 16); }
    static FOCAL_LOSS_DEVICE BF16 store(float x) {
        const unsigned bits = to_bits(x);
        const unsigned rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        return {(unsigned short)(x != x ? 0x7fc0 : rounded)};
    }
};

template <class S> FOCAL_LOSS_DEVICE typename Storage<S>::Arithmetic load(u64 address, i64 offset) {
    return Storage<S>::load(((const S *)address)[offset]);
}

template <class S> FOCAL_LOSS_DEVICE void store(u64 address, i64 offset, typename Storage<S>::Arithmetic value) {
    ((S *)address)[offset] = Storage<S>::store(value);
}

// Never through the read-only cache: the gradient may overwrite the logits.
FOCAL_LOSS_DEVICE uint4 load_16_bytes(u64 address, i64 index) { return ((const uint4 *)address)[index]; }

template <class S> FOCAL_LOSS_DEVICE void unpack(uint4 raw, typename Storage<S>::Arithmetic *x) {
    const unsigned word[4] = {raw.x, raw.y, raw.z, raw.w};
    Storage<S>::unpack(word, x);
}

template <class S>
FOCAL_LOSS_DEVICE void store_16_bytes(u64 address, i64 index, const typename Storage<S>::Arithmetic *x) {
    unsigned word[4];
    Storage<S>::pack(x, word);
    ((uint4 *)address)[index] = uint4{word[0], word[1], word[2], word[3]};
}

// The first `count` of V elements from `first` on, V of them and aligned wherever they are all there.
template <class S, int V>
FOCAL_LOSS_DEVICE void load_vector(u64 address, i64 first, int count, typename Storage<S>::Arithmetic (&x)[V]) {
    if (count == V) {
        unpack<S>(load_16_bytes(address, first / V), x);
    } else {
#pragma unroll
        for (int j = 0; j < V; ++j) x[j] = j < count ? load<S>(address, first + j) : 0;
    }
}

template <class S, int V>
FOCAL_LOSS_DEVICE void store_vector(u64 address, i64 first, int count, const typename Storage<S>::Arithmetic (&x)[V]) {
    if (count == V) {
        store_16_bytes<S>(address, first / V, x);
    } else {
#pragma unroll
        for (int j = 0; j < V; ++j)
            if (j < count) store<S>(address, first + j, x[j]);
    }
}

// Where a row begins in every operand, in elements.
struct RowOffsets {
    i64 logits, targets, weight, grad_loss, loss, grad_logits;

    // Where there is at most one axis of rows.
    static FOCAL_LOSS_DEVICE RowOffsets flat(const focal_loss_problem &p, i64 row) {
        if (p.row_rank == 0) return {};
        return {row * p.logits.row_strides[0],    row * p.targets.row_strides[0], row * p.weight.row_strides[0],
                row * p.grad_loss.row_strides[0], row * p.loss.row_strides[0],    row * p.grad_logits.row_strides[0]};
    }

    static FOCAL_LOSS_DEVICE RowOffsets of(const focal_loss_problem &p, i64 row) {
        RowOffsets at = {};
        for (int axis = p.row_rank - 1; axis >= 0; --axis) {
            i64 index = row;
            if (axis > 0) {
                const i64 size = p.row_shape[axis];
                // Division of 64 bits takes several times as long.
                const i64 rest = (u64)(row | size) >> 32 ? row / size : (i64)((unsigned)row / (unsigned)size);
                index = row - rest * size;
                row = rest;
            }
            at.logits += index * p.logits.row_strides[axis];
            at.targets += index * p.targets.row_strides[axis];
            at.weight += index * p.weight.row_strides[axis];
            at.grad_loss += index * p.grad_loss.row_strides[axis];
            at.loss += index * p.loss.row_strides[axis];
            at.grad_logits += index * p.grad_logits.row_strides[axis];
        }
        return at;
    }
};

// A class, or:
enum : i64 { BACKGROUND = -1, IGNORED = -2, INVALID = -3 };

FOCAL_LOSS_DEVICE i64 class_index(const focal_loss_problem &p, i64 offset) {
    return p.index_bytes == 4 ? ((const int *)p.targets.address)[offset] : ((const i64 *)p.targets.address)[offset];
}

FOCAL_LOSS_DEVICE i64 label(const focal_loss_problem &p, i64 index) {
    if (p.has_ignore && index == p.ignore_index) return IGNORED;
    if (p.has_background && index == p.background_index) return BACKGROUND;
    return (u64)index < (u64)p.classes ? index : INVALID;
}

// A place in an index space of two levels that is walked in equal strides: no division after the first.
template <class I> struct Cursor {
    i64 outer, outer_step;
    I inner, inner_step, size;

    FOCAL_LOSS_DEVICE Cursor(i64 start, i64 step, I size)
        : outer(start / size), outer_step(step / size), inner((I)(start - outer * size)),
          inner_step((I)(step - outer_step * size)), size(size) {}

    FOCAL_LOSS_DEVICE void advance() {
        outer += outer_step;
        // Both are below `size`, which is at most 2^31 for I = unsigned.
        inner += inner_step;
        if (inner >= size) {
            inner -= size;
            ++outer;
        }
    }
};
