//! Softmax focal loss of one row: `sum_j t_j * alpha_j * (1-p_j)^gamma * (-log p_j)`, which for a
//! class index `y` is the one term `alpha_y * (1-p_y)^gamma * (-log p_y)`.
//!
//! `1 - p_j` is never a subtraction from one. Seen from the row's largest logit, whose own
//! exponential is then 1, with `rest` the sum of all the *other* exponentials:
//!
//! ```text
//! sum     = 1 + rest
//! 1 - p_j = rest / sum                for the largest logit
//!         = (1 + (rest - e_j)) / sum  for any other
//! -log p_j = log(sum) - (x_j - max)   both terms >= 0
//! ```
//!
//! The exponentials are computed in the logits' arithmetic (see [`Shift`]); the few numbers per row
//! that follow from their sum are computed in f64 for f32 and f64 alike. The gradient is
//! `dL/dx_i = p_i * sum_{j != i} q_j - q_i * (1-p_i)` with
//! `q_j = t_j * alpha_j * (1-p_j)^gamma * (1 + gamma * p_j * h_j)`, `h_j = -log(p_j) / (1-p_j)`.

use super::elementary::{exp, log, polynomial, scale_pair, two_sum};
use super::real::Real;
use super::sigmoid::Gamma;

/// How a row's exponentials are computed, so that nothing is rounded on the way to them.
///
/// `x - max` would be: a logit of 3 below one of 60 loses bits that `exp` makes relative errors of.
/// So each logit is split by itself, `x = k ln 2 + r`, which is exact but for the last bits of `r`,
/// and only the integers are subtracted: `e = exp(r) * 2^(k - top)` with the largest logit's `top`.
/// Where logits are too large to be split, `max` goes first; that is exact wherever `e` is not zero.
///
/// An exponential that is alone in its sum comes back as `(1-p)^(gamma+1)`, six times as wrong at gamma 5. It must
/// be right to 1.25 units of the last place's half. Below 1, the last rounding is worth less of a unit, but
/// errors of `r` weigh more; so `r` goes from -0.2 to 0.49 instead of to the same distance on both sides, and
/// the bound is 1.17.
///
/// What comes out is `e * 2^POWER_UNIT`, so that exponentials far below the type's smallest number keep
/// all their bits until they are multiplied by what makes gradients of them.
#[derive(Clone, Copy, Debug)]
pub struct Shift<R> {
    max: R,
    /// The largest logit, or zero where logits are moved there first.
    peak: R,
    /// Adding it rounds to an integer and leaves that integer minus `top` in the low bits, biased as exponents are.
    anchor: R,
    /// Below it is nothing.
    lowest: R,
}

/// An exponential times `2^POWER_UNIT`, and what it adds to the row's [`Sum`].
#[derive(Clone, Copy, Debug)]
pub struct Power<R> {
    pub value: R,
    /// The same, or zero for the largest logit.
    pub other: R,
    /// Whether it is the largest.
    pub tie: bool,
}

impl<R: Real> Shift<R> {
    /// `max`: the row's largest logit, -inf where there is none.
    #[inline(always)]
    pub fn new(max: R) -> Self {
        let near = max.abs() <= R::POWER_NEAR;
        let peak = R::select(near, max, R::ZERO);
        let unit = R::from_f64(f64::from(R::POWER_UNIT + R::BIAS));
        Self { max, peak, anchor: R::ROUNDER + (unit - top(peak)), lowest: peak + R::POWER_LOWEST }
    }

    /// Whether the row's logits have to go through [`Shift::moved`] first.
    #[inline(always)]
    pub fn is_far(&self) -> bool {
        self.peak != self.max
    }

    /// The distance to the largest logit. Infinity minus itself is nothing to go on with.
    #[inline(always)]
    pub fn moved(&self, x: R) -> R {
        R::select(x == self.max, R::ZERO, x - self.max)
    }

    #[inline(always)]
    pub fn power(&self, x: R) -> Power<R> {
        let shifted = (x - R::POWER_LEAN).mul_add(R::LOG2_E, self.anchor);
        let k = shifted - self.anchor;
        let r = k.mul_add(-R::LN_2.1, k.mul_add(-R::LN_2.0, x));
        let tail = (r * r).mul_add(polynomial(R::POWER, r), r);
        let scale = shifted.power_of_two();
        let value = R::select(x < self.lowest, R::ZERO, tail.mul_add(scale, scale));
        let tie = x == self.peak;
        Power { value, other: R::select(tie, R::ZERO, value), tie }
    }

    /// `1 / 2^POWER_UNIT` over the largest logit's exponential, without the power of two: what makes
    /// [`Shift::power`] an exponential that is 1 for the largest logit. As a pair.
    #[inline(always)]
    fn per_peak(&self) -> (f64, f64) {
        let k = top(self.peak).to_f64();
        let coarse = k.mul_add(-f64::LN_2.0, self.peak.to_f64());
        let power = exp((-coarse, k * f64::LN_2.1));
        let scale = power.scale.0 * power.scale.1;
        (power.value * scale, power.value_low * scale)
    }
}

/// The integer that [`Shift::power`] splits off.
#[inline(always)]
fn top<R: Real>(x: R) -> R {
    (x - R::POWER_LEAN).mul_add(R::LOG2_E, R::ROUNDER) - R::ROUNDER
}

/// `2^-POWER_UNIT`.
#[inline(always)]
fn unit<R: Real>() -> f64 {
    f64::exp2_negated(f64::from(R::POWER_UNIT))
}

/// What a row's exponentials add up to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Those of all logits below the largest, times `2^POWER_UNIT`, with its rounding error.
    pub high: f64,
    pub low: f64,
    /// How many logits are the largest.
    pub ties: f64,
}

impl Sum {
    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        let (high, error) = two_sum(self.high, other.high);
        Self { high, low: self.low + other.low + error, ties: self.ties + other.ties }
    }
}

/// What all classes of a row share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row {
    max: f64,
    per_peak: f64,
    rest: f64,
    rest_low: f64,
    sum: f64,
    log_sum: f64,
    log_sum_low: f64,
}

/// The contribution of one class at full weight, for a coefficient that includes `t_j * alpha_j`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Term {
    pub loss: f64,
    /// `q_j`.
    pub slope: f64,
    /// `1 - p_j`.
    pub others: f64,
    /// `p_j`.
    pub own: f64,
}

impl Row {
    #[inline(always)]
    pub fn new<R: Real>(shift: &Shift<R>, sum: Sum) -> Self {
        let per_peak = shift.per_peak();
        let (high, low) = scale_pair(per_peak, (sum.high * unit::<R>(), sum.low * unit::<R>()));
        // Several infinite logits have no probabilities.
        let others = f64::select(sum.ties > 1.0, sum.ties - 1.0, 0.0);
        let others = f64::select((others > 0.0) & (shift.max.abs() > R::MAX), f64::NAN, others);
        let (high, error) = two_sum(high, others);
        let (rest, rest_low) = (high, low + error);
        let (high, low) = two_sum(1.0, rest);
        let sum = (high, low + rest_low);
        let (log_sum, log_sum_low) = log(sum);
        Self { max: shift.max.to_f64(), per_peak: per_peak.0, rest, rest_low, sum: sum.0 + sum.1, log_sum, log_sum_low }
    }

    /// What makes gradients of a row's exponentials, in two factors.
    #[inline(always)]
    pub fn scale<R: Real>(&self, slope: f64) -> (R, R) {
        let factor = (slope / self.sum) * self.per_peak;
        // Times the unit, it may be too small for a number of full precision.
        let small = factor.abs() * unit::<R>() < R::TINY.to_f64();
        let unit = unit::<R>();
        (R::from_f64(f64::select(small, factor, factor * unit)), R::from_f64(f64::select(small, unit, 1.0)))
    }

    /// 0, or NaN where the row's sum is.
    #[inline(always)]
    pub fn zero(&self) -> f64 {
        0.0 / self.sum
    }

    /// The term of the class with logit `x`. `SQUARE` says that gamma is 2.
    #[inline(always)]
    pub fn term<const SQUARE: bool>(&self, x: f64, c: f64, gamma: &Gamma<f64>) -> Term {
        let largest = x == self.max;
        let d = two_sum(x, -self.max);
        let d = (f64::select(largest, 0.0, d.0), f64::select(largest, 0.0, d.1));
        let power = exp(d);
        let e = (power.value * power.scale.0) * power.scale.1;
        let (log_sum, log_sum_low) = (self.log_sum, self.log_sum_low);
        // An infinite distance has no low part (it would be inf - inf).
        let d_low = f64::select(d.0 < f64::EXP_LOWEST, 0.0, d.1);
        let ce = (log_sum - d.0) + (log_sum_low - d_low);

        let (left, left_low) = two_sum(1.0, self.rest - e);
        let others =
            (f64::select(largest, self.rest, left), f64::select(largest, self.rest_low, left_low + self.rest_low));
        let none = others.0 == 0.0;
        let o = (others.0 + others.1) / self.sum;
        let finite_ce = f64::select(ce > f64::MAX, f64::MAX, ce);
        let h = f64::select(none, 1.0, finite_ce / o);
        let p = e / self.sum;
        let bend = (gamma.value() * p).mul_add(h, 1.0);
        let ce = f64::select(c == 0.0, finite_ce, ce);
        let (loss, slope) = if SQUARE {
            // In this order, nothing underflows that comes back in the result.
            let focus = (c * o) * o;
            (focus * f64::select(focus == 0.0, finite_ce, ce), focus * bend)
        } else {
            let log_others = log((f64::select(none, 1.0, others.0), others.1));
            let (log_o, error) = two_sum(log_others.0, -log_sum);
            let focus = gamma.power_of((log_o, error + (log_others.1 - log_sum_low)));
            let c = f64::select(none & (gamma.value() > 0.0), 0.0 * c, c);
            (focus.times(c, ce), focus.times(c, bend))
        };
        Term { loss, slope, others: o, own: p }
    }
}

/// A struct of numbers from and to an array, which is how sixteen of them are stored.
macro_rules! array {
    ($name:ident<$number:ident>, $count:literal: $($field:ident),+; $($generics:tt)*) => {
        impl<$($generics)*> From<[$number; $count]> for $name<$($generics)*> {
            #[inline(always)]
            fn from([$($field),+]: [$number; $count]) -> Self {
                Self { $($field),+ }
            }
        }

        impl<$($generics)*> From<$name<$($generics)*>> for [$number; $count] {
            #[inline(always)]
            fn from(value: $name<$($generics)*>) -> Self {
                [$(value.$field),+]
            }
        }
    };
}

array!(Shift<R>, 4: max, peak, anchor, lowest; R);
array!(Sum<f64>, 3: high, low, ties;);
array!(Row<f64>, 7: max, per_peak, rest, rest_low, sum, log_sum, log_sum_low;);
array!(Term<f64>, 4: loss, slope, others, own;);

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    fn term(row: &[f64], y: usize, gamma: f64) -> Term {
        let shift = Shift::new(row.iter().fold(f64::NEG_INFINITY, |a, &b| if b > a { b } else { a }));
        let mut sum = Sum::default();
        for &x in row {
            let power = shift.power(if shift.is_far() { shift.moved(x) } else { x });
            sum = sum.add(Sum { high: power.other, low: 0.0, ties: f64::from(power.tie) });
        }
        Row::new(&shift, sum).term::<false>(row[y], 1.0, &Gamma::new(gamma))
    }

    #[test]
    fn terms_agree_with_the_reference() {
        let rows: [&[f64]; 5] = [&[0.0, 0.0], &[3.0, -2.0, 0.5], &[40.0, 0.0, 1.0], &[-700.0, 3.0], &[1e5, 1e5, -1e5]];
        for row in rows {
            for y in 0..row.len() {
                for gamma in [0.0, 0.5, 2.0, 5.0] {
                    let mut t = vec![0.0; row.len()];
                    t[y] = 1.0;
                    let (loss, grad) = reference::softmax_focal(row, &t, &vec![1.0; row.len()], gamma);
                    let got = term(row, y, gamma);
                    // The reference's own power is good to gamma * |log m| ULPs.
                    let close = |a: f64, b: f64| (a - b).abs() <= 1e-13 * b.abs();
                    assert!(close(got.loss, loss), "{row:?} {y} {gamma}: {} {loss}", got.loss);
                    assert!(close(-got.slope * got.others, grad[y]), "{row:?} {y} {gamma}");
                }
            }
        }
    }

    #[test]
    fn limits_at_infinity() {
        let inf = f64::INFINITY;
        assert_eq!(term(&[inf, 0.0], 0, 2.0).loss, 0.0);
        assert_eq!(term(&[inf, 0.0], 1, 2.0).loss, inf);
        assert_eq!(term(&[inf, 0.0], 1, 2.0).slope, 1.0);
        assert_eq!(term(&[-inf, 0.0], 0, 2.0).loss, inf);
        assert_eq!(term(&[-inf, 0.0, 0.0], 1, 0.0).loss, std::f64::consts::LN_2);
        assert!(term(&[inf, inf], 0, 2.0).loss.is_nan());
        assert!(term(&[f64::NAN, 0.0], 1, 2.0).loss.is_nan());
        assert_eq!(term(&[5.0], 0, 2.0).loss, 0.0);
    }
}
