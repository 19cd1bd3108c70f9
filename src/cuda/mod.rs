//! The CUDA backend: a problem whose tensors are on a device becomes kernels queued on the caller's stream.
//!
//! Nothing waits for the device and nothing is read back: a call returns when its work is queued, and can be captured
//! into a CUDA graph. What a kernel has to know about the data, such as how many rows are positive, the device counts.
//! A class index that is out of range therefore cannot be an error; it makes what depends on it NaN.
//!
//! | file | what |
//! |---|---|
//! | [`driver`] | the driver's functions, looked up at run time |
//! | [`context`] | which context a call works in |
//! | [`module`] | the kernels, loaded once for each context |
//! | [`kernels`] | their PTX and names, and the struct that they are handed |
//! | [`launch`] | a problem becomes launches |
//!
//! Workspace is allocated and freed in the stream's order. Memory that the library kept would be shared by streams
//! that know nothing of each other, and ONNX Runtime's scratch allocator does not know of streams at all; stream order
//! is right for both, costs no synchronisation, and becomes part of a graph that is being captured.

mod context;
mod driver;
mod kernels;
mod launch;
mod module;

use std::ffi::c_void;

use crate::error::{Result, fail};
use crate::problem::Problem;

use context::Current;
use driver::Driver;

/// A `CUstream` or `cudaStream_t` of the caller's; NULL is the default stream of the tensors' device.
#[derive(Clone, Copy, Debug)]
pub struct Stream(pub *mut c_void);

/// Queues what computes the problem's outputs. All tensors are on the device of that number.
pub fn run(problem: &Problem, ordinal: i32, stream: Stream) -> Result<()> {
    let driver = Driver::get()?;
    let stream = driver::Stream(stream.0);
    let current = Current::enter(driver, ordinal, stream)?;
    check_addresses(driver, problem, ordinal)?;
    let loaded = module::loaded(driver, &current)?;
    launch::launch(driver, loaded, problem, stream)
}

/// Loads the kernels ahead of the first call: for the device that is current, as a host's is while it sets itself up,
/// else for the first. A call on another device loads them itself.
pub fn prepare() -> Result<()> {
    let driver = Driver::get()?;
    let ordinal = context::current_device(driver)?.unwrap_or(0);
    let current = Current::enter(driver, ordinal, driver::Stream::NONE)?;
    module::loaded(driver, &current).map(|_| ())
}

/// A kernel that touches what is no memory of the device's takes the whole context down with it; so ask first.
fn check_addresses(driver: &Driver, problem: &Problem, ordinal: i32) -> Result<()> {
    for (name, tensor) in problem.read().chain(problem.written()).filter(|(_, tensor)| tensor.len() > 0) {
        let found = driver.pointer_attributes(tensor.data as driver::Address)?;
        if found.memory_type == 0 {
            fail!(InvalidArgument, "{name}: data is not memory of CUDA device {ordinal}, nor of any other");
        }
        if found.managed == 0 && found.device != ordinal {
            fail!(
                InvalidArgument,
                "{name}: data is memory of CUDA device {}, but the tensor's device_id is {ordinal}",
                found.device
            );
        }
    }
    Ok(())
}
