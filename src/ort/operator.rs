//! The table of operators.
//!
//! The host wants all variants of an operator to agree on the number and kind of inputs and outputs and
//! picks one by its element types and execution provider, so there is an entry for each of those.

use std::ffi::{CStr, c_char, c_int, c_void};

use ort_sys::{
    ONNXTensorElementDataType as OrtType, OrtApi, OrtCustomOp, OrtCustomOpInputOutputCharacteristic, OrtKernelContext,
    OrtKernelInfo, OrtMemType, OrtShapeInferContext, OrtStatusPtr,
};

use crate::error::Result;
use crate::options::Activation;
use crate::tensor::DType;

use super::api::Api;
use super::kernel::Kernel;
use super::shape;

/// What an operator's name stands for.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static CStr,
    pub activation: Activation,
    /// Computes the gradient: `grad_loss` comes before the other inputs.
    pub gradient: bool,
}

pub const KINDS: [Kind; 4] = [
    Kind { name: c"SigmoidFocalLoss", activation: Activation::Sigmoid, gradient: false },
    Kind { name: c"SoftmaxFocalLoss", activation: Activation::Softmax, gradient: false },
    Kind { name: c"SigmoidFocalLossGrad", activation: Activation::Sigmoid, gradient: true },
    Kind { name: c"SoftmaxFocalLossGrad", activation: Activation::Softmax, gradient: true },
];

const FLOATS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];
const INDICES: [DType; 2] = [DType::I32, DType::I64];
/// Execution providers, and whether their tensors are on a CUDA device. The CUDA provider comes in two forms: built into
/// the host, and, from 2026 on, as a plugin. A session that lacks a provider passes its variants over.
const PROVIDERS: [(&CStr, bool); 3] =
    [(c"CPUExecutionProvider", false), (c"CUDAExecutionProvider", true), (c"CudaPluginExecutionProvider", true)];

/// Inputs by position, `grad_loss` apart.
pub const LOGITS: usize = 0;
pub const TARGETS: usize = 1;
pub const INPUTS: usize = 5;
const REQUIRED: usize = 2;

/// One entry: what the host sees, followed by what it means.
#[repr(C)]
pub struct Operator {
    ort: OrtCustomOp,
    pub api: Api,
    pub kind: Kind,
    /// The type of everything but targets.
    pub dtype: DType,
    pub targets: DType,
    provider: &'static CStr,
    /// Inputs and output are on a CUDA device.
    pub cuda: bool,
}

// SAFETY: never changed after it was made.
unsafe impl Send for Operator {}
// SAFETY: as above.
unsafe impl Sync for Operator {}

/// All operators for a host; `infer_shapes` where it can be told shapes safely.
pub fn all(api: Api, infer_shapes: bool) -> Result<Vec<Operator>> {
    let mut operators = Vec::new();
    operators.try_reserve_exact(PROVIDERS.len() * KINDS.len() * FLOATS.len() * (1 + INDICES.len()))?;
    for (provider, cuda) in PROVIDERS {
        for kind in KINDS {
            for dtype in FLOATS {
                for targets in [dtype].into_iter().chain(INDICES) {
                    operators.push(Operator { ort: table(infer_shapes), api, kind, dtype, targets, provider, cuda });
                }
            }
        }
    }
    Ok(operators)
}

impl Operator {
    pub fn as_ort(&self) -> *const OrtCustomOp {
        (&raw const *self).cast()
    }

    /// # Safety
    /// `op` is what [`Self::as_ort`] gave for an operator that still lives, as all do.
    pub unsafe fn from_ort<'a>(op: *const OrtCustomOp) -> &'a Self {
        // SAFETY: the first field of an `Operator`.
        unsafe { &*op.cast() }
    }

    /// How many inputs come before the logits.
    pub fn first_input(&self) -> usize {
        usize::from(self.kind.gradient)
    }
}

fn ort_type(dtype: DType) -> OrtType {
    match dtype {
        DType::F16 => OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DType::BF16 => OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DType::F32 => OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DType::F64 => OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DType::I32 => OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DType::I64 => OrtType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
    }
}

fn table(infer_shapes: bool) -> OrtCustomOp {
    // SAFETY: every field is an integer or an optional function pointer, for which zero is valid. Fields that a
    // newer `ort-sys` has are of later versions than the one stated, so no host reads them.
    let mut op: OrtCustomOp = unsafe { std::mem::zeroed() };
    op.version = super::API_VERSION;
    op.GetName = Some(name);
    op.GetExecutionProviderType = Some(provider);
    op.GetInputType = Some(input_type);
    op.GetInputTypeCount = Some(input_count);
    op.GetInputCharacteristic = Some(input_characteristic);
    op.GetInputMemoryType = Some(memory_type);
    op.GetOutputType = Some(output_type);
    op.GetOutputTypeCount = Some(output_count);
    op.GetOutputCharacteristic = Some(output_characteristic);
    op.GetVariadicInputMinArity = Some(none);
    op.GetVariadicInputHomogeneity = Some(none);
    op.GetVariadicOutputMinArity = Some(none);
    op.GetVariadicOutputHomogeneity = Some(none);
    op.GetStartVersion = Some(start_version);
    op.GetEndVersion = Some(end_version);
    op.CreateKernelV2 = Some(create);
    op.KernelComputeV2 = Some(compute);
    op.KernelDestroy = Some(destroy);
    op.InferOutputShapeFn = infer_shapes.then_some(infer);
    op
}

// What follows is called by the host with the operator, or the kernel, that it was given. None of it but `create`
// and `compute` can panic.

unsafe extern "system" fn name(op: *const OrtCustomOp) -> *const c_char {
    // SAFETY: one of our operators.
    unsafe { Operator::from_ort(op) }.kind.name.as_ptr()
}

unsafe extern "system" fn provider(op: *const OrtCustomOp) -> *const c_char {
    // SAFETY: one of our operators.
    unsafe { Operator::from_ort(op) }.provider.as_ptr()
}

unsafe extern "system" fn input_count(op: *const OrtCustomOp) -> usize {
    // SAFETY: one of our operators.
    INPUTS + unsafe { Operator::from_ort(op) }.first_input()
}

unsafe extern "system" fn input_type(op: *const OrtCustomOp, index: usize) -> OrtType {
    // SAFETY: one of our operators.
    let op = unsafe { Operator::from_ort(op) };
    ort_type(if index == TARGETS + op.first_input() { op.targets } else { op.dtype })
}

unsafe extern "system" fn input_characteristic(
    op: *const OrtCustomOp,
    index: usize,
) -> OrtCustomOpInputOutputCharacteristic {
    // SAFETY: one of our operators.
    if index < REQUIRED + unsafe { Operator::from_ort(op) }.first_input() {
        OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_REQUIRED
    } else {
        OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_OPTIONAL
    }
}

unsafe extern "system" fn memory_type(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

unsafe extern "system" fn output_count(_: *const OrtCustomOp) -> usize {
    1
}

unsafe extern "system" fn output_type(op: *const OrtCustomOp, _: usize) -> OrtType {
    // SAFETY: one of our operators.
    ort_type(unsafe { Operator::from_ort(op) }.dtype)
}

unsafe extern "system" fn output_characteristic(
    _: *const OrtCustomOp,
    _: usize,
) -> OrtCustomOpInputOutputCharacteristic {
    OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_REQUIRED
}

unsafe extern "system" fn none(_: *const OrtCustomOp) -> c_int {
    0
}

unsafe extern "system" fn start_version(_: *const OrtCustomOp) -> c_int {
    1
}

unsafe extern "system" fn end_version(_: *const OrtCustomOp) -> c_int {
    c_int::MAX
}

unsafe extern "system" fn create(
    op: *const OrtCustomOp,
    _: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: one of our operators.
    let op = unsafe { Operator::from_ort(op) };
    // SAFETY: the host's info of the node, and its place for the kernel.
    unsafe { Kernel::create(op, info, kernel.cast()) }
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: a kernel that `create` made, shared by all runs of the session; it is not changed.
    unsafe { (*kernel.cast_const().cast::<Kernel>()).compute(context) }
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    // SAFETY: a kernel that `create` made, after its last run.
    drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
}

unsafe extern "system" fn infer(op: *const OrtCustomOp, context: *mut OrtShapeInferContext) -> OrtStatusPtr {
    // SAFETY: one of our operators, and the host's context. The host leaks a status that is returned here, and does
    // not look at it: what cannot be inferred stays unknown.
    let _ = std::panic::catch_unwind(|| unsafe { shape::infer(Operator::from_ort(op), context) });
    OrtStatusPtr::default()
}
