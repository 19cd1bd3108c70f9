//! The definition in plain float64, as close to the text of the formulas as numbers allow.
//!
//! This is what tests compare the kernels with. It shares no code with them: the logarithm, the
//! exponential and the power are the standard library's, and the sums run in the obvious order.
//! The relative error is a few float64 ULPs (times `1 + gamma * |log m|` in the power).

/// `log(1 + exp(x))`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// `base^exponent` by way of a logarithm known more exactly than the base.
fn power(log_base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 { 1.0 } else { (exponent * log_base).exp() }
}

/// Sigmoid focal loss of one logit and its derivative: Lin et al. 2017, eq. 5, with soft labels.
///
/// `alpha < 0` means no alpha.
pub fn sigmoid_focal(x: f64, t: f64, alpha: f64, gamma: f64) -> (f64, f64) {
    let alpha_t = if alpha < 0.0 { 1.0 } else { alpha * t + (1.0 - alpha) * (1.0 - t) };
    let (p, q) = (sigmoid(x), sigmoid(-x));
    let m = p * (1.0 - t) + q * t;
    let log_m = match t {
        0.0 => -softplus(-x),
        1.0 => -softplus(x),
        _ => m.ln(),
    };
    let ce = softplus(if t == 1.0 { -x } else { x }) - if t == 1.0 { 0.0 } else { x * t };
    let r = match t {
        0.0 => q,
        1.0 => p,
        _ => p * q / m,
    };
    let error = match t {
        0.0 => p,
        1.0 => -q,
        _ => p - t,
    };
    let rce = if r == 0.0 { 0.0 } else { r * ce };
    let focus = alpha_t * power(log_m, gamma);
    let loss = if focus == 0.0 { 0.0 } else { focus * ce };
    (loss, focus * (error + gamma * (1.0 - 2.0 * t) * rce))
}

/// Softmax focal loss of one row against a distribution `t` over its classes, and its gradient.
///
/// `alpha` holds one factor per class. An index target is the distribution that is one there.
pub fn softmax_focal(x: &[f64], t: &[f64], alpha: &[f64], gamma: f64) -> (f64, Vec<f64>) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = x.iter().map(|&v| (v - max).exp()).collect();
    let sum_without = |j: usize| exps.iter().enumerate().filter(|&(i, _)| i != j).map(|(_, &e)| e).sum::<f64>();
    let sum: f64 = exps.iter().sum();
    let mut loss = 0.0;
    let mut grad = vec![0.0; x.len()];
    for j in 0..x.len() {
        if t[j] == 0.0 {
            continue;
        }
        let others = sum_without(j);
        let (o, p) = (others / sum, exps[j] / sum);
        let ce = if x[j] == max { others.ln_1p() } else { sum.ln() - (x[j] - max) };
        let log_o = if p < 0.5 { (-p).ln_1p() } else { others.ln() - sum.ln() };
        let h = if o == 0.0 { 1.0 } else { ce / o };
        let weight = t[j] * alpha[j] * power(log_o, gamma);
        loss += weight * ce;
        let slope = weight * (1.0 + gamma * if p == 0.0 { 0.0 } else { p * h });
        for (i, g) in grad.iter_mut().enumerate() {
            *g += slope * if i == j { -o } else { exps[i] / sum };
        }
    }
    (loss, grad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_match_finite_differences() {
        let h = 1e-5;
        for &gamma in &[0.0, 0.5, 1.0, 2.0, 3.7] {
            for &x in &[-6.0, -1.3, 0.0, 0.4, 5.0] {
                for &t in &[0.0, 0.2, 0.5, 0.9, 1.0] {
                    let value = |x: f64| sigmoid_focal(x, t, 0.3, gamma).0;
                    let difference = (value(x + h) - value(x - h)) / (2.0 * h);
                    let grad = sigmoid_focal(x, t, 0.3, gamma).1;
                    assert!((difference - grad).abs() < 1e-8, "x={x} t={t} gamma={gamma}: {difference} {grad}");
                }
            }
            let row = [0.3, -2.0, 1.1, 4.0];
            let (t, alpha) = ([0.1, 0.2, 0.0, 0.7], [0.3, 1.0, 0.5, 0.9]);
            let grad = softmax_focal(&row, &t, &alpha, gamma).1;
            for i in 0..4 {
                let moved = |d: f64| {
                    let mut row = row;
                    row[i] += d;
                    softmax_focal(&row, &t, &alpha, gamma).0
                };
                let difference = (moved(h) - moved(-h)) / (2.0 * h);
                assert!((difference - grad[i]).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn the_worked_example() {
        // One anchor, three classes, the object is the second: alpha_t is 0.25, 0.75, 0.25 at alpha = 0.75.
        let logit = |p: f64| (p / (1.0 - p)).ln();
        let (loss, _) = sigmoid_focal(logit(0.9), 1.0, 0.75, 2.0);
        assert!((loss - 0.75 * 0.01 * -(0.9f64.ln())).abs() < 1e-15);
        let (loss, _) = sigmoid_focal(logit(0.2), 0.0, 0.75, 2.0);
        assert!((loss - 0.25 * 0.04 * -(0.8f64.ln())).abs() < 1e-15);
    }
}
