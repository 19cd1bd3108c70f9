//! Threads for rayon's pool.
//!
//! Not the standard library's: it allocates for each of them past the global allocator, and ends the process where that
//! fails.

use std::io;

use rayon::ThreadBuilder;

use crate::error::boxed;
use crate::reserve;

/// Starts one, or says that it cannot be.
pub fn spawn(thread: ThreadBuilder) -> io::Result<()> {
    // More than rayon allocates for one.
    if !reserve::has(32 << 10) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    start(thread)
}

#[cfg(unix)]
fn start(thread: ThreadBuilder) -> io::Result<()> {
    use std::ffi::c_void;
    use std::mem::MaybeUninit;

    extern "C" fn run(thread: *mut c_void) -> *mut c_void {
        // SAFETY: what `start` made, handed to this thread alone.
        unsafe { Box::from_raw(thread.cast::<ThreadBuilder>()) }.run();
        std::ptr::null_mut()
    }

    // The standard library's. The kernels need 200 KB, and some systems' own default is less.
    const STACK: usize = 2 << 20;
    let check = |code| if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
    let thread = Box::into_raw(boxed(thread).map_err(|_| io::ErrorKind::OutOfMemory)?);
    let mut attributes = MaybeUninit::uninit();
    let mut started = MaybeUninit::uninit();
    // SAFETY: the attributes are used between their making and their end; the thread has a stack of its own, and takes
    // over what it is given.
    let result = unsafe {
        check(libc::pthread_attr_init(attributes.as_mut_ptr())).and_then(|()| {
            let attributes = attributes.as_mut_ptr();
            let result = check(libc::pthread_attr_setstacksize(attributes, STACK))
                .and_then(|()| check(libc::pthread_attr_setdetachstate(attributes, libc::PTHREAD_CREATE_DETACHED)))
                .and_then(|()| check(libc::pthread_create(started.as_mut_ptr(), attributes, run, thread.cast())));
            libc::pthread_attr_destroy(attributes);
            result
        })
    };
    if result.is_err() {
        // SAFETY: no thread has taken it over.
        drop(unsafe { Box::from_raw(thread) });
    }
    result
}

#[cfg(not(unix))]
fn start(thread: ThreadBuilder) -> io::Result<()> {
    std::thread::Builder::new().spawn(|| thread.run()).map(drop)
}
