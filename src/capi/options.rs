//! The options struct, and how a struct from an older header is read.

use std::ffi::c_void;

use crate::cuda::Stream;
use crate::error::{Result, fail};
use crate::options::{Activation, Normalization, Options, Reduction};

/// How logits become probabilities.
#[repr(i32)]
#[allow(dead_code)]
pub enum focal_loss_activation {
    /// K independent binary losses per row: focal loss as published.
    Sigmoid = 0,
    /// One loss per row over K exclusive classes. Mind alpha: a scalar alpha is then a plain factor that
    /// balances nothing; use class_alpha, or switch it off with alpha = -1.
    Softmax = 1,
}

/// What becomes of the losses.
#[repr(i32)]
#[allow(dead_code)]
pub enum focal_loss_reduction {
    /// Kept one by one.
    None = 0,
    /// Added up.
    Sum = 1,
    /// Added up and divided by what `normalization` says.
    Mean = 2,
}

/// What FOCAL_LOSS_REDUCTION_MEAN divides by.
#[repr(i32)]
#[allow(dead_code)]
pub enum focal_loss_normalization {
    /// The number of losses: K for each counted row (sigmoid), one for each (softmax).
    Elements = 0,
    /// The number of rows that are not ignored.
    Rows = 1,
    /// The rows of a real class, or the sum of dense targets; never below 1.
    Positives = 2,
    /// The sum of `weight` over everything counted; without `weight` the same as ELEMENTS. A sum of 0 gives a loss
    /// of 0 for losses that add up to 0, and gradients of 0.
    Weights = 3,
}

/// What to compute. Set it up with focal_loss_options_init(), then change fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct focal_loss_options {
    /// sizeof(focal_loss_options) as the caller knows it. Fields that a shorter struct from an older
    /// header lacks have their defaults; a longer one is an error.
    pub struct_size: usize,
    /// A `focal_loss_activation`. Default: SIGMOID.
    pub activation: i32,
    /// The weight of positives in [0, 1] (negatives get 1 - alpha); below 0: off. With softmax a plain
    /// factor. Overruled by `class_alpha`. Default: 0.25.
    pub alpha: f64,
    /// The focusing exponent, finite and >= 0. Default: 2.
    pub gamma: f64,
    /// A `focal_loss_reduction`. Default: MEAN.
    pub reduction: i32,
    /// A `focal_loss_normalization`. Default: ELEMENTS.
    pub normalization: i32,
    /// The class axis; negative counts from the end. Default: -1.
    pub axis: i32,
    /// Nonzero: `ignore_index` holds. Default: 0.
    pub has_ignore_index: i32,
    /// The class index whose rows are left out. Class-index targets only.
    pub ignore_index: i64,
    /// Nonzero: `background_index` holds; 0: the background is K. Default: 0.
    pub has_background_index: i32,
    /// The class index whose rows are all-zero targets. Class-index targets with sigmoid only.
    pub background_index: i64,
    /// The most threads to use at once; 0: all. The process-wide pool is never resized. Default: 0.
    pub num_threads: i32,
    /// For tensors on a CUDA device: the cudaStream_t or CUstream that the work is queued on, of that device; NULL is
    /// the device's default stream. Ignored otherwise. Default: NULL.
    pub stream: *mut c_void,
}

impl focal_loss_options {
    fn defaults() -> Self {
        let Options { alpha, gamma, axis, .. } = Options::default();
        Self {
            struct_size: size_of::<Self>(),
            activation: focal_loss_activation::Sigmoid as i32,
            alpha,
            gamma,
            reduction: focal_loss_reduction::Mean as i32,
            normalization: focal_loss_normalization::Elements as i32,
            axis: axis as i32,
            has_ignore_index: 0,
            ignore_index: 0,
            has_background_index: 0,
            background_index: 0,
            num_threads: 0,
            stream: std::ptr::null_mut(),
        }
    }

    /// # Safety
    /// `options` is NULL or points to `struct_size` readable bytes, `struct_size` being the first of them.
    pub unsafe fn parse(options: *const Self) -> Result<(Options, Stream)> {
        let defaults = Self::defaults();
        let ends = field_ends!(
            defaults: activation, alpha, gamma, reduction, normalization, axis, has_ignore_index, ignore_index,
            has_background_index, background_index, num_threads, stream
        );
        // SAFETY: passed on.
        let given = unsafe { read_versioned(options, defaults, &ends, "options")? };
        let parsed = Options {
            activation: match given.activation {
                0 => Activation::Sigmoid,
                1 => Activation::Softmax,
                other => fail!(InvalidArgument, "activation is {other}, but must be 0 (sigmoid) or 1 (softmax)"),
            },
            alpha: given.alpha,
            gamma: given.gamma,
            reduction: match given.reduction {
                0 => Reduction::None,
                1 => Reduction::Sum,
                2 => Reduction::Mean,
                other => fail!(InvalidArgument, "reduction is {other}, but must be 0 (none), 1 (sum) or 2 (mean)"),
            },
            normalization: match given.normalization {
                0 => Normalization::Elements,
                1 => Normalization::Rows,
                2 => Normalization::Positives,
                3 => Normalization::Weights,
                other => fail!(
                    InvalidArgument,
                    "normalization is {other}, but must be 0 (elements), 1 (rows), 2 (positives) or 3 (weights)"
                ),
            },
            axis: given.axis as isize,
            ignore_index: (given.has_ignore_index != 0).then_some(given.ignore_index),
            background_index: (given.has_background_index != 0).then_some(given.background_index),
            num_threads: match usize::try_from(given.num_threads) {
                Ok(threads) => threads,
                Err(_) => fail!(InvalidArgument, "num_threads is {}, but must be at least 0", given.num_threads),
            },
        };
        Ok((parsed, Stream(given.stream)))
    }
}

/// Where the named fields of a struct (all but its size) end, in bytes.
macro_rules! field_ends {
    ($defaults:ident: $($field:ident),+) => {
        [$(std::mem::offset_of!(Self, $field) + size_of_val(&$defaults.$field)),+]
    };
}
pub(super) use field_ends;

/// A struct of the caller's that starts with its own size: as much of it as there is, over `defaults`.
///
/// # Safety
/// `source` is NULL or points to a size and as many readable bytes as it says. `T` is `repr(C)`, starts with that
/// `usize`, and any bytes are valid for its fields.
pub unsafe fn read_versioned<T: Copy>(source: *const T, defaults: T, ends: &[usize], name: &str) -> Result<T> {
    if source.is_null() {
        fail!(InvalidArgument, "{name}: the struct is NULL");
    }
    if !source.is_aligned() {
        fail!(InvalidArgument, "{name}: the struct's address is not aligned");
    }
    // SAFETY: not NULL, aligned, and the size is there by the caller's promise.
    let size = unsafe { *source.cast::<usize>() };
    if size > size_of::<T>() {
        fail!(
            InvalidArgument,
            "{name}: struct_size is {size}, but this library (version {}) knows {} bytes",
            env!("CARGO_PKG_VERSION"),
            size_of::<T>()
        );
    }
    // A header's struct ends where a field does, or at the padding after it; none had the size alone.
    if !ends.iter().any(|&end| size == end || size == end.next_multiple_of(align_of::<T>())) {
        fail!(InvalidArgument, "{name}: struct_size is {size}, which is the size of no version of the struct");
    }
    let mut result = defaults;
    // SAFETY: `size` bytes are readable by the caller's promise and fit into `T`.
    unsafe { std::ptr::copy_nonoverlapping(source.cast::<u8>(), (&raw mut result).cast::<u8>(), size) };
    Ok(result)
}

/// Sets every option of version 0.1 to its default, and `struct_size` to that version's size. NULL is ignored.
///
/// It will never write more than that, so a program built against this header keeps working with every
/// later library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn focal_loss_options_init(options: *mut focal_loss_options) {
    if !options.is_null() {
        // SAFETY: the caller's struct, by the header's contract.
        unsafe { options.write_unaligned(focal_loss_options::defaults()) };
    }
}
