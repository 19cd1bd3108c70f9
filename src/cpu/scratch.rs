//! Memory for a batch on the stack, which costs nothing until it is used.

use std::mem::MaybeUninit;

/// Up to `N` values, zero when first seen. A small problem pays for what it touches and no more.
/// Aligned, because a vector that straddles two cache lines costs twice.
#[repr(align(64))]
pub struct Scratch<T, const N: usize> {
    values: MaybeUninit<[T; N]>,
    /// How many of them hold a value.
    known: usize,
}

impl<T: Copy + Default, const N: usize> Scratch<T, N> {
    // Not `const`: the compiler fills what a constant leaves open with zeros, all of it, at every use.
    #[inline(always)]
    pub fn new() -> Self {
        Self { values: MaybeUninit::uninit(), known: 0 }
    }

    #[inline]
    pub fn get(&mut self, count: usize) -> &mut [T] {
        let values = self.values.as_mut_ptr().cast::<MaybeUninit<T>>();
        // SAFETY: the `N` places are there; none is said to hold a value.
        let values = unsafe { std::slice::from_raw_parts_mut(values, N) };
        let values = &mut values[..count];
        if count > self.known {
            values[self.known..].fill(MaybeUninit::new(T::default()));
            self.known = count;
        }
        // SAFETY: the first `known >= count` values have been written above, now or earlier.
        unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), count) }
    }
}

#[cfg(test)]
mod tests {
    use super::Scratch;

    #[test]
    fn values_start_at_zero_and_stay() {
        let mut scratch = Scratch::<f32, 8>::new();
        scratch.get(3).fill(1.0);
        assert_eq!(scratch.get(5), [1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(scratch.get(0), [0.0; 0]);
        assert_eq!(scratch.get(8)[7], 0.0);
    }
}
