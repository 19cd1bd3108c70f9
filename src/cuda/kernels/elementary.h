// `src/math/elementary.rs` and `real.rs` once more, operation for operation: exp and log on unevaluated sums
// `high + low`. See there for why. Compiled without contraction (`--fmad=false`), so that what is written is what is
// computed: error-free transforms need it, and the CPU's bits come out.
#pragma once
#include "coefficients.h"

typedef long long i64;
typedef unsigned long long u64;

#define FOCAL_LOSS_DEVICE __device__ __forceinline__

// What differs between a GPU and a host that plays one (tests/cuda/shim.h) is in this block.
#ifdef __CUDA_ARCH__
// 2^x within 2 ULP; results below 2^-126 are 0.
FOCAL_LOSS_DEVICE float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1/x within 1 ULP, for normal x and 1/x.
FOCAL_LOSS_DEVICE float reciprocal_approximate(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
FOCAL_LOSS_DEVICE float half_to_float(unsigned short bits) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
    return y;
}
FOCAL_LOSS_DEVICE unsigned short float_to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#endif

template <class R> struct Pair {
    R high, low;
};

FOCAL_LOSS_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
FOCAL_LOSS_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }
FOCAL_LOSS_DEVICE float magnitude(float x) { return fabsf(x); }
FOCAL_LOSS_DEVICE double magnitude(double x) { return fabs(x); }

FOCAL_LOSS_DEVICE unsigned to_bits(float x) { return __float_as_uint(x); }
FOCAL_LOSS_DEVICE u64 to_bits(double x) { return (u64)__double_as_longlong(x); }
FOCAL_LOSS_DEVICE float from_bits(unsigned bits) { return __uint_as_float(bits); }
FOCAL_LOSS_DEVICE double from_bits(u64 bits) { return __longlong_as_double((i64)bits); }

// Coefficients are lowest power first.
template <class R> FOCAL_LOSS_DEVICE R polynomial(R, R last) { return last; }
template <class R, class... Rest> FOCAL_LOSS_DEVICE R polynomial(R x, R first, Rest... rest) {
    return fused(polynomial(x, rest...), x, first);
}

template <class R> struct Real;

template <> struct Real<float> {
    typedef unsigned Bits;
    typedef int Signed;
    static constexpr int MANTISSA = 23, BIAS = 127;
    static constexpr float MAX = 3.402823466e38f, TINY = 1.175494351e-38f, LIFT = 4294967296.0f, LIFT_LOG2 = 32;
    static constexpr float LOG2_E = 1.44269504088896341f, LN_2 = 0.693359375f, LN_2_LOW = -2.1219444e-4f;
    static constexpr float ROUNDER = 12582912.0f, EXP_LOWEST = -172;
    static FOCAL_LOSS_DEVICE float exp_tail(float r) { return polynomial(r, FOCAL_LOSS_EXP_F32); }
    static FOCAL_LOSS_DEVICE float log_tail(float f) { return polynomial(f, FOCAL_LOSS_LOG_F32); }
};

template <> struct Real<double> {
    typedef u64 Bits;
    typedef i64 Signed;
    static constexpr int MANTISSA = 52, BIAS = 1023;
    static constexpr double MAX = 1.7976931348623157e308, TINY = 2.2250738585072014e-308, LIFT = 1152921504606846976.0,
                            LIFT_LOG2 = 60;
    static constexpr double LOG2_E = 1.44269504088896341, LN_2 = 0.6931471805592082,
                            LN_2_LOW = 7.371002565167799e-13;
    static constexpr double ROUNDER = 6755399441055744.0, EXP_LOWEST = -1416;
    static FOCAL_LOSS_DEVICE double exp_tail(double r) { return polynomial(r, FOCAL_LOSS_EXP_F64); }
    static FOCAL_LOSS_DEVICE double log_tail(double f) { return polynomial(f, FOCAL_LOSS_LOG_F64); }
};

template <class R> FOCAL_LOSS_DEVICE R not_a_number() {
    const typename Real<R>::Bits quiet = (typename Real<R>::Bits)(2 * Real<R>::BIAS + 1) << Real<R>::MANTISSA;
    return from_bits(quiet | quiet >> 1);
}

// `a + b` exactly, as (rounded sum, rounding error).
template <class R> FOCAL_LOSS_DEVICE Pair<R> two_sum(R a, R b) {
    R sum = a + b, b_part = sum - a;
    return {sum, (a - (sum - b_part)) + (b - b_part)};
}

// The same where |a| >= |b| or a == 0.
template <class R> FOCAL_LOSS_DEVICE Pair<R> fast_two_sum(R a, R b) {
    R sum = a + b;
    return {sum, (a - sum) + b};
}

template <class R> FOCAL_LOSS_DEVICE Pair<R> scale_pair(Pair<R> factor, Pair<R> x) {
    R product = factor.high * x.high, error = fused(factor.high, x.high, -product);
    return {product, fused(factor.high, x.low, fused(factor.low, x.high, error))};
}

// `exp(...) = (value + value_low) * up * down`, with the powers of two still apart.
template <class R> struct Exp {
    R value, value_low, up, down;

    // `coefficient * factor * exp(...)`, with no overflow or underflow half way.
    FOCAL_LOSS_DEVICE R times(R coefficient, R factor) const { return (((coefficient * up) * value) * factor) * down; }
    FOCAL_LOSS_DEVICE R unscaled(R x) const { return (x * up) * down; }
};

// For `x.high <= 0` (or barely above) and `|x.low|` far below one. Zero below EXP_LOWEST, NaN for NaN.
template <class R> FOCAL_LOSS_DEVICE Exp<R> exp_pair(Pair<R> x) {
    typedef Real<R> Q;
    typedef typename Q::Bits Bits;
    const bool vanished = x.high < Q::EXP_LOWEST;
    const R clamped = vanished ? Q::EXP_LOWEST : x.high;
    const R shifted = fused(clamped, Q::LOG2_E, Q::ROUNDER), k = shifted - Q::ROUNDER;
    const R coarse = fused(k, -Q::LN_2, clamped);
    const Pair<R> r = fast_two_sum(coarse, fused(k, -Q::LN_2_LOW, x.low));
    const R tail = fused(r.high * r.high, Q::exp_tail(r.high), r.low);
    const Pair<R> value = fast_two_sum((R)1, r.high + tail);
    const typename Q::Signed n = (typename Q::Signed)(to_bits(shifted) - to_bits(Q::ROUNDER)), half = n >> 1;
    const R up = from_bits((Bits)((Bits)(half + Q::BIAS) << Q::MANTISSA));
    const R down = from_bits((Bits)((Bits)(n - half + Q::BIAS) << Q::MANTISSA));
    return {vanished ? (R)0 : value.high, vanished ? (R)0 : value.low, up, down};
}

// `log(1 + f + f_low) = base + (result)`, for -1/4 <= f <= 1/2 and base one of 0, n ln 2.
template <class R> FOCAL_LOSS_DEVICE Pair<R> log1p_reduced(R f, R f_low, R base, R base_low) {
    const R bend = fused(f, Real<R>::log_tail(f), (R)-0.5);
    const R rest = fused(f * f, bend, fused(f_low, -f, f_low));
    const Pair<R> sum = fast_two_sum(base, f);
    return fast_two_sum(sum.high, sum.low + (base_low + rest));
}

// `log(1 + e)` for 0 <= e <= 1, given as a pair.
template <class R> FOCAL_LOSS_DEVICE Pair<R> log1p_unit(Pair<R> e) {
    const bool upper = e.high > (R)0.5;
    const R f = upper ? fused(e.high, (R)0.5, (R)-0.5) : e.high; // exact
    const R f_low = upper ? e.low * (R)0.5 : e.low;
    return log1p_reduced(f, f_low, upper ? Real<R>::LN_2 : (R)0, upper ? Real<R>::LN_2_LOW : (R)0);
}

// `log(high + low)` for a positive finite `high`, subnormal ones included.
template <class R> FOCAL_LOSS_DEVICE Pair<R> log_pair(Pair<R> x) {
    typedef Real<R> Q;
    typedef typename Q::Bits Bits;
    const bool tiny = x.high < Q::TINY;
    const R lift = tiny ? Q::LIFT : (R)1;
    const Bits bits = to_bits(x.high * lift);
    const typename Q::Signed n = (typename Q::Signed)(bits - to_bits((R)0.75)) >> Q::MANTISSA;
    const R f = from_bits((Bits)(bits - ((Bits)n << Q::MANTISSA))) - (R)1;
    const R f_low = (x.low * lift) * from_bits((Bits)((Bits)(Q::BIAS - n) << Q::MANTISSA));
    const R k = (R)n - (tiny ? Q::LIFT_LOG2 : (R)0);
    const Pair<R> result = log1p_reduced(f, f_low, k * Q::LN_2, k * Q::LN_2_LOW);
    // The split reads bits, so NaN has to be put back by hand.
    return {x.high > (R)0 ? result.high : not_a_number<R>(), result.low};
}
