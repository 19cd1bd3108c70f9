//! The kernels against the float64 oracle, element by element in ULP, with one set of bits for every instruction set.
#![no_main]

use focal_loss::math::reference::{sigmoid_focal, softmax_focal};
use focal_loss_fuzz::abi::{BF16, DType, F16, F32, F64};
use focal_loss_fuzz::call::{Call, Function, GRAD, LOGITS, LOSS, TARGETS};
use focal_loss_fuzz::source::Source;
use libfuzzer_sys::fuzz_target;

/// The contract's bounds; for float64 those of the oracle, which is float64 itself, by its power.
const LOSS_ULP: f64 = 8.0;
const GRAD_ULP: f64 = 16.0;

fuzz_target!(|bytes: &[u8]| {
    let mut source = Source::new(bytes);
    // More than a batch of 2048 now and then, and every length of a last vector.
    let classes = source.pick(&[1, 2, 3, 5, 16, 17, 40]);
    let rows = if source.one_in(8) { 2100 / classes + source.below(40) } else { source.below(60) };
    let mut call = Call::with_shape(&mut source, vec![rows as i64, classes as i64], Function::Both);
    call.options.reduction = 0;
    call.options.axis = 1;
    call.options.has_ignore_index = 0;
    call.options.has_background_index = 0;
    let softmax = call.options.activation == 1;
    let dtype = source.pick(&[F32, F64, F16, BF16]);
    let shape = [rows as i64, classes as i64];
    let rows_shape = &shape[..1];
    let spec = |shape: &[i64]| focal_loss_fuzz::memory::Spec::new(dtype, shape);
    let index = call.tensors[TARGETS].as_ref().unwrap().dtype.code == 0;
    call = call.replaced(|slot, old| match slot {
        LOGITS | GRAD => Some(spec(&shape)),
        TARGETS if index => old.map(|old| focal_loss_fuzz::memory::Spec::new(old.dtype, rows_shape)),
        TARGETS => Some(spec(&shape)),
        LOSS => Some(spec(if softmax { rows_shape } else { &shape })),
        _ => None,
    });
    call.set_labels((0..classes as i64 + i64::from(!softmax)).collect());
    let memory = call.allocate(&mut source);
    let done = call.check(&memory).expect("everything has memory");
    let read = |slot: usize, bytes: &[u8]| memory[slot].as_ref().unwrap().values(bytes);
    let input = |slot: usize| read(slot, &memory[slot].as_ref().unwrap().initial);
    let output = |slot: usize| read(slot, done.bytes[slot].as_ref().unwrap());
    let (x, loss, grad) = (input(LOGITS), output(LOSS), output(GRAD));
    let t: Vec<f64> = if index {
        let label = |row: usize| memory[TARGETS].as_ref().unwrap().index(row);
        (0..rows * classes).map(|i| f64::from(label(i / classes) == (i % classes) as i64)).collect()
    } else {
        input(TARGETS)
    };
    let (alpha, gamma) = (call.options.alpha, call.options.gamma);
    if softmax {
        let alphas = vec![if alpha < 0.0 { 1.0 } else { alpha }; classes];
        for row in 0..rows {
            let range = row * classes..(row + 1) * classes;
            let (x, t) = (&x[range.clone()], &t[range.clone()]);
            let spread =
                x.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b)) - x.iter().fold(f64::INFINITY, |a, &b| a.min(b));
            if !spread.is_finite() {
                continue; // only in float64: the loss itself does not fit
            }
            let (want, slopes) = softmax_focal(x, t, &alphas, gamma);
            let soft = t.iter().filter(|&&t| t != 0.0).count() > 1;
            let what = || format!("row {row}: x {x:?} t {t:?} alpha {alpha} gamma {gamma}");
            // The terms of a soft row add up, and so do their errors.
            let more = if soft { classes as f64 } else { 1.0 };
            assert_near(dtype, loss[row], want, want, LOSS_ULP * more, gamma * spread, &what);
            for j in 0..classes {
                let largest = if soft { slopes.iter().fold(want, |a, &b| a.max(b.abs())) } else { slopes[j].abs() };
                assert_near(dtype, grad[range.start + j], slopes[j], largest, GRAD_ULP * more, gamma * spread, &what);
            }
        }
    } else {
        for i in 0..rows * classes {
            let (x, t) = (x[i], t[i]);
            let (want, slope) = sigmoid_focal(x, t, alpha, gamma);
            let what = || format!("x {x:e} t {t} alpha {alpha} gamma {gamma}");
            let soft = t != 0.0 && t != 1.0;
            let largest = if soft { largest_sigmoid_term(x, t, alpha, gamma) } else { slope.abs() };
            assert_near(dtype, loss[i], want, want, LOSS_ULP, gamma * x.abs(), &what);
            assert_near(dtype, grad[i], slope, largest, GRAD_ULP, gamma * x.abs(), &what);
        }
    }
});

/// Of a soft label's gradient.
fn largest_sigmoid_term(x: f64, t: f64, alpha: f64, gamma: f64) -> f64 {
    let (p, q) = (1.0 / (1.0 + (-x).exp()), 1.0 / (1.0 + x.exp()));
    let m = p * (1.0 - t) + q * t;
    let alpha_t = if alpha < 0.0 { 1.0 } else { alpha * t + (1.0 - alpha) * (1.0 - t) };
    let ce = x.max(0.0) + (-x.abs()).exp().ln_1p() - x * t;
    let second = p * q / m * ce;
    let second = if second.is_finite() { (gamma * (1.0 - 2.0 * t) * second).abs() } else { 0.0 };
    alpha_t * m.powf(gamma) * p.max(t).max(second)
}

/// `got` is within `ulps` (in units of `largest`'s last place) of `want`, wherever that is a normal number of float32;
/// for float16 and bfloat16 with the rounding to them on top; for float64 within what the oracle knows.
fn assert_near(dtype: DType, got: f64, want: f64, largest: f64, ulps: f64, power: f64, what: &dyn Fn() -> String) {
    let ulp = |mantissa: i32, smallest: f64| 2f64.powi(largest.abs().max(smallest).log2().floor() as i32 - mantissa);
    let arithmetic = match dtype {
        F64 => ulp(52, f64::MIN_POSITIVE) * (2.0 * ulps + 2.0 * power.min(4000.0)),
        _ => ulp(23, f64::from(f32::MIN_POSITIVE)) * ulps,
    };
    let rounding = match dtype {
        F16 => ulp(10, 2f64.powi(-14)),
        BF16 => ulp(7, f64::from(f32::MIN_POSITIVE)),
        _ => 0.0,
    };
    // Below the smallest normal number the bounds do not hold, but nothing may be far off.
    let smallest = if dtype == F64 { f64::MIN_POSITIVE } else { f64::from(f32::MIN_POSITIVE) };
    let bound = (arithmetic + rounding).max(smallest * 1.5);
    let fits = want.abs() <= dtype.largest() * 0.999;
    assert!(!got.is_nan(), "NaN for {want:e}: {}", what());
    assert!(
        !fits || (got - want).abs() <= bound,
        "{dtype:?}: {got:e}, but exactly {want:e} (bound {bound:e}): {}",
        what()
    );
}
