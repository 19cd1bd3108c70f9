//! Cutting an index space into chunks that depend on its size alone, and adding up what they give.
//!
//! Because neither the cuts nor the order of addition know about threads, a sum has the same bits
//! for every number of them, in every host. At most [`MAX_CHUNKS`] of them keep the partial sums on
//! the stack, whatever the size.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::math::real::Real;

use super::executor::Executor;

/// Elements side by side in a kernel.
pub const LANES: usize = 16;

/// Elements that a kernel is given at a time: their copies stay in the first-level cache.
pub const BATCH: usize = 2048;

const MAX_CHUNKS: usize = 1024;
const MIN_CHUNK: usize = 32 * 1024;

#[derive(Clone, Copy)]
pub struct Chunks {
    total: usize,
    size: usize,
}

impl Chunks {
    /// Chunks over `total` items, each worth `cost` elements, in multiples of `unit` items.
    pub fn new(total: usize, cost: usize, unit: usize) -> Self {
        let wanted = (MIN_CHUNK / cost.max(1)).max(total.div_ceil(MAX_CHUNKS)).max(1);
        Self { total, size: wanted.div_ceil(unit) * unit }
    }

    pub fn count(&self) -> usize {
        self.total.div_ceil(self.size)
    }

    pub fn range(&self, chunk: usize) -> Range<usize> {
        let start = chunk * self.size;
        start..(start + self.size).min(self.total)
    }
}

/// The sum of what `sum` gives for each chunk, in the chunks' order.
pub fn sum_of_chunks(chunks: Chunks, executor: &dyn Executor, sum: &(dyn Fn(Range<usize>) -> f64 + Sync)) -> f64 {
    let run = |chunk: usize| {
        super::inject_panic();
        sum(chunks.range(chunk))
    };
    // Not `sum()`: its sum of nothing is -0.
    if chunks.count() <= 1 {
        return (0..chunks.count()).fold(0.0, |total, chunk| total + run(chunk));
    }
    let partials = [const { AtomicU64::new(0) }; MAX_CHUNKS];
    executor.for_each(chunks.count(), &|chunk| partials[chunk].store(run(chunk).to_bits(), Relaxed));
    partials[..chunks.count()].iter().fold(0.0, |total, bits| total + f64::from_bits(bits.load(Relaxed)))
}

/// Partial sums side by side: enough of them that additions need not wait for each other.
const PARTS: usize = 4 * LANES;

/// A sum kept in parts, the same ones for every width of vector.
#[derive(Clone, Copy)]
pub struct LaneSums([f64; PARTS]);

impl LaneSums {
    pub const ZERO: Self = Self([0.0; PARTS]);

    /// Adds values, the first of them to the first part.
    #[inline(always)]
    pub fn add<R: Real>(&mut self, values: &[R]) {
        // A copy, so that the compiler keeps it in registers.
        let mut sums = self.0;
        let mut groups = values.chunks_exact(PARTS);
        for group in &mut groups {
            for i in 0..PARTS {
                sums[i] += group[i].to_f64();
            }
        }
        for (sum, value) in sums.iter_mut().zip(groups.remainder()) {
            *sum += value.to_f64();
        }
        self.0 = sums;
    }

    pub fn total(&self) -> f64 {
        let mut parts = self.0;
        let mut width = PARTS / 2;
        while width > 0 {
            for i in 0..width {
                parts[i] += parts[i + width];
            }
            width /= 2;
        }
        parts[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_once_and_fit() {
        for total in [0, 1, 511, 512, 513, 32 * 1024 + 1, 100_000_003, 1 << 31, usize::MAX / 16] {
            for (cost, unit) in [(1, 512), (80, 16), (1_000_000, 16)] {
                let chunks = Chunks::new(total, cost, unit);
                assert!(chunks.count() <= MAX_CHUNKS);
                let mut end = 0;
                for chunk in 0..chunks.count() {
                    assert_eq!(chunks.range(chunk).start, end);
                    assert!(end % unit == 0 && chunks.range(chunk).end > end);
                    end = chunks.range(chunk).end;
                }
                assert_eq!(end, total);
            }
        }
    }
}
