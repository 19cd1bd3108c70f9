//! The validated problem: the one type at which the C layer, the ONNX Runtime operators and the Rust
//! API meet the backends. Once it exists, shapes, strides, dtypes and parameters are known to fit
//! and outputs are known not to overlap what they must not; only class indices remain to be checked.

use crate::cpu::{self, executor::Executor};
use crate::cuda::{self, Stream};
use crate::error::{Result, fail};
use crate::options::{Activation, Options, Reduction};
use crate::tensor::{Axes, Device, Shape, Strides, Tensor, broadcast};

/// The tensors that are read. Names and meanings are the contract's.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    pub logits: Tensor,
    pub targets: Tensor,
    pub class_alpha: Option<Tensor>,
    pub weight: Option<Tensor>,
    pub normalizer: Option<Tensor>,
    /// The gradient of whatever is minimised with respect to the loss; ones where absent.
    pub grad_loss: Option<Tensor>,
}

/// The tensors that are written; which of them are there decides what is computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outputs {
    pub loss: Option<Tensor>,
    pub grad_logits: Option<Tensor>,
}

#[derive(Clone, Debug)]
pub struct Problem {
    pub options: Options,
    pub inputs: Inputs,
    pub outputs: Outputs,
    /// The class axis, counted from the front.
    pub axis: usize,
    /// K, the size of the class axis.
    pub classes: usize,
    /// Rows: anchors, pixels, samples; the logits' shape without the class axis.
    pub row_shape: Shape,
    /// `weight`'s strides over the logits' shape (sigmoid) or the rows' (softmax).
    pub weight_strides: Option<Strides>,
}

/// The shape of the loss: the logits' or the rows' without a reduction, none with one.
pub fn loss_shape(options: &Options, logits: &[usize], axis: usize) -> Shape {
    match (options.reduction, options.activation) {
        (Reduction::None, Activation::Sigmoid) => Axes::new(logits.iter().copied()),
        (Reduction::None, Activation::Softmax) => Axes::new(logits.iter().copied()).map(|s: Shape| s.without(axis)),
        _ => Axes::new([]),
    }
    .expect("no more axes than the logits")
}

/// `axis` counted from the front.
pub fn resolve_axis(axis: isize, rank: usize) -> Result<usize> {
    let from_front = if axis < 0 { axis.checked_add_unsigned(rank) } else { Some(axis) };
    match from_front.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank) {
        Some(axis) => Ok(axis),
        None if rank == 0 => fail!(InvalidArgument, "logits: rank 0 has no class axis"),
        None => fail!(InvalidArgument, "axis is {axis}, but logits have rank {rank}"),
    }
}

impl Problem {
    /// Checks everything that can be checked.
    ///
    /// # Safety
    /// Every element that an input's shape and strides reach must be valid to read, and every one that an
    /// output's reach valid to write, until the last use of the problem; nobody else may write to the
    /// former or touch the latter meanwhile. That is the one thing that cannot be checked.
    pub unsafe fn new(options: Options, inputs: Inputs, outputs: Outputs) -> Result<Self> {
        options.validate()?;
        // By reference: a tensor is large, and a small problem must not spend its time on copies.
        let Inputs { logits, targets, class_alpha, weight, normalizer, grad_loss } = &inputs;
        logits.check("logits")?;
        if logits.dtype.is_index() {
            fail!(InvalidArgument, "logits: dtype {} is not a floating-point type", logits.dtype.name());
        }
        let axis = resolve_axis(options.axis, logits.shape.len())?;
        let classes = logits.shape[axis];
        let row_shape = logits.shape.without(axis);

        targets.check("targets")?;
        let index_targets = targets.dtype.is_index();
        if index_targets {
            if *targets.shape != *row_shape {
                fail!(
                    InvalidArgument,
                    "targets: class indices have shape {:?}, but logits {:?} without class axis {axis} are {:?}",
                    targets.shape,
                    logits.shape,
                    row_shape
                );
            }
        } else {
            same_dtype("targets", targets, logits)?;
            if *targets.shape != *logits.shape {
                fail!(
                    InvalidArgument,
                    "targets: dense targets have shape {:?}, but logits have {:?}",
                    targets.shape,
                    logits.shape
                );
            }
            options.check_dense()?;
        }

        if let Some(alpha) = class_alpha {
            conforms("class_alpha", alpha, logits)?;
            if *alpha.shape != [classes] {
                fail!(
                    InvalidArgument,
                    "class_alpha: shape {:?}, but must be [{classes}], one for each class",
                    alpha.shape
                );
            }
        }
        let weight_strides = match weight {
            None => None,
            Some(weight) => {
                conforms("weight", weight, logits)?;
                let (target, meaning) = match options.activation {
                    Activation::Sigmoid => (&logits.shape, "logits"),
                    Activation::Softmax => (&row_shape, "rows"),
                };
                let strides = broadcast(&weight.shape, &weight.strides, target);
                if strides.is_none() {
                    fail!(
                        InvalidArgument,
                        "weight: shape {:?} does not broadcast to the {meaning}' shape {target:?}",
                        weight.shape
                    );
                }
                strides
            }
        };
        if let Some(normalizer) = normalizer {
            conforms("normalizer", normalizer, logits)?;
            one_element("normalizer", normalizer)?;
        }

        let shape = loss_shape(&options, &logits.shape, axis);
        let like_loss = |name: &str, tensor: &Tensor| {
            if options.reduction != Reduction::None {
                one_element(name, tensor)
            } else if *tensor.shape != *shape {
                fail!(InvalidArgument, "{name}: shape {:?}, but the unreduced loss has {shape:?}", tensor.shape)
            } else {
                Ok(())
            }
        };
        if let Some(grad_loss) = grad_loss {
            conforms("grad_loss", grad_loss, logits)?;
            like_loss("grad_loss", grad_loss)?;
        }
        if let Some(loss) = &outputs.loss {
            conforms("loss", loss, logits)?;
            like_loss("loss", loss)?;
        }
        if let Some(grad) = &outputs.grad_logits {
            conforms("grad_logits", grad, logits)?;
            if *grad.shape != *logits.shape {
                fail!(InvalidArgument, "grad_logits: shape {:?}, but logits have {:?}", grad.shape, logits.shape);
            }
        }

        let problem = Self { options, inputs, outputs, axis, classes, row_shape, weight_strides };
        problem.check_devices()?;
        problem.check_overlaps()?;
        Ok(problem)
    }

    /// Computes what the outputs ask for, where the tensors are: on the CPU now, by `executor`; or on a CUDA device, in
    /// the order of `stream`.
    pub fn run(&self, executor: &dyn Executor, stream: Stream) -> Result<()> {
        match self.inputs.logits.device {
            Device::Cpu => cpu::run(self, executor),
            Device::Cuda(id) => cuda::run(self, id, stream),
        }
    }

    /// The tensors that are read, by name.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let Inputs { logits, targets, class_alpha, weight, normalizer, grad_loss } = &self.inputs;
        let read = [
            ("logits", Some(logits)),
            ("targets", Some(targets)),
            ("class_alpha", class_alpha.as_ref()),
            ("weight", weight.as_ref()),
            ("normalizer", normalizer.as_ref()),
            ("grad_loss", grad_loss.as_ref()),
        ];
        read.into_iter().filter_map(|(name, tensor)| Some((name, tensor?)))
    }

    /// The tensors that are written, by name.
    pub fn written(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let written = [("loss", &self.outputs.loss), ("grad_logits", &self.outputs.grad_logits)];
        written.into_iter().filter_map(|(name, tensor)| Some((name, tensor.as_ref()?)))
    }

    fn check_devices(&self) -> Result<()> {
        let device = self.inputs.logits.device;
        match self.read().chain(self.written()).find(|(_, tensor)| tensor.device != device) {
            Some((name, tensor)) => {
                fail!(InvalidArgument, "{name}: is on {}, but logits are on {device}", tensor.device)
            }
            None => Ok(()),
        }
    }

    fn check_overlaps(&self) -> Result<()> {
        for (name, tensor) in self.written() {
            if tensor.len() > 0 && tensor.overlaps_itself() {
                fail!(
                    InvalidArgument,
                    "{name}: strides {:?} with shape {:?} let elements overlap",
                    tensor.strides,
                    tensor.shape
                );
            }
            for (other_name, other) in self.read() {
                let in_place = name == "grad_logits" && other_name == "logits" && tensor.is_same_memory(other);
                if tensor.overlaps(other) && !in_place {
                    fail!(InvalidArgument, "{name}: overlaps {other_name} in memory");
                }
            }
        }
        if let (Some(loss), Some(grad)) = (&self.outputs.loss, &self.outputs.grad_logits)
            && loss.overlaps(grad)
        {
            fail!(InvalidArgument, "grad_logits: overlaps loss in memory");
        }
        Ok(())
    }

    pub fn index_targets(&self) -> bool {
        self.inputs.targets.dtype.is_index()
    }

    pub fn rows(&self) -> usize {
        self.row_shape.iter().product()
    }

    /// The class index that makes an all-zero target row.
    pub fn background_index(&self) -> Option<i64> {
        match self.options.activation {
            Activation::Sigmoid => Some(self.options.background_index.unwrap_or(self.classes as i64)),
            Activation::Softmax => None,
        }
    }

    /// The gradient overwrites the logits as it goes.
    pub fn in_place(&self) -> bool {
        self.outputs.grad_logits.as_ref().is_some_and(|grad| grad.overlaps(&self.inputs.logits))
    }

    /// `tensor` has the rows' shape: its strides over the logits' shape, the class axis repeated.
    pub fn over_classes(&self, tensor: &Tensor) -> Strides {
        let (before, after) = tensor.strides.split_at(self.axis);
        Strides::new(before.iter().copied().chain([0]).chain(after.iter().copied())).expect("the logits' rank")
    }

    /// A stride along the class axis alone, over the logits' shape.
    pub fn along_classes(&self, stride: isize) -> Strides {
        let rank = self.inputs.logits.shape.len();
        Strides::new((0..rank).map(|axis| if axis == self.axis { stride } else { 0 })).expect("the logits' rank")
    }
}

fn same_dtype(name: &str, tensor: &Tensor, logits: &Tensor) -> Result<()> {
    if tensor.dtype != logits.dtype {
        fail!(InvalidArgument, "{name}: dtype {}, but logits are {}", tensor.dtype.name(), logits.dtype.name());
    }
    Ok(())
}

/// The tensor is sound and has the logits' dtype.
fn conforms(name: &str, tensor: &Tensor, logits: &Tensor) -> Result<()> {
    tensor.check(name)?;
    same_dtype(name, tensor, logits)
}

fn one_element(name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.len() != 1 {
        fail!(InvalidArgument, "{name}: shape {:?}, but must hold one element", tensor.shape);
    }
    Ok(())
}
