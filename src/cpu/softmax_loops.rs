//! The loops over a row's classes and over sixteen rows at once, for the compiler to vectorise.
//!
//! Sixteen classes go side by side. A row's maximum and sums are kept in sixteen parts, class `k` in
//! part `k mod 16`, and added up in one order, whatever the layout or the width of a vector.
//!
//! What bounds them, measured on a Zen 4 with AVX-512: issue ports. Sixteen exponentials, kept and added up in
//! f64, are 27 vector operations, 11 of them multiplications, and take 20 cycles (30 with AVX2); at 80 classes
//! that is half the time of a forward pass. The rest goes, in about equal parts, to the maximum, to folding
//! sixteen parts into one, to the sixteen rows' logarithms and divisions, and to finding the rows. Adding up in
//! f32 would save 2 of the 20 cycles, an exponential of one degree less 1. Memory is busy for a quarter of the
//! time on two cores; without sending for the next rows it would be waited for.

use std::array::from_fn;
use std::hint::black_box;

use crate::math::elementary::two_sum;
use crate::math::real::Real;
use crate::math::sigmoid::Gamma;
use crate::math::softmax::{Row, Shift, Sum};

use super::chunks::LANES;
use super::isa::Kernel;
use super::rows::{Ahead, Lanes};

/// The last classes of a row, made sixteen by -inf, which changes nothing.
#[inline(always)]
fn padded<R: Real>(rest: &[R]) -> Lanes<R> {
    let mut padded = [-R::INFINITY; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    padded
}

/// Folds sixteen parts into one, halving them. Black boxes make the compiler do this with a row's own vectors: left
/// to itself, it does it number by number, or with several rows side by side that it gathers one by one.
#[inline(always)]
fn fold<T: Copy>(parts: &Lanes<T>, join: impl Fn(T, T) -> T) -> T {
    let eight: [T; 8] = black_box(from_fn(|i| join(parts[i], parts[i + 8])));
    let four: [T; 4] = black_box(from_fn(|i| join(eight[i], eight[i + 4])));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

/// `F` numbers for each of sixteen rows, stored so that vectors can be read and written.
#[derive(Clone, Copy)]
pub struct Columns<T, const F: usize>([Lanes<T>; F]);

impl<T: Copy + Default, const F: usize> Default for Columns<T, F> {
    fn default() -> Self {
        Self([[T::default(); LANES]; F])
    }
}

impl<T: Copy, const F: usize> Columns<T, F> {
    #[inline(always)]
    pub fn get<U: From<[T; F]>>(&self, lane: usize) -> U {
        from_fn(|field| self.0[field][lane]).into()
    }

    #[inline(always)]
    pub fn set(&mut self, lane: usize, value: impl Into<[T; F]>) {
        for (column, value) in self.0.iter_mut().zip(value.into()) {
            column[lane] = value;
        }
    }
}

pub type Shifts<R> = Columns<R, 4>;
pub type Sums = Columns<f64, 3>;
pub type Rows = Columns<f64, 7>;
pub type ManyTerms = Columns<f64, 4>;

/// Each row's largest logit, so far. A NaN is not larger; it will show in the sum.
pub struct MaxLoop<'a, R> {
    pub rows: &'a [&'a [R]],
    pub parts: &'a mut [Lanes<R>],
    pub max: &'a mut Lanes<R>,
    pub shifts: &'a mut Shifts<R>,
}

impl<R: Real> Kernel for MaxLoop<'_, R> {
    #[inline(always)]
    fn run(self) {
        let larger = |a: R, b: R| R::select(b > a, b, a);
        for ((row, max), result) in self.rows.iter().zip(&*self.max).zip(&mut *self.parts) {
            let mut parts = [*max; LANES];
            let (blocks, rest) = row.as_chunks::<LANES>();
            for x in blocks {
                parts = from_fn(|lane| larger(parts[lane], x[lane]));
            }
            if !rest.is_empty() {
                let x = padded(rest);
                parts = from_fn(|lane| larger(parts[lane], x[lane]));
            }
            *result = parts;
        }
        // In a loop of its own: together, the compiler would work with narrower vectors in the loop above.
        for (max, parts) in self.max.iter_mut().zip(&*self.parts).take(self.rows.len()) {
            *max = fold(parts, larger);
        }
        for lane in 0..LANES {
            self.shifts.set(lane, Shift::new(self.max[lane]));
        }
    }
}

/// Sixteen parts of a [`Sum`].
#[derive(Clone, Copy, Default)]
pub struct Parts<R> {
    high: Lanes<f64>,
    low: Lanes<R>,
    ties: Lanes<u32>,
}

impl<R: Real> Parts<R> {
    /// Computes the exponentials of sixteen logits and adds them.
    #[inline(always)]
    fn add_powers(&mut self, mut x: Lanes<R>, shift: &Shift<R>, powers: &mut Lanes<R>) {
        if shift.is_far() {
            x = x.map(|x| shift.moved(x));
        }
        // Numbers of different width go in loops of their own, which keeps vectors wide.
        let (mut values, mut others) = ([R::ZERO; LANES], [R::ZERO; LANES]);
        for (i, x) in x.into_iter().enumerate() {
            let power = shift.power(x);
            values[i] = power.value;
            others[i] = power.other;
            self.ties[i] += u32::from(power.tie);
        }
        *powers = values;
        for (i, other) in others.into_iter().enumerate() {
            let value = other.to_f64();
            if is_f64::<R>() {
                self.low[i] = self.low[i] + R::from_f64(two_sum(self.high[i], value).1);
            }
            self.high[i] += value;
        }
    }
}

/// Where the type is narrower, sums in f64 lose nothing worth keeping.
#[inline(always)]
fn is_f64<R>() -> bool {
    size_of::<R>() == size_of::<f64>()
}

/// Each row's exponentials and what they add up to.
pub struct PowerLoop<'a, R> {
    pub rows: &'a [&'a [R]],
    pub shifts: &'a Shifts<R>,
    /// Where they go, `width` for each row: a multiple of [`LANES`].
    pub powers: &'a mut [R],
    pub width: usize,
    pub parts: &'a mut [Parts<R>],
    pub sums: &'a mut Sums,
    pub ahead: &'a Ahead,
    pub targets_ahead: Option<&'a Ahead>,
}

impl<R: Real> Kernel for PowerLoop<'_, R> {
    #[inline(always)]
    fn run(self) {
        let rows = self.rows.iter().zip(self.powers.chunks_exact_mut(self.width));
        for (lane, ((row, row_powers), result)) in rows.zip(&mut *self.parts).enumerate() {
            let shift: Shift<R> = self.shifts.get(lane);
            let (blocks, rest) = row.as_chunks::<LANES>();
            let (powers, _) = row_powers.as_chunks_mut::<LANES>();
            let mut parts = Parts::default();
            for (i, (x, powers)) in blocks.iter().zip(&mut *powers).enumerate() {
                self.ahead.fetch(lane, i);
                if let Some(ahead) = self.targets_ahead {
                    ahead.fetch(lane, i);
                }
                parts.add_powers(*x, &shift, powers);
            }
            // Apart from the others, whose loop would have to save vectors for the call that copying is.
            if let Some(powers) = powers.get_mut(blocks.len()) {
                parts.add_powers(padded(rest), &shift, powers);
            }
            result.high = parts.high;
            result.ties = parts.ties;
            if is_f64::<R>() {
                result.low = parts.low;
            }
        }
        for (lane, (row, parts)) in self.rows.iter().zip(&*self.parts).enumerate() {
            // Padding is the largest where every logit is -inf.
            let ties = f64::from(fold(&parts.ties, |a, b| a + b)).min(row.len() as f64);
            let sum = if is_f64::<R>() {
                let low = fold(&parts.low, |a, b| a + b).to_f64();
                let sum = fold(&parts.high.map(|high| Sum { high, low: 0.0, ties: 0.0 }), Sum::add);
                Sum { low: sum.low + low, ties, ..sum }
            } else {
                Sum { high: fold(&parts.high, |a, b| a + b), low: 0.0, ties }
            };
            self.sums.set(lane, self.sums.get::<Sum>(lane).add(sum));
        }
    }
}

/// What follows from sixteen rows' sums.
pub struct RowLoop<'a, R> {
    pub shifts: &'a Shifts<R>,
    pub sums: &'a Sums,
    pub rows: &'a mut Rows,
}

impl<R: Real> Kernel for RowLoop<'_, R> {
    #[inline(always)]
    fn run(self) {
        for lane in 0..LANES {
            self.rows.set(lane, Row::new(&self.shifts.get::<Shift<R>>(lane), self.sums.get(lane)));
        }
    }
}

/// The terms of sixteen classes, of whichever rows. `SQUARE` says that gamma is 2.
pub struct TermLoop<'a, const SQUARE: bool> {
    pub rows: &'a Rows,
    pub x: &'a Lanes<f64>,
    pub c: &'a Lanes<f64>,
    pub gamma: &'a Gamma<f64>,
    pub terms: &'a mut ManyTerms,
}

impl<const SQUARE: bool> Kernel for TermLoop<'_, SQUARE> {
    #[inline(always)]
    fn run(self) {
        for lane in 0..LANES {
            self.terms.set(lane, self.rows.get::<Row>(lane).term::<SQUARE>(self.x[lane], self.c[lane], self.gamma));
        }
    }
}

/// `powers * factor.0 * factor.1`.
pub struct ScaleLoop<'a, R> {
    /// At least as many as `out`, in whole vectors.
    pub powers: &'a [R],
    pub factor: (R, R),
    pub out: &'a mut [R],
}

impl<R: Real> Kernel for ScaleLoop<'_, R> {
    #[inline(always)]
    fn run(self) {
        let (a, b) = self.factor;
        // Only an infinite factor makes NaN of exponentials that are not, and a row with one that is has NaN for a factor.
        let clean = a.abs() <= R::MAX;
        let scale = |powers: &Lanes<R>| {
            let values = powers.map(|power| (power * a) * b);
            if clean { values } else { values.map(R::canonical) }
        };
        let (powers, _) = self.powers.as_chunks::<LANES>();
        let (blocks, rest) = self.out.as_chunks_mut::<LANES>();
        for (out, powers) in blocks.iter_mut().zip(powers) {
            *out = scale(powers);
        }
        if let Some(powers) = powers.get(blocks.len()) {
            rest.copy_from_slice(&scale(powers)[..rest.len()]);
        }
    }
}
