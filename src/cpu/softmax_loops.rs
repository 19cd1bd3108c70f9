//! The loops over a row's classes and over sixteen rows at once, for the compiler to vectorise.
//!
//! Sixteen classes go side by side. A row's maximum and sums are kept in sixteen parts, class `k` in
//! part `k mod 16`, and added up in one order, whatever the layout or the width of a vector.

use std::array::from_fn;
use std::hint::black_box;

use crate::math::elementary::two_sum;
use crate::math::real::Real;
use crate::math::sigmoid::Gamma;
use crate::math::softmax::{Row, Shift, Sum};

use super::chunks::LANES;
use super::isa::Kernel;
use super::rows::{Ahead, Lanes};

/// Sixteen classes from `start` on; -inf, which changes nothing, where there are fewer. A copy: the
/// compiler does not have to ask whether it may change.
#[inline(always)]
fn block<R: Real>(row: &[R], start: usize) -> Lanes<R> {
    let left = &row[start..];
    match left.first_chunk() {
        Some(block) => *block,
        None => {
            let mut padded = [-R::INFINITY; LANES];
            padded[..left.len()].copy_from_slice(left);
            padded
        }
    }
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

impl<T: Copy + Default, const F: usize> Columns<T, F> {
    pub fn new() -> Self {
        Self([[T::default(); LANES]; F])
    }

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

pub type Shifts<R> = Columns<R, 5>;
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
            for start in (0..row.len()).step_by(LANES) {
                let x = block(row, start);
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
    ties: Lanes<R>,
}

impl<R: Real> Parts<R> {
    /// Adds sixteen. The two widths of numbers go in loops of their own, which keeps vectors wide.
    #[inline(always)]
    fn add(&mut self, others: &Lanes<R>, ties: &Lanes<R>) {
        for lane in 0..LANES {
            self.ties[lane] = self.ties[lane] + ties[lane];
        }
        for lane in 0..LANES {
            let value = others[lane].to_f64();
            if is_f64::<R>() {
                self.low[lane] = self.low[lane] + R::from_f64(two_sum(self.high[lane], value).1);
            }
            self.high[lane] += value;
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
            let mut parts = Parts::default();
            for (i, powers) in row_powers.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                self.ahead.fetch(lane, i);
                if let Some(ahead) = self.targets_ahead {
                    ahead.fetch(lane, i);
                }
                let x = block(row, i * LANES);
                let zero = [R::ZERO; LANES];
                let (mut values, mut others, mut ties) = (zero, zero, zero);
                for i in 0..LANES {
                    let power = shift.power(x[i]);
                    values[i] = power.value;
                    others[i] = power.other;
                    ties[i] = power.tie;
                }
                *powers = values;
                parts.add(&others, &ties);
            }
            *result = parts;
        }
        for (lane, (row, parts)) in self.rows.iter().zip(&*self.parts).enumerate() {
            // Padding is the largest where every logit is -inf.
            let ties = fold(&parts.ties, |a, b| a + b).to_f64().min(row.len() as f64);
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

/// The terms of sixteen classes, of whichever rows.
pub struct TermLoop<'a> {
    pub rows: &'a Rows,
    pub x: &'a Lanes<f64>,
    pub c: &'a Lanes<f64>,
    pub gamma: &'a Gamma<f64>,
    pub terms: &'a mut ManyTerms,
}

impl Kernel for TermLoop<'_> {
    #[inline(always)]
    fn run(self) {
        for lane in 0..LANES {
            self.terms.set(lane, self.rows.get::<Row>(lane).term(self.x[lane], self.c[lane], self.gamma));
        }
    }
}

/// `powers * factor.0 * factor.1`.
pub struct ScaleLoop<'a, R> {
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
        let scaled = |power: R| (power * a) * b;
        for (i, out) in self.out.chunks_mut(LANES).enumerate() {
            let mut values = block(self.powers, i * LANES).map(scaled);
            if !clean {
                values = values.map(R::canonical);
            }
            match <&mut Lanes<R>>::try_from(&mut *out) {
                Ok(out) => *out = values,
                Err(_) => out.copy_from_slice(&values[..out.len()]),
            }
        }
    }
}
