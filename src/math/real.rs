//! The arithmetic types, f32 and f64, seen through what the formulas need of them.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::coefficients;

/// A binary floating-point type that the formulas compute in.
pub trait Real:
    Copy
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Send
    + Sync
    + std::fmt::Debug
    + 'static
{
    const ZERO: Self;
    const HALF: Self;
    const ONE: Self;
    const MAX: Self;
    const NAN: Self;
    const LOG2_E: Self;
    /// `ln 2` in two parts; an integer of up to twelve bits times the first is exact.
    const LN_2: (Self, Self);
    /// `1.5 * 2^p`: adding it rounds to an integer and leaves that integer in the low bits.
    const ROUNDER: Self;
    /// Below this, `exp` is zero: `2^k` still splits into two normal factors above it.
    const EXP_LOWEST: Self;
    /// The smallest normal number, and a power of two that lifts every subnormal above it.
    const TINY: Self;
    const LIFT: Self;
    /// `log2(LIFT)`.
    const LIFT_LOG2: Self;
    const EXP: &'static [Self];
    const LOG: &'static [Self];

    fn mul_add(self, factor: Self, addend: Self) -> Self;
    fn abs(self) -> Self;
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
    /// `(2^h, 2^(k-h))` with `h = k/2` rounded down, for an integral `k` with `2^k` down to `exp(EXP_LOWEST)`.
    fn exp2_parts(k: Self) -> (Self, Self);
    /// `(k, m)` with `self = m * 2^k` and `3/4 <= m < 3/2`, for a positive normal number.
    fn log2_parts(self) -> (Self, Self);
    /// `2^-k` for an integral `k` within the exponent's range.
    fn exp2_negated(k: Self) -> Self;

    /// `if condition { a } else { b }` on values already computed: never a branch.
    #[inline(always)]
    fn select(condition: bool, a: Self, b: Self) -> Self {
        if condition { a } else { b }
    }

    #[inline(always)]
    #[allow(clippy::eq_op)]
    fn is_nan(self) -> bool {
        self != self
    }

    /// The one NaN that is ever stored: which NaN an operation yields differs between processors.
    #[inline(always)]
    fn canonical(self) -> Self {
        Self::select(self.is_nan(), Self::NAN, self)
    }
}

#[allow(clippy::excessive_precision)]
const LN_2_F32: (f32, f32) = (0.693_359_375, -2.121_944_4e-4);
const LN_2_F64: (f64, f64) = (0.693_147_180_559_208_2, 7.371_002_565_167_799e-13);

macro_rules! real {
    ($type:ident, $bits:ident, $signed:ident, mantissa: $mantissa:literal, bias: $bias:literal,
     ln2: $ln2:expr, exp_lowest: $lowest:expr, lift_log2: $lift:literal,
     exp: $exp:ident, log: $log:ident) => {
        impl Real for $type {
            const ZERO: Self = 0.0;
            const HALF: Self = 0.5;
            const ONE: Self = 1.0;
            const MAX: Self = $type::MAX;
            const NAN: Self = $type::NAN;
            const LOG2_E: Self = std::$type::consts::LOG2_E;
            const LN_2: (Self, Self) = $ln2;
            const ROUNDER: Self = 1.5 * (1u64 << $mantissa) as $type;
            const EXP_LOWEST: Self = $lowest;
            const TINY: Self = $type::MIN_POSITIVE;
            const LIFT: Self = (1u64 << $lift) as $type;
            const LIFT_LOG2: Self = $lift as $type;
            const EXP: &'static [Self] = &coefficients::$exp;
            const LOG: &'static [Self] = &coefficients::$log;

            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                $type::mul_add(self, factor, addend)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $type::from_bits(self.to_bits() & ($bits::MAX >> 1))
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn exp2_parts(k: Self) -> (Self, Self) {
                let k = ((k + Self::ROUNDER).to_bits() as $signed).wrapping_sub(Self::ROUNDER.to_bits() as $signed);
                let half = k >> 1;
                let power = |n: $signed| $type::from_bits((n.wrapping_add($bias) as $bits) << $mantissa);
                (power(half), power(k.wrapping_sub(half)))
            }
            #[inline(always)]
            fn log2_parts(self) -> (Self, Self) {
                let bits = self.to_bits();
                let above = bits.wrapping_sub((0.75 as $type).to_bits()) as $signed;
                let k = above >> $mantissa;
                let mantissa = bits.wrapping_sub((k as $bits) << $mantissa);
                let k = (k as $bits).wrapping_add(Self::ROUNDER.to_bits());
                ($type::from_bits(k) - Self::ROUNDER, $type::from_bits(mantissa))
            }
            #[inline(always)]
            fn exp2_negated(k: Self) -> Self {
                let k = ((k + Self::ROUNDER).to_bits()).wrapping_sub(Self::ROUNDER.to_bits());
                $type::from_bits(($bits::wrapping_sub($bias, k)) << $mantissa)
            }
        }
    };
}

real!(f32, u32, i32, mantissa: 23, bias: 127, ln2: LN_2_F32,
      exp_lowest: -172.0, lift_log2: 32, exp: EXP_F32, log: LOG_F32);
real!(f64, u64, i64, mantissa: 52, bias: 1023,
      ln2: LN_2_F64,
      exp_lowest: -1416.0, lift_log2: 60, exp: EXP_F64, log: LOG_F64);

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn ln2_is_split_so_that_multiples_of_the_high_part_are_exact() {
        assert!(f32::LN_2.0.to_bits().trailing_zeros() >= 12);
        assert!((f64::from(f32::LN_2.0) + f64::from(f32::LN_2.1) - std::f64::consts::LN_2).abs() < 1e-11);
        assert!(f64::LN_2.0.to_bits().trailing_zeros() >= 12);
        assert_eq!(f64::LN_2.0 + f64::LN_2.1, std::f64::consts::LN_2);
    }

    #[test]
    fn powers_of_two_split_and_recombine() {
        for k in [-248.0f32, -127.0, -1.0, 0.0, 1.0] {
            let (a, b) = f32::exp2_parts(k);
            assert_eq!(f64::from(a) * f64::from(b), 2f64.powf(f64::from(k)));
        }
        for x in [1.0f64, 0.75, 0.7499, 1.4999, 1.5, 3e300, f64::MIN_POSITIVE] {
            let (k, m) = x.log2_parts();
            assert!((0.75..1.5).contains(&m));
            assert_eq!(m * 2f64.powi(k as i32), x);
        }
        assert_eq!(f32::exp2_negated(3.0), 0.125);
        assert_eq!(f64::exp2_negated(-3.0), 8.0);
    }
}
