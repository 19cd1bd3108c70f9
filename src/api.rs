//! The Rust API: focal loss over `ndarray` views of any stride.
//!
//! ```
//! use focal_loss::{Inputs, Options, Reduction, Targets, forward};
//! use ndarray::array;
//!
//! let logits = array![[2.0f32, -1.0, 0.5], [-3.0, -2.0, -4.0]].into_dyn();
//! let targets = array![0i64, 3].into_dyn(); // an object of class 0; background (K = 3)
//! let inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
//! let loss = forward(&Options { reduction: Reduction::Sum, ..Options::default() }, &inputs)?;
//! assert!((loss.sum() - 0.301_942).abs() < 1e-6);
//! # Ok::<(), focal_loss::Error>(())
//! ```

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, IxDyn};

use crate::cpu;
use crate::cpu::executor::Rayon;
use crate::error::{Result, fail};
use crate::options::Options;
use crate::problem::{self, Outputs, Problem, loss_shape, resolve_axis};
use crate::tensor::{DType, Device, MAX_RANK, Shape, Strides, Tensor};

mod sealed {
    pub trait Sealed {}
}

/// An element type of logits: `f16`, `bf16`, `f32` or `f64`.
pub trait Element: sealed::Sealed + Copy + Default {
    #[doc(hidden)]
    const DTYPE: DType;
}

macro_rules! element {
    ($($type:ty: $dtype:ident),*) => {
        $(impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}
element!(f16: F16, bf16: BF16, f32: F32, f64: F64);

/// What each row or element should be.
#[derive(Clone, Debug)]
pub enum Targets<'a, T> {
    /// The logits' shape; soft labels, or a distribution over the class axis with softmax.
    Dense(ArrayViewD<'a, T>),
    /// Class indices: the logits' shape without the class axis.
    I32(ArrayViewD<'a, i32>),
    /// Class indices: the logits' shape without the class axis.
    I64(ArrayViewD<'a, i64>),
}

/// The arrays that are read.
#[derive(Clone, Debug)]
pub struct Inputs<'a, T> {
    /// Any shape of rank 1 to 16, any strides.
    pub logits: ArrayViewD<'a, T>,
    /// What the logits should have been.
    pub targets: Targets<'a, T>,
    /// Alpha for each class, shape `[K]`, in place of [`Options::alpha`].
    pub class_alpha: Option<ArrayViewD<'a, T>>,
    /// Broadcasts to the logits (sigmoid) or the rows (softmax).
    pub weight: Option<ArrayViewD<'a, T>>,
    /// Divides every result.
    pub normalizer: Option<T>,
}

impl<'a, T: Element> Inputs<'a, T> {
    /// Logits and targets, and nothing else.
    pub fn new(logits: ArrayViewD<'a, T>, targets: Targets<'a, T>) -> Self {
        Self { logits, targets, class_alpha: None, weight: None, normalizer: None }
    }

    fn to_problem(&self, grad_loss: Option<&ArrayViewD<T>>) -> Result<problem::Inputs> {
        let typed =
            |name: &str, view: &ArrayViewD<T>| tensor(name, T::DTYPE, view.as_ptr(), view.shape(), view.strides());
        let optional = |name: &str, view: Option<&ArrayViewD<T>>| view.map(|view| typed(name, view)).transpose();
        Ok(problem::Inputs {
            logits: typed("logits", &self.logits)?,
            targets: match &self.targets {
                Targets::Dense(view) => typed("targets", view)?,
                Targets::I32(view) => tensor("targets", DType::I32, view.as_ptr(), view.shape(), view.strides())?,
                Targets::I64(view) => tensor("targets", DType::I64, view.as_ptr(), view.shape(), view.strides())?,
            },
            class_alpha: optional("class_alpha", self.class_alpha.as_ref())?,
            weight: optional("weight", self.weight.as_ref())?,
            normalizer: self.normalizer.as_ref().map(|n| tensor("normalizer", T::DTYPE, n, &[], &[])).transpose()?,
            grad_loss: optional("grad_loss", grad_loss)?,
        })
    }
}

fn tensor<T>(name: &str, dtype: DType, data: *const T, shape: &[usize], strides: &[isize]) -> Result<Tensor> {
    let (Some(shape), Some(strides)) = (Shape::new(shape.iter().copied()), Strides::new(strides.iter().copied()))
    else {
        fail!(InvalidArgument, "{name}: rank {} is above {MAX_RANK}", shape.len());
    };
    Ok(Tensor { data: data.cast_mut().cast(), device: Device::Cpu, dtype, shape, strides })
}

fn output<T: Element>(name: &str, view: &mut ArrayViewMutD<T>) -> Result<Tensor> {
    tensor(name, T::DTYPE, view.as_mut_ptr(), view.shape(), view.strides())
}

/// # Safety
/// The views behind the tensors are held for the whole call: inputs shared, outputs exclusively.
unsafe fn run(options: &Options, inputs: problem::Inputs, outputs: Outputs) -> Result<()> {
    // SAFETY: passed on.
    let problem = unsafe { Problem::new(options.clone(), inputs, outputs)? };
    cpu::run(&problem, &Rayon { num_threads: options.num_threads })
}

/// The loss: a zero-dimensional array for a sum or a mean.
pub fn forward<T: Element>(options: &Options, inputs: &Inputs<T>) -> Result<ArrayD<T>> {
    let mut loss = empty_loss(options, inputs)?;
    let outputs = Outputs { loss: Some(output("loss", &mut loss.view_mut())?), grad_logits: None };
    // SAFETY: `inputs` and the outputs are borrowed until the end of this function.
    unsafe { run(options, inputs.to_problem(None)?, outputs) }?;
    Ok(loss)
}

/// The gradient with respect to the logits; `grad_loss` has the loss's shape, and `None` means ones.
pub fn backward<T: Element>(
    options: &Options,
    inputs: &Inputs<T>,
    grad_loss: Option<ArrayViewD<T>>,
) -> Result<ArrayD<T>> {
    let mut grad = zeros(inputs.logits.shape())?;
    backward_into(options, inputs, grad_loss, grad.view_mut())?;
    Ok(grad)
}

/// The gradient, written to a view of the logits' shape.
pub fn backward_into<T: Element>(
    options: &Options,
    inputs: &Inputs<T>,
    grad_loss: Option<ArrayViewD<T>>,
    mut grad_logits: ArrayViewMutD<T>,
) -> Result<()> {
    let outputs = Outputs { loss: None, grad_logits: Some(output("grad_logits", &mut grad_logits)?) };
    // SAFETY: `inputs` and the outputs are borrowed until the end of this function.
    unsafe { run(options, inputs.to_problem(grad_loss.as_ref())?, outputs) }
}

/// Both in one pass over the logits, with the bits of [`forward`] and [`backward`].
pub fn forward_backward<T: Element>(
    options: &Options,
    inputs: &Inputs<T>,
    grad_loss: Option<ArrayViewD<T>>,
) -> Result<(ArrayD<T>, ArrayD<T>)> {
    let mut loss = empty_loss(options, inputs)?;
    let mut grad = zeros(inputs.logits.shape())?;
    let outputs = Outputs {
        loss: Some(output("loss", &mut loss.view_mut())?),
        grad_logits: Some(output("grad_logits", &mut grad.view_mut())?),
    };
    // SAFETY: `inputs` and the outputs are borrowed until the end of this function.
    unsafe { run(options, inputs.to_problem(grad_loss.as_ref())?, outputs) }?;
    Ok((loss, grad))
}

fn empty_loss<T: Element>(options: &Options, inputs: &Inputs<T>) -> Result<ArrayD<T>> {
    let shape = inputs.logits.shape();
    let axis = resolve_axis(options.axis, shape.len())?;
    if shape.len() > MAX_RANK {
        fail!(InvalidArgument, "logits: rank {} is above {MAX_RANK}", shape.len());
    }
    zeros(&loss_shape(options, shape, axis))
}

/// An output. Its size is the caller's, so a lack of memory is an error.
fn zeros<T: Element>(shape: &[usize]) -> Result<ArrayD<T>> {
    let count = shape.iter().product();
    let mut values = Vec::new();
    values.try_reserve_exact(count)?;
    values.resize(count, T::default());
    Ok(ArrayD::from_shape_vec(IxDyn(shape), values).expect("as many values as the shape has"))
}
