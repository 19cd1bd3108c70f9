//! A tensor and its memory, which ends where the tensor's last element does.

use std::alloc::{Layout, alloc, dealloc};

use crate::abi::{DType, Tensor};
use crate::source::Source;

/// More elements than any call is made with.
pub const MANY: i128 = 1 << 14;

/// A tensor as the caller describes it, right or wrong.
#[derive(Clone, Debug)]
pub struct Spec {
    pub dtype: DType,
    pub device: (i32, i32),
    pub ndim: i32,
    pub shape: Vec<i64>,
    pub strides: Option<Vec<i64>>,
    pub null_data: bool,
    pub null_shape: bool,
    /// Bytes before the first element that `data` or `byte_offset` skip.
    pub skipped: usize,
    pub by_offset: bool,
    /// In place of the one that leads to the memory.
    pub byte_offset: Option<u64>,
}

impl Spec {
    pub fn new(dtype: DType, shape: &[i64]) -> Self {
        Self {
            dtype,
            device: (1, 0),
            ndim: shape.len() as i32,
            shape: shape.to_vec(),
            strides: None,
            null_data: false,
            null_shape: false,
            skipped: 0,
            by_offset: false,
            byte_offset: None,
        }
    }

    /// Chooses strides: dense, or transposed, padded and reversed; an input's may also repeat.
    pub fn stride(mut self, source: &mut Source, repeats: bool) -> Self {
        let rank = self.shape.len();
        let mut order: Vec<usize> = (0..rank).collect();
        let mut strides = vec![0i64; rank];
        let way = source.below(4);
        if way == 0 {
            return self;
        }
        if way > 1 {
            for i in (1..rank).rev() {
                order.swap(i, source.below(i + 1));
            }
        }
        let mut step = 1;
        for &axis in order.iter().rev() {
            if way > 2 {
                step += source.below(3) as i64;
            }
            strides[axis] = step;
            step *= self.shape[axis].max(1);
            if way > 2 {
                match source.below(4) {
                    1 => strides[axis] = -strides[axis],
                    2 if repeats => strides[axis] = 0,
                    _ => {}
                }
            }
        }
        self.strides = Some(strides);
        self
    }

    /// The sizes as the library may read them; `None` where it must not.
    fn sizes(&self) -> Option<&[i64]> {
        let rank = usize::try_from(self.ndim).ok().filter(|&rank| rank <= 16 && rank <= self.shape.len())?;
        Some(&self.shape[..rank])
    }

    /// `None` for what has no memory: a negative or a huge number of elements, or too many axes.
    pub fn count(&self) -> Option<usize> {
        let sizes = self.sizes()?;
        let count = sizes.iter().try_fold(1i128, |n, &size| n.checked_mul(size.into()))?;
        (sizes.iter().all(|&size| size >= 0) && count <= MANY).then_some(count as usize)
    }

    /// Offsets of all elements, in bytes from the one with all indices zero.
    pub fn offsets(&self) -> Option<Vec<i128>> {
        let count = self.count()?;
        let sizes = self.sizes()?;
        let mut offsets = vec![0i128; count];
        let mut row_major = 1i128;
        let mut inner = 1;
        for axis in (0..sizes.len()).rev() {
            let size = sizes[axis] as usize;
            let stride = self.strides.as_ref().map_or(row_major, |strides| strides[axis].into());
            for (i, offset) in offsets.iter_mut().enumerate() {
                *offset += (i / inner % size) as i128 * stride * self.dtype.size() as i128;
            }
            row_major *= size as i128;
            inner *= size;
        }
        Some(offsets)
    }
}

/// A spec with memory of exactly its extent.
pub struct Owned {
    pub spec: Spec,
    /// Byte offsets of the elements in the block; empty where the tensor has no memory.
    pub elements: Vec<usize>,
    block: *mut u8,
    layout: Layout,
    pub initial: Vec<u8>,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    first: usize,
}

impl Owned {
    pub fn new(spec: Spec, fill: &mut dyn FnMut(usize) -> f64) -> Self {
        let offsets = spec.offsets().unwrap_or_default();
        let low = offsets.iter().copied().min().unwrap_or(0);
        let high = offsets.iter().copied().max().map_or(0, |high| high + spec.dtype.size() as i128);
        // Strides that lead too far have no memory: no call may follow them.
        let reachable = high - low <= 1 << 22;
        let offsets = if reachable { offsets } else { Vec::new() };
        let (low, size) = if reachable { (low, (high - low) as usize + spec.skipped) } else { (0, 8) };
        let layout = Layout::from_size_align(size.max(1), 16).unwrap();
        let elements: Vec<usize> = offsets.iter().map(|&offset| (offset - low) as usize + spec.skipped).collect();
        let mut initial: Vec<u8> = (0..size).map(|i| 0xa5 ^ i as u8).collect();
        for (i, &at) in elements.iter().enumerate() {
            spec.dtype.write(&mut initial[at..at + spec.dtype.size()], fill(i));
        }
        let owned = Self {
            // SAFETY: the layout has at least one byte.
            block: unsafe { alloc(layout) },
            layout,
            initial,
            elements,
            shape: spec.shape.clone(),
            strides: spec.strides.clone(),
            first: (-low) as usize + spec.skipped,
            spec,
        };
        assert!(!owned.block.is_null());
        owned.restore();
        owned
    }

    pub fn restore(&self) {
        // SAFETY: the block holds as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(self.initial.as_ptr(), self.block, self.initial.len()) }
    }

    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: `restore` has written all of them.
        unsafe { std::slice::from_raw_parts(self.block, self.initial.len()) }.to_vec()
    }

    /// The tensor, in another's memory where one is given: at the same lowest byte.
    pub fn tensor(&self, lent: Option<&Owned>) -> Tensor {
        let (block, skipped) = lent.map_or((self.block, 0), |other| (other.block, other.spec.skipped));
        let first = if lent.is_some() { self.first - self.spec.skipped + skipped } else { self.first };
        let (in_data, in_offset) = if self.spec.by_offset { (0, first) } else { (first, 0) };
        Tensor {
            data: if self.spec.null_data { std::ptr::null_mut() } else { block.wrapping_add(in_data).cast() },
            device_type: self.spec.device.0,
            device_id: self.spec.device.1,
            ndim: self.spec.ndim,
            dtype: self.spec.dtype,
            shape: if self.spec.null_shape { std::ptr::null() } else { self.shape.as_ptr() },
            strides: self.strides.as_ref().map_or(std::ptr::null(), |strides| strides.as_ptr()),
            byte_offset: self.spec.byte_offset.unwrap_or(in_offset as u64),
        }
    }

    /// Bytes of the block that belong to no element are as they were.
    pub fn gaps_are_untouched(&self, bytes: &[u8]) -> bool {
        let mut covered = vec![false; bytes.len()];
        for &at in &self.elements {
            covered[at..at + self.spec.dtype.size()].fill(true);
        }
        bytes.iter().zip(&self.initial).zip(covered).all(|((now, before), covered)| covered || now == before)
    }

    pub fn values(&self, bytes: &[u8]) -> Vec<f64> {
        let size = self.spec.dtype.size();
        self.elements.iter().map(|&at| self.spec.dtype.read(&bytes[at..at + size])).collect()
    }
}

impl Owned {
    /// A class index as it was filled in.
    pub fn index(&self, element: usize) -> i64 {
        let at = self.elements[element];
        match self.spec.dtype.size() {
            4 => i32::from_ne_bytes(self.initial[at..at + 4].try_into().unwrap()).into(),
            _ => i64::from_ne_bytes(self.initial[at..at + 8].try_into().unwrap()),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.block, self.layout) }
    }
}
