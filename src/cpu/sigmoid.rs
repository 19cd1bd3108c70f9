//! Sigmoid focal loss over a whole problem: chunks, and the batches they are cut into.
//!
//! A batch goes through an easy loop of [`super::sigmoid_loops`] first, which is right for the easy
//! examples and marks the rest: hard negatives, positives, soft labels. Those few are gathered, go
//! through a general loop, and are put back. Where they are not few, the whole batch goes through the
//! general loop. Every loop gives an element the same bits, so the way taken never shows in the result.

use crate::math::real::Real;
use crate::math::sigmoid::{Coefficients, Gamma};
use crate::options::Reduction;
use crate::problem::Problem;

use super::Factors;
use super::chunks::{BATCH, Chunks, LANES, LaneSums, sum_of_chunks};
use super::executor::Executor;
use super::isa::{Isa, Kernel};
use super::scratch::Scratch;
use super::sigmoid_loops::{
    Batch, Coefficient, DONE, Easy, EasyLabels, General, Hard, Marked, Negative, POSITIVE, Soft, run_loop,
};
use super::storage::{Memory, Storage};
use super::targets::{Rows, labels_of_marks};
use super::walk::Walk;

/// The most elements of a batch that are worth gathering.
const FEW: usize = BATCH / 4;

/// Marks that are looked at together.
const STRETCH: usize = 64;

/// Runs the problem; gives the sum of the losses where they are reduced.
pub fn run<S: Storage>(problem: &Problem, factors: Factors, executor: &dyn Executor, isa: Isa) -> f64 {
    let plan = Plan::<S>::new(problem, factors, isa);
    let chunks = Chunks::new(problem.inputs.logits.len(), 1, BATCH);
    sum_of_chunks(chunks, executor, &|range| plan.run(range.start, range.end))
}

/// One operand over the logits' index space.
struct Operand<S> {
    memory: Memory<S>,
    walk: Walk,
}

impl<S: Storage> Operand<S> {
    /// The elements from `first` on: memory itself where they are dense, else a copy in `scratch`.
    fn load<'a>(&'a self, first: usize, count: usize, scratch: &'a mut Scratch<S, BATCH>, in_place: bool) -> &'a [S] {
        self.memory.load(&mut self.walk.at(first), count, scratch, in_place)
    }

    /// Memory for the `count` results from `first` on, where they are dense.
    fn dense(&self, first: usize, count: usize) -> Option<&mut [S]> {
        let run = self.walk.at(first).peek(count);
        self.memory.slice_mut(run).filter(|_| run.count == count)
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
    rows: Option<Rows>,
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
        let rows = Rows::new(problem);
        let weight = inputs.weight.as_ref().zip(problem.weight_strides.as_ref());
        let mut gamma = None;
        isa.run(NewGamma { value: problem.options.gamma, gamma: &mut gamma });
        Self {
            isa,
            gamma: gamma.expect("the kernel has run"),
            alpha: problem.options.alpha,
            factors,
            in_place: problem.in_place(),
            logits: operand(inputs.logits.data, &inputs.logits.strides),
            dense: rows.is_none().then(|| operand(inputs.targets.data, &inputs.targets.strides)),
            rows,
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

    /// Coefficients that hold everywhere.
    fn uniform(&self) -> Coefficient<'static, S::Real> {
        let (positive, negative) = self.alpha_pair();
        let times = |alpha: f64| Coefficients {
            loss: S::Real::from_f64(alpha * self.factors.loss),
            grad: S::Real::from_f64(alpha * self.factors.grad),
        };
        Coefficient::Uniform(times(positive), times(negative))
    }

    /// Coefficients for each of the next `count` elements.
    fn each<'a>(
        &self,
        scratch: &'a mut FactorScratch<S::Real>,
        first: usize,
        count: usize,
    ) -> Coefficient<'a, S::Real> {
        let operands = [&self.class_alpha, &self.weight, &self.grad_loss];
        for (operand, values) in operands.into_iter().zip(&mut scratch.factors) {
            match operand {
                Some(operand) => operand.memory.copy_to(&mut operand.walk.at(first), values.get(count)),
                None => values.get(count).fill(S::Real::ONE),
            }
        }
        self.isa.run(EachKernel {
            alpha: self.class_alpha.is_none().then(|| self.alpha_pair()),
            factors: self.factors,
            from: scratch.factors.each_mut().map(|values| &*values.get(count)),
            to: scratch.products.each_mut().map(|values| values.get(count)),
        });
        Coefficient::Each(scratch.products.each_mut().map(|values| &*values.get(count)))
    }

    fn run(&self, start: usize, end: usize) -> f64 {
        // One by one: an array of them would be made elsewhere and moved here, whole.
        let mut x = Scratch::<S, BATCH>::new();
        let mut t = Scratch::<S, BATCH>::new();
        let mut grad = Scratch::<S, BATCH>::new();
        let mut loss = Scratch::<S::Real, BATCH>::new();
        let mut marks = Scratch::<u8, BATCH>::new();
        let (mut factors, mut rest) = (FactorScratch::new(), Rest::new());
        let has_factors = self.class_alpha.is_some() || self.weight.is_some() || self.grad_loss.is_some();
        let mut sums = LaneSums::ZERO;

        for first in (start..end).step_by(BATCH) {
            let count = BATCH.min(end - first);
            let x = self.logits.load(first, count, &mut x, self.in_place);
            // Results go where they belong, or by way of scratch where memory is not dense or of another type.
            let direct = self.loss.as_ref().and_then(|loss| loss.dense(first, count)).and_then(S::as_reals_mut);
            let (loss, copies_loss) = match direct {
                Some(memory) => (memory, false),
                None => (loss.get(if self.sums || self.loss.is_some() { count } else { 0 }), self.loss.is_some()),
            };
            let direct = self.grad.as_ref().and_then(|grad| grad.dense(first, count));
            let (grad, copies_grad) = match direct {
                Some(memory) => (memory, false),
                None => (grad.get(if self.grad.is_some() { count } else { 0 }), self.grad.is_some()),
            };
            let coefficients = if has_factors { self.each(&mut factors, first, count) } else { self.uniform() };
            let mut batch = Batch { x, t: &[], coefficients, gamma: &self.gamma, loss, grad, marks: marks.get(count) };
            match (&self.rows, &self.dense) {
                (Some(rows), _) => {
                    let positives = rows.mark(first, batch.marks);
                    let tries_labelled = positives.is_some_and(|count| count > FEW / 2);
                    let done = match positives {
                        None => self.easy::<Negative>(&mut batch, &mut rest),
                        Some(_) if tries_labelled => false,
                        Some(_) => self.easy::<Marked>(&mut batch, &mut rest),
                    };
                    if !done {
                        if positives.is_none() {
                            batch.marks.fill(DONE);
                        }
                        labels_of_marks(batch.marks, t.get(count));
                        batch.t = t.get(count);
                        self.labelled::<Hard>(&mut batch, &mut rest, tries_labelled);
                    }
                }
                (_, Some(dense)) => {
                    batch.t = dense.load(first, count, &mut t, false);
                    self.labelled::<Soft>(&mut batch, &mut rest, true);
                }
                _ => unreachable!("targets are either indices or dense"),
            }
            let (loss, grad) = (batch.loss, batch.grad);
            if self.sums {
                self.isa.run(SumKernel { sums: &mut sums, values: loss });
            }
            if let Some(operand) = self.loss.as_ref().filter(|_| copies_loss) {
                operand.memory.copy_from(&mut operand.walk.at(first), loss);
            }
            if let Some(operand) = self.grad.as_ref().filter(|_| copies_grad) {
                operand.memory.put(&mut operand.walk.at(first), grad);
            }
        }
        sums.total()
    }

    /// A batch whose labels are spelled out.
    fn labelled<L: EasyLabels<S::Real>>(&self, batch: &mut Batch<S>, rest: &mut Rest<S::Real>, try_easy: bool) {
        if !(try_easy && self.easy::<L>(batch, rest)) {
            let count = batch.x.len();
            for start in (0..count).step_by(FEW) {
                self.general(batch, rest, Places::Range(start, FEW.min(count - start)));
            }
        }
    }

    /// Computes the batch where all but a few of its elements are easy; says whether it has. Not for
    /// every type, nor where a coefficient could make a NaN that is not the one we store.
    fn easy<L: EasyLabels<S::Real>>(&self, batch: &mut Batch<S>, rest: &mut Rest<S::Real>) -> bool {
        let finite = match batch.coefficients {
            Coefficient::Uniform(ones, zeros) => ones.is_finite() && zeros.is_finite(),
            Coefficient::Each(_) => true,
        };
        if !S::Real::HAS_EASY || !finite {
            return false;
        }
        run_loop::<_, Easy<L>>(self.isa, batch);
        let mut places = Scratch::<u16, { FEW + STRETCH }>::new();
        let places = places.get(FEW + STRETCH);
        match collect(batch.marks, places) {
            None => false,
            Some(0) => true,
            Some(count) => {
                self.general(batch, rest, Places::Listed(&places[..count]));
                true
            }
        }
    }

    /// Computes some elements of a batch, at most [`FEW`].
    fn general(&self, batch: &mut Batch<S>, rest: &mut Rest<S::Real>, places: Places) {
        let count = places.count();
        // Whole vectors: what is behind the last place is computed as well and goes nowhere.
        let padded = count.next_multiple_of(LANES);
        let (x, t) = (rest.x.get(padded), rest.t.get(padded));
        places.gather(batch.x, x);
        match places {
            Places::Listed(places) if batch.t.is_empty() => {
                for (t, &i) in t.iter_mut().zip(places) {
                    *t = if batch.marks[usize::from(i)] == POSITIVE { S::Real::ONE } else { S::Real::ZERO };
                }
            }
            _ => places.gather(batch.t, t),
        }
        let coefficients = match batch.coefficients {
            Coefficient::Each(values) => {
                let mut products = rest.products.each_mut().map(|products| products.get(padded));
                values.iter().zip(&mut products).for_each(|(values, products)| places.gather(values, products));
                Coefficient::Each(products.map(|products| &*products))
            }
            uniform => uniform,
        };
        let loss = rest.loss.get(if batch.loss.is_empty() { 0 } else { padded });
        let grad = rest.grad.get(if batch.grad.is_empty() { 0 } else { padded });
        let is_hard = |t: S::Real| (t == S::Real::ZERO) | (t == S::Real::ONE);
        let all_hard = self.rows.is_some() || t[..count].iter().fold(true, |all, &t| all & is_hard(t));
        let mut few = Batch::<S::Real> { x, t, coefficients, gamma: batch.gamma, loss, grad, marks: &mut [] };
        if all_hard {
            run_loop::<_, General<Hard>>(self.isa, &mut few);
        } else {
            run_loop::<_, General<Soft>>(self.isa, &mut few);
        }
        places.scatter(few.loss, batch.loss);
        places.scatter(few.grad, batch.grad);
    }
}

/// Some places of a batch.
#[derive(Clone, Copy)]
enum Places<'a> {
    Listed(&'a [u16]),
    /// Where the first is, and how many.
    Range(usize, usize),
}

impl Places<'_> {
    fn count(self) -> usize {
        match self {
            Places::Listed(places) => places.len(),
            Places::Range(_, count) => count,
        }
    }

    fn gather<S: Storage>(self, from: &[S], to: &mut [S::Real]) {
        match self {
            Places::Listed(places) => {
                for (to, &i) in to.iter_mut().zip(places) {
                    *to = from[usize::from(i)].load();
                }
            }
            Places::Range(start, count) => S::load_dense(&from[start..][..count], &mut to[..count]),
        }
    }

    /// Nothing where nothing is wanted.
    fn scatter<S: Storage>(self, from: &[S::Real], to: &mut [S]) {
        match self {
            _ if to.is_empty() => {}
            Places::Listed(places) => {
                for (&result, &i) in from.iter().zip(places) {
                    to[usize::from(i)] = S::store(result);
                }
            }
            Places::Range(start, count) => S::store_dense(&from[..count], &mut to[start..][..count]),
        }
    }
}

/// Where elements are that are yet to be computed; `None` if there is no room for all of them.
fn collect(marks: &[u8], places: &mut [u16]) -> Option<usize> {
    let room = places.len() - STRETCH;
    let mut count = 0;
    for (i, stretch) in marks.chunks(STRETCH).enumerate() {
        let mut padded = [DONE; STRETCH];
        let stretch: &[u8; STRETCH] = match stretch.try_into() {
            Ok(whole) => whole,
            Err(_) => {
                padded[..stretch.len()].copy_from_slice(stretch);
                &padded
            }
        };
        if stretch == &[DONE; STRETCH] {
            continue;
        }
        let mut bits = pending(stretch);
        while bits != 0 {
            let bit = bits.trailing_zeros() as usize;
            places[count] = (STRETCH * i + bit % 8 * 8 + bit / 8) as u16;
            count += 1;
            bits &= bits - 1;
        }
        if count > room {
            return None;
        }
    }
    Some(count)
}

/// One bit for each mark, whether its element is yet to be computed: bit `8j + k` is that of mark `8k + j`.
fn pending(marks: &[u8; STRETCH]) -> u64 {
    let words = marks.as_chunks::<8>().0.iter().enumerate();
    words.fold(0, |bits, (k, &word)| bits | (u64::from_le_bytes(word) & 0x0101_0101_0101_0101) << k)
}

/// Room for what varies from element to element, and for what becomes of it.
struct FactorScratch<R> {
    /// Class alpha, weight, gradient of the loss.
    factors: [Scratch<R, BATCH>; 3],
    products: [Scratch<R, BATCH>; 4],
}

impl<R: Real> FactorScratch<R> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            factors: [Scratch::new(), Scratch::new(), Scratch::new()],
            products: [Scratch::new(), Scratch::new(), Scratch::new(), Scratch::new()],
        }
    }
}

/// Room for elements that an easy loop is not right for.
struct Rest<R> {
    x: Scratch<R, FEW>,
    t: Scratch<R, FEW>,
    products: [Scratch<R, FEW>; 4],
    loss: Scratch<R, FEW>,
    grad: Scratch<R, FEW>,
}

impl<R: Real> Rest<R> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            x: Scratch::new(),
            t: Scratch::new(),
            products: [Scratch::new(), Scratch::new(), Scratch::new(), Scratch::new()],
            loss: Scratch::new(),
            grad: Scratch::new(),
        }
    }
}

struct NewGamma<'a, R> {
    value: f64,
    gamma: &'a mut Option<Gamma<R>>,
}

impl<R: Real> Kernel for NewGamma<'_, R> {
    #[inline(always)]
    fn run(self) {
        *self.gamma = Some(Gamma::new(self.value));
    }
}

/// All factors meet in f64 and are rounded once: only their product has to fit the type.
struct EachKernel<'a, R> {
    /// Of positives and of negatives, where class alpha does not say.
    alpha: Option<(f64, f64)>,
    factors: Factors,
    from: [&'a [R]; 3],
    to: [&'a mut [R]; 4],
}

impl<R: Real> Kernel for EachKernel<'_, R> {
    #[inline(always)]
    fn run(self) {
        let [class_alpha, weight, upstream] = self.from;
        let [positive_loss, negative_loss, positive_grad, negative_grad] = self.to;
        for i in 0..weight.len() {
            let of_class = class_alpha[i].to_f64();
            let (positive, negative) = self.alpha.unwrap_or((of_class, 1.0 - of_class));
            let weight = weight[i].to_f64();
            let (loss, grad) = (weight * self.factors.loss, weight * upstream[i].to_f64() * self.factors.grad);
            positive_loss[i] = R::from_f64(positive * loss);
            negative_loss[i] = R::from_f64(negative * loss);
            positive_grad[i] = R::from_f64(positive * grad);
            negative_grad[i] = R::from_f64(negative * grad);
        }
    }
}

struct SumKernel<'a, R> {
    sums: &'a mut LaneSums,
    values: &'a [R],
}

impl<R: Real> Kernel for SumKernel<'_, R> {
    #[inline(always)]
    fn run(self) {
        self.sums.add(self.values);
    }
}
