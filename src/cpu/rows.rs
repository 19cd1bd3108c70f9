//! Rows of a tensor as slices over the classes: memory itself where it can serve as it is, else copies.

use std::array::from_fn;
use std::ops::Range;
use std::ptr::null;

use crate::problem::Problem;
use crate::tensor::Tensor;

use super::chunks::LANES;
use super::scratch::Scratch;
use super::storage::{Memory, Storage};
use super::walk::{Run, Walk};

/// The most values in a [`Tile`].
pub const TILE: usize = 4096;

/// Copies of rows, one after the other.
pub type Tile<R> = Scratch<R, TILE>;

/// Something for each of up to sixteen rows.
pub type Lanes<T> = [T; LANES];

/// A tensor with a value for each row and class.
pub struct PerClass<S> {
    memory: Memory<S>,
    rows: Walk,
    class_stride: isize,
}

impl<S: Storage> PerClass<S> {
    pub fn new(tensor: &Tensor, problem: &Problem) -> Self {
        Self {
            // SAFETY: the tensor is valid for the call; rows and class stride are its own axes.
            memory: unsafe { Memory::new(tensor.data) },
            rows: Walk::new(&problem.row_shape, &tensor.strides.without(problem.axis)),
            class_stride: tensor.strides[problem.axis],
        }
    }

    /// `count` rows from `first` on.
    pub fn block(&self, first: usize, count: usize) -> Block<'_, S> {
        Block { tensor: self, offsets: row_offsets(&self.rows, first, count), count }
    }
}

/// Where each row starts.
pub fn row_offsets(rows: &Walk, first: usize, count: usize) -> Lanes<isize> {
    let mut offsets = [0; LANES];
    let mut cursor = rows.at(first);
    let mut lane = 0;
    while lane < count {
        let run = cursor.next_run(count - lane);
        for i in 0..run.count {
            offsets[lane + i] = run.offset + i as isize * run.stride;
        }
        lane += run.count;
    }
    offsets
}

/// Rows that will be needed next, so that memory can send for them while others are worked on.
#[derive(Clone, Copy)]
pub struct Ahead {
    rows: Lanes<*const u8>,
    /// Bytes of sixteen classes.
    step: usize,
}

impl Ahead {
    pub const NOTHING: Self = Self { rows: [null(); LANES], step: 0 };

    /// Sends for the `i`th sixteen classes of a row.
    #[inline(always)]
    pub fn fetch(&self, lane: usize, i: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; it reads nothing that a program could notice, from whatever address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.rows[lane].wrapping_add(i * self.step).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (lane, i);
    }
}

/// Up to sixteen rows of a [`PerClass`] tensor.
pub struct Block<'a, S> {
    tensor: &'a PerClass<S>,
    offsets: Lanes<isize>,
    count: usize,
}

impl<S: Storage> Block<'_, S> {
    fn run(&self, lane: usize, classes: &Range<usize>) -> Run {
        let stride = self.tensor.class_stride;
        Run { offset: self.offsets[lane] + classes.start as isize * stride, stride, count: classes.len() }
    }

    pub fn at(&self, lane: usize, class: usize) -> S::Real {
        self.tensor.memory.load_at(self.run(lane, &(class..class)).offset)
    }

    pub fn set(&self, lane: usize, class: usize, value: S::Real) {
        self.tensor.memory.store_at(self.run(lane, &(class..class)).offset, value);
    }

    /// These classes of each row; no more than fit into a tile. Lanes without a row have none.
    pub fn load<'t>(&'t self, classes: &Range<usize>, tile: &'t mut Tile<S::Real>) -> Lanes<&'t [S::Real]> {
        let width = classes.len();
        let memory = &self.tensor.memory;
        let direct = |lane: usize| memory.slice(self.run(lane, classes)).and_then(S::as_reals);
        if direct(0).is_some() {
            return from_fn(|lane| if lane < self.count { direct(lane).unwrap_or_default() } else { &[] });
        }
        let tile = tile.get(self.count * width);
        if self.tensor.class_stride == 1 {
            for (lane, row) in tile.chunks_exact_mut(width).enumerate() {
                S::load_dense(memory.slice(self.run(lane, classes)).expect("the stride is one"), row);
            }
        } else {
            // Rows are close together in memory, or nothing is.
            for class in 0..width {
                for lane in 0..self.count {
                    tile[lane * width + class] = self.at(lane, classes.start + class);
                }
            }
        }
        let tile = &*tile;
        from_fn(|lane| if lane < self.count { &tile[lane * width..(lane + 1) * width] } else { &[] })
    }

    /// Where each row lies in memory, for [`Ahead`]; nowhere if not in one piece.
    pub fn ahead(&self) -> Ahead {
        let start = |lane: usize| self.tensor.memory.slice(self.run(lane, &(0..1))).map_or(null(), |row| row.as_ptr());
        let direct = self.tensor.class_stride == 1;
        Ahead {
            rows: from_fn(|lane| if direct && lane < self.count { start(lane).cast() } else { null() }),
            step: LANES * size_of::<S>(),
        }
    }

    /// Memory for these classes of a row, where it can take results as they are. Nobody else may look at it meanwhile.
    pub fn direct(&self, lane: usize, classes: &Range<usize>) -> Option<&mut [S::Real]> {
        self.tensor.memory.slice_mut(self.run(lane, classes)).and_then(S::as_reals_mut)
    }

    /// Stores what a tile has for these classes of each row.
    pub fn store(&self, classes: &Range<usize>, tile: &[S::Real]) {
        let width = classes.len();
        if self.tensor.class_stride == 1 {
            for (lane, row) in tile.chunks_exact(width).enumerate() {
                S::store_dense(row, self.tensor.memory.slice_mut(self.run(lane, classes)).expect("the stride is one"));
            }
        } else {
            for class in 0..width {
                for lane in 0..self.count {
                    self.set(lane, classes.start + class, tile[lane * width + class]);
                }
            }
        }
    }
}
