//! f16 and bf16 to f32 and back, as loops that the compiler vectorises for each instruction set.
//!
//! The `half` crate converts a slice eight elements at a time and asks each time what the processor
//! can do, which takes a third of the whole loss's time. These give the bits that it gives (the tests
//! say so for every f16, and for every f32 next to a rounding border).

/// A 16-bit float's bits to f32, which has every value of theirs.
pub trait Narrow: Copy {
    fn widen(self) -> f32;
    /// To nearest, ties to even; what is too large becomes infinite, NaN stays one.
    fn narrow(value: f32) -> Self;
}

const SIGN: u32 = 0x8000_0000;

impl Narrow for half::f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        // The exponent's bias grows by 112; a multiplication does that to subnormal numbers as well.
        let scaled = (f32::from_bits(magnitude) * f32::from_bits((112 + 127) << 23)).to_bits();
        // The largest exponent is that of infinity and NaN in either type; a NaN becomes quiet.
        let special = if magnitude > 0x7c00 << 13 { 0x7fc0_0000 } else { 0x7f80_0000 };
        let magnitude = if magnitude >= 0x7c00 << 13 { magnitude | special } else { scaled };
        f32::from_bits(magnitude | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let magnitude = bits & !SIGN;
        // Below 2^-14: adding 1/2 leaves the bits of the result lowest, and rounds them.
        let half = f32::from_bits(126 << 23);
        let subnormal = (f32::from_bits(magnitude) + half).to_bits().wrapping_sub(half.to_bits());
        // Otherwise: half of a last bit less one, and one more where the last bit is odd.
        let rounded = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + (magnitude >> 13 & 1)) >> 13;
        let special = if magnitude > 0x7f80_0000 { 0x7e00 | (magnitude >> 13 & 0x3ff) } else { 0x7c00 };
        let finite = if magnitude < 113 << 23 { subnormal } else { rounded };
        let result = if magnitude >= 143 << 23 { special } else { finite };
        half::f16::from_bits((result | (bits & SIGN) >> 16) as u16)
    }
}

impl Narrow for half::bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let quiet = if bits & 0x7fff > 0x7f80 { 0x40 } else { 0 };
        f32::from_bits((bits | quiet) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let result = if bits & !SIGN > 0x7f80_0000 { bits >> 16 | 0x40 } else { rounded };
        half::bf16::from_bits(result as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::Narrow;
    use half::{bf16, f16};

    #[test]
    fn every_value_widens_as_half_widens_it() {
        for bits in 0..=u16::MAX {
            let (f, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert_eq!(Narrow::widen(f).to_bits(), f16::to_f32(f).to_bits(), "f16 {bits:#x}");
            assert_eq!(Narrow::widen(b).to_bits(), bf16::to_f32(b).to_bits(), "bf16 {bits:#x}");
        }
    }

    #[test]
    fn values_around_every_border_narrow_as_half_narrows_them() {
        // The borders lie at values of 16-bit floats and half way between them: at f32 with 12 (f16) or
        // 15 (bf16) zero bits at the end, or, below 2^-14, at multiples of 2^-25.
        let check = |bits: u32| {
            for sign in [0, 0x8000_0000] {
                let value = f32::from_bits(bits | sign);
                assert_eq!(<f16 as Narrow>::narrow(value).to_bits(), f16::from_f32(value).to_bits(), "f16 {bits:#x}");
                assert_eq!(
                    <bf16 as Narrow>::narrow(value).to_bits(),
                    bf16::from_f32(value).to_bits(),
                    "bf16 {bits:#x}"
                );
            }
        };
        for border in (0..0x7fff_f000u32).step_by(1 << 12) {
            for bits in border.saturating_sub(2)..=border + 2 {
                check(bits);
            }
        }
        for i in 0..2048u32 {
            let border = (i as f32 * 2f32.powi(-25)).to_bits();
            (border.saturating_sub(2)..=border + 2).for_each(check);
        }
        [0x7f80_0000, 0x7f80_0001, 0x7fc0_0000, 0x7fff_ffff].into_iter().for_each(check);
    }
}
