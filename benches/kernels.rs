//! Our kernels by themselves: `cargo bench --bench kernels`, with a part of a name behind `--` for some of them.
//!
//! The results are allocated by the calls, as the Rust API does; `peers.py` measures without that, against others.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use focal_loss::{Activation, Element, Inputs, Options, Reduction, Targets, forward, forward_backward};
use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

const CLASSES: usize = 80;
const ACTIVATIONS: [Activation; 2] = [Activation::Sigmoid, Activation::Softmax];
const ROWS: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Labels {
    Index,
    Dense,
}

/// One line of what is measured; both passes are, with both activations.
struct Case {
    dtype: &'static str,
    labels: Labels,
    gamma: f64,
    rows: usize,
}

/// Everything by itself changed from float32, class indices, gamma 2: types and targets, gammas, sizes.
fn cases() -> Vec<Case> {
    let usual = Case { dtype: "f32", labels: Labels::Index, gamma: 2.0, rows: ROWS };
    let mut cases = Vec::new();
    for dtype in ["f32", "f16", "bf16", "f64"] {
        cases.extend([Labels::Index, Labels::Dense].map(|labels| Case { dtype, labels, ..usual }));
    }
    cases.extend([0.5, 1.5, 5.0].map(|gamma| Case { gamma, ..usual }));
    cases.extend([1, 100, 125_000].map(|rows| Case { rows, ..usual }));
    cases
}

fn kernels(criterion: &mut Criterion) {
    for activation in ACTIVATIONS {
        for case in cases() {
            match case.dtype {
                "f16" => measure(criterion, activation, &case, f16::from_f32),
                "bf16" => measure(criterion, activation, &case, bf16::from_f32),
                "f64" => measure(criterion, activation, &case, f64::from),
                _ => measure(criterion, activation, &case, |x| x),
            }
        }
    }
}

fn measure<T: Element>(criterion: &mut Criterion, activation: Activation, case: &Case, of: fn(f32) -> T) {
    let Case { dtype, labels, gamma, rows } = *case;
    let logits = detector_logits(rows).mapv(of);
    let indices = indices(activation, rows);
    let dense = (labels == Labels::Dense).then(|| one_hot(&indices, of));
    let targets = match &dense {
        Some(dense) => Targets::Dense(dense.view()),
        None => Targets::I64(indices.view()),
    };
    let inputs = Inputs::new(logits.view(), targets);
    let options = Options { activation, gamma, reduction: Reduction::Sum, ..Options::default() };
    let name = format!("{dtype} {labels:?} gamma {gamma} {rows}x{CLASSES}");

    let mut group = criterion.benchmark_group(format!("{activation:?}").to_lowercase());
    group.throughput(Throughput::Elements((rows * CLASSES) as u64));
    group.bench_function(BenchmarkId::new("forward", &name), |b| {
        b.iter(|| forward(&options, black_box(&inputs)).unwrap());
    });
    group.bench_function(BenchmarkId::new("fused", &name), |b| {
        b.iter(|| forward_backward(&options, black_box(&inputs), None).unwrap());
    });
}

/// A trained detector's: normal around -4, as a sum of uniform numbers is.
fn detector_logits(rows: usize) -> ArrayD<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    ArrayD::from_shape_simple_fn(IxDyn(&[rows, CLASSES]), || -10.0 + (0..12).map(|_| uniform()).sum::<f32>())
}

/// An object in every 200th row; the others are background, or of some class where there is no background.
fn indices(activation: Activation, rows: usize) -> ArrayD<i64> {
    let is_background = |row: usize| activation == Activation::Sigmoid && !row.is_multiple_of(200);
    let class = |row: usize| if is_background(row) { CLASSES } else { row % CLASSES };
    ArrayD::from_shape_fn(IxDyn(&[rows]), |at| class(at[0]) as i64)
}

fn one_hot<T: Element>(indices: &ArrayD<i64>, of: fn(f32) -> T) -> ArrayD<T> {
    let is_hot = |at: &IxDyn| indices[IxDyn(&[at[0]])] == at[1] as i64;
    ArrayD::from_shape_fn(IxDyn(&[indices.len(), CLASSES]), |at| of(f32::from(u8::from(is_hot(&at)))))
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
