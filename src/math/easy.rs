//! Easy examples: hard labels whose logit is well on the right side, as nearly all of a trained
//! detector's are. There `e = exp(z)` is small enough for short polynomials in it to take the place
//! of logarithm and division:
//!
//! ```text
//! m     = e / (1 + e)
//! CE    = log(1 + e)     = e * T(e)
//! L     = c * m^gamma * CE                          = c * m^(gamma+1) * (1 + e) * T(e)
//! dL/dz = c * m^gamma * (m + gamma * (1-m) * CE)    = c * m^(gamma+1) * (1 + gamma * T(e))
//! ```
//!
//! which are the formulas of [`super::sigmoid`]; with gamma 2 they are `c * e^3` times one polynomial
//! each. Which logits are easy depends on nothing else, so a result depends on its own logit, label
//! and coefficient alone.

use super::elementary::{easy_exp, exp, fast_two_sum, polynomial, scale_pair};
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
    let easy = A::Scalar::EASY;
    let e = easy_exp(z);
    if SQUARE {
        // From the largest to the smallest, so that nothing underflows before the result does.
        let cube = |c: A| ((c * e) * e) * e;
        Point {
            loss: cube(c.loss) * polynomial(easy.square_loss, e),
            grad: cube(c.grad) * polynomial(easy.square_grad, e),
        }
    } else {
        let one = A::of(A::Scalar::ONE);
        let ratio = polynomial(easy.log_ratio, e);
        // log m = z - CE
        let log_m = fast_two_sum(z, -(e * ratio));
        let power = exp(scale_pair((A::of(power.0), A::of(power.1)), log_m));
        let slope = A::of(gamma).mul_add(ratio, one);
        Point { loss: power.times(c.loss, ratio.mul_add(e, ratio)), grad: power.times(c.grad, slope) }
    }
}
