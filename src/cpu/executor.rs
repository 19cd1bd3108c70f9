//! Who runs the chunks: the calling thread, rayon's pool, or the host's.
//!
//! What a chunk is never depends on who runs it, so neither do the bits.

use std::error::Error;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::float_control;

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
        rayon::scope(|scope| {
            for _ in 1..threads.min(count) {
                scope.spawn(|_| float_control::with_defaults(work));
            }
            work();
        });
    }
}

/// How many threads rayon's global pool has. 1 where the system had no threads for it, where another thread is starting it,
/// or where it stayed behind in the parent of a `fork`: the caller then does everything itself.
///
/// Nobody waits, since who is forked while another thread starts the pool would wait for a thread that is not there.
fn pool_threads() -> usize {
    const UNUSED: u32 = 0;
    const NOBODY: u32 = u32::MAX;
    /// The process that has the pool.
    static OWNER: AtomicU32 = AtomicU32::new(UNUSED);
    if OWNER.compare_exchange(UNUSED, NOBODY, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        let started = rayon::ThreadPoolBuilder::new().build_global();
        // The system's refusal has a source. Without one, the program has made the pool already.
        if started.map_or_else(|error| error.source().is_none(), |()| true) {
            OWNER.store(std::process::id(), Ordering::Release);
        }
    }
    if OWNER.load(Ordering::Acquire) == std::process::id() { rayon::current_num_threads() } else { 1 }
}
