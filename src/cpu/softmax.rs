//! Softmax focal loss over a whole problem.
//!
//! Sixteen rows go side by side, one to a lane, whatever axis the classes are on: three passes over
//! the classes find each row's largest logit, sum the other exponentials, and write the gradient.
//! Between them, a few numbers per row give the loss (see [`crate::math::softmax`]). Classes pass
//! through a tile of fixed size, so scratch memory does not grow with K.

use crate::math::elementary::exp;
use crate::math::real::Real;
use crate::math::sigmoid::Gamma;
use crate::math::softmax::{Row, Sum, Term, shift};
use crate::options::Reduction;
use crate::problem::Problem;
use crate::tensor::Tensor;

use super::Factors;
use super::chunks::{Chunks, LANES, LaneSums, sum_of_chunks};
use super::executor::Executor;
use super::isa::{Isa, Kernel};
use super::storage::{Memory, Storage};
use super::targets::{Indices, Label};
use super::walk::Walk;

/// Classes of a tile.
const TILE: usize = 64;

type Lanes<T> = [T; LANES];

/// Runs the problem; gives the sum of the losses where they are reduced.
pub fn run<S: Storage>(problem: &Problem, factors: Factors, executor: &dyn Executor, isa: Isa) -> f64 {
    let plan = Plan::<S>::new(problem, factors, isa);
    let chunks = Chunks::new(problem.rows(), problem.classes, LANES);
    sum_of_chunks(chunks, executor, &|range| {
        let mut sums = LaneSums::ZERO;
        for first in range.clone().step_by(LANES) {
            let loss = plan.run(first, LANES.min(range.end - first));
            sums.add(&loss[..LANES.min(range.end - first)]);
        }
        if plan.sums { sums.total() } else { 0.0 }
    })
}

/// A tensor with a value for each row.
struct PerRow<S> {
    memory: Memory<S>,
    walk: Walk,
}

impl<S: Storage> PerRow<S> {
    fn load(&self, first: usize, count: usize) -> Lanes<f64> {
        let mut values = [S::Real::ZERO; LANES];
        self.memory.copy_to(&mut self.walk.at(first), &mut values[..count]);
        values.map(Real::to_f64)
    }
}

/// A tensor with a value for each row and class.
struct PerClass<S> {
    memory: Memory<S>,
    rows: Walk,
    class_stride: isize,
}

impl<S: Storage> PerClass<S> {
    fn new(tensor: &Tensor, problem: &Problem) -> Self {
        Self {
            // SAFETY: the tensor is valid for the call; rows and class stride are its own axes.
            memory: unsafe { Memory::new(tensor.data) },
            rows: Walk::new(&problem.row_shape, &tensor.strides.without(problem.axis)),
            class_stride: tensor.strides[problem.axis],
        }
    }

    fn block(&self, first: usize, count: usize) -> Block<'_, S> {
        Block { tensor: self, offsets: row_offsets(&self.rows, first, count), count }
    }
}

/// Where each lane's row starts.
fn row_offsets(rows: &Walk, first: usize, count: usize) -> Lanes<isize> {
    let mut offsets = [0; LANES];
    let mut cursor = rows.at(first);
    let mut lane = 0;
    while lane < count {
        let run = cursor.next_run(count - lane);
        for i in 0..run.count {
            offsets[lane + i] = run.offset + i as isize * run.stride;
        }
        lane += run.count;
    }
    offsets
}

/// Sixteen rows of a [`PerClass`] tensor, of which `count` are real.
struct Block<'a, S> {
    tensor: &'a PerClass<S>,
    offsets: Lanes<isize>,
    count: usize,
}

impl<S: Storage> Block<'_, S> {
    fn offset(&self, lane: usize, class: usize) -> isize {
        self.offsets[lane] + class as isize * self.tensor.class_stride
    }

    fn at(&self, lane: usize, class: usize) -> S::Real {
        self.tensor.memory.load_at(self.offset(lane, class))
    }

    /// Lanes without a row keep what they had: nothing reads what comes of it.
    fn load(&self, first_class: usize, tile: &mut [Lanes<S::Real>]) {
        for lane in 0..self.count {
            let start = self.offset(lane, first_class);
            for (class, values) in tile.iter_mut().enumerate() {
                values[lane] = self.tensor.memory.load_at(start + class as isize * self.tensor.class_stride);
            }
        }
    }

    fn store(&self, first_class: usize, tile: &[Lanes<S::Real>]) {
        for lane in 0..self.count {
            let start = self.offset(lane, first_class);
            for (class, values) in tile.iter().enumerate() {
                self.tensor.memory.store_at(start + class as isize * self.tensor.class_stride, values[lane]);
            }
        }
    }
}

struct Plan<S: Storage> {
    isa: Isa,
    gamma: Gamma<f64>,
    alpha: f64,
    factors: Factors,
    classes: usize,
    logits: PerClass<S>,
    dense: Option<PerClass<S>>,
    indices: Option<(Indices, Walk)>,
    class_alpha: Option<(Memory<S>, isize)>,
    weight: Option<PerRow<S>>,
    grad_loss: Option<PerRow<S>>,
    each: bool,
    loss: Option<PerRow<S>>,
    sums: bool,
    grad: Option<PerClass<S>>,
}

impl<S: Storage> Plan<S> {
    fn new(problem: &Problem, factors: Factors, isa: Isa) -> Self {
        let per_row = |tensor: Tensor, strides: &[isize]| PerRow {
            // SAFETY: the strides are the tensor's own or broadcast them over the rows.
            memory: unsafe { Memory::new(tensor.data) },
            walk: Walk::new(&problem.row_shape, strides),
        };
        let (inputs, outputs) = (&problem.inputs, &problem.outputs);
        let each = problem.options.reduction == Reduction::None;
        let indices = Indices::new(problem);
        let alpha = problem.options.alpha;
        Self {
            isa,
            gamma: Gamma::new(problem.options.gamma),
            alpha: if alpha < 0.0 { 1.0 } else { alpha },
            factors,
            classes: problem.classes,
            logits: PerClass::new(&inputs.logits, problem),
            dense: indices.is_none().then(|| PerClass::new(&inputs.targets, problem)),
            indices: indices.map(|indices| (indices, Walk::new(&problem.row_shape, &inputs.targets.strides))),
            // SAFETY: the tensor is valid for the call; offsets are class times its stride.
            class_alpha: inputs.class_alpha.map(|t| (unsafe { Memory::new(t.data) }, t.strides[0])),
            weight: inputs.weight.zip(problem.weight_strides).map(|(t, strides)| per_row(t, &strides)),
            grad_loss: inputs.grad_loss.filter(|_| each).map(|t| per_row(t, &t.strides)),
            each,
            loss: outputs.loss.filter(|_| each).map(|t| per_row(t, &t.strides)),
            sums: outputs.loss.is_some() && !each,
            grad: outputs.grad_logits.map(|t| PerClass::new(&t, problem)),
        }
    }

    fn alpha_of(&self, class: usize) -> f64 {
        match &self.class_alpha {
            Some((memory, stride)) => memory.load_at(class as isize * stride).to_f64(),
            None => self.alpha,
        }
    }

    /// Up to sixteen rows from `first` on; gives their losses.
    fn run(&self, first: usize, count: usize) -> Lanes<f64> {
        let logits = self.logits.block(first, count);
        let mut tile = [[S::Real::ZERO; LANES]; TILE];
        let tiles = || (0..self.classes).step_by(TILE).map(|k| (k, TILE.min(self.classes - k)));
        // A row that fits into the tile is loaded once.
        let reload = |k: usize, tile: &mut [Lanes<S::Real>]| {
            if k > 0 || self.classes > TILE {
                logits.load(k, tile);
            }
        };

        let mut peak = Peak { max: [S::Real::ZERO; LANES], class: [0; LANES] };
        for (k, size) in tiles() {
            logits.load(k, &mut tile[..size]);
            self.isa.run(PeakKernel { first: k, tile: &tile[..size], peak: &mut peak });
        }
        let mut rest = RestSums { high: [0.0; LANES], low: [0.0; LANES] };
        for (k, size) in tiles() {
            reload(k, &mut tile[..size]);
            self.isa.run(RestKernel { first: k, tile: &tile[..size], peak: &peak, rest: &mut rest });
        }
        let rows: Lanes<Row> = std::array::from_fn(|i| Row::new(Sum { high: rest.high[i], low: rest.low[i] }));

        let mut weight = [self.factors.loss; LANES];
        if let Some(tensor) = &self.weight {
            let values = tensor.load(first, count);
            weight.iter_mut().zip(values).for_each(|(w, v)| *w *= v);
        }
        let upstream = match &self.grad_loss {
            Some(tensor) => tensor.load(first, count),
            None if self.each => [1.0; LANES],
            None => [self.factors.grad; LANES],
        };
        let term = |lane: usize, x: S::Real, class: usize, c: f64| -> Term {
            let largest = peak.class[lane] == class;
            rows[lane].term(shift(x.to_f64(), peak.max[lane].to_f64()), largest, c, &self.gamma)
        };

        let mut losses = [0.0f64; LANES];
        let mut slopes = [0.0f64; LANES];
        // The gradient at a row's own class, for class indices.
        let mut own: Lanes<Option<(usize, f64)>> = [None; LANES];
        let mut t = [[S::Real::ZERO; LANES]; TILE];
        let dense = self.dense.as_ref().map(|dense| dense.block(first, count));
        if let Some((indices, walk)) = &self.indices {
            let offsets = row_offsets(walk, first, count);
            for lane in 0..count {
                if let Label::Class(y) = indices.label(offsets[lane]) {
                    let term = term(lane, logits.at(lane, y), y, self.alpha_of(y) * weight[lane]);
                    losses[lane] = term.loss;
                    slopes[lane] = term.slope * upstream[lane];
                    own[lane] = Some((y, -slopes[lane] * term.others));
                }
            }
        } else if let Some(dense) = &dense {
            // Zero, or NaN where the row's sum is.
            losses = std::array::from_fn(|lane| rows[lane].per_sum(0.0));
            for (k, size) in tiles() {
                reload(k, &mut tile[..size]);
                dense.load(k, &mut t[..size]);
                for (class, (x, t)) in tile.iter().zip(&t[..size]).enumerate() {
                    for lane in (0..count).filter(|&lane| t[lane] != S::Real::ZERO) {
                        let c = t[lane].to_f64() * self.alpha_of(k + class) * weight[lane];
                        let term = term(lane, x[lane], k + class, c);
                        losses[lane] += term.loss;
                        slopes[lane] += term.slope * upstream[lane];
                    }
                }
            }
        }

        if let Some(grad) = &self.grad {
            let grad = grad.block(first, count);
            let mut out = [[S::Real::ZERO; LANES]; TILE];
            let counted: Lanes<bool> = std::array::from_fn(|i| dense.is_some() || own[i].is_some());
            let factors: Lanes<S::Real> = std::array::from_fn(|i| S::Real::from_f64(rows[i].per_sum(slopes[i])));
            for (k, size) in tiles() {
                reload(k, &mut tile[..size]);
                let (tile, out) = (&tile[..size], &mut out[..size]);
                self.isa.run(GradKernel { first: k, tile, peak: &peak, factors: &factors, counted: &counted, out });
                for (lane, own) in own.iter().enumerate() {
                    if let Some((y, value)) = own.filter(|(y, _)| (k..k + size).contains(y)) {
                        out[y - k][lane] = S::Real::from_f64(value).canonical();
                    }
                }
                if let Some(dense) = &dense {
                    dense.load(k, &mut t[..size]);
                    for (class, (x, t)) in tile.iter().zip(&t[..size]).enumerate() {
                        for lane in (0..count).filter(|&lane| t[lane] != S::Real::ZERO) {
                            let c = t[lane].to_f64() * self.alpha_of(k + class) * weight[lane];
                            let term = term(lane, x[lane], k + class, c);
                            let q = term.slope * upstream[lane];
                            let value = term.own * (slopes[lane] - q) - q * term.others;
                            out[class][lane] = S::Real::from_f64(value).canonical();
                        }
                    }
                }
                grad.store(k, out);
            }
        }

        if let Some(tensor) = &self.loss {
            let rounded = losses.map(|loss| S::Real::from_f64(loss).canonical());
            tensor.memory.copy_from(&mut tensor.walk.at(first), &rounded[..count]);
        }
        losses
    }
}

/// Each row's largest logit and the first class that has it.
struct Peak<R> {
    max: Lanes<R>,
    class: Lanes<usize>,
}

struct PeakKernel<'a, R> {
    first: usize,
    tile: &'a [Lanes<R>],
    peak: &'a mut Peak<R>,
}

impl<R: Real> Kernel for PeakKernel<'_, R> {
    #[inline(always)]
    fn run(self) {
        let Peak { max, class } = self.peak;
        for (k, x) in (self.first..).zip(self.tile) {
            for lane in 0..LANES {
                // A NaN in front stays; one further on makes the sum NaN.
                let above = (k == 0) | (x[lane] > max[lane]);
                max[lane] = R::select(above, x[lane], max[lane]);
                class[lane] = if above { k } else { class[lane] };
            }
        }
    }
}

/// Each row's sum of exponentials without the largest, in f64 with its error.
struct RestSums {
    high: Lanes<f64>,
    low: Lanes<f64>,
}

struct RestKernel<'a, R> {
    first: usize,
    tile: &'a [Lanes<R>],
    peak: &'a Peak<R>,
    rest: &'a mut RestSums,
}

impl<R: Real> Kernel for RestKernel<'_, R> {
    #[inline(always)]
    fn run(self) {
        let RestSums { high, low } = self.rest;
        for (k, x) in (self.first..).zip(self.tile) {
            for lane in 0..LANES {
                let power = exp(shift(x[lane], self.peak.max[lane]));
                let e = (power.value * power.scale.0) * power.scale.1;
                // A NaN that leads the row has to show even where there is no other class.
                let own = R::select(x[lane].is_nan(), R::NAN, R::ZERO);
                let e = R::select(self.peak.class[lane] == k, own, e);
                let mut sum = Sum { high: high[lane], low: low[lane] };
                sum.add(e.to_f64());
                (high[lane], low[lane]) = (sum.high, sum.low);
            }
        }
    }
}

/// `factor * exp(x - max)`, zero where the row is not counted.
struct GradKernel<'a, R> {
    first: usize,
    tile: &'a [Lanes<R>],
    peak: &'a Peak<R>,
    factors: &'a Lanes<R>,
    counted: &'a Lanes<bool>,
    out: &'a mut [Lanes<R>],
}

impl<R: Real> Kernel for GradKernel<'_, R> {
    #[inline(always)]
    fn run(self) {
        for ((k, x), out) in (self.first..).zip(self.tile).zip(self.out) {
            for lane in 0..LANES {
                let (d, low) = shift(x[lane], self.peak.max[lane]);
                let largest = self.peak.class[lane] == k;
                let power = exp((R::select(largest, R::ZERO, d), R::select(largest, R::ZERO, low)));
                let grad = power.times(self.factors[lane], R::ONE).canonical();
                out[lane] = R::select(self.counted[lane], grad, R::ZERO);
            }
        }
    }
}
