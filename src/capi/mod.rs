//! The C ABI: one file per noun. `include/focal_loss.h` is generated from these files, so their
//! comments are written for C readers.
//!
//! Every function goes the same way: panic guard, checks of the caller's structs, then the safe
//! [`Problem`](crate::problem::Problem). Nothing here knows about arithmetic, and nothing else in
//! the crate but [`crate::ort`] has an `extern "C"`.
#![allow(non_camel_case_types)]

mod compute;
mod info;
mod inputs;
mod options;
mod status;
mod tensor;
