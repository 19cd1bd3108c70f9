//! What the library says about itself.

use std::ffi::c_char;

use crate::cpu::isa::Isa;

/// The library's version, "MAJOR.MINOR.PATCH". Never NULL; valid for the life of the process.
#[unsafe(no_mangle)]
pub extern "C" fn focal_loss_version_string() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The instruction set that this process's CPU work uses: "baseline", "avx2" or "avx512". Never NULL.
///
/// It is the best that the processor has. The environment variable FOCAL_LOSS_MAX_ISA, set to one of these
/// names before the first call, caps it; another value has no effect. Results have the same bits with each.
#[unsafe(no_mangle)]
pub extern "C" fn focal_loss_cpu_isa() -> *const c_char {
    Isa::chosen().c_name().as_ptr()
}
