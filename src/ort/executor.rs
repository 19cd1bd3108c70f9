//! Chunks on the session's own thread pool, which honours `intra_op_num_threads`.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;

use ort_sys::OrtKernelContext;

use crate::cpu::executor::Executor;
use crate::cpu::float_control;

use super::api::{Api, call};

/// The pool of the session that a `Compute` belongs to.
pub struct SessionPool {
    pub api: Api,
    pub context: *const OrtKernelContext,
}

/// What the host hands back with each call.
struct Task<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// # Safety
/// `task` is the [`Task`] of a `ParallelFor` under way.
unsafe extern "C" fn run_chunk(task: *mut c_void, index: usize) {
    // SAFETY: by the contract above; shared between threads, hence not `&mut`.
    let task = unsafe { &*task.cast::<Task>() };
    // A panic must not unwind into the host: keep the first one for the thread that waits.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| float_control::with_defaults(|| (task.body)(index))))
        && let Ok(mut first) = task.panic.lock()
    {
        first.get_or_insert(payload);
    }
}

impl Executor for SessionPool {
    fn for_each(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        if count <= 1 {
            return (0..count).for_each(body);
        }
        let mut task = Task { body, panic: Mutex::new(None) };
        // SAFETY: the host returns only after the last call, so the task outlives them all.
        let result = unsafe {
            call!(self.api, KernelContext_ParallelFor, self.context, run_chunk, count, 0, (&raw mut task).cast())
        };
        if let Ok(Some(payload)) = task.panic.into_inner() {
            resume_unwind(payload);
        }
        if let Err(error) = result {
            panic!("KernelContext_ParallelFor: {error}");
        }
    }
}
