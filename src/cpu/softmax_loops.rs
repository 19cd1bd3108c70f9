//! The loops over a row's classes and over sixteen rows at once, for the compiler to vectorise.
//!
//! Sixteen classes go side by side. A row's maximum and sums are kept in sixteen parts, class `k` in
//! part `k mod 16`, and added up in one order, whatever the layout or the width of a vector.

use std::array::from_fn;

use crate::math::elementary::two_sum;
use crate::math::real::Real;
use crate::math::sigmoid::Gamma;
use crate::math::softmax::{Row, Shift, Sum, Term};

use super::chunks::LANES;
use super::isa::Kernel;
use super::rows::Lanes;

/// Sixteen classes from `LANES * i` on; -inf, which changes nothing, where there are fewer. A copy:
/// the compiler does not have to ask whether it may change.
#[inline(always)]
fn block<R: Real>(row: &[R], i: usize) -> Lanes<R> {
    let (blocks, rest) = row.as_chunks::<LANES>();
    match blocks.get(i) {
        Some(block) => *block,
        None => {
            let mut padded = [-R::INFINITY; LANES];
            padded[..rest.len()].copy_from_slice(rest);
            padded
        }
    }
}

/// Folds sixteen parts into one, halving them.
#[inline(always)]
fn fold<T: Copy>(parts: &Lanes<T>, join: impl Fn(T, T) -> T) -> T {
    let eight: [T; 8] = from_fn(|i| join(parts[i], parts[i + 8]));
    let four: [T; 4] = from_fn(|i| join(eight[i], eight[i + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

/// Each row's largest logit, so far. A NaN is not larger; it will show in the sum.
pub struct MaxLoop<'a, R> {
    pub rows: &'a [&'a [R]],
    pub parts: &'a mut Lanes<Lanes<R>>,
    pub max: &'a mut Lanes<R>,
}

impl<R: Real> Kernel for MaxLoop<'_, R> {
    #[inline(always)]
    fn run(self) {
        let larger = |a: R, b: R| R::select(b > a, b, a);
        for ((row, max), result) in self.rows.iter().zip(&*self.max).zip(&mut *self.parts) {
            let mut parts = [*max; LANES];
            for i in 0..row.len().div_ceil(LANES) {
                let x = block(row, i);
                parts = from_fn(|lane| larger(parts[lane], x[lane]));
            }
            *result = parts;
        }
        // In a loop of its own: together, the compiler would work with narrower vectors in the loop above.
        for (max, parts) in self.max.iter_mut().zip(&*self.parts).take(self.rows.len()) {
            *max = fold(parts, larger);
        }
    }
}

/// Sixteen parts of a [`Sum`].
#[derive(Clone, Copy)]
pub struct Parts<R> {
    high: Lanes<f64>,
    low: Lanes<R>,
    ties: Lanes<R>,
}

impl<R: Real> Parts<R> {
    pub const ZERO: Self = Self { high: [0.0; LANES], low: [R::ZERO; LANES], ties: [R::ZERO; LANES] };
}

/// Each row's exponentials and what they add up to.
pub struct PowerLoop<'a, R> {
    pub rows: &'a [&'a [R]],
    pub max: &'a Lanes<R>,
    /// Where they go, `width` for each row: a multiple of [`LANES`].
    pub powers: &'a mut [R],
    pub width: usize,
    pub parts: &'a mut Lanes<Parts<R>>,
    pub sums: &'a mut Lanes<Sum>,
}

impl<R: Real> Kernel for PowerLoop<'_, R> {
    #[inline(always)]
    fn run(self) {
        // Where the type is narrower than f64, sums of it lose nothing worth keeping.
        let exact = size_of::<R>() == size_of::<f64>();
        let rows = self.rows.iter().zip(self.max).zip(self.powers.chunks_exact_mut(self.width));
        for (((row, &max), powers), result) in rows.zip(&mut *self.parts) {
            let shift = Shift::new(max);
            let Parts { mut high, mut low, mut ties } = Parts::ZERO;
            for (i, powers) in powers.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let x = block(row, i);
                let mut value = [R::ZERO; LANES];
                for lane in 0..LANES {
                    let power = shift.power(x[lane]);
                    powers[lane] = power.value;
                    let is_max = shift.is_max(x[lane]);
                    value[lane] = R::select(is_max, R::ZERO, power.value);
                    low[lane] = low[lane] + R::select(is_max, R::ZERO, power.low);
                    ties[lane] = ties[lane] + R::select(is_max, R::ONE, R::ZERO);
                }
                for lane in 0..LANES {
                    let value = value[lane].to_f64();
                    if exact {
                        low[lane] = low[lane] + R::from_f64(two_sum(high[lane], value).1);
                    }
                    high[lane] += value;
                }
            }
            *result = Parts { high, low, ties };
        }
        for ((row, sum), parts) in self.rows.iter().zip(self.sums).zip(&*self.parts) {
            let add = |a, b| a + b;
            let low = fold(&parts.low, |a, b| a + b).to_f64();
            // Padding is the largest where every logit is -inf.
            let ties = fold(&parts.ties, |a, b| a + b).to_f64().min(row.len() as f64);
            *sum = sum.add(if exact {
                let sum = fold(&parts.high.map(|high| Sum { high, low: 0.0, ties: 0.0 }), Sum::add);
                Sum { low: sum.low + low, ties, ..sum }
            } else {
                Sum { high: fold(&parts.high, add), low, ties }
            });
        }
    }
}

/// What follows from sixteen rows' sums.
pub struct RowLoop<'a, R> {
    pub max: &'a Lanes<R>,
    pub sums: &'a Lanes<Sum>,
    pub rows: &'a mut Lanes<Row>,
}

impl<R: Real> Kernel for RowLoop<'_, R> {
    #[inline(always)]
    fn run(self) {
        for lane in 0..LANES {
            self.rows[lane] = Row::new(&Shift::new(self.max[lane]), self.sums[lane]);
        }
    }
}

/// The terms of sixteen classes, of whichever rows.
pub struct TermLoop<'a> {
    pub rows: &'a Lanes<Row>,
    pub x: &'a Lanes<f64>,
    pub c: &'a Lanes<f64>,
    pub gamma: &'a Gamma<f64>,
    pub terms: &'a mut Lanes<Term>,
}

impl Kernel for TermLoop<'_> {
    #[inline(always)]
    fn run(self) {
        for lane in 0..LANES {
            self.terms[lane] = self.rows[lane].term(self.x[lane], self.c[lane], self.gamma);
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
        // Only these can make NaN of exponentials that are not, and a row with one that is has such a factor.
        if !(a.abs() <= R::MAX) {
            for (out, &power) in self.out.iter_mut().zip(self.powers) {
                *out = ((power * a) * b).canonical();
            }
            return;
        }
        let (powers, _) = self.powers.as_chunks::<LANES>();
        let (blocks, rest) = self.out.as_chunks_mut::<LANES>();
        for (out, power) in blocks.iter_mut().zip(powers) {
            for lane in 0..LANES {
                out[lane] = (power[lane] * a) * b;
            }
        }
        for (out, power) in rest.iter_mut().zip(&self.powers[blocks.len() * LANES..]) {
            *out = (*power * a) * b;
        }
    }
}
