//! Borrowed strided views: what a tensor from any caller is turned into before anything reads it.

use std::fmt;

use crate::error::{Result, fail};

/// More axes than any caller has; it keeps shapes off the heap.
pub const MAX_RANK: usize = 16;

/// The element types of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F16,
    BF16,
    F32,
    F64,
    I32,
    I64,
}

impl DType {
    pub const fn size(self) -> usize {
        match self {
            DType::F16 | DType::BF16 => 2,
            DType::F32 | DType::I32 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }

    pub const fn is_index(self) -> bool {
        matches!(self, DType::I32 | DType::I64)
    }

    pub const fn name(self) -> &'static str {
        match self {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::I32 => "int32",
            DType::I64 => "int64",
        }
    }
}

/// Where memory is, and so where the work on it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// By the driver's number.
    Cuda(i32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("the CPU"),
            Device::Cuda(id) => write!(f, "CUDA device {id}"),
        }
    }
}

/// Up to [`MAX_RANK`] numbers, one for each axis.
#[derive(Clone, Copy)]
pub struct Axes<T> {
    len: usize,
    values: [T; MAX_RANK],
}

pub type Shape = Axes<usize>;
pub type Strides = Axes<isize>;

impl<T: Copy + Default> Axes<T> {
    /// `None` for more than [`MAX_RANK`] axes.
    pub fn new(values: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut axes = Self { len: 0, values: [T::default(); MAX_RANK] };
        for value in values {
            *axes.values.get_mut(axes.len)? = value;
            axes.len += 1;
        }
        Some(axes)
    }

    pub fn without(&self, axis: usize) -> Self {
        let kept = self.iter().enumerate().filter(|&(i, _)| i != axis).map(|(_, &v)| v);
        Self::new(kept).expect("fewer axes still fit")
    }
}

impl<T> std::ops::Deref for Axes<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.values[..self.len]
    }
}

impl<T: fmt::Debug> fmt::Debug for Axes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The strides, in elements, of a row-major tensor.
pub fn row_major(shape: &Shape) -> Strides {
    let mut strides = Strides::new(shape.iter().map(|_| 0)).expect("as many strides as axes");
    let mut step = 1isize;
    for axis in (0..shape.len()).rev() {
        strides.values[axis] = step;
        step = step.wrapping_mul(shape[axis] as isize);
    }
    strides
}

/// A borrowed tensor: where it starts, what it holds and how to step through it.
///
/// Holding one says nothing about the memory; whoever builds it (the C layer, the operators, the
/// `ndarray` API) vouches that every element that shape and strides reach is valid for the call.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// The address of the element with all indices zero.
    pub data: *mut u8,
    pub device: Device,
    pub dtype: DType,
    pub shape: Shape,
    /// In elements, not bytes.
    pub strides: Strides,
}

// SAFETY: the kernels read inputs and write disjoint parts of outputs; see `Problem::new`.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Sees to it that every element has an address: sizes and strides do not overflow, the pointer
    /// is there and aligned. `name` is the argument's, for the message.
    pub fn check(&self, name: &str) -> Result<()> {
        let size = self.dtype.size();
        let count = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)));
        if count.and_then(|n| n.checked_mul(size)).is_none_or(|bytes| bytes > isize::MAX as usize) {
            fail!(
                InvalidArgument,
                "{name}: shape {:?} of {} overflows the address space",
                self.shape,
                self.dtype.name()
            );
        }
        if self.len() == 0 {
            return Ok(());
        }
        if self.data.is_null() {
            fail!(InvalidArgument, "{name}: data is NULL, but the tensor has {} elements", self.len());
        }
        if !(self.data as usize).is_multiple_of(size) {
            fail!(InvalidArgument, "{name}: data is not aligned to the {size} bytes of {}", self.dtype.name());
        }
        if self.extent().is_none() {
            fail!(
                InvalidArgument,
                "{name}: strides {:?} with shape {:?} overflow the address space",
                self.strides,
                self.shape
            );
        }
        Ok(())
    }

    /// First and one-past-last byte of a tensor with elements; `None` if that overflows.
    fn extent(&self) -> Option<(usize, usize)> {
        let size = self.dtype.size() as isize;
        let (mut low, mut high) = (0isize, size);
        for (&count, &stride) in self.shape.iter().zip(self.strides.iter()) {
            let reach = isize::try_from(count - 1).ok()?.checked_mul(stride)?.checked_mul(size)?;
            if reach < 0 {
                low = low.checked_add(reach)?;
            } else {
                high = high.checked_add(reach)?;
            }
        }
        let base = self.data as usize;
        Some((base.checked_add_signed(low)?, base.checked_add_signed(high)?))
    }

    /// Whether two index tuples may share an address. Errs on the side of yes for strides that no
    /// slicing, transposing or broadcasting of a dense tensor gives.
    pub fn overlaps_itself(&self) -> bool {
        let mut reach = 0usize;
        for (stride, count) in self.axes_by_stride() {
            if stride <= reach {
                return true;
            }
            reach += stride * (count - 1);
        }
        false
    }

    /// Whether the two tensors may share a byte.
    ///
    /// Their address ranges may interleave without meeting, as two column ranges of one matrix do.
    /// For every way to split the axes into large and small strides, addresses are compared modulo
    /// the large strides' common divisor: disjoint there means disjoint.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        if self.len() == 0 || other.len() == 0 {
            return false;
        }
        let (Some(a), Some(b)) = (self.extent(), other.extent()) else { return true };
        if a.1 <= b.0 || b.1 <= a.0 {
            return false;
        }
        let bytes = |t: &Tensor| t.axes_by_stride().map(|(s, n)| (s * t.dtype.size(), n)).collect::<Vec<_>>();
        let (first, second) = (bytes(self), bytes(other));
        let separated = first.iter().chain(&second).any(|&(threshold, _)| {
            let gcd_and_width = |axes: &[(usize, usize)], size: usize| {
                axes.iter().fold((0, size), |(divisor, width), &(stride, count)| {
                    if stride >= threshold {
                        (gcd(divisor, stride), width)
                    } else {
                        (divisor, width + stride * (count - 1))
                    }
                })
            };
            let (divisor_a, width_a) = gcd_and_width(&first, self.dtype.size());
            let (divisor_b, width_b) = gcd_and_width(&second, other.dtype.size());
            let divisor = gcd(divisor_a, divisor_b);
            if divisor == 0 {
                return false;
            }
            let offset = (b.0 % divisor + divisor - a.0 % divisor) % divisor;
            offset >= width_a && divisor - offset >= width_b
        });
        !separated
    }

    /// The same elements at the same addresses.
    pub fn is_same_memory(&self, other: &Tensor) -> bool {
        let mut strides = self.strides.iter().zip(other.strides.iter()).zip(self.shape.iter());
        self.data == other.data
            && self.dtype == other.dtype
            && *self.shape == *other.shape
            && strides.all(|((a, b), &count)| a == b || count <= 1)
    }

    /// `(|stride|, size)` in elements of the axes with more than one element, smallest stride first.
    fn axes_by_stride(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let mut axes = [(0usize, 1usize); MAX_RANK];
        for (axis, (&count, &stride)) in axes.iter_mut().zip(self.shape.iter().zip(self.strides.iter())) {
            *axis = (stride.unsigned_abs(), count);
        }
        axes[..self.shape.len()].sort_unstable();
        axes.into_iter().take(self.shape.len()).filter(|&(_, count)| count > 1)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The strides with which `shape` is read as if it had the shape `target`, as NumPy broadcasts:
/// axes align at the end, a size of one repeats. `None` where the shapes do not fit.
pub fn broadcast(shape: &Shape, strides: &Strides, target: &[usize]) -> Option<Strides> {
    let missing = target.len().checked_sub(shape.len())?;
    let mut result = [0isize; MAX_RANK];
    for axis in 0..shape.len() {
        let wanted = target[missing + axis];
        if shape[axis] == wanted {
            result[missing + axis] = strides[axis];
        } else if shape[axis] != 1 {
            return None;
        }
    }
    Strides::new(result[..target.len()].iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(address: usize, shape: &[usize], strides: &[isize]) -> Tensor {
        Tensor {
            data: address as *mut u8,
            device: Device::Cpu,
            dtype: DType::F32,
            shape: Shape::new(shape.iter().copied()).unwrap(),
            strides: Strides::new(strides.iter().copied()).unwrap(),
        }
    }

    /// All addresses of bytes, the slow way.
    fn addresses(t: &Tensor) -> Vec<usize> {
        let mut found = vec![t.data as isize];
        for (&n, &s) in t.shape.iter().zip(t.strides.iter()) {
            found = found.iter().flat_map(|&a| (0..n as isize).map(move |i| a + i * s * 4)).collect();
        }
        found.iter().flat_map(|&a| (a..a + 4).map(|b| b as usize)).collect()
    }

    #[test]
    fn overlap_is_never_missed_and_slices_are_told_apart() {
        let mut state = 1u64;
        let mut random = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        let mut apart = 0;
        for _ in 0..20_000 {
            let mut make = || {
                let shape: Vec<usize> = (0..random(4)).map(|_| random(4) as usize).collect();
                let strides: Vec<isize> = shape.iter().map(|_| random(13) as isize - 6).collect();
                tensor(1000 + 4 * random(20) as usize, &shape, &strides)
            };
            let (a, b) = (make(), make());
            let (mut x, mut y) = (addresses(&a), addresses(&b));
            let shared = x.iter().any(|v| y.contains(v));
            assert!(!shared || a.overlaps(&b), "{a:?} {b:?}");
            apart += usize::from(!shared && !a.overlaps(&b));
            let before = x.len();
            x.sort_unstable();
            x.dedup();
            y.clear();
            assert!(x.len() == before || a.overlaps_itself(), "{a:?}");
        }
        assert!(apart > 1000);
        // Columns of one matrix, interleaved or side by side, and the halves of a vector.
        assert!(!tensor(64, &[5, 4], &[8, 2]).overlaps(&tensor(68, &[5, 4], &[8, 2])));
        assert!(!tensor(64, &[5, 4], &[8, 1]).overlaps(&tensor(80, &[5, 4], &[8, 1])));
        assert!(tensor(64, &[5, 5], &[8, 1]).overlaps(&tensor(80, &[5, 4], &[8, 1])));
        assert!(!tensor(64, &[2, 3, 4], &[12, 1, 3]).overlaps_itself());
    }

    #[test]
    fn broadcasting_follows_numpy() {
        let strides = |shape: &[usize], target: &[usize]| {
            let shape = Shape::new(shape.iter().copied()).unwrap();
            broadcast(&shape, &row_major(&shape), target).map(|s| s.to_vec())
        };
        assert_eq!(strides(&[3], &[2, 3]), Some(vec![0, 1]));
        assert_eq!(strides(&[2, 1], &[2, 3]), Some(vec![1, 0]));
        assert_eq!(strides(&[], &[2, 3]), Some(vec![0, 0]));
        assert_eq!(strides(&[2], &[2, 3]), None);
        assert_eq!(strides(&[1, 2, 3], &[2, 3]), None);
        assert_eq!(strides(&[1], &[0]), Some(vec![0]));
    }
}
