//! Statuses, the last error's message, and the guard that every entry goes through.

use std::cell::Cell;
use std::ffi::c_char;
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
    /// Memory could not be had, even for the message of another error. Nothing has been written; the same call succeeds
    /// once there is memory.
    OutOfMemory = 3,
    /// There is no usable CUDA driver or device, or it failed; the message has the driver's words.
    Cuda = 4,
    /// A bug in this library; please report it with the message.
    Internal = 5,
}

/// Room for a message and its NUL. Only a log of the CUDA driver's compiler can be longer, and is cut.
const ROOM: usize = 2048;

thread_local! {
    // Neither memory of its own nor a destructor: where there is no memory, an error has to be told all the same, and
    // the C library ends the process if it has none to remember a destructor by.
    static LAST_MESSAGE: [Cell<u8>; ROOM] = const { [const { Cell::new(0) }; ROOM] };
}

fn remember(message: &str) {
    // An interior NUL can only come from a name that a caller chose.
    let bytes =
        message[..message.floor_char_boundary(ROOM - 1)].bytes().map(|byte| if byte == 0 { b'?' } else { byte });
    LAST_MESSAGE.with(|last| last.iter().zip(bytes.chain([0])).for_each(|(place, byte)| place.set(byte)));
}

/// Runs the body of an entry; turns its error, or its panic, into a status and a message.
pub fn guard(body: impl FnOnce() -> Result<()>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(&*payload)));
    match result {
        Ok(()) => {
            remember("");
            focal_loss_status::Ok as i32
        }
        Err(error) => {
            remember(error.message());
            error.kind() as i32
        }
    }
}

/// What was wrong in this thread's last call, as a sentence in UTF-8 that names the argument; the
/// empty string if that call succeeded. Never NULL. At most 2047 bytes, valid until this thread's next call.
#[unsafe(no_mangle)]
pub extern "C" fn focal_loss_last_error_message() -> *const c_char {
    LAST_MESSAGE.with(|last| last.as_ptr().cast())
}

const _: () = {
    assert!(focal_loss_status::InvalidArgument as i32 == ErrorKind::InvalidArgument as i32);
    assert!(focal_loss_status::Unsupported as i32 == ErrorKind::Unsupported as i32);
    assert!(focal_loss_status::OutOfMemory as i32 == ErrorKind::OutOfMemory as i32);
    assert!(focal_loss_status::Cuda as i32 == ErrorKind::Cuda as i32);
    assert!(focal_loss_status::Internal as i32 == ErrorKind::Internal as i32);
};
