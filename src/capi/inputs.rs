//! The struct of input tensors.

use crate::error::Result;
use crate::problem::Inputs;

use super::options::{field_ends, read_versioned};
use super::tensor::focal_loss_tensor;

/// The tensors that are read; see the top of this header for dtypes and shapes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct focal_loss_inputs {
    /// sizeof(focal_loss_inputs) as the caller knows it.
    pub struct_size: usize,
    /// Required.
    pub logits: *const focal_loss_tensor,
    /// Required: class indices or dense.
    pub targets: *const focal_loss_tensor,
    /// Alpha for each class, shape [K], in place of the option `alpha`. May be NULL.
    pub class_alpha: *const focal_loss_tensor,
    /// Broadcasts to the logits (sigmoid) or the rows (softmax). May be NULL.
    pub weight: *const focal_loss_tensor,
    /// One element that every result is divided by, whatever the reduction. May be NULL.
    pub normalizer: *const focal_loss_tensor,
}

impl focal_loss_inputs {
    /// # Safety
    /// `inputs` and `grad_loss` are NULL or what the header says.
    #[inline(always)]
    pub unsafe fn parse(inputs: *const Self, grad_loss: *const focal_loss_tensor) -> Result<Inputs> {
        let none = std::ptr::null();
        let absent =
            Self { struct_size: 0, logits: none, targets: none, class_alpha: none, weight: none, normalizer: none };
        let ends = field_ends!(absent: logits, targets, class_alpha, weight, normalizer);
        // SAFETY: the caller's promise, passed on.
        let given = unsafe { read_versioned(inputs, absent, &ends, "inputs")? };
        // SAFETY: the caller's promise, passed on.
        unsafe {
            Ok(Inputs {
                logits: focal_loss_tensor::borrow(given.logits, "logits")?,
                targets: focal_loss_tensor::borrow(given.targets, "targets")?,
                class_alpha: focal_loss_tensor::borrow_optional(given.class_alpha, "class_alpha")?,
                weight: focal_loss_tensor::borrow_optional(given.weight, "weight")?,
                normalizer: focal_loss_tensor::borrow_optional(given.normalizer, "normalizer")?,
                grad_loss: focal_loss_tensor::borrow_optional(grad_loss, "grad_loss")?,
            })
        }
    }
}
