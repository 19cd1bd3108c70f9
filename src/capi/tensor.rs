//! Tensors: DLPack's `DLTensor` under our own names, so that callers need no other header.

use std::ffi::c_void;

use crate::error::{Result, fail};
use crate::tensor::{DType, Device, MAX_RANK, Shape, Strides, Tensor, row_major};

/// Where a tensor's memory is; DLPack's numbers.
#[repr(i32)]
#[allow(dead_code)]
pub enum focal_loss_device_type {
    /// Main memory.
    Cpu = 1,
    /// Memory of the CUDA device that `device_id` numbers.
    Cuda = 2,
    /// Main memory pinned by CUDA; used as main memory, by the CPU.
    CudaHost = 3,
    /// Memory managed by CUDA (cudaMallocManaged); used as memory of the CUDA device `device_id`.
    CudaManaged = 13,
}

/// The kind of number; DLPack's codes. Together with `bits` it gives the types of this library:
/// INT 32 and 64, FLOAT 16, 32 and 64, BFLOAT 16.
#[repr(i32)]
#[allow(dead_code)]
pub enum focal_loss_dtype_code {
    /// Signed integer.
    Int = 0,
    /// IEEE 754 binary floating point.
    Float = 2,
    /// bfloat16.
    Bfloat = 4,
}

/// A device: DLPack's `DLDevice`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct focal_loss_device {
    /// A `focal_loss_device_type`.
    pub device_type: i32,
    /// Which of the devices of that type: CUDA's number of it. Ignored for main memory.
    pub device_id: i32,
}

/// An element type: DLPack's `DLDataType`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct focal_loss_dtype {
    /// A `focal_loss_dtype_code`.
    pub code: u8,
    /// Bits of an element.
    pub bits: u8,
    /// Must be 1.
    pub lanes: u16,
}

/// A borrowed view of a tensor, bit for bit a DLPack v1 `DLTensor`: a `DLTensor *` from PyTorch, NumPy,
/// JAX, CuPy or TVM can be passed as it is. The library keeps no pointer to it after a call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct focal_loss_tensor {
    /// The memory, aligned to the element. May be NULL if the tensor has no elements.
    pub data: *mut c_void,
    /// Where the memory is, and so where the work runs: all tensors of a call are in main memory, or all are on one
    /// CUDA device. Else: FOCAL_LOSS_STATUS_INVALID_ARGUMENT.
    pub device: focal_loss_device,
    /// The number of axes, at most 16.
    pub ndim: i32,
    /// The element type.
    pub dtype: focal_loss_dtype,
    /// `ndim` sizes, none negative. May be NULL if `ndim` is 0.
    pub shape: *const i64,
    /// `ndim` steps in elements (not bytes), of any sign; NULL means dense and row-major. An output's
    /// elements must not overlap; an input's may (a step of 0 repeats).
    pub strides: *const i64,
    /// Added to `data`, in bytes.
    pub byte_offset: u64,
}

impl focal_loss_tensor {
    /// The tensor behind a caller's pointer, checked as far as it goes alone; `name` is for messages.
    ///
    /// # Safety
    /// `tensor` is NULL or points to a `focal_loss_tensor` whose shape and strides have `ndim` entries.
    pub unsafe fn borrow(tensor: *const Self, name: &str) -> Result<Tensor> {
        if tensor.is_null() {
            fail!(InvalidArgument, "{name}: the tensor is NULL");
        }
        if !tensor.is_aligned() {
            fail!(InvalidArgument, "{name}: the tensor's own address is not aligned");
        }
        // SAFETY: not NULL, aligned, and a tensor by the caller's promise.
        let Self { data, device, ndim, dtype, shape, strides, byte_offset } = unsafe { *tensor };
        let device = match device.device_type {
            1 | 3 => Device::Cpu,
            2 | 13 => Device::Cuda(device.device_id),
            other => fail!(Unsupported, "{name}: device_type {other} is neither the CPU (1) nor CUDA (2)"),
        };
        let dtype = match (dtype.code, dtype.bits, dtype.lanes) {
            (2, 16, 1) => DType::F16,
            (4, 16, 1) => DType::BF16,
            (2, 32, 1) => DType::F32,
            (2, 64, 1) => DType::F64,
            (0, 32, 1) => DType::I32,
            (0, 64, 1) => DType::I64,
            (code, bits, lanes) => fail!(
                Unsupported,
                "{name}: dtype (code {code}, bits {bits}, lanes {lanes}) is none of float16, bfloat16, float32, float64, int32, int64"
            ),
        };
        let rank = match usize::try_from(ndim) {
            Ok(rank) if rank <= MAX_RANK => rank,
            _ => fail!(InvalidArgument, "{name}: ndim is {ndim}, but must lie in [0, {MAX_RANK}]"),
        };
        if rank > 0 && shape.is_null() {
            fail!(InvalidArgument, "{name}: shape is NULL, but ndim is {ndim}");
        }
        let entries = |pointer: *const i64| {
            // SAFETY: `rank` entries by the caller's promise; read unaligned, since nothing asks for alignment.
            (0..rank).map(move |axis| unsafe { pointer.add(axis).read_unaligned() })
        };
        if let Some(size) = entries(shape).find(|&size| size < 0) {
            fail!(InvalidArgument, "{name}: shape has the negative size {size}");
        }
        let shape = Shape::new(entries(shape).map(|size| size as usize)).expect("the rank was checked");
        let strides = if strides.is_null() {
            row_major(&shape)
        } else {
            Strides::new(entries(strides).map(|stride| stride as isize)).expect("the rank was checked")
        };
        let Some(address) = usize::try_from(byte_offset).ok().and_then(|offset| (data as usize).checked_add(offset))
        else {
            fail!(InvalidArgument, "{name}: byte_offset {byte_offset} overflows the address space");
        };
        let data =
            if data.is_null() { std::ptr::null_mut() } else { data.cast::<u8>().wrapping_add(address - data as usize) };
        Ok(Tensor { data, device, dtype, shape, strides })
    }

    /// The same for an argument that may be NULL.
    ///
    /// # Safety
    /// As for [`Self::borrow`].
    #[inline(always)]
    pub unsafe fn borrow_optional(tensor: *const Self, name: &str) -> Result<Option<Tensor>> {
        if tensor.is_null() {
            return Ok(None);
        }
        // SAFETY: passed on.
        unsafe { Self::borrow(tensor, name) }.map(Some)
    }
}
