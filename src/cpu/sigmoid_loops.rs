//! The loops that the compiler vectorises: one element after another, no branches, no calls.
//!
//! What varies is which elements a loop is right for ([`Easy`], [`General`]) and which labels it may
//! meet ([`Negative`], [`Hard`], [`Soft`]), whether losses, gradients or both are
//! wanted, whether gamma is 2, and where coefficients come from. Each combination is compiled for each
//! instruction set. A loop sees slices only.

use std::array::from_fn;
use std::marker::PhantomData;

use crate::math::real::{Four, Real, WAYS};
use crate::math::sigmoid::{Coefficients, Gamma, Point, hard, soft};

use super::chunks::LANES;
use super::isa::{Isa, Kernel};
use super::targets::IGNORED;

/// What the losses and gradients of a batch are multiplied by.
#[derive(Clone, Copy)]
pub enum Coefficient<'a, R> {
    /// The same everywhere: of positives, of negatives.
    Uniform(Coefficients<R>, Coefficients<R>),
    /// One for each element: of positives' losses, negatives' losses, positives' gradients, negatives' gradients.
    Each([&'a [R]; 4]),
}

/// Some elements. `loss` and `grad` are as long as `x`, or empty where not wanted.
pub struct Batch<'a, R> {
    pub x: &'a [R],
    /// Labels; not looked at where all are negative.
    pub t: &'a [R],
    pub coefficients: Coefficient<'a, R>,
    pub gamma: &'a Gamma<R>,
    pub loss: &'a mut [R],
    pub grad: &'a mut [R],
    /// At least as long as `x`, or empty for a loop that is right for all. Set to [`NEGATIVE`] where an easy loop's result is not the element's, to 0 elsewhere.
    pub marks: &'a mut [u8],
}

/// The mark of an element that is yet to be computed: a negative or whatever its label says; a positive.
pub const NEGATIVE: u8 = 1;
pub const POSITIVE: u8 = 2;

/// The labels that an easy loop may meet.
pub trait EasyLabels<R: Real> {
    const ANY: bool = true;

    /// The result of an element whose oriented logit is easy or not, and whether that is its result.
    fn settle(t: R, is_easy: bool, point: Point<R>) -> (Point<R>, bool);
}

/// Every label is 0.
pub struct Negative;
/// Labels of 0, 1 and [`IGNORED`].
pub struct Hard;
/// Any label. Those of 0 and 1 get the bits that the other loops give them.
pub struct Soft;

impl<R: Real> EasyLabels<R> for Negative {
    const ANY: bool = false;

    #[inline(always)]
    fn settle(_: R, is_easy: bool, point: Point<R>) -> (Point<R>, bool) {
        (point, is_easy)
    }
}

impl<R: Real> EasyLabels<R> for Hard {
    #[inline(always)]
    fn settle(t: R, is_easy: bool, point: Point<R>) -> (Point<R>, bool) {
        (zero_if_ignored(t, point), is_easy | is_ignored(t))
    }
}

impl<R: Real> EasyLabels<R> for Soft {
    #[inline(always)]
    fn settle(t: R, is_easy: bool, point: Point<R>) -> (Point<R>, bool) {
        (point, is_easy & ((t == R::ONE) | (t == R::ZERO)))
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
    t == R::from_f64(IGNORED.into())
}

#[inline(always)]
fn zero_if_ignored<R: Real>(t: R, point: Point<R>) -> Point<R> {
    let ignored = is_ignored(t);
    Point { loss: R::select(ignored, R::ZERO, point.loss), grad: R::select(ignored, R::ZERO, point.grad) }
}

/// Which of the two kinds of loop.
pub trait Loop<R: Real> {
    /// `LOSS` and `GRAD`: what is wanted. `SQUARE`: gamma is 2. `CANONICAL`: coefficients may be infinite
    /// or NaN, and so may results.
    fn run<const LOSS: bool, const GRAD: bool, const SQUARE: bool, const CANONICAL: bool>(
        batch: &mut Batch<R>,
        coefficients: impl Fn(usize) -> (Coefficients<R>, Coefficients<R>),
    );
}

/// Right for easy examples; marks the others.
pub struct Easy<L>(PhantomData<L>);
/// Right for all.
pub struct General<L>(PhantomData<L>);

/// Chains of [`Four`] times the lanes.
const GROUP: usize = WAYS * LANES;

impl<R: Real, L: EasyLabels<R>> Loop<R> for Easy<L> {
    #[inline(always)]
    fn run<const LOSS: bool, const GRAD: bool, const SQUARE: bool, const CANONICAL: bool>(
        batch: &mut Batch<R>,
        coefficients: impl Fn(usize) -> (Coefficients<R>, Coefficients<R>),
    ) {
        let easy = *batch.gamma.easy();
        let canonical = |value: R| if CANONICAL { value.canonical() } else { value };
        // Slices of one length each, or of none: the compiler has to see that no index is out of bounds.
        let part = |at: usize, count: usize| {
            let x = &batch.x[at..][..count];
            let t = if L::ANY { &batch.t[at..][..count] } else { &[] };
            (x, t)
        };
        let count = batch.x.len();
        let orient = |x: R, t: R, (ones, zeros): (Coefficients<R>, Coefficients<R>)| {
            let positive = t == R::ONE;
            (R::select(positive, -x, x), own(positive, ones, zeros))
        };
        let settle = |t: R, z: R, point: Point<R>| {
            let point = Point { loss: point.loss, grad: R::select(t == R::ONE, -point.grad, point.grad) };
            let (point, right) = L::settle(t, z < easy.below, point);
            let point = Point { loss: canonical(point.loss), grad: canonical(point.grad) };
            (point, if right { 0 } else { NEGATIVE })
        };
        let grouped = count - count % GROUP;
        for start in (0..grouped).step_by(GROUP) {
            let (x, t) = part(start, GROUP);
            let loss = if LOSS { &mut batch.loss[start..][..GROUP] } else { &mut [] };
            let grad = if GRAD { &mut batch.grad[start..][..GROUP] } else { &mut [] };
            let marks = &mut batch.marks[start..][..GROUP];
            for lane in 0..LANES {
                let label = |j: usize| if L::ANY { t[lane + j * LANES] } else { R::ZERO };
                let at = |j: usize| start + lane + j * LANES;
                let four: [_; WAYS] = from_fn(|j| orient(x[lane + j * LANES], label(j), coefficients(at(j))));
                let z = Four(four.map(|(z, _)| z));
                let c = Coefficients { loss: Four(four.map(|(_, c)| c.loss)), grad: Four(four.map(|(_, c)| c.grad)) };
                let point = easy.point::<_, SQUARE>(z, c);
                for j in 0..WAYS {
                    let point = Point { loss: point.loss.0[j], grad: point.grad.0[j] };
                    let (point, mark) = settle(label(j), z.0[j], point);
                    if LOSS {
                        loss[lane + j * LANES] = point.loss;
                    }
                    if GRAD {
                        grad[lane + j * LANES] = point.grad;
                    }
                    marks[lane + j * LANES] = mark;
                }
            }
        }
        for i in grouped..count {
            let t = if L::ANY { batch.t[i] } else { R::ZERO };
            let (z, c) = orient(batch.x[i], t, coefficients(i));
            let (point, mark) = settle(t, z, easy.point::<_, SQUARE>(z, c));
            if LOSS {
                batch.loss[i] = point.loss;
            }
            if GRAD {
                batch.grad[i] = point.grad;
            }
            batch.marks[i] = mark;
        }
    }
}

impl<R: Real, L: GeneralLabels<R>> Loop<R> for General<L> {
    #[inline(always)]
    fn run<const LOSS: bool, const GRAD: bool, const SQUARE: bool, const CANONICAL: bool>(
        batch: &mut Batch<R>,
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
            let point = L::point::<SQUARE>(x[i], t[i], ones, zeros, &gamma);
            if LOSS {
                loss[i] = point.loss.canonical();
            }
            if GRAD {
                grad[i] = point.grad.canonical();
            }
        }
    }
}

/// Runs a loop over a batch.
pub fn run_loop<R: Real, L: Loop<R>>(isa: Isa, batch: &mut Batch<R>) {
    match (batch.loss.is_empty(), batch.grad.is_empty(), batch.gamma.is_square()) {
        (true, true, _) => {}
        (false, true, false) => isa.run(LoopKernel::<R, L, true, false, false>(batch, PhantomData)),
        (false, true, true) => isa.run(LoopKernel::<R, L, true, false, true>(batch, PhantomData)),
        (true, false, false) => isa.run(LoopKernel::<R, L, false, true, false>(batch, PhantomData)),
        (true, false, true) => isa.run(LoopKernel::<R, L, false, true, true>(batch, PhantomData)),
        (false, false, false) => isa.run(LoopKernel::<R, L, true, true, false>(batch, PhantomData)),
        (false, false, true) => isa.run(LoopKernel::<R, L, true, true, true>(batch, PhantomData)),
    }
}

struct LoopKernel<'a, 'b, R, L, const LOSS: bool, const GRAD: bool, const SQUARE: bool>(
    &'a mut Batch<'b, R>,
    PhantomData<L>,
);

impl<R: Real, L: Loop<R>, const LOSS: bool, const GRAD: bool, const SQUARE: bool> Kernel
    for LoopKernel<'_, '_, R, L, LOSS, GRAD, SQUARE>
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
            Coefficient::Uniform(ones, zeros) => L::run::<LOSS, GRAD, SQUARE, false>(batch, |_| (ones, zeros)),
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
