//! Walking a strided operand in the logical row-major order of the problem.
//!
//! Whatever the memory layout, elements are visited in the order of their indices, so sums add up
//! in the same order for every layout. Axes that continue each other are merged first: a dense tensor
//! becomes one run, a per-row value repeats (stride 0) for a run of K.

use crate::tensor::MAX_RANK;

/// One operand's strides over an index space, reduced to as few axes as possible.
#[derive(Clone, Copy)]
pub struct Walk {
    rank: usize,
    sizes: [usize; MAX_RANK],
    strides: [isize; MAX_RANK],
}

/// `count` consecutive elements of the index space: the operand's are `stride` apart from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub offset: isize,
    pub stride: isize,
    pub count: usize,
}

impl Walk {
    pub fn new(shape: &[usize], strides: &[isize]) -> Self {
        let mut walk = Self { rank: 0, sizes: [1; MAX_RANK], strides: [0; MAX_RANK] };
        for (&size, &stride) in shape.iter().zip(strides) {
            if size == 1 {
                continue;
            }
            let last = walk.rank.wrapping_sub(1);
            if walk.rank > 0 && walk.strides[last] == stride.wrapping_mul(size as isize) {
                walk.sizes[last] *= size;
                walk.strides[last] = stride;
            } else {
                walk.sizes[walk.rank] = size;
                walk.strides[walk.rank] = stride;
                walk.rank += 1;
            }
        }
        walk.rank = walk.rank.max(1);
        walk
    }

    /// A cursor at the element with this row-major index.
    pub fn at(&self, mut index: usize) -> Cursor<'_> {
        let mut cursor = Cursor { walk: self, index: [0; MAX_RANK], offset: 0 };
        for axis in (1..self.rank).rev() {
            let size = self.sizes[axis].max(1);
            cursor.index[axis] = index % size;
            cursor.offset += cursor.index[axis] as isize * self.strides[axis];
            index /= size;
        }
        // The first axis is never wrapped, so that the end has a place of its own.
        cursor.index[0] = index;
        cursor.offset += index as isize * self.strides[0];
        cursor
    }
}

#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    walk: &'a Walk,
    index: [usize; MAX_RANK],
    offset: isize,
}

impl Cursor<'_> {
    /// The run that starts here, of at most `limit` elements; `limit` and what is left are not zero.
    #[inline]
    pub fn peek(&self, limit: usize) -> Run {
        let inner = self.walk.rank - 1;
        Run {
            offset: self.offset,
            stride: self.walk.strides[inner],
            count: limit.min(self.walk.sizes[inner] - self.index[inner]),
        }
    }

    /// Moves on by `count` elements of the run that [`Cursor::peek`] gave.
    #[inline]
    pub fn skip(&mut self, count: usize) {
        let walk = self.walk;
        let mut axis = walk.rank - 1;
        self.index[axis] += count;
        self.offset += count as isize * walk.strides[axis];
        while axis > 0 && self.index[axis] == walk.sizes[axis] {
            self.offset += walk.strides[axis - 1] - walk.sizes[axis] as isize * walk.strides[axis];
            self.index[axis] = 0;
            axis -= 1;
            self.index[axis] += 1;
        }
    }

    #[inline]
    pub fn next_run(&mut self, limit: usize) -> Run {
        let run = self.peek(limit);
        self.skip(run.count);
        run
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_visit_every_element_in_order() {
        let cases: [(&[usize], &[isize]); 6] = [
            (&[2, 3, 4], &[12, 4, 1]),
            (&[2, 3, 4], &[1, 2, 6]),
            (&[2, 3, 4], &[3, 1, 0]),
            (&[5], &[-2]),
            (&[1, 1], &[7, 7]),
            (&[4, 1, 3], &[-3, 100, 1]),
        ];
        for (shape, strides) in cases {
            let walk = Walk::new(shape, strides);
            let total: usize = shape.iter().product();
            let expected: Vec<isize> = (0..total)
                .map(|mut index| {
                    let mut offset = 0;
                    for axis in (0..shape.len()).rev() {
                        offset += (index % shape[axis]) as isize * strides[axis];
                        index /= shape[axis];
                    }
                    offset
                })
                .collect();
            for start in 0..total {
                for limit in [1, 2, 5, 100] {
                    let mut cursor = walk.at(start);
                    let mut seen = Vec::new();
                    while start + seen.len() < total {
                        let run = cursor.next_run(limit.min(total - start - seen.len()));
                        seen.extend((0..run.count as isize).map(|i| run.offset + i * run.stride));
                    }
                    assert_eq!(seen, expected[start..]);
                }
            }
        }
    }

    #[test]
    fn dense_and_repeated_axes_merge() {
        assert_eq!(Walk::new(&[10, 1, 80], &[80, 3, 1]).at(5).peek(1000), Run { offset: 5, stride: 1, count: 795 });
        assert_eq!(Walk::new(&[10, 80], &[1, 0]).at(81).peek(1000), Run { offset: 1, stride: 0, count: 79 });
    }
}
