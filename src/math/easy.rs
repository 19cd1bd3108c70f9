//! Easy examples: hard labels whose logit is well on the right side, as nearly all of a trained
//! detector's are. There the probability `m` of being wrong is small enough for its logarithm to
//! be a short polynomial, and one division gives everything:
//!
//! ```text
//! m     = 1 / (1 + exp(-z))
//! CE    = -log(1-m) = m * R(m)
//! L     = c * m^(gamma+1) * R
//! dL/dz = c * m^(gamma+1) * (1 + gamma * (1-m) * R)
//! ```
//!
//! which are the formulas of [`super::sigmoid`]. Which logits are easy depends on nothing else, so a
//! result depends on its own logit, label and coefficient alone.

use super::elementary::{exp, fast_two_sum, one_plus_exp, polynomial, scale_pair};
use super::real::{Arithmetic, Real};
use super::sigmoid::{Coefficients, Point};

/// Whether a logit is easy, oriented so that large means wrong.
#[inline(always)]
pub fn is_easy<R: Real>(z: R) -> bool {
    z < -R::ONE
}

/// Loss and `dL/dz` of an easy logit; meaningless numbers for any other. `gamma` and `power`, which is
/// `gamma + 1`, are pairs; `SQUARE` says that gamma is 2.
#[inline(always)]
pub fn point<A: Arithmetic, const SQUARE: bool>(
    z: A,
    c: Coefficients<A>,
    gamma: A::Scalar,
    power: (A::Scalar, A::Scalar),
) -> Point<A> {
    let one = A::of(A::Scalar::ONE);
    let (sum, sum_low) = one_plus_exp(z);
    let m = one / sum;
    let bend = polynomial(A::Scalar::LOG_RATIO, m);
    if SQUARE {
        // A cube trebles the rounding error of the sum. m^3 * (1 - 3 * sum_low * m) makes up for it, and
        // `R` is near enough to 1 to take the factor in its stead.
        let three = A::of(A::Scalar::ONE + A::Scalar::ONE + A::Scalar::ONE);
        let ratio = m.mul_add((-three).mul_add(sum_low, bend), one);
        // From the largest to the smallest, so that nothing underflows before the result does.
        let cube = |c: A| ((c * m) * m) * m;
        let slope = (A::of(gamma) * (one - m)).mul_add(ratio, one);
        Point { loss: cube(c.loss) * ratio, grad: cube(c.grad) * slope }
    } else {
        let ratio = m.mul_add(bend, one);
        // log m = z - CE
        let log_m = fast_two_sum(z, -(m * ratio));
        let power = exp(scale_pair((A::of(power.0), A::of(power.1)), log_m));
        let slope = (A::of(gamma) * (one - m)).mul_add(ratio, one);
        Point { loss: power.times(c.loss, ratio), grad: power.times(c.grad, slope) }
    }
}
