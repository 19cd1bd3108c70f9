//! The loops that the compiler vectorises: one element after another, no branches, no calls.
//!
//! What varies is which elements a loop is right for ([`Easy`], [`General`]) and which labels it may
//! meet ([`Negative`], [`Marked`], [`Hard`], [`Soft`]), whether losses, gradients or both are wanted,
//! whether gamma is 2, and where coefficients come from. Each combination is compiled for each
//! instruction set. A loop sees slices only.
//!
//! # What bounds them
//!
//! The easy loop at gamma 2, losses only, as compiled for AVX-512 (64 elements a turn, read off its
//! assembly): 191 instructions, of which 84 are multiplications or fused multiply-adds: for 16 elements,
//! 9 for the exponential, 8 for the polynomial in it, 4 for the cube and the coefficient.
//! A core of Zen 4 starts one 512-bit multiplication in a clock, so a turn cannot take fewer than 84
//! clocks, 23 ns at 3.65 GHz, and it takes 86; memory brings 64 logits in 7 ns. The multipliers are the
//! bound, and asking for memory ahead of time wins nothing. The sum is a loop of its own, which is
//! a tenth of the whole: inside this one it takes longer. Four chains
//! side by side ([`Four`]) keep the multipliers busy; with one the same loop takes a sixth longer under AVX2.
//! The general loop has about three times as many instructions and two divisions.

use std::array::from_fn;
use std::marker::PhantomData;

use crate::math::easy::is_easy;
use crate::math::real::{Four, Real, WAYS};
use crate::math::sigmoid::{Coefficients, Gamma, Point, hard, soft};

use super::chunks::LANES;
use super::isa::{Isa, Kernel};
use super::storage::Storage;
use super::targets;

/// What the losses and gradients of a batch are multiplied by.
#[derive(Clone, Copy)]
pub enum Coefficient<'a, R> {
    /// The same everywhere: of positives, of negatives.
    Uniform(Coefficients<R>, Coefficients<R>),
    /// One for each element: of positives' losses, negatives' losses, positives' gradients, negatives' gradients.
    Each([&'a [R]; 4]),
}

/// Some elements, as memory holds them. `loss` and `grad` are as long as `x`, or empty where not wanted.
pub struct Batch<'a, S: Storage> {
    pub x: &'a [S],
    /// Labels; not looked at where all are negative but for marks.
    pub t: &'a [S],
    pub coefficients: Coefficient<'a, S::Real>,
    pub gamma: &'a Gamma<S::Real>,
    pub loss: &'a mut [S::Real],
    pub grad: &'a mut [S],
    /// As long as `x`, or empty for a loop that is right for all. One of the marks below for each
    /// element: [`Marked`] is given them, every easy loop leaves [`NEGATIVE`] where its
    /// result is not the element's.
    pub marks: &'a mut [u8],
}

/// Marks of an element: its result is there (or, before a loop, it is a negative); it is
/// yet to be computed, as its label says; the same, and it is a positive; it is zero whatever its logit.
/// The lowest bit says what is yet to be computed.
pub const DONE: u8 = 0;
pub const NEGATIVE: u8 = 1;
pub const POSITIVE: u8 = 3;
pub const IGNORED: u8 = 2;

/// The labels that an easy loop may meet.
pub trait EasyLabels<R: Real> {
    /// Whether labels, and whether marks are read.
    const LABELLED: bool = true;
    const MARKED: bool = false;

    /// The mark of an element for its label, whether its oriented logit is easy, and the mark it had.
    /// [`DONE`] says that the easy result is its result, [`IGNORED`] that it is zero.
    fn mark(t: R, is_easy: bool, mark: u8) -> u8;
}

/// Every label is 0.
pub struct Negative;
/// Every label is 0, but for those with a mark.
pub struct Marked;
/// Labels of 0, 1 and [`targets::IGNORED`](super::targets::IGNORED).
pub struct Hard;
/// Any label. Those of 0 and 1 get the bits that the other loops give them.
pub struct Soft;

impl<R: Real> EasyLabels<R> for Negative {
    const LABELLED: bool = false;

    #[inline(always)]
    fn mark(_: R, is_easy: bool, _: u8) -> u8 {
        if is_easy { DONE } else { NEGATIVE }
    }
}

impl<R: Real> EasyLabels<R> for Marked {
    const LABELLED: bool = false;
    const MARKED: bool = true;

    #[inline(always)]
    fn mark(_: R, is_easy: bool, mark: u8) -> u8 {
        if is_easy | (mark != DONE) { mark } else { NEGATIVE }
    }
}

impl<R: Real> EasyLabels<R> for Hard {
    #[inline(always)]
    fn mark(t: R, is_easy: bool, _: u8) -> u8 {
        if is_ignored(t) {
            IGNORED
        } else if is_easy {
            DONE
        } else {
            NEGATIVE
        }
    }
}

impl<R: Real> EasyLabels<R> for Soft {
    #[inline(always)]
    fn mark(t: R, is_easy: bool, _: u8) -> u8 {
        if is_easy & ((t == R::ONE) | (t == R::ZERO)) { DONE } else { NEGATIVE }
    }
}

/// The labels that a general loop may meet.
pub trait GeneralLabels<R: Real> {
    fn point<const SQUARE: bool>(
        x: R,
        t: R,
        ones: Coefficients<R>,
        zeros: Coefficients<R>,
        gamma: &Gamma<R>,
    ) -> Point<R>;
}

impl<R: Real> GeneralLabels<R> for Hard {
    #[inline(always)]
    fn point<const SQUARE: bool>(
        x: R,
        t: R,
        ones: Coefficients<R>,
        zeros: Coefficients<R>,
        gamma: &Gamma<R>,
    ) -> Point<R> {
        let positive = t == R::ONE;
        zero_if_ignored(t, hard::<R, SQUARE>(x, positive, own(positive, ones, zeros), gamma))
    }
}

impl<R: Real> GeneralLabels<R> for Soft {
    #[inline(always)]
    fn point<const SQUARE: bool>(
        x: R,
        t: R,
        ones: Coefficients<R>,
        zeros: Coefficients<R>,
        gamma: &Gamma<R>,
    ) -> Point<R> {
        soft::<R, SQUARE>(x, t, ones, zeros, gamma)
    }
}

#[inline(always)]
fn own<R: Real>(positive: bool, ones: Coefficients<R>, zeros: Coefficients<R>) -> Coefficients<R> {
    Coefficients { loss: R::select(positive, ones.loss, zeros.loss), grad: R::select(positive, ones.grad, zeros.grad) }
}

#[inline(always)]
fn is_ignored<R: Real>(t: R) -> bool {
    t == R::from_f64(targets::IGNORED.into())
}

#[inline(always)]
fn zero_if_ignored<R: Real>(t: R, point: Point<R>) -> Point<R> {
    let ignored = is_ignored(t);
    Point { loss: R::select(ignored, R::ZERO, point.loss), grad: R::select(ignored, R::ZERO, point.grad) }
}

/// Which of the two kinds of loop.
pub trait Loop<S: Storage> {
    /// `LOSS` and `GRAD`: what is wanted. `SQUARE`: gamma is 2. `CANONICAL`: coefficients may be infinite
    /// or NaN, and so may results.
    fn run<const LOSS: bool, const GRAD: bool, const SQUARE: bool, const CANONICAL: bool>(
        batch: &mut Batch<S>,
        coefficients: impl Fn(usize) -> (Coefficients<S::Real>, Coefficients<S::Real>),
    );
}

/// Right for easy examples; marks the others.
pub struct Easy<L>(PhantomData<L>);
/// Right for all.
pub struct General<L>(PhantomData<L>);

/// Chains of [`Four`] times the lanes.
const GROUP: usize = WAYS * LANES;

impl<R: Real, S: Storage<Real = R>, L: EasyLabels<R>> Loop<S> for Easy<L> {
    #[inline(always)]
    fn run<const LOSS: bool, const GRAD: bool, const SQUARE: bool, const CANONICAL: bool>(
        batch: &mut Batch<S>,
        coefficients: impl Fn(usize) -> (Coefficients<R>, Coefficients<R>),
    ) {
        let gamma = *batch.gamma;
        let count = batch.x.len();
        let canonical = |value: R| if CANONICAL { value.canonical() } else { value };
        let orient = |x: R, t: R, (ones, zeros): (Coefficients<R>, Coefficients<R>)| {
            let positive = t == R::ONE;
            (R::select(positive, -x, x), own(positive, ones, zeros))
        };
        // The results as they are stored, zero where they are not the element's; and its mark.
        let settle = |t: R, z: R, mark: u8, point: Point<R>| {
            let mark = L::mark(t, is_easy(z), mark);
            let done = |value: R| R::select(mark == DONE, canonical(value), R::ZERO);
            (done(point.loss), done(R::select(t == R::ONE, -point.grad, point.grad)), mark)
        };
        let grouped = count - count % GROUP;
        for start in (0..grouped).step_by(GROUP) {
            // Slices of one length each, or of none: the compiler has to see that no index is out of bounds.
            let x = &batch.x[start..][..GROUP];
            let t = if L::LABELLED { &batch.t[start..][..GROUP] } else { &[] };
            let loss = if LOSS { &mut batch.loss[start..][..GROUP] } else { &mut [] };
            let grad = if GRAD { &mut batch.grad[start..][..GROUP] } else { &mut [] };
            let marks = &mut batch.marks[start..][..GROUP];
            for lane in 0..LANES {
                let label = |j: usize| if L::LABELLED { t[lane + j * LANES].load() } else { R::ZERO };
                let at = |j: usize| start + lane + j * LANES;
                let four: [_; WAYS] = from_fn(|j| orient(x[lane + j * LANES].load(), label(j), coefficients(at(j))));
                let z = Four(four.map(|(z, _)| z));
                let c = Coefficients { loss: Four(four.map(|(_, c)| c.loss)), grad: Four(four.map(|(_, c)| c.grad)) };
                let point = gamma.easy::<_, SQUARE>(z, c);
                for j in 0..WAYS {
                    let i = lane + j * LANES;
                    let point = Point { loss: point.loss.0[j], grad: point.grad.0[j] };
                    let (own_loss, own_grad, mark) =
                        settle(label(j), z.0[j], if L::MARKED { marks[i] } else { DONE }, point);
                    marks[i] = mark;
                    if LOSS {
                        loss[i] = own_loss;
                    }
                    if GRAD {
                        grad[i] = S::store(own_grad);
                    }
                }
            }
        }
        for i in grouped..count {
            let t = if L::LABELLED { batch.t[i].load() } else { R::ZERO };
            let (z, c) = orient(batch.x[i].load(), t, coefficients(i));
            let (own_loss, own_grad, mark) =
                settle(t, z, if L::MARKED { batch.marks[i] } else { DONE }, gamma.easy::<_, SQUARE>(z, c));
            batch.marks[i] = mark;
            if LOSS {
                batch.loss[i] = own_loss;
            }
            if GRAD {
                batch.grad[i] = S::store(own_grad);
            }
        }
    }
}

impl<R: Real, S: Storage<Real = R>, L: GeneralLabels<R>> Loop<S> for General<L> {
    #[inline(always)]
    fn run<const LOSS: bool, const GRAD: bool, const SQUARE: bool, const CANONICAL: bool>(
        batch: &mut Batch<S>,
        coefficients: impl Fn(usize) -> (Coefficients<R>, Coefficients<R>),
    ) {
        let Batch { x, t, gamma, loss, grad, .. } = batch;
        let count = x.len();
        let t = &t[..count];
        let loss = if LOSS { &mut loss[..count] } else { &mut [] };
        let grad = if GRAD { &mut grad[..count] } else { &mut [] };
        let gamma = **gamma;
        for i in 0..count {
            let (ones, zeros) = coefficients(i);
            let point = L::point::<SQUARE>(x[i].load(), t[i].load(), ones, zeros, &gamma);
            if LOSS {
                loss[i] = point.loss.canonical();
            }
            if GRAD {
                grad[i] = S::store(point.grad.canonical());
            }
        }
    }
}

/// Runs a loop over a batch.
pub fn run_loop<S: Storage, L: Loop<S>>(isa: Isa, batch: &mut Batch<S>) {
    match (batch.loss.is_empty(), batch.grad.is_empty(), batch.gamma.is_square()) {
        (true, true, _) => {}
        (false, true, false) => isa.run(LoopKernel::<S, L, true, false, false>(batch, PhantomData)),
        (false, true, true) => isa.run(LoopKernel::<S, L, true, false, true>(batch, PhantomData)),
        (true, false, false) => isa.run(LoopKernel::<S, L, false, true, false>(batch, PhantomData)),
        (true, false, true) => isa.run(LoopKernel::<S, L, false, true, true>(batch, PhantomData)),
        (false, false, false) => isa.run(LoopKernel::<S, L, true, true, false>(batch, PhantomData)),
        (false, false, true) => isa.run(LoopKernel::<S, L, true, true, true>(batch, PhantomData)),
    }
}

struct LoopKernel<'a, 'b, S: Storage, L, const LOSS: bool, const GRAD: bool, const SQUARE: bool>(
    &'a mut Batch<'b, S>,
    PhantomData<L>,
);

impl<R: Real, S: Storage<Real = R>, L: Loop<S>, const LOSS: bool, const GRAD: bool, const SQUARE: bool> Kernel
    for LoopKernel<'_, '_, S, L, LOSS, GRAD, SQUARE>
{
    #[inline(always)]
    fn run(self) {
        let batch = self.0;
        match batch.coefficients {
            Coefficient::Uniform(ones, zeros) if LOSS && GRAD && ones.is_shared() && zeros.is_shared() => {
                // One number instead of two: their products are then computed once.
                let both = |c: Coefficients<R>| Coefficients { loss: c.loss, grad: c.loss };
                let (ones, zeros) = (both(ones), both(zeros));
                L::run::<LOSS, GRAD, SQUARE, false>(batch, |_| (ones, zeros));
            }
            Coefficient::Uniform(ones, zeros) => {
                L::run::<LOSS, GRAD, SQUARE, false>(batch, |_| (ones, zeros));
            }
            Coefficient::Each(values) => {
                let count = batch.x.len();
                let [positive_loss, negative_loss, positive_grad, negative_grad] =
                    values.map(|values| &values[..count]);
                L::run::<LOSS, GRAD, SQUARE, true>(batch, |i| {
                    (
                        Coefficients { loss: positive_loss[i], grad: positive_grad[i] },
                        Coefficients { loss: negative_loss[i], grad: negative_grad[i] },
                    )
                });
            }
        }
    }
}
