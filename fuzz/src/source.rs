//! Choices out of the fuzzer's bytes; when they run out, every choice is the first.

use libfuzzer_sys::arbitrary::Unstructured;

pub struct Source<'a>(Unstructured<'a>);

impl<'a> Source<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Unstructured::new(bytes))
    }

    /// A number below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        self.0.int_in_range(0..=count - 1).unwrap_or(0)
    }

    /// True for one byte in `count`.
    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) + 1 == count
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn any_i64(&mut self) -> i64 {
        self.0.arbitrary().unwrap_or(0)
    }

    pub fn any_f64(&mut self) -> f64 {
        self.0.arbitrary().unwrap_or(0.0)
    }

    /// In [0, 1].
    pub fn unit(&mut self) -> f64 {
        f64::from(self.0.arbitrary::<u16>().unwrap_or(0)) / 65535.0
    }

    /// Finite in every type when rounded to `largest` at most: ordinary ones, extremes, and any bits of a float32.
    pub fn finite_logit(&mut self, largest: f64) -> f64 {
        let value = match self.below(4) {
            0 => {
                let bits = self.0.arbitrary::<u32>().unwrap_or(0);
                f64::from(f32::from_bits(bits))
            }
            1 => self.pick(&[0.0, -0.0, 1e-45, -1e-40, 1e-30, 18.0, -87.5, 88.8, 103.9, -104.0, 3e38, -3e38]),
            _ => f64::from(self.0.arbitrary::<i16>().unwrap_or(0)) / 1024.0,
        };
        if value.is_nan() { 0.0 } else { value.clamp(-largest, largest) }
    }
}
