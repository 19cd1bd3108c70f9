//! The same bits from every instruction set, number of threads and memory layout.

use std::sync::Mutex;

use super::executor::{Executor, Rayon};
use super::isa::Isa;
use super::run_with;
use crate::options::{Activation, Normalization, Options, Reduction};
use crate::problem::{Inputs, Outputs, Problem, loss_shape};
use crate::tensor::{DType, Device, Shape, Strides, Tensor, row_major};

/// Runs the chunks backwards on one thread: an order that no host would choose.
struct Backwards;

impl Executor for Backwards {
    fn for_each(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        (0..count).rev().for_each(body);
    }
}

/// Memory for a tensor, with numbers that repeat themselves from run to run.
pub(super) struct Owned {
    pub bytes: Vec<u64>,
    pub tensor: Tensor,
}

pub(super) fn owned(dtype: DType, shape: &[usize], value: impl Fn(usize) -> f64) -> Owned {
    let shape = Shape::new(shape.iter().copied()).unwrap();
    let strides = row_major(&shape);
    let count: usize = shape.iter().product();
    let mut bytes = vec![0u64; (count * dtype.size()).div_ceil(8)];
    let data = bytes.as_mut_ptr().cast::<u8>();
    for i in 0..count {
        // SAFETY: the vector has room for `count` elements of this type.
        unsafe {
            match dtype {
                DType::F16 => *data.cast::<half::f16>().add(i) = half::f16::from_f64(value(i)),
                DType::BF16 => *data.cast::<half::bf16>().add(i) = half::bf16::from_f64(value(i)),
                DType::F32 => *data.cast::<f32>().add(i) = value(i) as f32,
                DType::F64 => *data.cast::<f64>().add(i) = value(i),
                DType::I32 => *data.cast::<i32>().add(i) = value(i) as i32,
                DType::I64 => *data.cast::<i64>().add(i) = value(i) as i64,
            }
        }
    }
    Owned { bytes, tensor: Tensor { data, device: Device::Cpu, dtype, shape, strides } }
}

pub(super) fn noise(i: usize) -> f64 {
    (i as f64 * 0.618_033_988_749).fract()
}

/// Logits with everything in them: ordinary, huge, subnormal, infinite, NaN.
fn logit(i: usize) -> f64 {
    match i % 997 {
        0 => 3e38,
        1 => -3e38,
        2 => 1e-40,
        3 => f64::INFINITY,
        4 => f64::NEG_INFINITY,
        5 => f64::NAN,
        6 => 0.0,
        _ => noise(i) * 24.0 - 16.0,
    }
}

fn compute(
    options: &Options,
    dtype: DType,
    soft: Option<bool>,
    isa: Isa,
    executor: &dyn Executor,
) -> (Vec<u64>, Vec<u64>) {
    let (rows, classes) = (20_011, 5);
    let logits = owned(dtype, &[rows, classes], logit);
    let targets = match soft {
        None => owned(DType::I64, &[rows], |i| (i % classes) as f64),
        Some(soft) => {
            owned(dtype, &[rows, classes], |i| if soft { noise(i * 7) } else { (noise(i * 7) * 1.2).floor() })
        }
    };
    let weight = owned(dtype, &[classes], |i| 0.5 + i as f64);
    let shape = loss_shape(options, &[rows, classes], 1);
    let (loss, grad) = (owned(dtype, &shape, |_| 7.0), owned(dtype, &[rows, classes], |_| 7.0));
    let inputs = Inputs {
        logits: logits.tensor,
        targets: targets.tensor,
        class_alpha: None,
        weight: (options.normalization == Normalization::Weights && options.activation == Activation::Sigmoid)
            .then_some(weight.tensor),
        normalizer: None,
        grad_loss: None,
    };
    let outputs = Outputs { loss: Some(loss.tensor), grad_logits: Some(grad.tensor) };
    // SAFETY: every tensor's memory is above, and nobody else has it.
    let problem = unsafe { Problem::new(options.clone(), inputs, outputs).unwrap() };
    run_with(&problem, executor, isa).unwrap();
    (loss.bytes.clone(), grad.bytes.clone())
}

#[test]
fn every_instruction_set_and_executor_gives_the_same_bits() {
    let mut exercised: Vec<Isa> = Vec::new();
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        for activation in [Activation::Sigmoid, Activation::Softmax] {
            for soft in [None, Some(false), Some(true)] {
                for (reduction, normalization, gamma) in [
                    (Reduction::None, Normalization::Elements, 2.0),
                    (Reduction::Sum, Normalization::Elements, 0.5),
                    (Reduction::Mean, Normalization::Weights, 1.5),
                    (Reduction::Mean, Normalization::Positives, 0.0),
                ] {
                    let options = Options { activation, reduction, normalization, gamma, ..Options::default() };
                    let expected = compute(&options, dtype, soft, Isa::Baseline, &Backwards);
                    for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
                        for threads in [1, 2, 3, 0] {
                            let got = compute(&options, dtype, soft, isa, &Rayon { num_threads: threads });
                            assert!(got == expected, "{dtype:?} {options:?} soft {soft:?} {isa:?} threads {threads}");
                        }
                        if !exercised.contains(&isa) {
                            exercised.push(isa);
                        }
                    }
                }
            }
        }
    }
    println!("instruction sets exercised: {exercised:?}");
    assert!(exercised.contains(&Isa::Baseline));
}

#[test]
fn strides_change_nothing_but_addresses() {
    for activation in [Activation::Sigmoid, Activation::Softmax] {
        for reduction in [Reduction::None, Reduction::Sum] {
            let options = Options { activation, reduction, axis: 1, ..Options::default() };
            let (b, k, n) = (3, 7, 400);
            let dense = owned(DType::F32, &[b, k, n], |i| noise(i) * 10.0 - 6.0);
            // The same values with the classes innermost and the last axis backwards.
            let moved = owned(DType::F32, &[b, n, k], |i| {
                let (i, class) = (i / k, i % k);
                let (batch, row) = (i / n, n - 1 - i % n);
                noise((batch * k + class) * n + row) * 10.0 - 6.0
            });
            let mut view = moved.tensor;
            view.shape = dense.tensor.shape;
            view.strides = Strides::new([(n * k) as isize, 1, -(k as isize)]).unwrap();
            view.data = view.data.wrapping_add((n - 1) * k * 4);
            let targets = owned(DType::I32, &[b, n], |i| (i * 5 % 7) as f64);
            let run = |logits: Tensor| {
                let shape = loss_shape(&options, &logits.shape, 1);
                let (loss, grad) = (owned(DType::F32, &shape, |_| 0.0), owned(DType::F32, &[b, k, n], |_| 0.0));
                let (class_alpha, weight, normalizer, grad_loss) = (None, None, None, None);
                let inputs = Inputs { logits, targets: targets.tensor, class_alpha, weight, normalizer, grad_loss };
                let outputs = Outputs { loss: Some(loss.tensor), grad_logits: Some(grad.tensor) };
                // SAFETY: every tensor's memory is above, and nobody else has it.
                let problem = unsafe { Problem::new(options.clone(), inputs, outputs).unwrap() };
                run_with(&problem, &Backwards, Isa::chosen()).unwrap();
                (loss.bytes, grad.bytes)
            };
            assert!(run(dense.tensor) == run(view), "{options:?}");
        }
    }
}

#[test]
fn executors_call_every_chunk_once() {
    for threads in [0, 1, 2, 5] {
        for count in [0, 1, 2, 100] {
            let seen = Mutex::new(Vec::new());
            Rayon { num_threads: threads }.for_each(count, &|i| seen.lock().unwrap().push(i));
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }
}
