//! Who runs the chunks: the calling thread, rayon's pool, or the host's.
//!
//! What a chunk is never depends on who runs it, so neither do the bits. That is also why a lack of memory for threads is
//! no error: the calling thread does everything itself.

use std::error::Error;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// How many threads rayon's global pool has. 1 where the system had no threads or memory for it, or where it stayed
/// behind in the parent of a `fork`: the caller then does everything itself.
fn pool_threads() -> usize {
    static STARTED_BY: OnceLock<Option<u32>> = OnceLock::new();
    // Far more than rayon allocates for a call: one block for 63 of them, which is kept until those are done.
    if !reserve::has(64 << 10) {
        return 1;
    }
    // There is one attempt to start it, and what the C library needs for a thread that has been started it cannot do
    // without. So not now, when memory is short; perhaps in a later call.
    if STARTED_BY.get().is_none() && Vec::<u8>::new().try_reserve_exact(256 << 10).is_err() {
        return 1;
    }
    let started_by = STARTED_BY.get_or_init(|| {
        let started = rayon::ThreadPoolBuilder::new().spawn_handler(threads::spawn).build_global();
        // The system's refusal has a source. Without one, the program has made the pool already.
        let exists = started.map_or_else(|error| error.source().is_none(), |()| true);
        exists.then(std::process::id)
    });
    if *started_by == Some(std::process::id()) { rayon::current_num_threads() } else { 1 }
}
