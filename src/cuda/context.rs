//! The context that a call works in: the stream's, the caller's current one, or the device's primary one. Current for
//! as long as the call lasts, then what was current before is current again.

use std::sync::Mutex;

use crate::error::{Result, fail};

use super::driver::{Context, DeviceHandle, Driver, Stream};

/// A context that was pushed; dropping it pops it.
pub struct Current {
    driver: &'static Driver,
    pub context: Context,
    pub device: DeviceHandle,
}

impl Current {
    /// `ordinal` is the tensors' device.
    pub fn enter(driver: &'static Driver, ordinal: i32, stream: Stream) -> Result<Self> {
        let device = driver.device(ordinal)?;
        let context = match stream.is_special() {
            false => of_stream(driver, stream)?,
            true => match of_caller(driver, device)? {
                Some(context) => context,
                None => primary(driver, device)?,
            },
        };
        // SAFETY: a context that the driver named.
        unsafe { driver.context_push(context)? };
        let entered = Self { driver, context, device };
        let owner = device_of_current(driver)?;
        if owner != device {
            fail!(
                InvalidArgument,
                "options: the stream belongs to CUDA device {owner}, but the tensors are on CUDA device {ordinal}"
            );
        }
        Ok(entered)
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let mut popped = Context::NONE;
        // SAFETY: pushed by this thread in `enter`. Should it fail there is nobody left to tell.
        let _ = unsafe { self.driver.context_pop(&mut popped) };
    }
}

fn of_stream(driver: &Driver, stream: Stream) -> Result<Context> {
    let mut context = Context::NONE;
    // SAFETY: the caller's stream, and a place for its context.
    unsafe { driver.stream_get_context(stream, &mut context)? };
    Ok(context)
}

/// The caller's current context, if it is one of that device.
fn of_caller(driver: &Driver, device: DeviceHandle) -> Result<Option<Context>> {
    Ok(of_thread(driver)?.filter(|&(_, owner)| owner == device).map(|(context, _)| context))
}

/// The caller's current context and its device, if there is one.
fn of_thread(driver: &Driver) -> Result<Option<(Context, DeviceHandle)>> {
    let mut context = Context::NONE;
    // SAFETY: a place for a context, or for none.
    unsafe { driver.context_get_current(&mut context)? };
    Ok(if context == Context::NONE { None } else { Some((context, device_of_current(driver)?)) })
}

/// The number of the caller's current device, if there is one: handle and number of a device are the same.
pub fn current_device(driver: &Driver) -> Result<Option<i32>> {
    Ok(of_thread(driver)?.map(|(_, device)| device))
}

fn device_of_current(driver: &Driver) -> Result<DeviceHandle> {
    let mut device = 0;
    // SAFETY: a place for a number.
    unsafe { driver.context_get_device(&mut device)? };
    Ok(device)
}

/// The device's primary context, which CUDA's runtime and so PyTorch and ONNX Runtime use as well. Retained once and
/// never released: to release it may be to destroy it, with the work that was queued.
fn primary(driver: &Driver, device: DeviceHandle) -> Result<Context> {
    static RETAINED: Mutex<Vec<(DeviceHandle, Context)>> = Mutex::new(Vec::new());
    let Ok(mut retained) = RETAINED.lock() else { fail!(Internal, "an earlier call panicked") };
    if let Some((_, context)) = retained.iter().find(|(of, _)| *of == device) {
        return Ok(*context);
    }
    let mut context = Context::NONE;
    // SAFETY: a device of the driver's, and a place for its context.
    unsafe { driver.primary_context_retain(&mut context, device)? };
    retained.push((device, context));
    Ok(context)
}
