//! A node's life: made with its attributes, computed any number of times at once, destroyed.

use ort_sys::{OrtKernelContext, OrtKernelInfo, OrtStatusPtr, OrtValue};

use crate::cuda::{self, Stream};
use crate::error::{Result, boxed, fail, text};
use crate::options::Options;
use crate::problem::{Inputs, Outputs, Problem, loss_shape, resolve_axis};
use crate::tensor::{DType, Device, MAX_RANK, Shape, Tensor, row_major};

use super::api::{Lossy, call};
use super::attributes::Node;
use super::executor::SessionPool;
use super::operator::{INPUTS, LOGITS, Operator, TARGETS};

/// Names of the inputs, `grad_loss` apart, in their order.
const NAMES: [&str; INPUTS] = ["logits", "targets", "class_alpha", "weight", "normalizer"];

/// A node of a session. Nothing here changes after it was made, so runs can overlap.
pub struct Kernel {
    operator: &'static Operator,
    options: Options,
    /// Operator and node, for messages.
    name: String,
}

impl Kernel {
    /// # Safety
    /// `operator` lives for ever; `info` is the host's of the node; `kernel` is a place for the result.
    pub unsafe fn create(
        operator: &'static Operator,
        info: *const OrtKernelInfo,
        kernel: *mut *mut Kernel,
    ) -> OrtStatusPtr {
        let api = operator.api;
        // SAFETY: the info is valid during this call.
        let node = unsafe { Node::new(api, info) };
        let name = text(format_args!("{} node '{}'", Lossy(operator.kind.name.to_bytes()), node.name()));
        let name = match name {
            Ok(name) => name,
            Err(error) => return api.status("focal_loss", &error.into()),
        };
        api.guard(&name, || {
            let options = node.options(operator.kind.activation)?;
            check_known_shapes(operator, &node, &options)?;
            if operator.cuda {
                // Compiles the kernels now rather than in the first run; without a driver, an error that says so.
                cuda::prepare()?;
            }
            let made = boxed(Self { operator, options, name: text(format_args!("{name}"))? })?;
            // SAFETY: the host's place for the kernel.
            unsafe { *kernel = Box::into_raw(made) };
            Ok(())
        })
    }

    /// # Safety
    /// `context` is the host's for this run.
    pub unsafe fn compute(&self, context: *mut OrtKernelContext) -> OrtStatusPtr {
        // SAFETY: passed on.
        self.operator.api.guard(&self.name, || unsafe { self.run(context) })
    }

    /// # Safety
    /// As for [`Self::compute`].
    unsafe fn run(&self, context: *mut OrtKernelContext) -> Result<()> {
        let Operator { api, kind, dtype, targets, .. } = *self.operator;
        let first = self.operator.first_input();
        let mut count = 0;
        // SAFETY: the host's context.
        unsafe { call!(api, KernelContext_GetInputCount, context, &mut count)? };
        let input = |position: usize, name: &str, dtype: DType| -> Result<Option<Tensor>> {
            if position >= count {
                return Ok(None);
            }
            let mut value = std::ptr::null();
            // SAFETY: the host's context; an absent input gives NULL.
            unsafe {
                call!(api, KernelContext_GetInput, context, position, &mut value)?;
                if value.is_null() { Ok(None) } else { view(self.operator, value, name, dtype).map(Some) }
            }
        };
        let optional = |index: usize| {
            let dtype = if index == TARGETS { targets } else { dtype };
            input(index + first, NAMES[index], dtype)
        };
        let required = |index: usize| match optional(index)? {
            Some(tensor) => Ok(tensor),
            None => fail!(InvalidArgument, "{}: the input is missing", NAMES[index]),
        };
        let inputs = Inputs {
            logits: required(LOGITS)?,
            targets: required(TARGETS)?,
            class_alpha: optional(2)?,
            weight: optional(3)?,
            normalizer: optional(4)?,
            grad_loss: if kind.gradient { input(0, "grad_loss", dtype)? } else { None },
        };
        let logits = &inputs.logits.shape;
        let axis = resolve_axis(self.options.axis, logits.len())?;
        let shape = if kind.gradient { *logits } else { loss_shape(&self.options, logits, axis) };
        // SAFETY: the host's context.
        let output = unsafe { self.output(context, shape)? };
        let outputs = if kind.gradient {
            Outputs { grad_logits: Some(output), loss: None }
        } else {
            Outputs { loss: Some(output), grad_logits: None }
        };
        // SAFETY: the host keeps inputs and output alive and to itself during this call.
        let problem = unsafe { Problem::new(self.options.clone(), inputs, outputs)? };
        // SAFETY: as above.
        let stream = unsafe { self.stream(context)? };
        problem.run(&SessionPool { api, context }, stream)
    }

    /// The stream that the host computes on; none on the CPU.
    ///
    /// # Safety
    /// As for [`Self::compute`].
    unsafe fn stream(&self, context: *mut OrtKernelContext) -> Result<Stream> {
        let mut stream = std::ptr::null_mut();
        if self.operator.cuda {
            // SAFETY: the host's context, and a place for its stream.
            unsafe { call!(self.operator.api, KernelContext_GetGPUComputeStream, context, &mut stream)? };
        }
        Ok(Stream(stream))
    }

    /// # Safety
    /// As for [`Self::compute`].
    unsafe fn output(&self, context: *mut OrtKernelContext, shape: Shape) -> Result<Tensor> {
        let Operator { api, dtype, .. } = *self.operator;
        let dimensions: [i64; MAX_RANK] = std::array::from_fn(|axis| shape.get(axis).map_or(0, |&size| size as i64));
        let mut value = std::ptr::null_mut();
        let mut data = std::ptr::null_mut();
        // SAFETY: the host allocates the output; the context owns it.
        unsafe {
            call!(api, KernelContext_GetOutput, context, 0, dimensions.as_ptr(), shape.len(), &mut value)?;
            call!(api, GetTensorMutableData, value, &mut data)?;
        }
        // SAFETY: a tensor of the host's.
        let device = unsafe { device(self.operator, value)? };
        Ok(Tensor { data: data.cast(), device, dtype, shape, strides: row_major(&shape) })
    }
}

/// Reports a shape that does not fit as soon as the session is made, if the graph says all of them. Where it leaves
/// one open, the run will tell.
fn check_known_shapes(operator: &Operator, node: &Node, options: &Options) -> Result<()> {
    if !operator.targets.is_index() {
        options.check_dense()?;
    }
    let first = operator.first_input();
    let known = |index: usize, dtype: DType| {
        let shape = node.input_shape(index)?;
        // Nothing is read through this address: there is no output to compute.
        let data = std::ptr::dangling_mut::<u64>().cast();
        Some(Tensor { data, device: Device::Cpu, dtype, shape, strides: row_major(&shape) })
    };
    let like_logits = |index: usize| known(index + first, operator.dtype);
    let (Some(logits), Some(targets)) = (like_logits(LOGITS), known(TARGETS + first, operator.targets)) else {
        return Ok(());
    };
    let inputs = Inputs {
        logits,
        targets,
        class_alpha: like_logits(2),
        weight: like_logits(3),
        normalizer: like_logits(4),
        grad_loss: if operator.kind.gradient { known(0, operator.dtype) } else { None },
    };
    // SAFETY: a problem without outputs is never run.
    unsafe { Problem::new(options.clone(), inputs, Outputs::default()) }.map(|_| ())
}

/// A tensor of the host's, which are all dense and row-major. The host has matched its type with the operator's.
///
/// # Safety
/// `value` is a tensor of the host's that outlives the result.
unsafe fn view(operator: &Operator, value: *const OrtValue, name: &str, dtype: DType) -> Result<Tensor> {
    let api = operator.api;
    let mut info = std::ptr::null_mut();
    let mut rank = 0;
    let mut dimensions = [0i64; MAX_RANK];
    let mut data = std::ptr::null_mut();
    // SAFETY: `value` is valid; the info is released after its last use; no more dimensions are asked for than fit.
    unsafe {
        call!(api, GetTensorTypeAndShape, value, &mut info)?;
        let asked = call!(api, GetDimensionsCount, info, &mut rank)
            .and_then(|()| call!(api, GetDimensions, info, dimensions.as_mut_ptr(), rank.min(MAX_RANK)));
        ((*api.table()).ReleaseTensorTypeAndShapeInfo)(info);
        asked?;
        call!(api, GetTensorMutableData, value.cast_mut(), &mut data)?;
    }
    if rank > MAX_RANK {
        fail!(InvalidArgument, "{name}: rank {rank} is above {MAX_RANK}");
    }
    let shape = Shape::new(dimensions[..rank].iter().map(|&size| size as usize)).expect("the rank was checked");
    // SAFETY: `value` is a tensor of the host's.
    let device = unsafe { device(operator, value)? };
    Ok(Tensor { data: data.cast(), device, dtype, shape, strides: row_major(&shape) })
}

/// Where a tensor is: the operator's provider says which kind of device, the tensor which of them.
///
/// # Safety
/// `value` is a tensor of the host's.
unsafe fn device(operator: &Operator, value: *const OrtValue) -> Result<Device> {
    if !operator.cuda {
        return Ok(Device::Cpu);
    }
    let mut memory = std::ptr::null();
    let mut id = 0;
    // SAFETY: the value keeps the description of its memory.
    unsafe {
        call!(operator.api, GetTensorMemoryInfo, value, &mut memory)?;
        call!(operator.api, MemoryInfoGetId, memory, &mut id)?;
    }
    Ok(Device::Cuda(id))
}
