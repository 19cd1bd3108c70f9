//! Focal loss: the library behind `libfocal_loss.so`, and the same as safe Rust.
//!
//! Data flows one way. A caller's tensors and options, be it through the C ABI (`capi`), ONNX Runtime (`ort`)
//! or [`api`], become one validated `problem::Problem`; where its tensors are decides on the backend: `cpu` runs it
//! with the formulas in [`math`], `cuda` queues it on the caller's stream.
//!
//! | where | what |
//! |---|---|
//! | [`options`], `tensor`, `problem`, [`error`] | what a problem is, checked once |
//! | [`math`] | formulas, elementary functions, the float64 oracle |
//! | `cpu` | chunks, threads, instruction sets, kernels |
//! | `cuda` | the driver, kernels as PTX, launches |
//! | [`api`] | the Rust API over `ndarray` views |
//! | `capi`, `ort` | the only places that speak C |
//! | `reserve` | the allocator, which has something left where the system has not |
//!
//! The allocator is for the processes of others. A Rust program with a global allocator of its own, or one that wants none
//! chosen for it, depends on this crate with `default-features = false`.

pub mod api;
mod capi;
mod cpu;
mod cuda;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod math;
pub mod options;
mod ort;
mod problem;
#[cfg_attr(not(feature = "reserve"), allow(dead_code))]
mod reserve;
mod tensor;

pub use api::{Element, Inputs, Targets, backward, backward_into, forward, forward_backward};
pub use error::{Error, ErrorKind, Result};
pub use options::{Activation, Normalization, Options, Reduction};
