//! The C ABI spelled out from `include/focal_loss.h`, as a foreign language does.

use std::ffi::{CStr, c_char, c_void};

// The crate exports the functions below.
use focal_loss as _;

pub const OK: i32 = 0;
pub const INVALID_ARGUMENT: i32 = 1;
pub const UNSUPPORTED: i32 = 2;
pub const CUDA: i32 = 4;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub struct_size: usize,
    pub activation: i32,
    pub alpha: f64,
    pub gamma: f64,
    pub reduction: i32,
    pub normalization: i32,
    pub axis: i32,
    pub has_ignore_index: i32,
    pub ignore_index: i64,
    pub has_background_index: i32,
    pub background_index: i64,
    pub num_threads: i32,
    pub stream: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DType {
    pub code: u8,
    pub bits: u8,
    pub lanes: u16,
}

pub const F16: DType = DType { code: 2, bits: 16, lanes: 1 };
pub const BF16: DType = DType { code: 4, bits: 16, lanes: 1 };
pub const F32: DType = DType { code: 2, bits: 32, lanes: 1 };
pub const F64: DType = DType { code: 2, bits: 64, lanes: 1 };
pub const I32: DType = DType { code: 0, bits: 32, lanes: 1 };
pub const I64: DType = DType { code: 0, bits: 64, lanes: 1 };

impl DType {
    pub fn size(self) -> usize {
        usize::from(self.bits / 8).max(1)
    }

    /// The largest finite number.
    pub fn largest(self) -> f64 {
        match self {
            F16 => 65504.0,
            BF16 => f64::from(half::bf16::MAX.to_f32()),
            F64 => f64::MAX,
            _ => f64::from(f32::MAX),
        }
    }

    /// Writes a number to memory of any alignment.
    pub fn write(self, to: &mut [u8], value: f64) {
        match self {
            F16 => to.copy_from_slice(&half::f16::from_f64(value).to_ne_bytes()),
            BF16 => to.copy_from_slice(&half::bf16::from_f64(value).to_ne_bytes()),
            F32 => to.copy_from_slice(&(value as f32).to_ne_bytes()),
            F64 => to.copy_from_slice(&value.to_ne_bytes()),
            I32 => to.copy_from_slice(&(value as i32).to_ne_bytes()),
            I64 => to.copy_from_slice(&(value as i64).to_ne_bytes()),
            _ => {}
        }
    }

    pub fn read(self, from: &[u8]) -> f64 {
        match self {
            F16 => half::f16::from_ne_bytes(from.try_into().unwrap()).to_f64(),
            BF16 => half::bf16::from_ne_bytes(from.try_into().unwrap()).to_f64(),
            F32 => f32::from_ne_bytes(from.try_into().unwrap()).into(),
            F64 => f64::from_ne_bytes(from.try_into().unwrap()),
            other => panic!("{other:?} is not a floating-point type"),
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tensor {
    pub data: *mut c_void,
    pub device_type: i32,
    pub device_id: i32,
    pub ndim: i32,
    pub dtype: DType,
    pub shape: *const i64,
    pub strides: *const i64,
    pub byte_offset: u64,
}

#[repr(C)]
pub struct Inputs {
    pub struct_size: usize,
    /// logits, targets, class_alpha, weight, normalizer.
    pub tensors: [*const Tensor; 5],
}

unsafe extern "C" {
    pub fn focal_loss_options_init(options: *mut Options);
    pub fn focal_loss_forward(options: *const Options, inputs: *const Inputs, loss: *mut Tensor) -> i32;
    pub fn focal_loss_backward(
        options: *const Options,
        inputs: *const Inputs,
        grad_loss: *const Tensor,
        grad_logits: *mut Tensor,
    ) -> i32;
    pub fn focal_loss_forward_backward(
        options: *const Options,
        inputs: *const Inputs,
        grad_loss: *const Tensor,
        loss: *mut Tensor,
        grad_logits: *mut Tensor,
    ) -> i32;
    fn focal_loss_last_error_message() -> *const c_char;
}

pub fn last_error_message() -> String {
    // SAFETY: never NULL, and valid until this thread's next call.
    let message = unsafe { CStr::from_ptr(focal_loss_last_error_message()) };
    message.to_str().expect("messages are UTF-8").to_owned()
}

pub fn default_options() -> Options {
    // SAFETY: zeros are valid for every field, and the function writes to a struct of the header's size.
    let options = unsafe {
        let mut options = std::mem::zeroed::<Options>();
        focal_loss_options_init(&mut options);
        options
    };
    assert_eq!(options.struct_size, size_of::<Options>(), "the struct is no longer the header's");
    options
}
