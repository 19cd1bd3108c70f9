//! The three computations.

use crate::cpu::executor::Rayon;
use crate::error::Result;
use crate::problem::{Outputs, Problem};

use super::inputs::focal_loss_inputs;
use super::options::focal_loss_options;
use super::status::guard;
use super::tensor::focal_loss_tensor;

/// # Safety
/// Every pointer is NULL or what the header says.
unsafe fn compute(
    options: *const focal_loss_options,
    inputs: *const focal_loss_inputs,
    grad_loss: *const focal_loss_tensor,
    outputs: impl FnOnce() -> Result<Outputs>,
) -> Result<()> {
    // SAFETY: passed on.
    let (options, stream) = unsafe { focal_loss_options::parse(options)? };
    let executor = Rayon { num_threads: options.num_threads };
    // SAFETY: passed on.
    let inputs = unsafe { focal_loss_inputs::parse(inputs, grad_loss)? };
    // SAFETY: the memory behind the caller's tensors is as the header asks.
    let problem = unsafe { Problem::new(options, inputs, outputs()?)? };
    problem.run(&executor, stream)
}

/// Computes the loss.
///
/// `loss` has the logits' dtype: one element for FOCAL_LOSS_REDUCTION_SUM and MEAN, else the logits' shape
/// (sigmoid) or the rows' shape (softmax). It must not overlap an input.
///
/// Returns a `focal_loss_status`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn focal_loss_forward(
    options: *const focal_loss_options,
    inputs: *const focal_loss_inputs,
    loss: *mut focal_loss_tensor,
) -> i32 {
    // SAFETY: the caller's pointers are NULL or what the header says.
    guard(|| unsafe {
        compute(options, inputs, std::ptr::null(), || {
            Ok(Outputs { loss: Some(focal_loss_tensor::borrow(loss, "loss")?), grad_logits: None })
        })
    })
}

/// Computes the gradient with respect to the logits.
///
/// `grad_loss` is the gradient with respect to the loss, with the loss's dtype and shape; NULL means ones.
/// `grad_logits` has the logits' dtype and shape; it may be the logits' own memory (the same data, shape and
/// strides), and must not overlap anything else.
///
/// Returns a `focal_loss_status`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn focal_loss_backward(
    options: *const focal_loss_options,
    inputs: *const focal_loss_inputs,
    grad_loss: *const focal_loss_tensor,
    grad_logits: *mut focal_loss_tensor,
) -> i32 {
    // SAFETY: the caller's pointers are NULL or what the header says.
    guard(|| unsafe {
        compute(options, inputs, grad_loss, || {
            Ok(Outputs { loss: None, grad_logits: Some(focal_loss_tensor::borrow(grad_logits, "grad_logits")?) })
        })
    })
}

/// Computes the loss and the gradient in one pass over the logits: the same bits as the two calls.
///
/// Arguments are those of focal_loss_forward() and focal_loss_backward().
///
/// Returns a `focal_loss_status`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn focal_loss_forward_backward(
    options: *const focal_loss_options,
    inputs: *const focal_loss_inputs,
    grad_loss: *const focal_loss_tensor,
    loss: *mut focal_loss_tensor,
    grad_logits: *mut focal_loss_tensor,
) -> i32 {
    // SAFETY: the caller's pointers are NULL or what the header says.
    guard(|| unsafe {
        compute(options, inputs, grad_loss, || {
            Ok(Outputs {
                loss: Some(focal_loss_tensor::borrow(loss, "loss")?),
                grad_logits: Some(focal_loss_tensor::borrow(grad_logits, "grad_logits")?),
            })
        })
    })
}
