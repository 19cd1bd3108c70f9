//! Who runs the chunks: the calling thread, rayon's pool, or the host's.
//!
//! What a chunk is never depends on who runs it, so neither do the bits.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `body` once for each number below `count`, in any order, possibly at the same time.
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
            0 => rayon::current_num_threads(),
            limit => limit.min(rayon::current_num_threads()),
        };
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
                scope.spawn(|_| work());
            }
            work();
        });
    }
}
