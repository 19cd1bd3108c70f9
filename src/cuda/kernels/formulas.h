// The loss of one logit (sigmoid) and of one row (softmax): `src/math/sigmoid.rs` and `softmax.rs` once more, and a
// quicker form of the former for hard labels.
#pragma once
#include "elementary.h"

// The exponent, split so that its products are exact.
template <class R> struct Gamma {
    Pair<R> power, power_plus_one;
    R negative_base; // what a negative base contributes besides its magnitude's power: 1, -1 or NaN

    explicit FOCAL_LOSS_DEVICE Gamma(double gamma) {
        gamma = gamma < 1e30 ? gamma : 1e30;
        power = pair(gamma, 0);
        const Pair<double> next = two_sum(gamma, 1.0);
        power_plus_one = pair(next.high, next.low);
        const double half = gamma * 0.5, remainder = half - floor(half);
        negative_base = remainder == 0 ? (R)1 : remainder == 0.5 ? (R)-1 : not_a_number<R>();
    }

    static FOCAL_LOSS_DEVICE Pair<R> pair(double value, double error) {
        const R high = (R)value;
        return {high, (R)((value - (double)high) + error)};
    }
};

// What belongs to a loss and what to its gradient: values, or what they are multiplied by.
template <class R> struct Both {
    R loss, grad;
};

// `e = exp(-|x|)`, `log1p(e)`, `1/(1+e)`.
template <class R> struct Shared {
    R distance;
    Pair<R> e, log1p_e;
    R s;

    explicit FOCAL_LOSS_DEVICE Shared(R x) {
        distance = magnitude(x);
        const Exp<R> power = exp_pair(Pair<R>{-distance, 0});
        e = {power.unscaled(power.value), power.unscaled(power.value_low)};
        log1p_e = log1p_unit(e);
        s = (R)1 / ((R)1 + e.high);
    }
};

// An infinite cross entropy times zero is the limit, zero.
template <class R> FOCAL_LOSS_DEVICE R capped(R x) { return x > Real<R>::MAX ? Real<R>::MAX : x; }

// Loss and dL/dz at the oriented logit z (large means wrong), times the label's coefficients.
template <class R> FOCAL_LOSS_DEVICE Both<R> hard_exact(const Shared<R> &shared, R z, Both<R> c, const Gamma<R> &gamma) {
    const bool wrong_side = z > (R)0, far = z < (R)-40;
    const R lowest = Real<R>::EXP_LOWEST - (R)1;
    const R right = wrong_side ? (R)0 : z < lowest ? lowest : z;
    const Pair<R> sum = two_sum(right, -shared.log1p_e.high);
    const Pair<R> log_m = {sum.high, sum.low - shared.log1p_e.low};
    const Pair<R> exponent = far ? gamma.power_plus_one : gamma.power;
    const Exp<R> power = exp_pair(scale_pair(exponent, log_m));

    const R ce = (wrong_side ? z : (R)0) + shared.log1p_e.high;
    const R es = shared.e.high * shared.s;
    const R m = wrong_side ? shared.s : es, right_probability = wrong_side ? es : shared.s;
    const R slope = fused(gamma.power.high * right_probability, capped(ce), m);
    return {power.times(c.loss, far ? (R)1 : c.loss == (R)0 ? capped(ce) : ce),
            power.times(c.grad, far ? (R)1 + gamma.power.high : slope)};
}

// Loss and dL/dx for any label t; `ones` and `zeros` are the coefficients at t = 1 and t = 0.
template <class R>
FOCAL_LOSS_DEVICE Both<R> exact(R x, R t, Both<R> ones, Both<R> zeros, const Gamma<R> &gamma) {
    const Shared<R> shared(x);
    if (t == (R)0) return hard_exact(shared, x, zeros, gamma);
    if (t == (R)1) {
        const Both<R> own = hard_exact(shared, -x, ones, gamma);
        return {own.loss, -own.grad};
    }
    const bool right_side = x >= (R)0;
    const Pair<R> complement = two_sum((R)1, -t), label = {t, 0};
    const Pair<R> v = right_side ? complement : label, u = right_side ? label : complement;

    // w = v + e*u as a pair.
    const Pair<R> e = shared.e;
    const R product = e.high * u.high;
    const R product_low = fused(e.high, u.low, fused(e.low, u.high, fused(e.high, u.high, -product)));
    const Pair<R> sum = two_sum(v.high, product);
    const R w = sum.high, w_low = sum.low + (product_low + v.low);
    // Labels outside [0, 1] can make w negative: |w|^gamma then carries the sign of the power.
    const bool negative = w < (R)0;
    const Pair<R> log_w = log_pair(Pair<R>{magnitude(w), negative ? -w_low : w_low});
    const Pair<R> log_m = two_sum(log_w.high, -shared.log1p_e.high);
    const Exp<R> power =
        exp_pair(scale_pair(gamma.power, Pair<R>{log_m.high, log_m.low + (log_w.low - shared.log1p_e.low)}));

    const R ce = fused(shared.distance, v.high, shared.log1p_e.high);
    // p - t cancels where the label is met, so e*s = e/(1+e) is carried as a pair as well.
    const R s = shared.s;
    const R residual = fused(-s, e.high, (R)1 - s) - s * e.low;
    const R es = e.high * s;
    const R es_low = fused(e.high, s, -es) + fused(e.low, s, es * residual);
    const Pair<R> difference = two_sum(v.high, -es);
    const R error = difference.high + (difference.low + (v.low - es_low));
    const R lean = (-t - t) + (R)1;
    const R pull = (gamma.power.high * (right_side ? lean : -lean)) * (es / w);
    const R slope = fused(pull, capped(ce), error);

    const R sign = negative ? gamma.negative_base : (R)1;
    const Both<R> c = {fused(ones.loss, t, zeros.loss * complement.high) * sign,
                       fused(ones.grad, t, zeros.grad * complement.high) * sign};
    // At an infinite logit the power has a positive limit, even where it has vanished in this arithmetic.
    const bool infinite = ce > Real<R>::MAX && c.loss != (R)0;
    const R grad = power.times(c.grad, slope);
    return {infinite ? c.loss * ce : power.times(c.loss, capped(ce)), right_side ? grad : -grad};
}

// The quick form, for hard labels and `|x| <= limit`, in f32. With `R(e) = log1p(e)/e`, `s = 1/(1+e)` and
// `P = exp((gamma+1) * min(z,0) - gamma * log1p(e))`:
//
//     z <= 0:  L = P * R             dL/dz = P * (s + gamma * s * R)
//     z > 0:   L = P * (z + e*R)     dL/dz = P * (s + gamma * e*s * (z + e*R))
//
// The exponent's integer part goes straight into the result's, so that 2^f is taken of a small number. Errors, with
// 2 ULP for 2^f and 1 for the reciprocal, the most that their documentation allows: loss 9 and gradient 12 ULP for
// gamma up to 2, 16 and 16 up to 5 (tests/cuda/test_kernels.py measures it with just such errors put in).
//
// SHORT is for f16 and bf16: within 2^-18, which is 2^7 to 2^10 times finer than they are.
template <bool SHORT> struct Quick {
    float high, low;  // (gamma + 1) / ln 2
    float minus_gamma; // -gamma / ln 2
    float gamma;
    float limit;

    explicit FOCAL_LOSS_DEVICE Quick(double exponent) {
        const double log2_e = 1.4426950408889634074;
        const double power = (exponent + 1) * log2_e;
        high = (float)power;
        low = (float)(power - (double)high);
        minus_gamma = (float)(-exponent * log2_e);
        gamma = (float)exponent;
        // P is a normal number within the limit. A large gamma has none: its fractions are not small.
        limit = exponent <= 8 ? (float)(110 / power) : -1.0f;
    }

    template <bool GRAD> FOCAL_LOSS_DEVICE Both<float> at(float z) const {
        const float e = exp2_approximate(magnitude(z) * -Real<float>::LOG2_E);
        const float ratio = fused(SHORT ? polynomial(e, FOCAL_LOSS_RATIO_HALF) : polynomial(e, FOCAL_LOSS_RATIO_F32), e, 1.0f);
        const float log1p_e = e * ratio, right = fminf(z, 0.0f);
        float power;
        if (SHORT) {
            power = exp2_approximate(fused(right, high, log1p_e * minus_gamma));
        } else {
            const float shifted = fused(right, high, Real<float>::ROUNDER), k = shifted - Real<float>::ROUNDER;
            const float fraction = fused(log1p_e, minus_gamma, fused(right, low, fused(right, high, -k)));
            power = from_bits(to_bits(exp2_approximate(fraction)) + (to_bits(shifted) << Real<float>::MANTISSA));
        }
        const bool wrong_side = z > 0.0f;
        const float ce = wrong_side ? z + log1p_e : ratio;
        float slope = 0;
        if (GRAD) {
            const float s = reciprocal_approximate(1.0f + e);
            slope = fused(gamma * (wrong_side ? e * s : s), ce, s);
        }
        return {power * ce, power * slope};
    }
};

// Softmax. A sum of doubles with its error.
struct Sum {
    double high, low;

    FOCAL_LOSS_DEVICE void add(double value) {
        const Pair<double> sum = two_sum(high, value);
        high = sum.high;
        low += sum.low;
    }
};

// The contribution of one class: `loss`, `slope = q_j`, `others = 1 - p_j`, `own = p_j`.
struct Term {
    double loss, slope, others, own;
};

// What all classes of a row share; `rest` is the sum of the exponentials of all logits but one largest.
struct Row {
    Sum rest;
    double sum;
    Pair<double> log_sum;

    FOCAL_LOSS_DEVICE Row() {}
    explicit FOCAL_LOSS_DEVICE Row(Sum rest) : rest(rest) {
        const Pair<double> one_more = two_sum(1.0, rest.high);
        const Pair<double> total = {one_more.high, one_more.low + rest.low};
        sum = total.high + total.low;
        log_sum = log_pair(total);
    }

    // `d` is the logit's distance to the largest, `c` the class's coefficient.
    // Not inlined: it is long, and needed only once per row where targets are class indices.
    static __device__ __noinline__ Term term(Row row, Pair<double> d, bool largest, double c, Pair<double> gamma) {
        const Sum rest = row.rest;
        const Pair<double> log_sum = row.log_sum;
        const double sum = row.sum;
        if (largest) d = {0, 0};
        const Exp<double> power = exp_pair(d);
        const double e = power.unscaled(power.value);
        const double d_low = d.high < Real<double>::EXP_LOWEST ? 0.0 : d.low;
        const double ce = (log_sum.high - d.high) + (log_sum.low - d_low);

        const Pair<double> left = two_sum(1.0, rest.high - e);
        const Pair<double> others = largest ? Pair<double>{rest.high, rest.low} : Pair<double>{left.high, left.low + rest.low};
        const bool none = others.high == 0.0;
        const Pair<double> log_others = log_pair(Pair<double>{none ? 1.0 : others.high, others.low});
        const Pair<double> log_o = two_sum(log_others.high, -log_sum.high);
        const Exp<double> focus =
            exp_pair(scale_pair(gamma, Pair<double>{log_o.high, log_o.low + (log_others.low - log_sum.low)}));
        if (none && gamma.high > 0.0) c = 0.0 * c;

        const double o = (others.high + others.low) / sum;
        const double finite_ce = capped(ce);
        const double h = none ? 1.0 : finite_ce / o;
        const double p = e / sum;
        const double bend = fused(gamma.high * p, h, 1.0);
        return {focus.times(c, c == 0.0 ? finite_ce : ce), focus.times(c, bend), o, p};
    }
};
