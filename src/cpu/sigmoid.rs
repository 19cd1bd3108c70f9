//! Sigmoid focal loss over a whole problem: chunks, batches, and the two kernels.
//!
//! The kernels see slices only: logits `x`, labels `t`, coefficients, and where results go. Class
//! indices have become labels by then, so index and dense targets share everything. The hard kernel
//! serves labels of 0 and 1 (and [`IGNORED`]); the soft one serves any and gives hard labels the same
//! bits, so which of them ran for a batch never shows in the result.

use crate::math::real::Real;
use crate::math::sigmoid::{Coefficients, Gamma, Point, hard, soft};
use crate::options::Reduction;
use crate::problem::Problem;

use super::Factors;
use super::chunks::{BATCH, Chunks, LaneSums, Partials};
use super::executor::Executor;
use super::isa::{Isa, Kernel};
use super::storage::{Memory, Storage};
use super::targets::{IGNORED, Indices};
use super::walk::{Cursor, Walk};

/// Runs the problem; gives the sum of the losses where they are reduced.
pub fn run<S: Storage>(problem: &Problem, factors: Factors, executor: &dyn Executor, isa: Isa) -> f64 {
    let plan = Plan::<S>::new(problem, factors, isa);
    let chunks = Chunks::new(problem.inputs.logits.len(), 1, BATCH);
    let partials = Partials::zero();
    executor.for_each(chunks.count(), &|chunk| {
        super::inject_panic();
        let range = chunks.range(chunk);
        partials.set(chunk, plan.run(range.start, range.end));
    });
    partials.total(chunks)
}

/// One operand over the logits' index space.
struct Operand<S> {
    memory: Memory<S>,
    walk: Walk,
}

impl<S> Operand<S> {
    fn at(operand: &Option<Self>, start: usize) -> Option<Cursor<'_>> {
        operand.as_ref().map(|operand| operand.walk.at(start))
    }
}

/// The problem, spelled out for the storage type and the index space.
struct Plan<S: Storage> {
    isa: Isa,
    gamma: Gamma<S::Real>,
    alpha: f64,
    factors: Factors,
    in_place: bool,
    logits: Operand<S>,
    dense: Option<Operand<S>>,
    /// Class indices, their walk, and the position along the class axis.
    indices: Option<(Indices, Walk, Walk)>,
    class_alpha: Option<Operand<S>>,
    weight: Option<Operand<S>>,
    grad_loss: Option<Operand<S>>,
    loss: Option<Operand<S>>,
    sums: bool,
    grad: Option<Operand<S>>,
}

impl<S: Storage> Plan<S> {
    fn new(problem: &Problem, factors: Factors, isa: Isa) -> Self {
        let shape = &problem.inputs.logits.shape;
        let operand = |data: *mut u8, strides: &[isize]| Operand {
            // SAFETY: strides over the logits' shape that reach only what the tensor's own shape reaches.
            memory: unsafe { Memory::new(data) },
            walk: Walk::new(shape, strides),
        };
        let inputs = &problem.inputs;
        let outputs = &problem.outputs;
        let each = problem.options.reduction == Reduction::None;
        let indices = Indices::new(problem);
        let weight = inputs.weight.as_ref().zip(problem.weight_strides.as_ref());
        Self {
            isa,
            gamma: Gamma::new(problem.options.gamma),
            alpha: problem.options.alpha,
            factors,
            in_place: problem.in_place(),
            logits: operand(inputs.logits.data, &inputs.logits.strides),
            dense: indices.is_none().then(|| operand(inputs.targets.data, &inputs.targets.strides)),
            indices: indices.map(|indices| {
                let rows = Walk::new(shape, &problem.over_classes(&inputs.targets));
                (indices, rows, Walk::new(shape, &problem.along_classes(1)))
            }),
            class_alpha: inputs.class_alpha.map(|t| operand(t.data, &problem.along_classes(t.strides[0]))),
            weight: weight.map(|(tensor, strides)| operand(tensor.data, strides)),
            grad_loss: inputs.grad_loss.filter(|_| each).map(|t| operand(t.data, &t.strides)),
            loss: outputs.loss.filter(|_| each).map(|t| operand(t.data, &t.strides)),
            sums: outputs.loss.is_some() && !each,
            grad: outputs.grad_logits.map(|t| operand(t.data, &t.strides)),
        }
    }

    /// The scalar alpha of positives and of negatives.
    fn alpha_pair(&self) -> (f64, f64) {
        if self.alpha < 0.0 { (1.0, 1.0) } else { (self.alpha, 1.0 - self.alpha) }
    }

    /// Coefficients of positives and negatives that hold everywhere.
    fn uniform(&self) -> (Coefficients<S::Real>, Coefficients<S::Real>) {
        let (positive, negative) = self.alpha_pair();
        let times = |alpha: f64| Coefficients {
            loss: S::Real::from_f64(alpha * self.factors.loss),
            grad: S::Real::from_f64(alpha * self.factors.grad),
        };
        (times(positive), times(negative))
    }

    fn run(&self, start: usize, end: usize) -> f64 {
        let zeros = || [S::Real::ZERO; BATCH];
        let (mut x, mut t, mut alpha, mut weight, mut upstream) = (zeros(), zeros(), zeros(), zeros(), zeros());
        let mut each = [zeros(), zeros(), zeros(), zeros()];
        let (mut loss, mut grad) = (zeros(), zeros());
        let mut logits_at = self.logits.walk.at(start);
        let mut dense_at = Operand::at(&self.dense, start);
        let mut indices_at = self.indices.as_ref().map(|(_, rows, classes)| (rows.at(start), classes.at(start)));
        let (mut alpha_at, mut weight_at, mut upstream_at) = (
            Operand::at(&self.class_alpha, start),
            Operand::at(&self.weight, start),
            Operand::at(&self.grad_loss, start),
        );
        let (mut loss_at, mut grad_at) = (Operand::at(&self.loss, start), Operand::at(&self.grad, start));
        let uniform = self.uniform();
        let mut sums = LaneSums::ZERO;

        for first in (start..end).step_by(BATCH) {
            let count = BATCH.min(end - first);
            let x = self.logits.memory.load(&mut logits_at, &mut x[..count], self.in_place);
            let (t, is_hard) = match (&self.indices, &mut indices_at, &self.dense, &mut dense_at) {
                (Some((indices, ..)), Some((rows, classes)), ..) => {
                    indices.spell_out(rows, classes, &mut t[..count]);
                    (&t[..count], true)
                }
                (_, _, Some(dense), Some(cursor)) => {
                    let t = dense.memory.load(cursor, &mut t[..count], false);
                    (t, all_hard(t))
                }
                _ => unreachable!("targets are either indices or dense"),
            };
            let coefficients = if self.class_alpha.is_none() && self.weight.is_none() && self.grad_loss.is_none() {
                Coefficient::Uniform(uniform)
            } else {
                let one = S::Real::ONE;
                let (alpha, weight, upstream) = (&mut alpha[..count], &mut weight[..count], &mut upstream[..count]);
                fill(&self.class_alpha, &mut alpha_at, alpha, one);
                fill(&self.weight, &mut weight_at, weight, one);
                fill(&self.grad_loss, &mut upstream_at, upstream, one);
                let [positive_loss, negative_loss, positive_grad, negative_grad] =
                    each.each_mut().map(|scratch| &mut scratch[..count]);
                for i in 0..count {
                    // All factors meet in f64 and are rounded once: only their product has to fit the type.
                    let (positive, negative) = match self.class_alpha {
                        Some(_) => (alpha[i].to_f64(), 1.0 - alpha[i].to_f64()),
                        None => self.alpha_pair(),
                    };
                    let weight = weight[i].to_f64();
                    let (loss, grad) = (weight * self.factors.loss, weight * upstream[i].to_f64() * self.factors.grad);
                    positive_loss[i] = S::Real::from_f64(positive * loss);
                    negative_loss[i] = S::Real::from_f64(negative * loss);
                    positive_grad[i] = S::Real::from_f64(positive * grad);
                    negative_grad[i] = S::Real::from_f64(negative * grad);
                }
                Coefficient::Each { loss: (positive_loss, negative_loss), grad: (positive_grad, negative_grad) }
            };
            // Results go where they belong, or by way of scratch where memory is not dense.
            let loss_out = &mut loss[..if self.loss.is_some() || self.sums { count } else { 0 }];
            let grad_out = &mut grad[..if self.grad.is_some() { count } else { 0 }];
            run_kernel(
                self.isa,
                is_hard,
                Batch { x, t, coefficients, gamma: &self.gamma, loss: loss_out, grad: grad_out },
            );
            if self.sums {
                sums.add(loss_out);
            }
            if let (Some(loss), Some(cursor)) = (&self.loss, &mut loss_at) {
                loss.memory.copy_from(cursor, loss_out);
            }
            if let (Some(grad), Some(cursor)) = (&self.grad, &mut grad_at) {
                grad.memory.copy_from(cursor, grad_out);
            }
        }
        sums.total()
    }
}

/// Loads an operand's next values, or fills in what stands for its absence.
fn fill<S: Storage>(
    operand: &Option<Operand<S>>,
    cursor: &mut Option<Cursor>,
    values: &mut [S::Real],
    absent: S::Real,
) {
    match (operand, cursor) {
        (Some(operand), Some(cursor)) => operand.memory.copy_to(cursor, values),
        _ => values.fill(absent),
    }
}

fn all_hard<R: Real>(t: &[R]) -> bool {
    t.iter().fold(true, |all, &t| all & ((t == R::ZERO) | (t == R::ONE)))
}

/// What the losses and gradients of a batch are multiplied by.
enum Coefficient<'a, R> {
    /// The same everywhere: of positives, of negatives.
    Uniform((Coefficients<R>, Coefficients<R>)),
    /// One for each element: of the loss and of the gradient, each of positives and of negatives.
    Each { loss: (&'a [R], &'a [R]), grad: (&'a [R], &'a [R]) },
}

/// Up to [`BATCH`] elements. `loss` and `grad` are as long as the rest, or empty where not wanted.
struct Batch<'a, R> {
    x: &'a [R],
    t: &'a [R],
    coefficients: Coefficient<'a, R>,
    gamma: &'a Gamma<R>,
    loss: &'a mut [R],
    grad: &'a mut [R],
}

fn run_kernel<R: Real>(isa: Isa, is_hard: bool, batch: Batch<R>) {
    match (is_hard, batch.loss.is_empty(), batch.grad.is_empty()) {
        (true, false, true) => isa.run(SigmoidKernel::<R, true, true, false>(batch)),
        (true, true, false) => isa.run(SigmoidKernel::<R, true, false, true>(batch)),
        (true, false, false) => isa.run(SigmoidKernel::<R, true, true, true>(batch)),
        (false, false, true) => isa.run(SigmoidKernel::<R, false, true, false>(batch)),
        (false, true, false) => isa.run(SigmoidKernel::<R, false, false, true>(batch)),
        (false, false, false) => isa.run(SigmoidKernel::<R, false, true, true>(batch)),
        (_, true, true) => {}
    }
}

struct SigmoidKernel<'a, R, const HARD: bool, const LOSS: bool, const GRAD: bool>(Batch<'a, R>);

impl<R: Real, const HARD: bool, const LOSS: bool, const GRAD: bool> Kernel for SigmoidKernel<'_, R, HARD, LOSS, GRAD> {
    #[inline(always)]
    fn run(self) {
        let Batch { x, t, coefficients, gamma, loss, grad } = self.0;
        match coefficients {
            Coefficient::Uniform((ones, zeros)) => {
                element_loop::<R, HARD, LOSS, GRAD>(x, t, gamma, loss, grad, |_| (ones, zeros));
            }
            Coefficient::Each { loss: losses, grad: grads } => {
                let count = x.len();
                let (losses, grads) =
                    ((&losses.0[..count], &losses.1[..count]), (&grads.0[..count], &grads.1[..count]));
                let at = |i: usize| {
                    (
                        Coefficients { loss: losses.0[i], grad: grads.0[i] },
                        Coefficients { loss: losses.1[i], grad: grads.1[i] },
                    )
                };
                element_loop::<R, HARD, LOSS, GRAD>(x, t, gamma, loss, grad, at);
            }
        }
    }
}

/// The loop that the compiler vectorises: no branches, no calls, one element after another.
#[inline(always)]
fn element_loop<R: Real, const HARD: bool, const LOSS: bool, const GRAD: bool>(
    x: &[R],
    t: &[R],
    gamma: &Gamma<R>,
    loss: &mut [R],
    grad: &mut [R],
    coefficients: impl Fn(usize) -> (Coefficients<R>, Coefficients<R>),
) {
    let count = x.len();
    let t = &t[..count];
    let loss = if LOSS { &mut loss[..count] } else { loss };
    let grad = if GRAD { &mut grad[..count] } else { grad };
    let gamma = *gamma;
    for i in 0..count {
        let (ones, zeros) = coefficients(i);
        let point = if HARD {
            let positive = t[i] == R::ONE;
            let own = Coefficients {
                loss: R::select(positive, ones.loss, zeros.loss),
                grad: R::select(positive, ones.grad, zeros.grad),
            };
            let point = hard(x[i], positive, own, &gamma);
            let ignored = t[i] == R::from_f64(IGNORED as f64);
            Point { loss: R::select(ignored, R::ZERO, point.loss), grad: R::select(ignored, R::ZERO, point.grad) }
        } else {
            soft(x[i], t[i], ones, zeros, &gamma)
        };
        if LOSS {
            loss[i] = point.loss.canonical();
        }
        if GRAD {
            grad[i] = point.grad.canonical();
        }
    }
}
