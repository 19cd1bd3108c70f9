//! The CPU backend.
//!
//! A problem becomes fixed [`chunks`] of its logical row-major index space, an [`executor`] runs them,
//! and each chunk moves its operands through small batches: [`walk`] finds the runs, [`storage`]
//! loads them (in place where memory already is what the kernel wants), [`targets`] spells class
//! indices out as labels, and a kernel in [`sigmoid`] or [`softmax`] (whose operands are [`rows`]) does the
//! arithmetic of [`crate::math`] for the [`isa`] chosen. [`census`] goes before all that: it checks class indices
//! and counts what the mean divides by, so that a failing call has written nothing.

pub mod census;
pub mod chunks;
pub mod executor;
pub mod float_control;
pub mod isa;
pub mod narrow;
pub mod rows;
pub mod scratch;
pub mod sigmoid;
pub mod sigmoid_loops;
pub mod softmax;
pub mod softmax_batch;
pub mod softmax_loops;
pub mod storage;
pub mod targets;
pub mod threads;
pub mod walk;

#[cfg(test)]
mod softmax_tests;
#[cfg(test)]
mod tests;

use half::{bf16, f16};

use crate::error::{Result, fail};
use crate::options::{Activation, Reduction};
use crate::problem::Problem;
use crate::tensor::DType;

use executor::Executor;
use isa::Isa;
use storage::{Memory, Storage};

/// Computes what the problem's outputs ask for.
pub fn run(problem: &Problem, executor: &dyn Executor) -> Result<()> {
    #[cfg(not(fuzzing))]
    let isa = Isa::chosen();
    #[cfg(fuzzing)]
    let isa = crate::fuzzing::isa();
    run_with(problem, executor, isa)
}

/// The same on a given instruction set, which must be available.
pub fn run_with(problem: &Problem, executor: &dyn Executor, isa: Isa) -> Result<()> {
    float_control::with_defaults(|| match problem.inputs.logits.dtype {
        DType::F16 => run_typed::<f16>(problem, executor, isa),
        DType::BF16 => run_typed::<bf16>(problem, executor, isa),
        DType::F32 => run_typed::<f32>(problem, executor, isa),
        DType::F64 => run_typed::<f64>(problem, executor, isa),
        other => fail!(Internal, "logits of {} were let through", other.name()),
    })
}

/// Panics where a test build is told to: inside a chunk, the farthest from any boundary.
#[inline]
pub(crate) fn inject_panic() {
    #[cfg(feature = "inject-panic")]
    if std::env::var_os("FOCAL_LOSS_INJECT_PANIC").is_some() {
        panic!("injected");
    }
}

fn run_typed<S: Storage>(problem: &Problem, executor: &dyn Executor, isa: Isa) -> Result<()> {
    let divisor = census::divisor::<S>(problem, executor)?;
    let scalar = |tensor: &crate::tensor::Tensor| {
        // SAFETY: the tensor is valid for the call and has one element, at offset 0.
        crate::math::real::Real::to_f64(unsafe { Memory::<S>::new(tensor.data) }.load_at(0))
    };
    let normalizer = problem.inputs.normalizer.as_ref().map_or(1.0, scalar);
    let reduced = problem.options.reduction != Reduction::None;
    let incoming = problem.inputs.grad_loss.as_ref().filter(|_| reduced).map_or(1.0, scalar);
    // Where nothing is counted there is nothing to divide.
    let share = |value: f64| if divisor == 0.0 && value == 0.0 { 0.0 } else { value / divisor };
    let factors = Factors {
        loss: if reduced { 1.0 } else { 1.0 / normalizer },
        grad: if divisor == 0.0 { 0.0 } else { incoming / divisor / normalizer },
    };
    let sum = match problem.options.activation {
        Activation::Sigmoid => sigmoid::run::<S>(problem, factors, executor, isa),
        Activation::Softmax => softmax::run::<S>(problem, factors, executor, isa),
    };
    if let (Some(loss), true) = (&problem.outputs.loss, reduced) {
        let value = share(sum) / normalizer;
        let value = if value.is_nan() { f64::NAN } else { value };
        // SAFETY: the tensor is valid for the call and has one element, at offset 0.
        unsafe { Memory::<S>::new(loss.data) }.store_at(0, crate::math::real::Real::from_f64(value));
    }
    Ok(())
}

/// What every loss and every gradient is multiplied by, apart from alpha, weight and `grad_loss`.
#[derive(Clone, Copy, Debug)]
pub struct Factors {
    pub loss: f64,
    pub grad: f64,
}
