//! The host's function table. Only entries of version 17 are used, each read through the raw pointer:
//! a reference to the whole table would claim more of it than an older host has.

use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ort_sys::{OrtApi, OrtErrorCode, OrtStatusPtr};

use crate::error::{Error, ErrorKind, Result, panicked};

/// A host's table of at least version 17.
#[derive(Clone, Copy)]
pub struct Api(*const OrtApi);

// SAFETY: a table of functions that may be called from any thread.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

/// Calls an entry of the table; its status becomes a `Result`. Unsafe like the entry itself.
macro_rules! call {
    ($api:expr, $entry:ident $(, $argument:expr)* $(,)?) => {{
        let status = ((*$api.table()).$entry)($($argument),*);
        $api.check(status)
    }};
}
pub(super) use call;

impl Api {
    /// # Safety
    /// The table has the entries of version 17 and outlives every use.
    pub unsafe fn new(table: *const OrtApi) -> Self {
        Self(table)
    }

    pub fn table(self) -> *const OrtApi {
        self.0
    }

    /// Takes a status over.
    pub fn check(self, status: OrtStatusPtr) -> Result<()> {
        if status.0.is_null() {
            return Ok(());
        }
        // SAFETY: a status of this host's, released once, after its message was copied.
        let message = unsafe {
            let message = CStr::from_ptr(((*self.0).GetErrorMessage)(status.0)).to_string_lossy().into_owned();
            ((*self.0).ReleaseStatus)(status.0);
            message
        };
        Err(Error::new(ErrorKind::Internal, message))
    }

    /// Runs the body of an entry that the host calls; an error or a panic becomes a status whose message
    /// starts with `name`.
    pub fn guard(self, name: &str, body: impl FnOnce() -> Result<()>) -> OrtStatusPtr {
        match catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(&*payload))) {
            Ok(()) => OrtStatusPtr::default(),
            Err(error) => self.status(name, &error),
        }
    }

    fn status(self, name: &str, error: &Error) -> OrtStatusPtr {
        let code = match error.kind() {
            ErrorKind::InvalidArgument => OrtErrorCode::ORT_INVALID_ARGUMENT,
            ErrorKind::Unsupported => OrtErrorCode::ORT_NOT_IMPLEMENTED,
            ErrorKind::Cuda => OrtErrorCode::ORT_EP_FAIL,
            ErrorKind::OutOfMemory | ErrorKind::Internal => OrtErrorCode::ORT_RUNTIME_EXCEPTION,
        };
        let message = format!("{name}: {}", error.message()).replace('\0', "?");
        let message = CString::new(message).unwrap_or_default();
        // SAFETY: the host copies the message.
        unsafe { ((*self.0).CreateStatus)(code, message.as_ptr()) }
    }
}
