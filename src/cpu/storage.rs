//! The element types in memory, and how runs of them move to and from the type arithmetic is done in.

use half::{bf16, f16};

use crate::math::real::Real;

use super::isa::{Isa, Kernel};
use super::narrow::Narrow;
use super::scratch::Scratch;
use super::walk::{Cursor, Run};

/// An element type of logits. Loading never rounds; storing rounds once.
pub trait Storage: Copy + Default + Send + Sync + 'static {
    /// What the arithmetic is done in.
    type Real: Real + Storage<Real = Self::Real>;

    /// The slice itself where memory already holds the arithmetic's type.
    fn as_reals(memory: &[Self]) -> Option<&[Self::Real]>;
    fn as_reals_mut(memory: &mut [Self]) -> Option<&mut [Self::Real]>;
    fn load(self) -> Self::Real;
    fn store(value: Self::Real) -> Self;
    fn load_dense(from: &[Self], to: &mut [Self::Real]);
    fn store_dense(from: &[Self::Real], to: &mut [Self]);
}

macro_rules! wide {
    ($type:ty) => {
        impl Storage for $type {
            type Real = $type;
            fn as_reals(memory: &[Self]) -> Option<&[Self]> {
                Some(memory)
            }
            fn as_reals_mut(memory: &mut [Self]) -> Option<&mut [Self]> {
                Some(memory)
            }
            #[inline(always)]
            fn load(self) -> Self {
                self
            }
            #[inline(always)]
            fn store(value: Self) -> Self {
                value
            }
            fn load_dense(from: &[Self], to: &mut [Self]) {
                to.copy_from_slice(from);
            }
            fn store_dense(from: &[Self], to: &mut [Self]) {
                to.copy_from_slice(from);
            }
        }
    };
}

macro_rules! narrow {
    ($type:ty) => {
        impl Storage for $type {
            type Real = f32;
            fn as_reals(_: &[Self]) -> Option<&[f32]> {
                None
            }
            fn as_reals_mut(_: &mut [Self]) -> Option<&mut [f32]> {
                None
            }
            #[inline(always)]
            fn load(self) -> f32 {
                self.widen()
            }
            #[inline(always)]
            fn store(value: f32) -> Self {
                Self::narrow(value)
            }
            fn load_dense(from: &[Self], to: &mut [f32]) {
                Isa::chosen().run(Widen(from, to));
            }
            fn store_dense(from: &[f32], to: &mut [Self]) {
                Isa::chosen().run(Narrowing(from, to));
            }
        }
    };
}

struct Widen<'a, N>(&'a [N], &'a mut [f32]);

impl<N: Narrow> Kernel for Widen<'_, N> {
    #[inline(always)]
    fn run(self) {
        self.1.iter_mut().zip(self.0).for_each(|(to, from)| *to = from.widen());
    }
}

struct Narrowing<'a, N>(&'a [f32], &'a mut [N]);

impl<N: Narrow> Kernel for Narrowing<'_, N> {
    #[inline(always)]
    fn run(self) {
        self.1.iter_mut().zip(self.0).for_each(|(to, from)| *to = N::narrow(*from));
    }
}

wide!(f32);
wide!(f64);
narrow!(f16);
narrow!(bf16);

/// A tensor's memory with its element type; offsets come from a [`super::walk::Walk`] over the tensor's own axes.
#[derive(Clone, Copy)]
pub struct Memory<S> {
    start: *mut S,
}

// SAFETY: parallel chunks read shared inputs and write disjoint elements.
unsafe impl<S> Send for Memory<S> {}
// SAFETY: as above.
unsafe impl<S> Sync for Memory<S> {}

impl<S: Copy> Memory<S> {
    /// # Safety
    /// Every offset passed to the methods below must be one that the tensor's shape and strides reach,
    /// of a tensor whose elements are valid for as long as this is used, and hold `S`.
    pub unsafe fn new(start: *mut u8) -> Self {
        Self { start: start.cast() }
    }

    #[inline]
    pub fn read(&self, offset: isize) -> S {
        // SAFETY: in bounds by `new`'s contract.
        unsafe { *self.start.offset(offset) }
    }

    #[inline]
    fn write(&self, offset: isize, value: S) {
        // SAFETY: in bounds by `new`'s contract; outputs do not overlap what others touch.
        unsafe { *self.start.offset(offset) = value }
    }

    /// A dense run as a slice. The caller sees to it that nobody writes there meanwhile.
    #[inline]
    pub fn slice(&self, run: Run) -> Option<&[S]> {
        // SAFETY: a run of stride one is contiguous, and in bounds by `new`'s contract.
        (run.stride == 1).then(|| unsafe { std::slice::from_raw_parts(self.start.offset(run.offset), run.count) })
    }

    /// A dense run to write to. No other slice may touch it meanwhile.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub fn slice_mut(&self, run: Run) -> Option<&mut [S]> {
        // SAFETY: as above, and every element of an output belongs to exactly one chunk.
        (run.stride == 1).then(|| unsafe { std::slice::from_raw_parts_mut(self.start.offset(run.offset), run.count) })
    }
}

impl<S: Storage> Memory<S> {
    /// The next `count` elements: memory itself where they are dense, else a copy in `scratch`.
    pub fn load<'a, const N: usize>(
        &'a self,
        cursor: &mut Cursor,
        count: usize,
        scratch: &'a mut Scratch<S, N>,
        in_place: bool,
    ) -> &'a [S] {
        let run = cursor.peek(count);
        if let Some(whole) = self.slice(run).filter(|_| run.count == count && !in_place) {
            cursor.skip(run.count);
            return whole;
        }
        let copy = scratch.get(count);
        self.for_runs(cursor, copy.len(), |start, run| match self.slice(run) {
            Some(dense) => copy[start..][..run.count].copy_from_slice(dense),
            None => {
                for (i, value) in copy[start..][..run.count].iter_mut().enumerate() {
                    *value = self.read(run.offset + i as isize * run.stride);
                }
            }
        });
        copy
    }

    /// Walks over the next `count` elements, run by run; `body` gets how many came before.
    fn for_runs(&self, cursor: &mut Cursor, count: usize, mut body: impl FnMut(usize, Run)) {
        let mut done = 0;
        while done < count {
            let run = cursor.next_run(count - done);
            body(done, run);
            done += run.count;
        }
    }

    pub fn copy_to(&self, cursor: &mut Cursor, to: &mut [S::Real]) {
        self.for_runs(cursor, to.len(), |start, run| {
            let part = &mut to[start..][..run.count];
            match self.slice(run) {
                Some(dense) => S::load_dense(dense, part),
                None if run.stride == 0 => part.fill(self.read(run.offset).load()),
                None => {
                    for (i, value) in part.iter_mut().enumerate() {
                        *value = self.read(run.offset + i as isize * run.stride).load();
                    }
                }
            }
        });
    }

    pub fn copy_from(&self, cursor: &mut Cursor, from: &[S::Real]) {
        self.for_runs(cursor, from.len(), |start, run| {
            let part = &from[start..][..run.count];
            match self.slice_mut(run) {
                Some(dense) => S::store_dense(part, dense),
                None => {
                    for (i, &value) in part.iter().enumerate() {
                        self.write(run.offset + i as isize * run.stride, S::store(value));
                    }
                }
            }
        });
    }

    /// As `copy_from`, for what is rounded already.
    pub fn put(&self, cursor: &mut Cursor, from: &[S]) {
        self.for_runs(cursor, from.len(), |start, run| {
            let part = &from[start..][..run.count];
            match self.slice_mut(run) {
                Some(dense) => dense.copy_from_slice(part),
                None => {
                    for (i, &value) in part.iter().enumerate() {
                        self.write(run.offset + i as isize * run.stride, value);
                    }
                }
            }
        });
    }

    #[inline]
    pub fn load_at(&self, offset: isize) -> S::Real {
        self.read(offset).load()
    }

    #[inline]
    pub fn store_at(&self, offset: isize, value: S::Real) {
        self.write(offset, S::store(value));
    }
}
