//! Statuses, the last error's message, and the guard that every entry goes through.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{ErrorKind, Result, panicked};

/// What a call came to. Numbers are never reused.
#[repr(i32)]
#[derive(Clone, Copy)]
#[allow(dead_code)]
pub enum focal_loss_status {
    /// Done.
    Ok = 0,
    /// An argument breaks the contract in this header.
    InvalidArgument = 1,
    /// The arguments make sense, but this version cannot serve them.
    Unsupported = 2,
    /// Memory could not be had.
    OutOfMemory = 3,
    /// There is no usable CUDA driver or device, or it failed; the message has the driver's words.
    Cuda = 4,
    /// A bug in this library; please report it with the message.
    Internal = 5,
}

thread_local! {
    static LAST_MESSAGE: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    // An interior NUL can only come from a name that a caller chose.
    let message = CString::new(message.replace('\0', "?")).unwrap_or_default();
    // A thread that is being torn down has nowhere to keep a message.
    let _ = LAST_MESSAGE.try_with(|last| *last.borrow_mut() = message);
}

/// Runs the body of an entry; turns its error, or its panic, into a status and a message.
pub fn guard(body: impl FnOnce() -> Result<()>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(&*payload)));
    match result {
        Ok(()) => {
            // An empty message would be allocated too.
            let _ = LAST_MESSAGE.try_with(|last| {
                if !last.borrow().is_empty() {
                    last.take();
                }
            });
            focal_loss_status::Ok as i32
        }
        Err(error) => {
            remember(error.message());
            error.kind() as i32
        }
    }
}

/// What was wrong in this thread's last call, as a sentence in UTF-8 that names the argument; the
/// empty string if that call succeeded. Never NULL. Valid until this thread's next call.
#[unsafe(no_mangle)]
pub extern "C" fn focal_loss_last_error_message() -> *const c_char {
    LAST_MESSAGE.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

const _: () = {
    assert!(focal_loss_status::InvalidArgument as i32 == ErrorKind::InvalidArgument as i32);
    assert!(focal_loss_status::Unsupported as i32 == ErrorKind::Unsupported as i32);
    assert!(focal_loss_status::OutOfMemory as i32 == ErrorKind::OutOfMemory as i32);
    assert!(focal_loss_status::Cuda as i32 == ErrorKind::Cuda as i32);
    assert!(focal_loss_status::Internal as i32 == ErrorKind::Internal as i32);
};
