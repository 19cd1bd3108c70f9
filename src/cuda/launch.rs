//! A problem becomes launches: which kernel, how large a grid, what it is told, and where the workspace comes from.

use std::ffi::c_void;

use crate::error::{Result, fail};
use crate::options::{Activation, Normalization, Reduction};
use crate::problem::{Inputs, Outputs, Problem};
use crate::tensor::{Strides, Tensor};

use super::driver::{Address, Driver, Stream};
use super::kernels::{
    Arguments, BLOCKS_PER_SM, Body, Count, Kernel, MAX_BLOCKS, MAX_COUNT_BLOCKS, Operand, Writes, lanes, row_group,
};
use super::module::Loaded;

/// Queues all that a problem takes.
pub fn launch(driver: &Driver, loaded: &Loaded, problem: &Problem, stream: Stream) -> Result<()> {
    let unreduced = problem.outputs.loss.filter(|_| problem.options.reduction == Reduction::None);
    if problem.classes == 0 && unreduced.is_some_and(|loss| loss.len() > 0) {
        // The one output that has elements where there is no logit.
        fail!(Unsupported, "logits: softmax over no classes has losses, but no kernel on a CUDA device");
    }
    let mut plan = Plan::new(problem, loaded.multiprocessors);
    let workspace = Workspace::new(driver, loaded, plan.workspace(), stream)?;
    plan.place(workspace.address);
    for (body, blocks) in plan.launches() {
        let kernel = Kernel { body, dtype: problem.inputs.logits.dtype };
        let Some(&function) = loaded.functions.get(&kernel) else { fail!(Internal, "{kernel:?} was not loaded") };
        let parameters = [(&raw const plan.arguments).cast_mut().cast::<c_void>()];
        // SAFETY: every kernel takes one `Arguments`, which the driver copies; the tensors' memory is the caller's
        // promise, and the workspace is there until the stream has come past it.
        unsafe {
            let extra = std::ptr::null();
            driver.launch_kernel(
                function,
                blocks,
                1,
                1,
                body.threads(),
                1,
                1,
                0,
                stream,
                parameters.as_ptr(),
                extra,
            )?;
        }
    }
    workspace.free()
}

/// Memory that the stream has from its allocation to its release, both in the stream's order.
struct Workspace<'a> {
    driver: &'a Driver,
    stream: Stream,
    /// 0: nothing is needed, or it was released.
    address: Address,
}

impl<'a> Workspace<'a> {
    fn new(driver: &'a Driver, loaded: &Loaded, bytes: usize, stream: Stream) -> Result<Self> {
        let mut workspace = Self { driver, stream, address: 0 };
        if bytes > 0 {
            let Some(pool) = loaded.pool else {
                fail!(
                    Cuda,
                    "the CUDA device has no memory pools (CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED), which sums need"
                );
            };
            // SAFETY: a pool of this device's, the caller's stream, and a place for the address.
            unsafe { driver.allocate_async(&mut workspace.address, bytes, pool, stream)? };
        }
        Ok(workspace)
    }

    fn free(mut self) -> Result<()> {
        self.release()
    }

    fn release(&mut self) -> Result<()> {
        match std::mem::take(&mut self.address) {
            0 => Ok(()),
            // SAFETY: allocated for this stream; what uses it was queued before.
            address => unsafe { self.driver.free_async(address, self.stream) },
        }
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        // After a launch that failed, whose error is the one to report.
        let _ = self.release();
    }
}

/// What is launched, in order: a count, the main kernel, a finish; each with the same arguments.
struct Plan {
    arguments: Arguments,
    main: Body,
    finish: bool,
}

impl Plan {
    fn new(problem: &Problem, multiprocessors: u32) -> Self {
        let options = &problem.options;
        let reduced = options.reduction != Reduction::None;
        let (count, divisor, count_factor) = divisor(problem);
        let mut arguments = Arguments {
            alpha: options.alpha,
            gamma: options.gamma,
            divisor,
            count_factor,
            count: count as i32,
            index_bytes: if problem.index_targets() { problem.inputs.targets.dtype.size() as i32 } else { 0 },
            has_ignore: options.ignore_index.is_some().into(),
            ignore_index: options.ignore_index.unwrap_or_default(),
            has_background: problem.background_index().is_some().into(),
            background_index: problem.background_index().unwrap_or_default(),
            reduced: reduced.into(),
            row_weights: (options.activation == Activation::Softmax).into(),
            ..operands(problem)
        };
        let dtype = problem.inputs.logits.dtype;
        let main = main_kernel(problem, &arguments);
        let (rows, elements) = (arguments.rows as u64, (arguments.rows * arguments.classes) as u64);
        let fill = multiprocessors * BLOCKS_PER_SM;
        let work = match main {
            Body::SoftmaxWarp => rows.saturating_mul(32),
            Body::SoftmaxThread => rows,
            Body::SigmoidStrided => elements,
            Body::SigmoidRows(_) => elements / row_group(dtype),
            _ => elements.div_ceil(lanes(dtype)),
        };
        let counted =
            if count == Count::Rows || problem.index_targets() && count == Count::Positives { rows } else { elements };
        if elements > 0 {
            arguments.blocks = blocks(work, main, fill.min(MAX_BLOCKS));
            if count != Count::Nothing {
                arguments.count_blocks = blocks(counted, Body::Count, fill.min(MAX_COUNT_BLOCKS));
            }
        } else {
            (arguments.count, arguments.divisor) = (Count::Nothing as i32, 0.0);
        }
        Self { arguments, main, finish: reduced && problem.outputs.loss.is_some() }
    }

    /// Bytes: a number for each block that leaves one.
    fn workspace(&self) -> usize {
        size_of::<f64>() * (self.partials() + self.arguments.count_blocks as usize)
    }

    fn partials(&self) -> usize {
        if self.finish { self.arguments.blocks as usize } else { 0 }
    }

    fn place(&mut self, address: Address) {
        self.arguments.partials = address;
        self.arguments.count_partials = address + (size_of::<f64>() * self.partials()) as Address;
    }

    fn launches(&self) -> impl Iterator<Item = (Body, u32)> {
        let Arguments { blocks, count_blocks, .. } = self.arguments;
        let all = [(Body::Count, count_blocks), (self.main, blocks), (Body::Finish, self.finish.into())];
        all.into_iter().filter(|&(_, blocks)| blocks > 0)
    }
}

/// As many as there is work for, and no more than fill the device.
fn blocks(work: u64, body: Body, most: u32) -> u32 {
    work.div_ceil(body.threads().into()).clamp(1, most.into()) as u32
}

/// What the mean divides by, as far as the host can know it: what to count, the divisor, the factor of the count.
fn divisor(problem: &Problem) -> (Count, f64, f64) {
    let options = &problem.options;
    let rows = problem.rows() as f64;
    let losses_per_row = match options.activation {
        Activation::Sigmoid => problem.classes as f64,
        Activation::Softmax => 1.0,
    };
    if options.reduction != Reduction::Mean {
        return (Count::Nothing, 1.0, 1.0);
    }
    let factor = match options.normalization {
        Normalization::Positives => return (Count::Positives, 1.0, 1.0),
        Normalization::Weights if problem.inputs.weight.is_some() => return (Count::Weights, 1.0, 1.0),
        Normalization::Rows => 1.0,
        Normalization::Elements | Normalization::Weights => losses_per_row,
    };
    match options.ignore_index {
        Some(_) => (Count::Rows, 1.0, factor),
        None => (Count::Nothing, rows * factor, 1.0),
    }
}

fn main_kernel(problem: &Problem, arguments: &Arguments) -> Body {
    /// Where 32-bit indices end.
    const MOST: i64 = i32::MAX as i64;
    let Inputs { class_alpha, weight, grad_loss, .. } = problem.inputs;
    let reduced = arguments.reduced != 0;
    if problem.options.activation == Activation::Softmax {
        let neighbours = arguments.logits.class_stride == 1 && arguments.classes > 8;
        return if neighbours { Body::SoftmaxWarp } else { Body::SoftmaxThread };
    }
    let index_targets = problem.index_targets();
    let row_major = |operand: &Operand| {
        operand.address.is_multiple_of(16)
            && operand.class_stride == 1
            && (arguments.row_rank == 0 || operand.row_strides[0] == arguments.classes)
    };
    let fast = [
        (&arguments.logits, true),
        (&arguments.targets, !index_targets),
        (&arguments.grad_logits, true),
        (&arguments.loss, !reduced),
    ];
    let fast = arguments.row_rank <= 1
        && arguments.classes <= MOST
        && fast.into_iter().all(|(operand, asked)| !asked || operand.address == 0 || row_major(operand));
    let writes = match problem.outputs {
        Outputs { loss: Some(_), grad_logits: Some(_) } => Writes::Both,
        Outputs { grad_logits: Some(_), .. } => Writes::Grad,
        _ => Writes::Loss,
    };
    let plain = class_alpha.is_none()
        && weight.is_none()
        && (reduced || grad_loss.is_none())
        && arguments.rows * arguments.classes <= MOST
        && (arguments.classes as u64).is_multiple_of(row_group(problem.inputs.logits.dtype))
        && problem.options.ignore_index != problem.background_index();
    match (fast, index_targets) {
        (false, _) => Body::SigmoidStrided,
        (true, false) => Body::SigmoidDense(writes),
        (true, true) if plain => Body::SigmoidRows(writes),
        (true, true) => Body::SigmoidIndex(writes),
    }
}

/// All that is about tensors: addresses, strides and shape, with as few row axes as will do.
fn operands(problem: &Problem) -> Arguments {
    let Inputs { logits, targets, class_alpha, weight, normalizer, grad_loss } = problem.inputs;
    let reduced = problem.options.reduction != Reduction::None;
    let softmax = problem.options.activation == Activation::Softmax;
    // Strides over the logits' shape.
    let own = |tensor: Tensor| (tensor, tensor.strides);
    let of_rows = |tensor: Tensor| (tensor, problem.over_classes(&tensor));
    let like_loss = |tensor: Tensor| match (reduced, softmax) {
        (true, _) => (tensor, problem.along_classes(0)),
        (false, true) => of_rows(tensor),
        (false, false) => own(tensor),
    };
    let weight = weight.zip(problem.weight_strides).map(|(weight, strides)| {
        let broadcast = Tensor { strides, ..weight };
        if softmax { of_rows(broadcast) } else { own(broadcast) }
    });
    let tensors = [
        Some(own(logits)),
        Some(if problem.index_targets() { of_rows(targets) } else { own(targets) }),
        weight,
        grad_loss.map(like_loss),
        problem.outputs.loss.map(like_loss),
        problem.outputs.grad_logits.map(own),
    ];
    let axis = problem.axis;
    let rows = merge(problem, &tensors.map(|tensor| tensor.map_or(problem.along_classes(0), |(_, strides)| strides)));
    let operand = |tensor: Option<(Tensor, Strides)>| {
        let Some((tensor, strides)) = tensor else { return Operand::default() };
        let mut row_strides = [0; _];
        for (stride, row_axis) in row_strides.iter_mut().zip(&rows) {
            *stride = strides[row_axis.innermost] as i64;
        }
        // The only class is as good as a neighbour.
        let class_stride = if problem.classes == 1 && strides[axis] != 0 { 1 } else { strides[axis] as i64 };
        Operand { address: tensor.data as u64, class_stride, row_strides }
    };
    let [logits, targets, weight, grad_loss, loss, grad_logits] = tensors.map(operand);
    let mut row_shape = [0; _];
    for (size, row_axis) in row_shape.iter_mut().zip(&rows) {
        *size = row_axis.size as i64;
    }
    let address = |tensor: Option<Tensor>| tensor.map_or(0, |tensor| tensor.data as u64);
    Arguments {
        logits,
        targets,
        weight,
        grad_loss,
        loss,
        grad_logits,
        class_alpha: address(class_alpha),
        class_alpha_stride: class_alpha.map_or(0, |alpha| alpha.strides[0] as i64),
        normalizer: address(normalizer),
        row_shape,
        rows: problem.rows() as i64,
        classes: problem.classes as i64,
        row_rank: rows.len() as i32,
        rows_innermost: rows
            .len()
            .checked_sub(1)
            .is_some_and(|innermost| logits.class_stride.unsigned_abs() > logits.row_strides[innermost].unsigned_abs())
            as i32,
        ..Arguments::default()
    }
}

/// Neighbouring axes of the rows that every operand steps through as if they were one.
struct RowAxis {
    size: usize,
    /// The axis of the logits whose strides hold for the whole.
    innermost: usize,
}

fn merge(problem: &Problem, strides: &[Strides]) -> Vec<RowAxis> {
    let shape = &problem.inputs.logits.shape;
    let mut merged: Vec<RowAxis> = Vec::new();
    for axis in (0..shape.len()).filter(|&axis| axis != problem.axis && shape[axis] != 1) {
        let step = |strides: &Strides| strides[axis].wrapping_mul(shape[axis] as isize);
        match merged.last_mut() {
            Some(outer) if strides.iter().all(|strides| strides[outer.innermost] == step(strides)) => {
                outer.size = outer.size.wrapping_mul(shape[axis]);
                outer.innermost = axis;
            }
            _ => merged.push(RowAxis { size: shape[axis], innermost: axis }),
        }
    }
    merged
}
