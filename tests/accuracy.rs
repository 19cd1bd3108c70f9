//! The numeric promises: errors in ULP of the exact value, over the whole range of logits.

use focal_loss::math::reference::{sigmoid_focal, softmax_focal};
use focal_loss::{Activation, Inputs, Options, Reduction, Targets, forward_backward};
use ndarray::{Array1, Array2, ArrayD, Axis};

const GAMMAS: [f64; 8] = [0.0, 0.1, 0.5, 1.0, 1.5, 2.0, 3.3, 5.0];
const LOSS_ULP: f64 = 8.0;
const GRAD_ULP: f64 = 16.0;

/// The distance between neighbours at `value` in a type with this many mantissa bits.
fn ulp(value: f64, mantissa: i32, smallest_normal: f64) -> f64 {
    let exponent = value.abs().max(smallest_normal).log2().floor() as i32;
    2f64.powi(exponent - mantissa)
}

fn ulp_f32(value: f64) -> f64 {
    ulp(value, 23, f64::from(f32::MIN_POSITIVE))
}

fn ulp_f64(value: f64) -> f64 {
    ulp(value, 52, f64::MIN_POSITIVE)
}

/// Loss and gradient of every logit for its own label, unreduced.
fn each(x: &[f32], t: &[f32], alpha: f64, gamma: f64) -> (ArrayD<f32>, ArrayD<f32>) {
    let logits = Array1::from(x.to_vec()).insert_axis(Axis(1)).into_dyn();
    let targets = Array1::from(t.to_vec()).insert_axis(Axis(1)).into_dyn();
    let options = Options { alpha, gamma, reduction: Reduction::None, ..Options::default() };
    forward_backward(&options, &Inputs::new(logits.view(), Targets::Dense(targets.view())), None).unwrap()
}

/// Every `step`th finite f32, of both signs, and more of those between 1/2 and 128, where losses are
/// neither straight lines nor zero.
fn all_floats(step: usize) -> Vec<f32> {
    let middle = (0.5f32.to_bits()..128f32.to_bits()).step_by(step / 50);
    let bits = (0..f32::INFINITY.to_bits()).step_by(step).chain(middle);
    bits.flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]).collect()
}

#[test]
fn f32_hard_labels_over_the_whole_range() {
    let x = all_floats(9973);
    for gamma in GAMMAS {
        for (t, alpha) in [(0.0, 0.25), (1.0, 0.25), (0.0, -1.0), (1.0, 0.1)] {
            let (loss, grad) = each(&x, &vec![t as f32; x.len()], alpha, gamma);
            let (mut worst_loss, mut worst_grad) = (0.0f64, 0.0f64);
            for ((&x, &loss), &grad) in x.iter().zip(&loss).zip(&grad) {
                let (exact_loss, exact_grad) = sigmoid_focal(x.into(), t, alpha, gamma);
                assert!(loss.is_finite() && grad.is_finite(), "x = {x}, t = {t}, gamma = {gamma}");
                if exact_loss >= f64::from(f32::MIN_POSITIVE) {
                    worst_loss = worst_loss.max((f64::from(loss) - exact_loss).abs() / ulp_f32(exact_loss));
                }
                if exact_grad.abs() >= f64::from(f32::MIN_POSITIVE) {
                    worst_grad = worst_grad.max((f64::from(grad) - exact_grad).abs() / ulp_f32(exact_grad));
                }
            }
            println!("gamma {gamma} t {t} alpha {alpha}: loss {worst_loss:.2} ULP, gradient {worst_grad:.2} ULP");
            assert!(worst_loss <= LOSS_ULP && worst_grad <= GRAD_ULP);
        }
    }
}

#[test]
fn f32_soft_labels() {
    let x: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.618_034).fract() * 60.0 - 30.0).collect();
    let t: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.414_213_56).fract()).collect();
    for gamma in GAMMAS {
        let (loss, grad) = each(&x, &t, 0.25, gamma);
        let (loss, grad): (Vec<f32>, Vec<f32>) = (loss.into_iter().collect(), grad.into_iter().collect());
        let (mut worst_loss, mut worst_grad) = (0.0f64, 0.0f64);
        for i in 0..x.len() {
            let (x, t) = (f64::from(x[i]), f64::from(t[i]));
            let (exact_loss, exact_grad) = sigmoid_focal(x, t, 0.25, gamma);
            worst_loss = worst_loss.max((f64::from(loss[i]) - exact_loss).abs() / ulp_f32(exact_loss));
            let (p, q) = (1.0 / (1.0 + (-x).exp()), 1.0 / (1.0 + x.exp()));
            let m = p * (1.0 - t) + q * t;
            let focus = (0.25 * t + 0.75 * (1.0 - t)) * m.powf(gamma);
            // Without a modulating factor the gradient is p - t, whose terms are p and t.
            let ce = x.max(0.0) + (-x.abs()).exp().ln_1p() - x * t;
            let first = if gamma == 0.0 { p.max(t) } else { (p - t).abs() };
            let largest = focus * first.max((gamma * (1.0 - 2.0 * t) * p * q / m * ce).abs());
            worst_grad = worst_grad.max((f64::from(grad[i]) - exact_grad).abs() / ulp_f32(largest));
        }
        println!("gamma {gamma}: loss {worst_loss:.2} ULP, gradient {worst_grad:.2} ULP of its largest term");
        assert!(worst_loss <= LOSS_ULP && worst_grad <= GRAD_ULP);
    }
}

#[test]
fn f32_softmax() {
    let rows = 2000;
    for gamma in GAMMAS {
        for (classes, scale) in [(2, 60.0f32), (7, 5.0), (80, 12.0), (65, 150.0)] {
            let logits = Array2::from_shape_fn((rows, classes), |(n, k)| {
                ((n * classes + k) as f32 * 0.618_034).fract() * scale - scale / 2.0
            });
            let y = Array1::from_shape_fn(rows, |n| (n * 7 % classes) as i64);
            let options = Options {
                activation: Activation::Softmax,
                alpha: -1.0,
                gamma,
                reduction: Reduction::None,
                ..Options::default()
            };
            let (logits_d, y_d) = (logits.clone().into_dyn(), y.clone().into_dyn());
            let (loss, grad) =
                forward_backward(&options, &Inputs::new(logits_d.view(), Targets::I64(y_d.view())), None).unwrap();
            let (mut worst_loss, mut worst_grad) = (0.0f64, 0.0f64);
            for n in 0..rows {
                let row: Vec<f64> = logits.row(n).iter().map(|&x| x.into()).collect();
                let mut t = vec![0.0; classes];
                t[y[n] as usize] = 1.0;
                let (exact, exact_grad) = softmax_focal(&row, &t, &vec![1.0; classes], gamma);
                if exact >= f64::from(f32::MIN_POSITIVE) {
                    worst_loss = worst_loss.max((f64::from(loss[n]) - exact).abs() / ulp_f32(exact));
                }
                for k in 0..classes {
                    if exact_grad[k].abs() >= f64::from(f32::MIN_POSITIVE) {
                        let error = (f64::from(grad[[n, k]]) - exact_grad[k]).abs() / ulp_f32(exact_grad[k]);
                        worst_grad = worst_grad.max(error);
                    }
                }
            }
            println!("softmax gamma {gamma} K {classes}: loss {worst_loss:.2} ULP, gradient {worst_grad:.2} ULP");
            assert!(worst_loss <= LOSS_ULP && worst_grad <= GRAD_ULP);
        }
    }
}

/// Two classes: the loss is a power of a single exponential, so its error comes back `gamma + 1` times. Rows around
/// zero, and rows so far from it that they are moved there first.
#[test]
fn f32_softmax_of_two() {
    let rows = 400_000;
    for gamma in GAMMAS {
        for base in [0.0f32, 300.0, -511.9, 1000.0, -1e5] {
            let logits = Array2::from_shape_fn((rows, 2), |(n, k)| {
                let distance = n as f32 / rows as f32 * 88.0;
                if n % 2 == k { base } else { base - distance }
            });
            let y = Array1::from_shape_fn(rows, |n| (n / 2 % 2) as i64);
            let options = Options {
                activation: Activation::Softmax,
                alpha: -1.0,
                gamma,
                reduction: Reduction::None,
                ..Options::default()
            };
            let (logits_d, y_d) = (logits.clone().into_dyn(), y.clone().into_dyn());
            let (loss, grad) =
                forward_backward(&options, &Inputs::new(logits_d.view(), Targets::I64(y_d.view())), None).unwrap();
            let (mut worst_loss, mut worst_grad) = (0.0f64, 0.0f64);
            for n in 0..rows {
                let own = y[n] as usize;
                let z = f64::from(logits[[n, 1 - own]]) - f64::from(logits[[n, own]]);
                let (exact, exact_grad) = sigmoid_focal(z, 0.0, -1.0, gamma);
                if exact >= f64::from(f32::MIN_POSITIVE) {
                    worst_loss = worst_loss.max((f64::from(loss[n]) - exact).abs() / ulp_f32(exact));
                }
                if exact_grad >= f64::from(f32::MIN_POSITIVE) {
                    for (k, exact) in [(own, -exact_grad), (1 - own, exact_grad)] {
                        worst_grad = worst_grad.max((f64::from(grad[[n, k]]) - exact).abs() / ulp_f32(exact));
                    }
                }
            }
            println!("softmax of 2 around {base}, gamma {gamma}: loss {worst_loss:.2}, gradient {worst_grad:.2} ULP");
            assert!(worst_loss <= LOSS_ULP && worst_grad <= GRAD_ULP);
        }
    }
}

fn vectors(text: &str) -> Vec<Vec<f64>> {
    text.lines().map(|line| line.split(',').map(|field| field.parse().unwrap()).collect()).collect()
}

#[test]
fn f64_against_higher_precision() {
    let (mut worst_loss, mut worst_grad, mut count) = (0.0f64, 0.0f64, 0);
    for v in vectors(include_str!("data/sigmoid.csv")) {
        let [x, t, alpha, gamma, exact_loss, exact_grad, largest] = v[..] else { panic!("seven fields") };
        let (logits, targets) = (ndarray::arr1(&[x]).into_dyn(), ndarray::arr1(&[t]).into_dyn());
        let options = Options { alpha, gamma, reduction: Reduction::Sum, ..Options::default() };
        let inputs = Inputs::new(logits.view(), Targets::Dense(targets.view()));
        let (loss, grad) = forward_backward(&options, &inputs, None).unwrap();
        if exact_loss >= f64::MIN_POSITIVE {
            worst_loss = worst_loss.max((loss.sum() - exact_loss).abs() / ulp_f64(exact_loss));
        }
        if largest >= f64::MIN_POSITIVE {
            worst_grad = worst_grad.max((grad.sum() - exact_grad).abs() / ulp_f64(largest));
        }
        count += 1;
    }
    println!("{count} logits in f64: loss {worst_loss:.2} ULP, gradient {worst_grad:.2} ULP");
    assert!(count > 2000 && worst_loss <= LOSS_ULP && worst_grad <= GRAD_ULP);

    (worst_loss, worst_grad) = (0.0, 0.0);
    for v in vectors(include_str!("data/softmax.csv")) {
        let classes = (v.len() - 3) / 2;
        let (gamma, y) = (v[0], v[1] as i64);
        let (row, exact, exact_grad) = (&v[2..2 + classes], v[2 + classes], &v[3 + classes..]);
        let (logits, targets) = (Array1::from(row.to_vec()).into_dyn(), ndarray::arr0(y).into_dyn());
        let options = Options {
            activation: Activation::Softmax,
            alpha: -1.0,
            gamma,
            reduction: Reduction::Sum,
            ..Options::default()
        };
        let inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
        let (loss, grad) = forward_backward(&options, &inputs, None).unwrap();
        if exact >= f64::MIN_POSITIVE {
            worst_loss = worst_loss.max((loss.sum() - exact).abs() / ulp_f64(exact));
        }
        for (&got, &exact) in grad.iter().zip(exact_grad) {
            if exact.abs() >= f64::MIN_POSITIVE {
                worst_grad = worst_grad.max((got - exact).abs() / ulp_f64(exact));
            }
        }
    }
    println!("softmax in f64: loss {worst_loss:.2} ULP, gradient {worst_grad:.2} ULP");
    assert!(worst_loss <= LOSS_ULP && worst_grad <= GRAD_ULP);
}

/// The largest logits are finite with every label, and an infinite one with a soft label has an infinite loss.
#[test]
fn soft_labels_at_the_ends_of_the_range() {
    let labels: Vec<f32> = (1..50).map(|i| i as f32 / 50.0).chain([1e-45, 1e-16]).collect();
    for step in 0..=50 {
        let gamma = f64::from(step) / 10.0;
        for alpha in [-1.0, 0.25] {
            for x in [f32::MAX, -f32::MAX, 0.9 * f32::MAX] {
                let (loss, grad) = each(&vec![x; labels.len()], &labels, alpha, gamma);
                assert!(loss.iter().chain(&grad).all(|v| v.is_finite()), "x = {x}, gamma = {gamma}: {loss}");
            }
            for x in [f32::INFINITY, f32::NEG_INFINITY] {
                let (loss, grad) = each(&vec![x; labels.len()], &labels, alpha, gamma);
                assert!(loss.iter().all(|&v| v == f32::INFINITY), "x = {x}, gamma = {gamma}: {loss}");
                assert!(grad.iter().all(|v| v.is_finite()));
            }
        }
    }
}

/// Only the product of all factors has to fit the type.
#[test]
fn factors_meet_before_they_are_rounded() {
    let logits = ndarray::arr2(&[[1f32]]).into_dyn();
    let targets = ndarray::arr1(&[1i64]).into_dyn();
    for (upstream, weight, normalizer) in [(1e-30f32, 1e30f32, 1e20f32), (1e30, 1e-20, 1e-20), (1e-30, 1e-30, 1e-38)] {
        let (grad_loss, weights) = (ndarray::arr0(upstream).into_dyn(), ndarray::arr1(&[weight]).into_dyn());
        let mut inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
        inputs.weight = Some(weights.view());
        inputs.normalizer = Some(normalizer);
        let options = Options { reduction: Reduction::Sum, ..Options::default() };
        let (_, grad) = forward_backward(&options, &inputs, Some(grad_loss.view())).unwrap();
        let factor = f64::from(upstream) * f64::from(weight) / f64::from(normalizer);
        let exact = sigmoid_focal(1.0, 0.0, 0.25, 2.0).1 * factor;
        assert!((f64::from(grad.sum()) - exact).abs() <= GRAD_ULP * ulp_f32(exact), "{} {exact}", grad.sum());
    }
}

/// A product with a large weight is exact to the same bound where the unweighted loss has underflowed.
#[test]
fn weights_reach_below_the_smallest_number() {
    for gamma in [0.0, 0.5, 2.0] {
        for x in [-60.0f32, -88.0, -95.0, -110.0, -40.0] {
            let weight = 1e30f32;
            let logits = ndarray::arr2(&[[x]]).into_dyn();
            let targets = ndarray::arr1(&[1i64]).into_dyn();
            let weights = ndarray::arr1(&[weight]).into_dyn();
            let mut inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
            inputs.weight = Some(weights.view());
            let options = Options { gamma, reduction: Reduction::Sum, ..Options::default() };
            let (loss, grad) = forward_backward(&options, &inputs, None).unwrap();
            let (exact, exact_grad) = sigmoid_focal(x.into(), 0.0, 0.25, gamma);
            for (got, exact) in [(loss.sum(), exact), (grad.sum(), exact_grad)] {
                let exact = exact * f64::from(weight);
                if exact >= f64::from(f32::MIN_POSITIVE) {
                    assert!((f64::from(got) - exact).abs() <= 8.0 * ulp_f32(exact), "x = {x}: {got} {exact}");
                }
            }
        }
    }
}

/// The same for softmax: an exponential far below the smallest number is still there when the weight comes.
#[test]
fn weights_reach_below_the_smallest_exponential() {
    for gamma in [0.0, 0.5, 2.0] {
        for x in [-40.0f32, -60.0, -88.0, -95.0, -110.0, -120.5] {
            let weight = 1e36f32;
            let logits = ndarray::arr2(&[[0.0, x]]).into_dyn();
            let targets = ndarray::arr1(&[0i64]).into_dyn();
            let weights = ndarray::arr1(&[weight]).into_dyn();
            let mut inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
            inputs.weight = Some(weights.view());
            let options = Options {
                activation: Activation::Softmax,
                alpha: -1.0,
                gamma,
                reduction: Reduction::Sum,
                ..Options::default()
            };
            let loss = focal_loss::forward(&options, &inputs).unwrap().sum();
            let inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
            let upstream = ndarray::arr0(weight).into_dyn();
            let grad = focal_loss::backward(&options, &inputs, Some(upstream.view())).unwrap();
            let (exact, exact_grad) = sigmoid_focal(x.into(), 0.0, -1.0, gamma);
            for (got, exact) in [(loss, exact), (grad[[0, 1]], exact_grad), (grad[[0, 0]], -exact_grad)] {
                let exact = exact * f64::from(weight);
                if exact.abs() >= f64::from(f32::MIN_POSITIVE) {
                    assert!((f64::from(got) - exact).abs() <= 8.0 * ulp_f32(exact), "x = {x}: {got} {exact}");
                }
            }
        }
    }
}

/// However many terms there are: the f64 accumulators see to it.
#[test]
fn sums_stay_within_two_in_ten_million() {
    for count in [1usize, 1000, 100_003, 5_000_000] {
        for gamma in [0.5, 2.0] {
            let x: Vec<f32> = (0..count).map(|i| (i as f32 * 0.618_034).fract() * 12.0 - 9.0).collect();
            let exact: f64 = x.iter().map(|&x| sigmoid_focal(x.into(), 0.0, 0.25, gamma).0).sum();
            let logits = Array1::from(x).insert_axis(Axis(1)).into_dyn();
            let targets = Array1::from_elem(count, 1i32).into_dyn();
            let options = Options { gamma, reduction: Reduction::Sum, ..Options::default() };
            let inputs = Inputs::new(logits.view(), Targets::I32(targets.view()));
            let loss = f64::from(focal_loss::forward(&options, &inputs).unwrap().sum());
            assert!((loss / exact - 1.0).abs() <= 2e-7, "{count} terms: {loss} {exact}");
        }
    }
}
