//! The formulas, generic over the float type and free of memory, threads and instruction sets.
//!
//! Everything here is branch-free scalar code that the compiler turns into vector code when
//! the CPU backend inlines it into a loop. Only `+ - * /`, fused multiply-add, comparisons and bit
//! operations are used, always in the same order, so every instruction set gives the same bits.
//!
//! * `real`: what a float type must offer.
//! * `elementary`: `exp` and `log` that take and return unevaluated sums of two numbers.
//! * `easy`: sigmoid losses that are well on the right side, where polynomials are enough.
//! * `sigmoid`, `softmax`: the two losses and their gradients.
//! * [`mod@reference`]: a plain float64 oracle that shares no code with the rest.

mod coefficients;
pub(crate) mod easy;
pub(crate) mod elementary;
pub(crate) mod real;
pub mod reference;
pub(crate) mod sigmoid;
pub(crate) mod softmax;
