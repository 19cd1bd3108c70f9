//! The kernels, loaded once into each context that calls come with, and what goes with them.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_uint, c_void};
use std::sync::Mutex;

use crate::error::{Error, Result, fail};

use super::context::Current;
use super::driver::{Context, Driver, Function, Module, Pool, PoolProperties};
use super::kernels::{self, Kernel};

/// What a context has of ours. Never unloaded: who destroys a context destroys that with it.
#[derive(Debug)]
pub struct Loaded {
    pub functions: HashMap<Kernel, Function>,
    /// Where workspace comes from, if the device has such.
    pub pool: Option<Pool>,
    pub multiprocessors: u32,
}

struct Entry {
    context: Context,
    /// An address can be a later context's as well; see [`Driver::context_id`].
    id: u64,
    loaded: &'static Loaded,
}

/// What the current context has; loaded when it is first asked for.
pub fn loaded(driver: &Driver, current: &Current) -> Result<&'static Loaded> {
    static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());
    let (context, id) = (current.context, driver.context_id(current.context));
    let Ok(mut entries) = ENTRIES.lock() else { fail!(Internal, "an earlier call panicked") };
    if let Some(entry) = entries.iter().find(|entry| entry.context == context && entry.id == id) {
        return Ok(entry.loaded);
    }
    let loaded = Box::leak(Box::new(load(driver, current)?));
    entries.push(Entry { context, id, loaded });
    Ok(loaded)
}

fn load(driver: &Driver, current: &Current) -> Result<Loaded> {
    let _relaxed = Relaxed::enter(driver)?;
    let module = load_module(driver, kernels::PTX)?;
    let fill = || {
        let functions = Kernel::all().map(|kernel| Ok((kernel, get_function(driver, module, &kernel.name())?)));
        Ok(Loaded {
            functions: functions.collect::<Result<_>>()?,
            multiprocessors: attribute(driver, MULTIPROCESSOR_COUNT, current)?.max(1) as u32,
            pool: make_pool(driver, current)?,
        })
    };
    let loaded = fill();
    if loaded.is_err() {
        // SAFETY: nothing was launched from it. The first error is the one to report.
        let _ = unsafe { driver.module_unload(module) };
    }
    loaded
}

/// The driver's compiler says in words what it does not like.
fn load_module(driver: &Driver, ptx: &str) -> Result<Module> {
    const ERROR_LOG_BUFFER: c_int = 5;
    const ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;
    let mut log = [0u8; 4096];
    let options = [ERROR_LOG_BUFFER, ERROR_LOG_BUFFER_SIZE_BYTES];
    // A size is passed in the place of a pointer.
    let values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(log.len() - 1)];
    let mut module = Module::NONE;
    // SAFETY: the PTX ends with a NUL, and so does the log, whose last byte the driver does not know of.
    let result = unsafe {
        driver.module_load(&mut module, ptx.as_ptr().cast(), options.len() as c_uint, options.as_ptr(), values.as_ptr())
    };
    result.map_err(|error| {
        let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
        match log.trim() {
            "" => error,
            log => Error::new(error.kind(), format_args!("{}: {log}", error.message())),
        }
    })?;
    Ok(module)
}

fn get_function(driver: &Driver, module: Module, name: &str) -> Result<Function> {
    let mut function = Function::NONE;
    let name = CString::new(name).expect("a name without a NUL");
    // SAFETY: a module of this context's, a name, and a place for the function.
    unsafe { driver.module_get_function(&mut function, module, name.as_ptr())? };
    Ok(function)
}

const MULTIPROCESSOR_COUNT: c_int = 16;
const MEMORY_POOLS_SUPPORTED: c_int = 115;

fn attribute(driver: &Driver, attribute: c_int, current: &Current) -> Result<c_int> {
    let mut value = 0;
    // SAFETY: a place for a number.
    unsafe { driver.device_get_attribute(&mut value, attribute, current.device)? };
    Ok(value)
}

/// A pool of our own that keeps what it has. The device's default pool gives memory back to the system at every
/// synchronisation, unless the application has set it up otherwise, and fetching it again takes longer than a kernel.
fn make_pool(driver: &Driver, current: &Current) -> Result<Option<Pool>> {
    const RELEASE_THRESHOLD: c_int = 4;
    let everything = u64::MAX;
    if attribute(driver, MEMORY_POOLS_SUPPORTED, current)? == 0 {
        return Ok(None);
    }
    let properties = PoolProperties {
        allocation: 1,
        handles: 0,
        location: 1,
        device: current.device,
        security: std::ptr::null_mut(),
        reserved: [0; 8],
    };
    let mut pool = Pool::NONE;
    // SAFETY: a place for the pool; its attribute is a 64-bit number.
    unsafe {
        driver.pool_create(&mut pool, &properties)?;
        let kept = driver.pool_set_attribute(pool, RELEASE_THRESHOLD, (&raw const everything).cast());
        if kept.is_err() {
            let _ = driver.pool_destroy(pool);
        }
        kept?;
    }
    Ok(Some(pool))
}

/// While it lives, this thread may load modules although a stream is being captured into a graph. Nothing that is
/// done under it is work for a stream.
struct Relaxed<'a> {
    driver: &'a Driver,
    before: c_int,
}

impl<'a> Relaxed<'a> {
    fn enter(driver: &'a Driver) -> Result<Self> {
        const RELAXED: c_int = 2;
        let mut before = RELAXED;
        // SAFETY: the mode goes in, and the one before comes out.
        unsafe { driver.exchange_capture_mode(&mut before)? };
        Ok(Self { driver, before })
    }
}

impl Drop for Relaxed<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `enter`. Should it fail there is nobody left to tell.
        let _ = unsafe { self.driver.exchange_capture_mode(&mut self.before) };
    }
}
