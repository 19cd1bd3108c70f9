//! The CUDA driver, found when it is first needed: its functions, and what its numbers mean in words.
//!
//! Nothing is linked. A machine without a driver gets an error from the calls that need one, once and for all,
//! since a driver does not turn up in a process that has already looked.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use libloading::Library;

use crate::error::{Error, ErrorKind, Result, fail};

const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// CUDA 11.8, as the driver counts: the first that reads the PTX of `kernels`. Everything declared below is older.
const OLDEST: c_int = 11080;

/// The driver's handles; only passed back to it.
macro_rules! handles {
    ($($name:ident),*) => {
        $(#[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(transparent)]
        pub struct $name(pub *mut c_void);

        impl $name {
            /// NULL: none; of a stream, the default one.
            pub const NONE: Self = Self(std::ptr::null_mut());
        }
        // SAFETY: a handle, which any thread may pass to the driver.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {})*
    };
}
handles!(Context, Module, Function, Pool, Stream);

impl Stream {
    /// NULL, `CU_STREAM_LEGACY` and `CU_STREAM_PER_THREAD` belong to the current context, whichever that is.
    pub fn is_special(self) -> bool {
        self.0 as usize <= 2
    }
}

/// A device, by the driver's own name for it.
pub type DeviceHandle = c_int;

/// An address in a device's memory.
pub type Address = u64;

/// A `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Code(c_int);

impl Code {
    const SUCCESS: Self = Self(0);
    const OUT_OF_MEMORY: Self = Self(2);
}

/// Declares the driver's functions once: a field that holds each, how all are looked up, and a method that calls it
/// and makes an error of anything but success.
macro_rules! functions {
    ($($field:ident = $symbol:literal ($($name:ident: $argument:ty),*);)*) => {
        struct Functions {
            $($field: unsafe extern "system" fn($($argument),*) -> Code,)*
        }

        impl Functions {
            fn load(library: &Library) -> Result<Self> {
                // SAFETY: the functions have these types in every driver that has them.
                unsafe { Ok(Self { $($field: symbol(library, $symbol)?,)* }) }
            }
        }

        impl Driver {
            $(
                /// # Safety
                /// As CUDA's documentation of the function asks.
                #[allow(clippy::too_many_arguments)]
                pub(super) unsafe fn $field(&self, $($name: $argument),*) -> Result<()> {
                    // SAFETY: passed on.
                    self.check($symbol, unsafe { (self.functions.$field)($($name),*) })
                }
            )*
        }
    };
}

functions! {
    initialise = "cuInit" (flags: c_uint);
    device_get = "cuDeviceGet" (device: *mut DeviceHandle, ordinal: c_int);
    device_get_count = "cuDeviceGetCount" (count: *mut c_int);
    device_get_attribute = "cuDeviceGetAttribute" (value: *mut c_int, attribute: c_int, device: DeviceHandle);
    primary_context_retain = "cuDevicePrimaryCtxRetain" (context: *mut Context, device: DeviceHandle);
    context_get_current = "cuCtxGetCurrent" (context: *mut Context);
    context_get_device = "cuCtxGetDevice" (device: *mut DeviceHandle);
    context_push = "cuCtxPushCurrent_v2" (context: Context);
    context_pop = "cuCtxPopCurrent_v2" (context: *mut Context);
    stream_get_context = "cuStreamGetCtx" (stream: Stream, context: *mut Context);
    pointer_get_attributes = "cuPointerGetAttributes" (
        count: c_uint, attributes: *const c_int, values: *mut *mut c_void, address: Address
    );
    exchange_capture_mode = "cuThreadExchangeStreamCaptureMode" (mode: *mut c_int);
    module_load = "cuModuleLoadDataEx" (
        module: *mut Module, image: *const c_void, count: c_uint, options: *const c_int, values: *const *mut c_void
    );
    module_get_function = "cuModuleGetFunction" (function: *mut Function, module: Module, name: *const c_char);
    module_unload = "cuModuleUnload" (module: Module);
    pool_create = "cuMemPoolCreate" (pool: *mut Pool, properties: *const PoolProperties);
    pool_set_attribute = "cuMemPoolSetAttribute" (pool: Pool, attribute: c_int, value: *const c_void);
    pool_destroy = "cuMemPoolDestroy" (pool: Pool);
    allocate_async = "cuMemAllocFromPoolAsync" (address: *mut Address, bytes: usize, pool: Pool, stream: Stream);
    free_async = "cuMemFreeAsync" (address: Address, stream: Stream);
    launch_kernel = "cuLaunchKernel" (
        function: Function, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: Stream, arguments: *const *mut c_void, extra: *const *mut c_void
    );
}

/// `CUmemPoolProps`. What later versions added lies within `reserved`, and zero is its default.
#[repr(C)]
pub struct PoolProperties {
    /// 1: pinned, the only kind.
    pub allocation: c_int,
    /// 0: for this process alone.
    pub handles: c_int,
    /// 1: a device, named by `device`.
    pub location: c_int,
    pub device: DeviceHandle,
    pub security: *mut c_void,
    pub reserved: [u64; 8],
}

/// A driver that is there, new enough, and initialised.
pub struct Driver {
    functions: Functions,
    /// `cuGetErrorName` and `cuGetErrorString`.
    describe: [unsafe extern "system" fn(Code, *mut *const c_char) -> Code; 2],
    /// `cuCtxGetId`, since CUDA 12.0: tells a context from a later one at the same address.
    context_get_id: Option<unsafe extern "system" fn(Context, *mut u64) -> Code>,
}

/// What the driver knows about an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointerAttributes {
    /// 0: the driver has never seen it.
    pub memory_type: c_uint,
    pub managed: c_uint,
    pub device: c_int,
}

/// # Safety
/// `T` is the type of the function that drivers export by that name.
unsafe fn symbol<T: Copy>(library: &Library, name: &str) -> Result<T> {
    // SAFETY: passed on.
    match unsafe { library.get::<T>(name) } {
        Ok(symbol) => Ok(*symbol),
        Err(_) => fail!(Cuda, "{LIBRARY}: {name} is missing; a driver for CUDA 11.8 or newer is needed"),
    }
}

impl Driver {
    /// This process's driver.
    pub fn get() -> Result<&'static Self> {
        static DRIVER: OnceLock<Result<Driver>> = OnceLock::new();
        if DRIVER.get().is_none() {
            match Self::load() {
                // Not for ever.
                Err(error) if error.kind() == ErrorKind::OutOfMemory => return Err(error),
                // Another thread's is as good.
                loaded => drop(DRIVER.set(loaded)),
            }
        }
        DRIVER.wait().as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self> {
        // SAFETY: the driver's constructors run, as in every program that uses CUDA.
        let library = match unsafe { Library::new(LIBRARY) } {
            // Never unloaded: it has threads of its own.
            Ok(library) => Box::leak(Box::new(library)),
            Err(reason) => {
                let reason = std::error::Error::source(&reason).map_or(reason.to_string(), |source| source.to_string());
                fail!(Cuda, "there is no CUDA driver: {reason}");
            }
        };
        let mut version = 0;
        // SAFETY: the functions have these types in every driver that has them. The version may be asked for first,
        // and is: a driver that is too old also lacks functions, and should be called old.
        let (describe, context_get_id) = unsafe {
            let get_version: unsafe extern "system" fn(*mut c_int) -> Code = symbol(library, "cuDriverGetVersion")?;
            if get_version(&mut version) == Code::SUCCESS && version < OLDEST {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                fail!(Cuda, "the CUDA driver is too old: it serves CUDA {major}.{minor}, but 11.8 or newer is needed");
            }
            let describe = [symbol(library, "cuGetErrorName")?, symbol(library, "cuGetErrorString")?];
            (describe, symbol(library, "cuCtxGetId").ok())
        };
        let driver = Self { functions: Functions::load(library)?, describe, context_get_id };
        // SAFETY: nothing but the flags, which must be zero.
        unsafe { driver.initialise(0)? };
        Ok(driver)
    }

    /// An error for any code but success.
    fn check(&self, function: &str, code: Code) -> Result<()> {
        let kind = match code {
            Code::SUCCESS => return Ok(()),
            Code::OUT_OF_MEMORY => ErrorKind::OutOfMemory,
            _ => ErrorKind::Cuda,
        };
        Err(Error::new(kind, format_args!("{function}: {}", self.describe(code))))
    }

    /// Such as "CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)".
    fn describe(&self, code: Code) -> String {
        let [name, meaning] = self.describe.map(|get| {
            let mut text = std::ptr::null();
            // SAFETY: the driver gives NULL or a string that lives for ever.
            unsafe {
                let known = get(code, &mut text) == Code::SUCCESS && !text.is_null();
                known.then(|| CStr::from_ptr(text).to_string_lossy())
            }
        });
        match (name, meaning) {
            (Some(name), Some(meaning)) => format!("{name} ({meaning})"),
            (Some(name), None) => name.into_owned(),
            _ => format!("error {}", code.0),
        }
    }

    /// The device that has this number, if there is one.
    pub fn device(&self, ordinal: i32) -> Result<DeviceHandle> {
        let mut count = 0;
        let mut device = 0;
        // SAFETY: places for a number each.
        unsafe {
            self.device_get_count(&mut count)?;
            if !(0..count).contains(&ordinal) {
                fail!(InvalidArgument, "device_id is {ordinal}, but the CUDA driver counts {count} of them, from 0");
            }
            self.device_get(&mut device, ordinal)?;
        }
        Ok(device)
    }

    /// A number that no two contexts of the process share, where the driver has such; else 0.
    pub fn context_id(&self, context: Context) -> u64 {
        let mut id = 0;
        // SAFETY: a context of the driver's, and a place for the number.
        self.context_get_id.map(|get| unsafe { get(context, &mut id) });
        id
    }

    /// What the driver knows about an address; it says so too when it knows nothing.
    pub fn pointer_attributes(&self, address: Address) -> Result<PointerAttributes> {
        const MEMORY_TYPE: c_int = 2;
        const IS_MANAGED: c_int = 8;
        const DEVICE_ORDINAL: c_int = 9;
        let mut found = PointerAttributes::default();
        let names = [MEMORY_TYPE, IS_MANAGED, DEVICE_ORDINAL];
        let mut places: [*mut c_void; 3] =
            [(&raw mut found.memory_type).cast(), (&raw mut found.managed).cast(), (&raw mut found.device).cast()];
        // SAFETY: as many names as places, each of four bytes as these attributes are.
        unsafe { self.pointer_get_attributes(3, names.as_ptr(), places.as_mut_ptr(), address)? };
        Ok(found)
    }
}
