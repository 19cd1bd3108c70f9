//! Softmax focal loss of one row: `sum_j t_j * alpha_j * (1-p_j)^gamma * (-log p_j)`, which for a
//! class index `y` is the one term `alpha_y * (1-p_y)^gamma * (-log p_y)`.
//!
//! `1 - p_j` is never a subtraction from one. The row is shifted by its largest logit, whose own
//! exponential is then exactly 1, and `rest` is the sum of all the *other* exponentials:
//!
//! ```text
//! sum     = 1 + rest
//! 1 - p_j = rest / sum                for the largest logit
//!         = (1 + (rest - e_j)) / sum  for any other
//! -log p_j = log(sum) - (x_j - max)   both terms >= 0
//! ```
//!
//! The exponentials are computed in the logits' arithmetic; the few numbers per row that follow
//! from their sum are computed in f64 for f32 and f64 alike. The gradient is
//! `dL/dx_i = p_i * sum_{j != i} q_j - q_i * (1-p_i)` with
//! `q_j = t_j * alpha_j * (1-p_j)^gamma * (1 + gamma * p_j * h_j)`, `h_j = -log(p_j) / (1-p_j)`.

use super::elementary::{exp, log, two_sum};
use super::real::Real;
use super::sigmoid::Gamma;

/// `x - max` as a pair.
#[inline(always)]
pub fn shift<R: Real>(x: R, max: R) -> (R, R) {
    two_sum(x, -max)
}

/// A growing sum with its rounding error: order still matters to the last bit, but hardly to the value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub high: f64,
    pub low: f64,
}

impl Sum {
    #[inline(always)]
    pub fn add(&mut self, value: f64) {
        let (sum, error) = two_sum(self.high, value);
        self.high = sum;
        self.low += error;
    }
}

/// What all classes of a row share.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    rest: (f64, f64),
    sum: f64,
    log_sum: (f64, f64),
}

/// The contribution of one class at full weight, for a coefficient that includes `t_j * alpha_j`.
#[derive(Clone, Copy, Debug)]
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
    /// `rest`: the sum of the exponentials of all logits but one largest.
    #[inline(always)]
    pub fn new(rest: Sum) -> Self {
        let (high, low) = two_sum(1.0, rest.high);
        let sum = (high, low + rest.low);
        Self { rest: (rest.high, rest.low), sum: sum.0 + sum.1, log_sum: log(sum) }
    }

    /// The factor that turns an exponential into a probability.
    #[inline(always)]
    pub fn per_sum(&self, value: f64) -> f64 {
        value / self.sum
    }

    /// `d` is the logit's distance to the largest, as a pair; `largest` says that it is that one.
    #[inline(always)]
    pub fn term(&self, d: (f64, f64), largest: bool, c: f64, gamma: &Gamma<f64>) -> Term {
        let d = (f64::select(largest, 0.0, d.0), f64::select(largest, 0.0, d.1));
        let power = exp(d);
        let e = (power.value * power.scale.0) * power.scale.1;
        let (log_sum, log_sum_low) = self.log_sum;
        // An infinite distance has no low part (it would be inf - inf).
        let d_low = f64::select(d.0 < f64::EXP_LOWEST, 0.0, d.1);
        let ce = (log_sum - d.0) + (log_sum_low - d_low);

        let (left, left_low) = two_sum(1.0, self.rest.0 - e);
        let others =
            (f64::select(largest, self.rest.0, left), f64::select(largest, self.rest.1, left_low + self.rest.1));
        let none = others.0 == 0.0;
        let log_others = log((f64::select(none, 1.0, others.0), others.1));
        let (log_o, error) = two_sum(log_others.0, -log_sum);
        let focus = gamma.power_of((log_o, error + (log_others.1 - log_sum_low)));
        let c = f64::select(none & (gamma.value() > 0.0), 0.0 * c, c);

        let o = (others.0 + others.1) / self.sum;
        let finite_ce = f64::select(ce > f64::MAX, f64::MAX, ce);
        let h = f64::select(none, 1.0, finite_ce / o);
        let p = e / self.sum;
        let bend = (gamma.value() * p).mul_add(h, 1.0);
        Term {
            loss: focus.times(c, f64::select(c == 0.0, finite_ce, ce)),
            slope: focus.times(c, bend),
            others: o,
            own: p,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference;
    use super::*;

    fn term(row: &[f64], y: usize, gamma: f64) -> Term {
        let largest = (0..row.len()).fold(0, |a, b| if row[b] > row[a] { b } else { a });
        let mut rest = Sum::default();
        for (j, &x) in row.iter().enumerate() {
            if j != largest {
                let (d, low) = shift(x, row[largest]);
                let e = exp((d, low));
                rest.add(e.value * e.scale.0 * e.scale.1);
            }
        }
        Row::new(rest).term(shift(row[y], row[largest]), y == largest, 1.0, &Gamma::new(gamma))
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
