//! Who runs the chunks: the calling thread, rayon's pool, or the host's.
//!
//! What a chunk is never depends on who runs it, so neither do the bits. That is also why a lack of memory for threads is
//! no error: the calling thread does everything itself.

use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::reserve;

use super::{float_control, threads};

/// Calls `body` once for each number below `count`, in any order, possibly at the same time. Whoever does so on another
/// thread than the caller's does it [with the default floating-point control](float_control::with_defaults).
pub trait Executor {
    fn for_each(&self, count: usize, body: &(dyn Fn(usize) + Sync));
}

/// At most `num_threads` of rayon's global pool at once (0: all of them); the pool is never resized.
pub struct Rayon {
    pub num_threads: usize,
}

impl Executor for Rayon {
    fn for_each(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        if count <= 1 || self.num_threads == 1 {
            return (0..count).for_each(body);
        }
        let threads = match self.num_threads {
            0 => pool_threads(),
            limit => limit.min(pool_threads()),
        };
        if threads == 1 {
            return (0..count).for_each(body);
        }
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                body(index);
            }
        };
        on_each(threads.min(count), &work);
    }
}

/// Offers `work` to that many threads. Halving, and not a `scope` with a task for each: those are allocated.
fn on_each(threads: usize, work: &(impl Fn() + Sync)) {
    match threads {
        0 | 1 => float_control::with_defaults(work),
        _ => {
            rayon::join(|| on_each(threads - threads / 2, work), || on_each(threads / 2, work));
        }
    }
}

/// How many threads rayon's global pool has. 1 where the system had no threads or memory for it, where another thread is
/// starting it, or where it stayed behind in the parent of a `fork`: the caller then does everything itself.
///
/// Nobody waits, since who is forked while another thread starts the pool would wait for a thread that is not there.
fn pool_threads() -> usize {
    const UNUSED: u32 = 0;
    const NOBODY: u32 = u32::MAX;
    /// The process that has the pool.
    static OWNER: AtomicU32 = AtomicU32::new(UNUSED);
    // Far more than rayon allocates for a call: one block for 63 of them, which is kept until those are done.
    if !reserve::has(64 << 10) {
        return 1;
    }
    // There is one attempt to start it, and what the C library needs for a thread that has been started it cannot do
    // without. So not now, when memory is short; perhaps in a later call.
    if OWNER.load(Ordering::Relaxed) == UNUSED && !can_allocate(256 << 10) {
        return 1;
    }
    if OWNER.compare_exchange(UNUSED, NOBODY, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let started = rayon::ThreadPoolBuilder::new().spawn_handler(threads::spawn).build_global();
        // The system's refusal has a source. Without one, the program has made the pool already.
        if started.map_or_else(|error| error.source().is_none(), |()| true) {
            OWNER.store(std::process::id(), Ordering::Release);
        }
    }
    if OWNER.load(Ordering::Acquire) == std::process::id() { rayon::current_num_threads() } else { 1 }
}

/// Tried out: the compiler must not see that nobody uses the memory.
fn can_allocate(bytes: usize) -> bool {
    black_box(&mut Vec::<u8>::new()).try_reserve_exact(bytes).is_ok()
}
