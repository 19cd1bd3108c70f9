//! Easy examples: hard labels whose logit is well on the right side, as nearly all of a trained
//! detector's are. There, with `e = exp(z)`, loss and gradient need neither logarithm nor division:
//!
//! ```text
//! L     = c * e^(gamma+1) * F(e)      F(e) = (1+e)^-gamma     * log1p(e)/e
//! dL/dz = c * e^(gamma+1) * Q(e)      Q(e) = (1+e)^-(gamma+1) * (1 + gamma * log1p(e)/e)
//! ```
//!
//! which are the formulas of [`super::sigmoid`] with `m = e/(1+e)`. `F` and `Q` become polynomials
//! fitted to gamma when gamma is known, with `F(0) = 1` and `Q(0) = 1 + gamma` exactly. Which logits are
//! easy depends on gamma alone, so a result depends on its own logit, label and coefficient alone.

use super::coefficients::{EASY, EasyFit};
use super::elementary::{exp, exp_near, scale_pair};
use super::real::{Arithmetic, Real};
use super::sigmoid::{Coefficients, Point};

/// The fit for one gamma.
#[derive(Clone, Copy, Debug)]
pub struct Easy<R> {
    /// Logits below this, oriented so that large means wrong, are easy. Minus infinity: none is.
    pub below: R,
    /// `gamma + 1` as a pair.
    power: (R, R),
    loss: [R; COUNT],
    grad: [R; COUNT],
}

const COUNT: usize = EASY[0].nodes.len();

impl<R: Real> Easy<R> {
    /// `power` is `gamma + 1` as a pair.
    #[inline(always)]
    pub fn new(gamma: f64, power: (R, R)) -> Self {
        let none =
            Self { below: R::from_f64(f64::NEG_INFINITY), power, loss: [R::ZERO; COUNT], grad: [R::ZERO; COUNT] };
        match EASY.iter().find(|fit| R::HAS_EASY && gamma <= fit.largest_gamma) {
            None => none,
            Some(fit) => {
                let (loss, grad) = fit.coefficients(gamma);
                Self { below: R::from_f64(fit.limit), power, loss: loss.map(R::from_f64), grad: grad.map(R::from_f64) }
            }
        }
    }

    /// Loss and `dL/dz` for oriented logits below `below`; meaningless numbers for any other.
    /// `SQUARE` says that gamma is 2.
    #[inline(always)]
    pub fn point<A: Arithmetic<Scalar = R>, const SQUARE: bool>(&self, z: A, c: Coefficients<A>) -> Point<A> {
        let (e, error) = exp_near(z);
        let loss = polynomial(R::ONE, &self.loss, e);
        let grad = polynomial(self.power.0, &self.grad, e);
        if SQUARE {
            // A cube would treble the error of e. From the largest to the smallest, so that nothing
            // underflows before the result does.
            let three = A::of(R::ONE + R::ONE + R::ONE);
            let cube = |c: A| (((three * c).mul_add(error, c) * e) * e) * e;
            Point { loss: cube(c.loss) * loss, grad: cube(c.grad) * grad }
        } else {
            let power = exp(scale_pair((A::of(self.power.0), A::of(self.power.1)), (z, A::of(R::ZERO))));
            Point { loss: power.times(c.loss, loss), grad: power.times(c.grad, grad) }
        }
    }
}

/// `constant + x * P(x)`: Horner's rule in the square of `x`, over pairs that do not wait for each other.
#[inline(always)]
fn polynomial<A: Arithmetic>(constant: A::Scalar, p: &[A::Scalar; COUNT], x: A) -> A {
    let p = p.map(A::of);
    let square = x * x;
    let mut value = p[COUNT - 1];
    for i in (1..COUNT - 1).rev().step_by(2) {
        value = square.mul_add(value, p[i].mul_add(x, p[i - 1]));
    }
    square.mul_add(value, p[0].mul_add(x, A::of(constant)))
}

// The last coefficient is alone in its pair.
const _: () = assert!(COUNT.is_multiple_of(2));

impl EasyFit {
    /// The coefficients after the constant one, for the loss and the gradient.
    #[inline(always)]
    fn coefficients(&self, gamma: f64) -> ([f64; COUNT], [f64; COUNT]) {
        let (mut loss, mut grad) = ([0.0; COUNT], [0.0; COUNT]);
        for i in 0..COUNT {
            let (e, log1p) = (self.nodes[i], self.log1p[i]);
            let ratio = log1p / e;
            let focus = exp((-gamma * log1p, 0.0)).times(1.0, 1.0);
            loss[i] = (focus * ratio - 1.0) / e;
            grad[i] = (focus * (1.0 + gamma * ratio) / (1.0 + e) - (1.0 + gamma)) / e;
        }
        let sum = |values: &[f64; COUNT]| {
            self.weights.map(|row| row.iter().zip(values).fold(0.0, |sum, (weight, value)| weight.mul_add(*value, sum)))
        };
        (sum(&loss), sum(&grad))
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::super::sigmoid::Gamma;
    use super::*;

    #[test]
    fn easy_losses_agree_with_the_reference() {
        for gamma in [0.0, 0.3, 1.0, 1.5, 2.0, 2.5, 4.0, 5.0] {
            let easy = *Gamma::<f32>::new(gamma).easy();
            assert!(easy.below <= -1.0);
            for i in 0..20_000 {
                let z = easy.below - i as f32 * 1e-3 - 1e-4;
                let (loss, grad) = reference::sigmoid_focal(z.into(), 0.0, -1.0, gamma);
                let one = Coefficients { loss: 1.0, grad: 1.0 };
                let got = if gamma == 2.0 { easy.point::<f32, true>(z, one) } else { easy.point::<f32, false>(z, one) };
                let off = |got: f32, exact: f64| (f64::from(got) / exact - 1.0).abs() / f64::from(f32::EPSILON);
                if loss > f64::from(f32::MIN_POSITIVE) {
                    assert!(off(got.loss, loss) < 5.0, "gamma {gamma} z {z}: {} for {loss}", got.loss);
                    assert!(off(got.grad, grad) < 6.0, "gamma {gamma} z {z}: {} for {grad}", got.grad);
                }
            }
        }
    }

    #[test]
    fn a_gamma_without_a_fit_has_no_easy_examples() {
        assert_eq!(Gamma::<f32>::new(5.1).easy().below, f32::NEG_INFINITY);
        assert_eq!(Gamma::<f64>::new(2.0).easy().below, f64::NEG_INFINITY);
    }
}
