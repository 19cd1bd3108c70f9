//! `exp` and `log` on unevaluated sums `high + low`.
//!
//! Focal loss raises `m` to a power as `exp(gamma * log m)`. An absolute error `d` in the logarithm
//! becomes a relative error `gamma * d` in the result, so a logarithm that is merely rounded to the
//! type costs `gamma * |log m|` half-ULPs: thousands of them for a large logit. Carrying the rounding
//! error along as a second number removes that term.

use super::real::{Arithmetic, Real};

/// `a + b` exactly, as (rounded sum, rounding error). Knuth's TwoSum.
#[inline(always)]
pub fn two_sum<R: Real>(a: R, b: R) -> (R, R) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// The same where `|a| >= |b|` or `a == 0`. Dekker's FastTwoSum.
#[inline(always)]
pub fn fast_two_sum<A: Arithmetic>(a: A, b: A) -> (A, A) {
    let sum = a + b;
    (sum, (a - sum) + b)
}

/// `factor * (high + low)` as a pair; `factor` is a pair as well.
#[inline(always)]
pub fn scale_pair<A: Arithmetic>(factor: (A, A), (high, low): (A, A)) -> (A, A) {
    let product = factor.0 * high;
    let error = factor.0.mul_add(high, -product);
    (product, factor.0.mul_add(low, factor.1.mul_add(high, error)))
}

/// Horner's rule, lowest power first.
#[inline(always)]
pub fn polynomial<A: Arithmetic>(coefficients: &[A::Scalar], x: A) -> A {
    let (last, rest) = coefficients.split_last().expect("a polynomial has coefficients");
    let mut value = A::of(*last);
    for &coefficient in rest.iter().rev() {
        value = value.mul_add(x, A::of(coefficient));
    }
    value
}

/// `exp(high + low) = (p + p_low) * up * down`, with the powers of two still apart.
///
/// Keeping the scale apart lets a caller multiply by a weight first, so that nothing underflows on
/// the way to a result that is itself a normal number.
#[derive(Clone, Copy)]
pub struct Exp<A> {
    pub value: A,
    pub value_low: A,
    pub scale: (A, A),
}

impl<A: Arithmetic> Exp<A> {
    /// `coefficient * factor * exp(...)`.
    #[inline(always)]
    pub fn times(self, coefficient: A, factor: A) -> A {
        // The value is at most one unless the scale makes up for it, so no intermediate product overflows.
        (((coefficient * self.scale.0) * self.value) * factor) * self.scale.1
    }
}

/// For `high <= 0` (or barely above) and `|low|` far below one.
/// Zero below `R::EXP_LOWEST`, NaN for NaN.
#[inline(always)]
pub fn exp<A: Arithmetic>((high, low): (A, A)) -> Exp<A> {
    let lowest = A::Scalar::EXP_LOWEST;
    let (zero, one) = (A::of(A::Scalar::ZERO), A::of(A::Scalar::ONE));
    let clamped = high.select_below(lowest, A::of(lowest), high);
    let (k, _) = round(clamped);
    let coarse = k.mul_add(A::of(-A::Scalar::LN_2.0), clamped);
    let (r, r_low) = fast_two_sum(coarse, k.mul_add(A::of(-A::Scalar::LN_2.1), low));
    let tail = (r * r).mul_add(polynomial(A::Scalar::EXP, r), r_low);
    let (value, value_low) = fast_two_sum(one, r + tail);
    Exp {
        value: high.select_below(lowest, zero, value),
        value_low: high.select_below(lowest, zero, value_low),
        scale: A::exp2_parts(k),
    }
}

/// The integer nearest to `x / ln 2`, and the same plus `ROUNDER`.
#[inline(always)]
fn round<A: Arithmetic>(x: A) -> (A, A) {
    let shifted = x.mul_add(A::of(A::Scalar::LOG2_E), A::of(A::Scalar::ROUNDER));
    (shifted - A::of(A::Scalar::ROUNDER), shifted)
}

/// `exp(z)` of an easy logit. Below `EASY.lowest` it stays where it is there, so that it is a normal number.
/// NaN and positive numbers give something meaningless.
#[inline(always)]
pub fn easy_exp<A: Arithmetic>(z: A) -> A {
    let z = z.at_least_if_negative(A::Scalar::EASY.lowest);
    let (k, shifted) = round(z);
    let coarse = k.mul_add(A::of(-A::Scalar::LN_2.0), z);
    let r = k.mul_add(A::of(-A::Scalar::LN_2.1), coarse);
    r.mul_add(polynomial(A::Scalar::EASY.exp_slope, r), A::of(A::Scalar::ONE)).times_exp2(shifted)
}

/// `log(1 + f + f_low) = base + (result)`, for `-1/4 <= f <= 1/2` and `base` one of `0, n ln 2`.
#[inline(always)]
fn log1p_reduced<R: Real>(f: R, f_low: R, base: R, base_low: R) -> (R, R) {
    let bend = f.mul_add(polynomial(R::LOG, f), -R::HALF);
    let rest = (f * f).mul_add(bend, f_low.mul_add(-f, f_low));
    let (high, error) = fast_two_sum(base, f);
    fast_two_sum(high, error + (base_low + rest))
}

/// `log(1 + e)` for `0 <= e <= 1`, given as a pair.
#[inline(always)]
pub fn log1p_unit<R: Real>((e, e_low): (R, R)) -> (R, R) {
    let upper = e > R::HALF;
    // (e - 1) / 2 is exact for e in [1/2, 1].
    let f = R::select(upper, e.mul_add(R::HALF, -R::HALF), e);
    let f_low = R::select(upper, e_low * R::HALF, e_low);
    let ln_2 = R::LN_2;
    log1p_reduced(f, f_low, R::select(upper, ln_2.0, R::ZERO), R::select(upper, ln_2.1, R::ZERO))
}

/// `log(high + low)` for a positive finite `high`, subnormal ones included.
#[inline(always)]
pub fn log<R: Real>((high, low): (R, R)) -> (R, R) {
    let tiny = high < R::TINY;
    let lift = R::select(tiny, R::LIFT, R::ONE);
    let (k, m) = (high * lift).log2_parts();
    let f = m - R::ONE;
    let f_low = (low * lift) * R::exp2_negated(k);
    let n = k - R::select(tiny, R::LIFT_LOG2, R::ZERO);
    let base = n * R::LN_2.0;
    let (result, result_low) = log1p_reduced(f, f_low, base, n * R::LN_2.1);
    // The split reads bits, so NaN has to be put back by hand.
    (R::select(high > R::ZERO, result, R::NAN), result_low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_log_f32_agree_with_f64() {
        let mut worst = (0.0f64, 0.0f64);
        for i in 0..200_000 {
            let x = -80.0 * (i as f32) / 200_000.0;
            let low = x * 1e-8;
            let e = exp((x, low));
            let got = (f64::from(e.value) + f64::from(e.value_low)) * f64::from(e.scale.0) * f64::from(e.scale.1);
            let want = (f64::from(x) + f64::from(low)).exp();
            worst.0 = worst.0.max((got / want - 1.0).abs());
            let unit = i as f32 / 200_000.0;
            let (high, low) = log1p_unit((unit, 0.0));
            let got = f64::from(high) + f64::from(low);
            worst.1 = worst.1.max((got - f64::from(unit).ln_1p()).abs());
        }
        let unit = f64::from(f32::EPSILON) / 2.0;
        assert!(worst.0 < 0.6 * unit, "exp: {} u", worst.0 / unit);
        assert!(worst.1 < 0.4 * unit, "log1p: {} u", worst.1 / unit);
    }

    #[test]
    fn log_covers_the_whole_range() {
        for &x in &[f64::MIN_POSITIVE / 1024.0, f64::MIN_POSITIVE, 1e-300, 0.3, 0.75, 1.0, 1.0000001, 1.5, 80.0, 1e300]
        {
            let (high, low) = log((x, 0.0));
            assert!((high + low - x.ln()).abs() <= 2.0 * f64::EPSILON * x.ln().abs(), "{x}");
        }
        assert!(log((f64::NAN, 0.0)).0.is_nan());
        let (high, low) = log((1.0f32, 1e-12));
        assert!((high + low - 1e-12).abs() < 1e-18);
    }

    #[test]
    fn exp_vanishes_and_propagates() {
        assert_eq!(exp((f32::NEG_INFINITY, 0.0)).times(1e30, 1.0), 0.0);
        assert!(exp((f64::NAN, 0.0)).times(1.0, 1.0).is_nan());
        assert_eq!(exp((0.0f32, 0.0)).times(1.0, 1.0), 1.0);
    }
}
