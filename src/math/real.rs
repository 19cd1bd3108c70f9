//! The arithmetic types, f32 and f64, seen through what the formulas need of them.

use std::array::from_fn;
use std::ops::{Add, Div, Mul, Neg, Sub};

use super::coefficients;

/// One number or several at once.
pub trait Arithmetic:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    type Scalar: Real;

    /// The same number everywhere.
    fn of(value: Self::Scalar) -> Self;
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `if self < bound { a } else { b }` on values already computed.
    fn select_below(self, bound: Self::Scalar, a: Self, b: Self) -> Self;
    /// The larger of two negative numbers; any positive number stays as it is.
    fn at_least_if_negative(self, lowest: Self::Scalar) -> Self;
    /// `self * 2^k` where `shifted` is `k + ROUNDER`, and both `self` and the result are normal numbers.
    fn times_exp2(self, shifted: Self) -> Self;
    /// `(2^h, 2^(k-h))` with `h = k/2` rounded down, for an integral `k` with `2^k` down to `exp(EXP_LOWEST)`.
    fn exp2_parts(k: Self) -> (Self, Self);
}

/// Four numbers. A formula is a long chain of operations, each waiting for the last; four chains
/// side by side keep a processor busy that cannot look far enough ahead to find them itself.
#[derive(Clone, Copy)]
pub struct Four<R>(pub [R; WAYS]);
pub const WAYS: usize = 4;

impl<R: Real> Add for Four<R> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] + other.0[i]))
    }
}

impl<R: Real> Sub for Four<R> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] - other.0[i]))
    }
}

impl<R: Real> Mul for Four<R> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] * other.0[i]))
    }
}

impl<R: Real> Div for Four<R> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] / other.0[i]))
    }
}

impl<R: Real> Neg for Four<R> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(from_fn(|i| -self.0[i]))
    }
}

impl<R: Real> Arithmetic for Four<R> {
    type Scalar = R;

    #[inline(always)]
    fn of(value: R) -> Self {
        Self([value; WAYS])
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }
    #[inline(always)]
    fn select_below(self, bound: R, a: Self, b: Self) -> Self {
        Self(from_fn(|i| self.0[i].select_below(bound, a.0[i], b.0[i])))
    }
    #[inline(always)]
    fn at_least_if_negative(self, lowest: R) -> Self {
        Self(from_fn(|i| self.0[i].at_least_if_negative(lowest)))
    }
    #[inline(always)]
    fn times_exp2(self, shifted: Self) -> Self {
        Self(from_fn(|i| self.0[i].times_exp2(shifted.0[i])))
    }
    #[inline(always)]
    fn exp2_parts(k: Self) -> (Self, Self) {
        let parts: [(R, R); WAYS] = from_fn(|i| R::exp2_parts(k.0[i]));
        (Self(parts.map(|part| part.0)), Self(parts.map(|part| part.1)))
    }
}

/// A binary floating-point type that the formulas compute in.
pub trait Real: Arithmetic<Scalar = Self> + Default + PartialOrd + Send + Sync + std::fmt::Debug + 'static {
    const ZERO: Self;
    const HALF: Self;
    const ONE: Self;
    const MAX: Self;
    const NAN: Self;
    const INFINITY: Self;
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
    /// What [`super::easy`] is made of; empty where easy examples have no way of their own.
    const EASY: Easy<Self>;
    const HAS_EASY: bool = !Self::EASY.exp_slope.is_empty();
    const LOG: &'static [Self];
    /// `2^POWER_UNIT` stands for 1 where exponentials of very different size are kept side by side
    /// ([`super::softmax::Shift`]): as high as leaves room above it, so that much fits below.
    const POWER_UNIT: i32;
    /// `exp` where the remainder leans to the positive: from `POWER_LEAN - ln(2)/2` on.
    const POWER: &'static [Self];
    const POWER_LEAN: Self;
    /// Below this distance to the largest logit, an exponential counts as zero.
    const POWER_LOWEST: Self;
    /// Logits up to this size need no shift before they are split into `k ln 2 + r`; twice `POWER_LOWEST` and more.
    const POWER_NEAR: Self;

    fn abs(self) -> Self;
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
    /// `(k, m)` with `self = m * 2^k` and `3/4 <= m < 3/2`, for a positive normal number.
    fn log2_parts(self) -> (Self, Self);
    /// The bias of the exponent.
    const BIAS: i32;
    /// `2^k`, where `self` is `ROUNDER + BIAS + k`.
    fn power_of_two(self) -> Self;
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

/// Polynomials for easy examples, as `coefficients.rs` describes them.
pub struct Easy<R: 'static> {
    pub exp_slope: &'static [R],
    /// The lowest logit whose exponential is computed: that of any lower one stays where it is there.
    pub lowest: R,
    pub log_ratio: &'static [R],
    pub square_loss: &'static [R],
    pub square_grad: &'static [R],
}

/// Easy examples take the general way.
const NOT_EASY: Easy<f64> = Easy { exp_slope: &[], lowest: 0.0, log_ratio: &[], square_loss: &[], square_grad: &[] };
const EASY_F32: Easy<f32> = Easy {
    exp_slope: &coefficients::EXP_SLOPE_F32,
    // 2^-126 is still a normal number there, and so is a cube divided by it zero, whatever it is multiplied by.
    lowest: -87.0,
    log_ratio: &coefficients::LOG_RATIO_F32,
    square_loss: &coefficients::SQUARE_LOSS_F32,
    square_grad: &coefficients::SQUARE_GRAD_F32,
};

#[allow(clippy::excessive_precision)]
const LN_2_F32: (f32, f32) = (0.693_359_375, -2.121_944_4e-4);
const LN_2_F64: (f64, f64) = (0.693_147_180_559_208_2, 7.371_002_565_167_799e-13);

macro_rules! real {
    ($type:ident, $bits:ident, $signed:ident, mantissa: $mantissa:literal, bias: $bias:literal,
     ln2: $ln2:expr, exp_lowest: $lowest:expr, lift_log2: $lift:literal,
     exp: $exp:ident, log: $log:ident, easy: $easy:expr,
      power: ($power:ident, $unit:literal, $power_lowest:literal, $power_near:literal)) => {
        impl Arithmetic for $type {
            type Scalar = Self;

            #[inline(always)]
            fn of(value: Self) -> Self {
                value
            }
            #[inline(always)]
            fn select_below(self, bound: Self, a: Self, b: Self) -> Self {
                Self::select(self < bound, a, b)
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, addend: Self) -> Self {
                $type::mul_add(self, factor, addend)
            }
            #[inline(always)]
            fn at_least_if_negative(self, lowest: Self) -> Self {
                // An integer minimum: the floating-point units have enough to do.
                $type::from_bits(self.to_bits().min(lowest.to_bits()))
            }
            #[inline(always)]
            fn times_exp2(self, shifted: Self) -> Self {
                // An addition to the exponent: the floating-point units have enough to do.
                $type::from_bits(self.to_bits().wrapping_add(shifted.to_bits() << $mantissa))
            }
            #[inline(always)]
            fn exp2_parts(k: Self) -> (Self, Self) {
                let k = ((k + Self::ROUNDER).to_bits() as $signed).wrapping_sub(Self::ROUNDER.to_bits() as $signed);
                let half = k >> 1;
                let power = |n: $signed| $type::from_bits((n.wrapping_add($bias) as $bits) << $mantissa);
                (power(half), power(k.wrapping_sub(half)))
            }
        }

        impl Real for $type {
            const ZERO: Self = 0.0;
            const HALF: Self = 0.5;
            const ONE: Self = 1.0;
            const MAX: Self = $type::MAX;
            const NAN: Self = $type::NAN;
            const INFINITY: Self = $type::INFINITY;
            const LOG2_E: Self = std::$type::consts::LOG2_E;
            const LN_2: (Self, Self) = $ln2;
            const ROUNDER: Self = 1.5 * (1u64 << $mantissa) as $type;
            const EXP_LOWEST: Self = $lowest;
            const TINY: Self = $type::MIN_POSITIVE;
            const LIFT: Self = (1u64 << $lift) as $type;
            const LIFT_LOG2: Self = $lift as $type;
            const EXP: &'static [Self] = &coefficients::$exp;
            const LOG: &'static [Self] = &coefficients::$log;
            const POWER_UNIT: i32 = $unit;
            const POWER: &'static [Self] = &coefficients::$power;
            const POWER_LEAN: Self = 0.1466;
            const POWER_LOWEST: Self = $power_lowest;
            const POWER_NEAR: Self = $power_near;
            const BIAS: i32 = $bias;
            const EASY: Easy<Self> = $easy;

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
            fn log2_parts(self) -> (Self, Self) {
                let bits = self.to_bits();
                let above = bits.wrapping_sub((0.75 as $type).to_bits()) as $signed;
                let k = above >> $mantissa;
                let mantissa = bits.wrapping_sub((k as $bits) << $mantissa);
                let k = (k as $bits).wrapping_add(Self::ROUNDER.to_bits());
                ($type::from_bits(k) - Self::ROUNDER, $type::from_bits(mantissa))
            }
            #[inline(always)]
            fn power_of_two(self) -> Self {
                $type::from_bits(self.to_bits() << $mantissa)
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
      exp_lowest: -172.0, lift_log2: 32, exp: EXP_F32, log: LOG_F32,
      easy: EASY_F32, power: (EXP_LEANING_F32, 126, -172.0, 512.0));
real!(f64, u64, i64, mantissa: 52, bias: 1023,
      ln2: LN_2_F64,
      exp_lowest: -1416.0, lift_log2: 60, exp: EXP_F64, log: LOG_F64, easy: NOT_EASY,
      power: (EXP_LEANING_F64, 960, -1370.0, 2800.0));

#[cfg(test)]
mod tests {
    use super::{Arithmetic, Real};

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
