//! The host's function table. Only entries of version 17 are used, each read through the raw pointer:
//! a reference to the whole table would claim more of it than an older host has.

use std::ffi::CStr;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ort_sys::{OrtApi, OrtErrorCode, OrtStatusPtr};

use crate::error::{Error, ErrorKind, Result, panicked, text};

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
        unsafe {
            let message = Lossy(CStr::from_ptr(((*self.0).GetErrorMessage)(status.0)).to_bytes());
            let error = Error::new(ErrorKind::Internal, format_args!("{message}"));
            ((*self.0).ReleaseStatus)(status.0);
            Err(error)
        }
    }

    /// Runs the body of an entry that the host calls; an error or a panic becomes a status whose message
    /// starts with `name`.
    pub fn guard(self, name: &str, body: impl FnOnce() -> Result<()>) -> OrtStatusPtr {
        match catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(&*payload))) {
            Ok(()) => OrtStatusPtr::default(),
            Err(error) => self.status(name, &error),
        }
    }

    pub fn status(self, name: &str, error: &Error) -> OrtStatusPtr {
        let code = match error.kind() {
            ErrorKind::InvalidArgument => OrtErrorCode::ORT_INVALID_ARGUMENT,
            ErrorKind::Unsupported => OrtErrorCode::ORT_NOT_IMPLEMENTED,
            ErrorKind::Cuda => OrtErrorCode::ORT_EP_FAIL,
            ErrorKind::OutOfMemory | ErrorKind::Internal => OrtErrorCode::ORT_RUNTIME_EXCEPTION,
        };
        let written = text(format_args!("{name}: {}\0", error.message()));
        let mut bytes = written.map_or(Vec::new(), String::into_bytes);
        // Only the last one ends the text; others can only come from a name that somebody chose.
        let length = bytes.len().saturating_sub(1);
        bytes[..length].iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b'?');
        let message = CStr::from_bytes_with_nul(&bytes).unwrap_or(c"focal_loss: memory could not be had");
        // SAFETY: the host copies the message.
        unsafe { ((*self.0).CreateStatus)(code, message.as_ptr()) }
    }
}

/// Bytes that should be UTF-8.
pub struct Lossy<'a>(pub &'a [u8]);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.utf8_chunks().try_for_each(|chunk| {
            f.write_str(chunk.valid())?;
            f.write_str(if chunk.invalid().is_empty() { "" } else { "\u{FFFD}" })
        })
    }
}
