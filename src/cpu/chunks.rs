//! Cutting an index space into chunks that depend on its size alone, and adding up what they give.
//!
//! Because neither the cuts nor the order of addition know about threads, a sum has the same bits
//! for every number of them, in every host. At most [`MAX_CHUNKS`] of them keep the partial sums on
//! the stack, whatever the size.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::math::real::Real;

/// Elements side by side in a kernel; also the number of partial sums in a chunk.
pub const LANES: usize = 16;

/// Elements that a kernel is given at a time: their copies stay in the first-level cache.
pub const BATCH: usize = 512;

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

/// One f64 for each chunk, written from any thread.
pub struct Partials([AtomicU64; MAX_CHUNKS]);

impl Partials {
    pub const fn zero() -> Self {
        Self([const { AtomicU64::new(0) }; MAX_CHUNKS])
    }

    pub fn set(&self, chunk: usize, value: f64) {
        self.0[chunk].store(value.to_bits(), Relaxed);
    }

    /// The sum, in the chunks' order. The executor has returned, so all of them are there.
    pub fn total(&self, chunks: Chunks) -> f64 {
        // Not `sum()`: its sum of nothing is -0.
        self.0[..chunks.count()].iter().fold(0.0, |sum, bits| sum + f64::from_bits(bits.load(Relaxed)))
    }
}

/// A sum kept in sixteen parts, the same for every width of vector.
#[derive(Clone, Copy)]
pub struct LaneSums([f64; LANES]);

impl LaneSums {
    pub const ZERO: Self = Self([0.0; LANES]);

    /// Adds values that start at a multiple of [`LANES`] within the chunk.
    #[inline(always)]
    pub fn add<R: Real>(&mut self, values: &[R]) {
        let mut blocks = values.chunks_exact(LANES);
        for block in &mut blocks {
            for (sum, value) in self.0.iter_mut().zip(block) {
                *sum += value.to_f64();
            }
        }
        for (sum, value) in self.0.iter_mut().zip(blocks.remainder()) {
            *sum += value.to_f64();
        }
    }

    pub fn total(&self) -> f64 {
        let mut parts = self.0;
        let mut width = LANES / 2;
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
