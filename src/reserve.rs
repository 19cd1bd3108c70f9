//! An allocator with a reserve, so that a lack of memory does not end the host's process.
//!
//! What the library allocates itself it asks for in ways that can fail, and answers OUT_OF_MEMORY. Rayon and Rust's
//! standard library have no such ways for the few hundred bytes that they need now and then: where those cannot be had,
//! the process is ended. So in a shared library, where the process is somebody else's, [`Allocator`] serves them from
//! memory that has been there all along. It is touched only then; until then it costs no more than its addresses.
//!
//! A program in Rust may have one global allocator, and chooses it itself: the feature `reserve` switches this one off.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[cfg(feature = "reserve")]
#[global_allocator]
static GLOBAL: Allocator = Allocator;

/// What is handed out at a time; also the largest alignment.
const UNIT: usize = 1024;
/// Units that share a word of the map. No allocation reaches from one word's into the next's.
const UNITS: usize = u64::BITS as usize;
const WORDS: usize = 32;

#[repr(align(1024))]
struct Memory(UnsafeCell<MaybeUninit<[u8; UNIT * UNITS * WORDS]>>);

// SAFETY: each unit belongs to whoever set its bit in `TAKEN`.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new(MaybeUninit::uninit()));
/// A bit for each unit that is in use. Atomic operations alone, so that `fork` cannot leave it half way.
static TAKEN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
/// Bytes in use.
static USED: AtomicUsize = AtomicUsize::new(0);

/// Whether the reserve has as many bytes left. Work that allocates in ways that cannot fail is not begun without.
pub fn has(bytes: usize) -> bool {
    USED.load(Ordering::Relaxed) + bytes <= UNIT * UNITS * WORDS
}

/// The system's allocator, and the reserve where that has nothing.
pub struct Allocator;

// SAFETY: the system's allocator keeps the contract; so does the reserve, as said at each of its functions.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        match unsafe { System.alloc(layout) } {
            none if none.is_null() => take(layout),
            some => some,
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        let some = unsafe { System.alloc_zeroed(layout) };
        if !some.is_null() {
            return some;
        }
        let taken = take(layout);
        if !taken.is_null() {
            // SAFETY: just taken, and large enough.
            unsafe { taken.write_bytes(0, layout.size()) };
        }
        taken
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        match first_unit(place) {
            Some(first) => give_back(first, units(layout.size())),
            // SAFETY: not ours, so the system's.
            None => unsafe { System.dealloc(place, layout) },
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let first = first_unit(place);
        let (had, wanted) = (units(layout.size()), units(size));
        if let Some(first) = first
            && wanted <= had
        {
            give_back(first + wanted, had - wanted);
            return place;
        }
        if first.is_none() {
            // SAFETY: passed on.
            let moved = unsafe { System.realloc(place, layout, size) };
            if !moved.is_null() {
                return moved;
            }
            if size <= layout.size() {
                return place;
            }
        }
        // SAFETY: the caller's promise: the size fits the alignment.
        let wider = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: of a size that is not zero.
        let moved = unsafe { self.alloc(wider) };
        if !moved.is_null() {
            // SAFETY: two allocations, both of at least that size; the old one is the caller's, who gives it up.
            unsafe {
                moved.copy_from_nonoverlapping(place, layout.size().min(size));
                self.dealloc(place, layout);
            }
        }
        moved
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT)
}

fn start() -> *mut u8 {
    MEMORY.0.get().cast()
}

/// The number of the unit that an address of the reserve's is in.
fn first_unit(place: *mut u8) -> Option<usize> {
    let unit = place.addr().wrapping_sub(start().addr()) / UNIT;
    (unit < UNITS * WORDS).then_some(unit)
}

fn mask(first: usize, count: usize) -> u64 {
    debug_assert!((1..=UNITS).contains(&count));
    (u64::MAX >> (UNITS - count)) << (first % UNITS)
}

/// Neighbouring units that nobody else has; NULL where there are not as many.
fn take(layout: Layout) -> *mut u8 {
    let count = units(layout.size());
    if count > UNITS || layout.align() > UNIT {
        return std::ptr::null_mut();
    }
    for (index, word) in TAKEN.iter().enumerate() {
        let mut taken = word.load(Ordering::Relaxed);
        let fits = |taken: u64| (0..=UNITS - count).find(|&first| taken & mask(first, count) == 0);
        while let Some(first) = fits(taken) {
            let now = taken | mask(first, count);
            match word.compare_exchange_weak(taken, now, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    USED.fetch_add(count * UNIT, Ordering::Relaxed);
                    // SAFETY: a unit of the reserve's.
                    return unsafe { start().add((index * UNITS + first) * UNIT) };
                }
                Err(changed) => taken = changed,
            }
        }
    }
    std::ptr::null_mut()
}

fn give_back(first: usize, count: usize) {
    if count > 0 {
        TAKEN[first / UNITS].fetch_and(!mask(first, count), Ordering::Release);
        USED.fetch_sub(count * UNIT, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    /// One test, since there is one reserve.
    #[test]
    fn takes_and_gives_back() {
        let everything = UNIT * UNITS * WORDS;
        assert!(has(everything) && !has(everything + 1));
        assert!(take(layout(UNIT * UNITS + 1, 1)).is_null());
        assert!(take(layout(1, 2 * UNIT)).is_null());

        // Threads that take, fill and give back all at once never see each other's bytes.
        std::thread::scope(|scope| {
            for thread in 1..=8u8 {
                scope.spawn(move || {
                    for round in 0..2000 {
                        let layout = layout(1 + (round * 977 + thread as usize * 131) % (20 * UNIT), 64);
                        let place = take(layout);
                        assert!(!place.is_null() && place.addr().is_multiple_of(UNIT));
                        // SAFETY: just taken, of that size.
                        unsafe {
                            place.write_bytes(thread, layout.size());
                            let bytes = std::slice::from_raw_parts(place, layout.size());
                            assert!(bytes.iter().all(|&byte| byte == thread));
                            Allocator.dealloc(place, layout);
                        }
                    }
                });
            }
        });
        assert!(has(everything));

        // All of it, each once; then nothing.
        let mut places: Vec<_> = (0..UNITS * WORDS).map(|_| take(layout(UNIT, UNIT))).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[1].addr() == pair[0].addr() + UNIT) && !places[0].is_null());
        assert!(take(layout(1, 1)).is_null() && !has(1));
        places.iter().for_each(|&place| give_back(first_unit(place).unwrap(), 1));
        assert!(has(everything));

        // Growing moves to the system's memory, with what was there; shrinking gives back.
        let place = take(layout(3 * UNIT, 8));
        // SAFETY: each address has been given out with the layout that goes with it.
        unsafe {
            place.write_bytes(7, 3 * UNIT);
            assert_eq!(Allocator.realloc(place, layout(3 * UNIT, 8), UNIT), place);
            assert!(has(everything - UNIT) && !has(everything));
            let moved = Allocator.realloc(place, layout(UNIT, 8), 2 * UNIT);
            assert!(first_unit(moved).is_none() && has(everything));
            assert!(std::slice::from_raw_parts(moved, UNIT).iter().all(|&byte| byte == 7));
            Allocator.dealloc(moved, layout(2 * UNIT, 8));
        }
    }
}
