//! Sigmoid focal loss of one logit, K of which make an anchor's loss (Lin et al. 2017, eq. 5).
//!
//! With a hard label everything depends on `z`, the logit oriented so that large means wrong
//! (`z = x` for a negative, `-x` for a positive):
//!
//! ```text
//! m  = sigmoid(z)        probability of being wrong, 1 - p_t
//! CE = softplus(z)
//! L     = c * m^gamma * CE
//! dL/dz = c * m^gamma * (m + gamma * (1-m) * CE)
//! ```
//!
//! Where `z` is far enough below zero, [`super::easy`] has a shorter way. Elsewhere:
//! every term is positive, so nothing cancels. `e = exp(-|z|)` gives all of it:
//! `log m = min(z,0) - log1p(e)`, `CE = max(z,0) + log1p(e)`, and `m^gamma = exp(gamma * log m)` with
//! both halves of the logarithm. Far on the right side (`z < -FAR`) `CE = m` to within the rounding,
//! and the loss becomes `c * m^(gamma+1)` in a single exponential, which cannot underflow half way.
//!
//! A soft label `t` uses the distance `v` between label and certainty, `v = 1-t` for `x >= 0` and `t`
//! otherwise: `m = (v + e*(1-v)) / (1+e)`, `CE = |x|*v + log1p(e)`,
//! `dL/dx = ±c * m^gamma * [(v - e*s) + gamma*(2v-1)*(e*s/w)*CE]` with `s = 1/(1+e)`, `w = v + e*(1-v)`
//! and the sign of `x`.

use super::easy;
use super::elementary::{Exp, exp, log, log1p_unit, scale_pair, two_sum};
use super::real::{Arithmetic, Real};

/// Beyond this distance `log1p(e) = e` to within a thousandth of an ULP in either type.
const FAR: f64 = 40.0;

/// The exponent, split so that its products are exact, with what derives from it.
#[derive(Clone, Copy, Debug)]
pub struct Gamma<R> {
    /// `gamma` as a pair.
    power: (R, R),
    /// `gamma + 1` as a pair.
    power_plus_one: (R, R),
    /// What a negative base contributes besides its magnitude's power: 1, -1 or NaN.
    negative_base: R,
}

impl<R: Real> Gamma<R> {
    /// `gamma` is finite and not negative. Above 1e30 it is taken to be 1e30, so that its products stay finite.
    #[inline(always)]
    pub fn new(gamma: f64) -> Self {
        let gamma = gamma.min(1e30);
        let pair = |(value, error): (f64, f64)| {
            let high = R::from_f64(value);
            (high, R::from_f64((value - high.to_f64()) + error))
        };
        let negative_base = match gamma % 2.0 {
            0.0 => 1.0,
            1.0 => -1.0,
            _ => f64::NAN,
        };
        Self {
            power: pair((gamma, 0.0)),
            power_plus_one: pair(two_sum(gamma, 1.0)),
            negative_base: R::from_f64(negative_base),
        }
    }

    /// Whether powers are squares: what `SQUARE` means wherever it is a parameter.
    pub fn is_square(&self) -> bool {
        self.power.0 == R::ONE + R::ONE && self.power.1 == R::ZERO
    }

    /// `exp(gamma * log)` for a logarithm given as a pair.
    #[inline(always)]
    pub fn power_of(&self, log: (R, R)) -> Exp<R> {
        exp(scale_pair(self.power, log))
    }

    #[inline(always)]
    pub fn value(&self) -> R {
        self.power.0
    }

    /// Loss and `dL/dz` where `z` is easy.
    #[inline(always)]
    pub fn easy<A: Arithmetic<Scalar = R>, const SQUARE: bool>(&self, z: A, c: Coefficients<A>) -> Point<A> {
        easy::point::<A, SQUARE>(z, c, self.power.0, self.power_plus_one)
    }
}

/// A loss and its derivative with respect to the logit; what is not used costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Point<R> {
    pub loss: R,
    pub grad: R,
}

/// What a loss and its gradient are multiplied by: alpha, weight and the rest. They differ where
/// the gradient is divided by a mean's divisor and the sum of losses is divided only at the end.
#[derive(Clone, Copy, Debug)]
pub struct Coefficients<R> {
    pub loss: R,
    pub grad: R,
}

impl<R: Real> Coefficients<R> {
    /// Whether loss and gradient have the same.
    pub fn is_shared(&self) -> bool {
        self.loss == self.grad
    }

    pub fn is_finite(&self) -> bool {
        self.loss.abs() <= R::MAX && self.grad.abs() <= R::MAX
    }

    #[inline(always)]
    fn map2(a: Self, b: Self, f: impl Fn(R, R) -> R) -> Self {
        Self { loss: f(a.loss, b.loss), grad: f(a.grad, b.grad) }
    }
}

/// What both kinds of label share: `e = exp(-|x|)` as a pair, `log1p(e)` as a pair, `1/(1+e)`.
struct Shared<R> {
    distance: R,
    e: (R, R),
    log1p_e: (R, R),
    s: R,
}

#[inline(always)]
fn shared<R: Real>(x: R) -> Shared<R> {
    let distance = x.abs();
    let power = exp((-distance, R::ZERO));
    let unscale = |value: R| (value * power.scale.0) * power.scale.1;
    let e = (unscale(power.value), unscale(power.value_low));
    Shared { distance, e, log1p_e: log1p_unit(e), s: R::ONE / (R::ONE + e.0) }
}

/// An infinite cross entropy times a zero coefficient is the limit, zero; so is `0 * inf` in the gradient.
#[inline(always)]
fn finite_if<R: Real>(condition: bool, value: R) -> R {
    R::select(condition & (value > R::MAX), R::MAX, value)
}

#[inline(always)]
fn hard_from<R: Real, const SQUARE: bool>(
    shared: &Shared<R>,
    x: R,
    positive: bool,
    c: Coefficients<R>,
    gamma: &Gamma<R>,
) -> Point<R> {
    let z = R::select(positive, -x, x);
    let wrong_side = z > R::ZERO;
    let far = z < R::from_f64(-FAR);
    let (log1p_e, log1p_e_low) = shared.log1p_e;

    // min(z, 0), but no lower than where exp has vanished for every gamma.
    let right = R::select(wrong_side, R::ZERO, R::select(z < R::EXP_LOWEST - R::ONE, R::EXP_LOWEST - R::ONE, z));
    let (log_m, error) = two_sum(right, -log1p_e);
    let log_m = (log_m, error - log1p_e_low);
    let exponent =
        (R::select(far, gamma.power_plus_one.0, gamma.power.0), R::select(far, gamma.power_plus_one.1, gamma.power.1));
    let power = exp(scale_pair(exponent, log_m));

    let ce = R::select(wrong_side, z, R::ZERO) + log1p_e;
    let es = shared.e.0 * shared.s;
    let m = R::select(wrong_side, shared.s, es);
    let right_probability = R::select(wrong_side, es, shared.s);
    let slope = (gamma.power.0 * right_probability).mul_add(finite_if(true, ce), m);

    let loss = power.times(c.loss, R::select(far, R::ONE, finite_if(c.loss == R::ZERO, ce)));
    let grad = power.times(c.grad, R::select(far, R::ONE + gamma.power.0, slope));
    let mut point = Point { loss, grad };
    if R::HAS_EASY {
        let easy = gamma.easy::<R, SQUARE>(z, c);
        let is_easy = easy::is_easy(z);
        point.loss = R::select(is_easy, easy.loss, point.loss);
        point.grad = R::select(is_easy, easy.grad, point.grad);
    }
    Point { loss: point.loss, grad: R::select(positive, -point.grad, point.grad) }
}

/// Loss and gradient for a label that is exactly 0 or 1; `c` is the coefficient of that label.
#[inline(always)]
pub fn hard<R: Real, const SQUARE: bool>(x: R, positive: bool, c: Coefficients<R>, gamma: &Gamma<R>) -> Point<R> {
    hard_from::<R, SQUARE>(&shared(x), x, positive, c, gamma)
}

/// Loss and gradient for any label `t`; `ones` and `zeros` are the coefficients at `t = 1` and `t = 0`.
/// Labels of exactly 0 and 1 give the bits that [`hard`] gives.
#[inline(always)]
pub fn soft<R: Real, const SQUARE: bool>(
    x: R,
    t: R,
    ones: Coefficients<R>,
    zeros: Coefficients<R>,
    gamma: &Gamma<R>,
) -> Point<R> {
    let shared = shared(x);
    let positive = t == R::ONE;
    let hard_label = positive | (t == R::ZERO);
    let own = Coefficients::map2(ones, zeros, |one, zero| R::select(positive, one, zero));
    let hard = hard_from::<R, SQUARE>(&shared, x, positive, own, gamma);

    let right_side = x >= R::ZERO;
    let (complement, complement_low) = two_sum(R::ONE, -t);
    let v = R::select(right_side, complement, t);
    let v_low = R::select(right_side, complement_low, R::ZERO);
    let u = R::select(right_side, t, complement);
    let u_low = R::select(right_side, R::ZERO, complement_low);

    // w = v + e*u as a pair.
    let (e, e_low) = shared.e;
    let product = e * u;
    let product_low = e.mul_add(u_low, e_low.mul_add(u, e.mul_add(u, -product)));
    let (w, w_low) = two_sum(v, product);
    let w_low = w_low + (product_low + v_low);
    // Labels outside [0, 1] can make w negative: |w|^gamma then carries the sign of the power.
    let negative = w < R::ZERO;
    let log_w = log((w.abs(), R::select(negative, -w_low, w_low)));
    let (log_m, log_m_low) = two_sum(log_w.0, -shared.log1p_e.0);
    let power = gamma.power_of((log_m, log_m_low + (log_w.1 - shared.log1p_e.1)));

    let ce = shared.distance.mul_add(v, shared.log1p_e.0);
    // p - t cancels where the label is met, so e*s = e/(1+e) is carried as a pair as well.
    let s = shared.s;
    let residual = (-s).mul_add(e, R::ONE - s) - s * e_low;
    let es = e * s;
    let es_low = e.mul_add(s, -es) + e_low.mul_add(s, es * residual);
    let (error, error_low) = two_sum(v, -es);
    let error = error + (error_low + (v_low - es_low));
    let lean = (-t - t) + R::ONE;
    let pull = (gamma.value() * R::select(right_side, lean, -lean)) * (es / w);
    let slope = pull.mul_add(finite_if(true, ce), error);

    let sign = R::select(negative, gamma.negative_base, R::ONE);
    let c = Coefficients::map2(ones, zeros, |one, zero| one.mul_add(t, zero * complement) * sign);
    // At an infinite logit the power has a positive limit, even where it has vanished in this arithmetic.
    let infinite = (ce > R::MAX) & (c.loss != R::ZERO);
    let loss = R::select(infinite, c.loss * ce, power.times(c.loss, finite_if(true, ce)));
    let grad = power.times(c.grad, slope);
    Point {
        loss: R::select(hard_label, hard.loss, loss),
        grad: R::select(hard_label, hard.grad, R::select(right_side, grad, -grad)),
    }
}
