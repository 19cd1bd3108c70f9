//! Softmax focal loss over a whole problem: the plan, and the chunks of rows.
//!
//! Up to sixteen rows go together ([`super::softmax_batch`]), whatever axis the classes are on. Their logits
//! are seen as slices ([`super::rows`]), and loops over these ([`super::softmax_loops`]) find each row's
//! largest logit, add up the exponentials, which are kept, and make the gradient of them. Between them, a
//! few numbers per row give the loss (see [`crate::math::softmax`]), sixteen rows at once. Rows that are too
//! long for scratch memory are taken one by one, a stretch after the other, and their exponentials are
//! computed again for the gradient. Memory is asked for the next rows while these are worked on.

use crate::math::real::Real;
use crate::math::sigmoid::Gamma;
use crate::options::Reduction;
use crate::problem::Problem;
use crate::tensor::Tensor;

use super::Factors;
use super::chunks::{Chunks, LANES, LaneSums, sum_of_chunks};
use super::executor::Executor;
use super::isa::Isa;
use super::rows::{Lanes, PerClass, TILE};
use super::softmax_batch::Tiles;
use super::storage::{Memory, Storage};
use super::targets::Indices;
use super::walk::Walk;

/// Runs the problem; gives the sum of the losses where they are reduced.
pub fn run<S: Storage>(problem: &Problem, factors: Factors, executor: &dyn Executor, isa: Isa) -> f64 {
    let plan = Plan::<S>::new(problem, factors, isa);
    let chunks = Chunks::new(problem.rows(), problem.classes, LANES);
    sum_of_chunks(chunks, executor, &|range| {
        let mut scratch = Tiles::new();
        let mut sums = LaneSums::ZERO;
        let mut next = plan.blocks(range.start, range.end);
        for first in range.clone().step_by(plan.rows) {
            let count = plan.rows.min(range.end - first);
            let blocks = next;
            next = plan.blocks(first + count, range.end);
            plan.run(first, &blocks, &next, &mut scratch);
            sums.add(&scratch.losses()[..count]);
        }
        if plan.sums { sums.total() } else { 0.0 }
    })
}

/// A tensor with a value for each row.
pub(super) struct PerRow<S> {
    pub(super) memory: Memory<S>,
    pub(super) walk: Walk,
}

impl<S: Storage> PerRow<S> {
    pub(super) fn load(&self, first: usize, count: usize) -> Lanes<f64> {
        let mut values = [S::Real::ZERO; LANES];
        self.memory.copy_to(&mut self.walk.at(first), &mut values[..count]);
        values.map(Real::to_f64)
    }
}

pub(super) struct Plan<S: Storage> {
    pub(super) isa: Isa,
    pub(super) gamma: Gamma<f64>,
    pub(super) alpha: f64,
    pub(super) factors: Factors,
    pub(super) classes: usize,
    /// How many go together.
    pub(super) rows: usize,
    pub(super) in_place: bool,
    pub(super) logits: PerClass<S>,
    pub(super) dense: Option<PerClass<S>>,
    pub(super) indices: Option<(Indices, Walk)>,
    pub(super) class_alpha: Option<(Memory<S>, isize)>,
    pub(super) weight: Option<PerRow<S>>,
    pub(super) grad_loss: Option<PerRow<S>>,
    pub(super) each: bool,
    pub(super) loss: Option<PerRow<S>>,
    pub(super) sums: bool,
    pub(super) grad: Option<PerClass<S>>,
}

impl<S: Storage> Plan<S> {
    fn new(problem: &Problem, factors: Factors, isa: Isa) -> Self {
        let per_row = |tensor: &Tensor, strides: &[isize]| PerRow {
            // SAFETY: the strides are the tensor's own or broadcast them over the rows.
            memory: unsafe { Memory::new(tensor.data) },
            walk: Walk::new(&problem.row_shape, strides),
        };
        let (inputs, outputs) = (&problem.inputs, &problem.outputs);
        let each = problem.options.reduction == Reduction::None;
        let indices = Indices::new(problem);
        let alpha = problem.options.alpha;
        let per_row_of_loss =
            |tensor: &Option<Tensor>| tensor.as_ref().filter(|_| each).map(|t| per_row(t, &t.strides));
        Self {
            isa,
            gamma: Gamma::new(problem.options.gamma),
            alpha: if alpha < 0.0 { 1.0 } else { alpha },
            factors,
            classes: problem.classes,
            rows: (TILE / width(problem.classes)).clamp(1, LANES),
            in_place: problem.in_place(),
            logits: PerClass::new(&inputs.logits, problem),
            dense: indices.is_none().then(|| PerClass::new(&inputs.targets, problem)),
            indices: indices.map(|indices| (indices, Walk::new(&problem.row_shape, &inputs.targets.strides))),
            // SAFETY: the tensor is valid for the call; offsets are class times its stride.
            class_alpha: inputs.class_alpha.as_ref().map(|t| (unsafe { Memory::new(t.data) }, t.strides[0])),
            weight: inputs.weight.as_ref().zip(problem.weight_strides.as_ref()).map(|(t, strides)| per_row(t, strides)),
            grad_loss: per_row_of_loss(&inputs.grad_loss),
            each,
            loss: per_row_of_loss(&outputs.loss),
            sums: outputs.loss.is_some() && !each,
            grad: outputs.grad_logits.as_ref().map(|t| PerClass::new(t, problem)),
        }
    }

    pub(super) fn alpha_of(&self, class: usize) -> f64 {
        match &self.class_alpha {
            Some((memory, stride)) => memory.load_at(class as isize * stride).to_f64(),
            None => self.alpha,
        }
    }
}

/// A row's place in a tile, in whole vectors.
pub(super) fn width(classes: usize) -> usize {
    classes.clamp(1, TILE).next_multiple_of(LANES)
}
