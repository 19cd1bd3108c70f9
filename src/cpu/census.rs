//! What has to be known before the first write: that every class index is valid, and what the mean
//! divides by.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::error::Result;
use crate::math::real::Real;
use crate::options::{Activation, Normalization, Reduction};
use crate::problem::Problem;

use super::chunks::{BATCH, Chunks, LANES, LaneSums, sum_of_chunks};
use super::executor::Executor;
use super::storage::{Memory, Storage};
use super::targets::{Indices, Label};
use super::walk::Walk;

/// Checks every class index; gives what the loss is divided by, `normalizer` apart. 0 says that
/// nothing is counted.
pub fn divisor<S: Storage>(problem: &Problem, executor: &dyn Executor) -> Result<f64> {
    let counts = match Indices::new(problem) {
        Some(indices) => count_rows(problem, &indices, executor)?,
        None => Counts { counted: problem.rows(), positives: 0 },
    };
    if problem.options.reduction != Reduction::Mean {
        return Ok(1.0);
    }
    let losses = counts.counted as f64 * losses_per_row(problem);
    Ok(match problem.options.normalization {
        Normalization::Rows => counts.counted as f64,
        Normalization::Elements => losses,
        Normalization::Positives if problem.index_targets() => counts.positives.max(1) as f64,
        Normalization::Positives => at_least_one(sum_of_targets::<S>(problem, executor)),
        Normalization::Weights => sum_of_weights::<S>(problem, executor).unwrap_or(losses),
    })
}

/// `f64::max` would lose a NaN.
fn at_least_one(sum: f64) -> f64 {
    if sum < 1.0 { 1.0 } else { sum }
}

fn losses_per_row(problem: &Problem) -> f64 {
    match problem.options.activation {
        Activation::Sigmoid => problem.classes as f64,
        Activation::Softmax => 1.0,
    }
}

struct Counts {
    counted: usize,
    positives: usize,
}

fn count_rows(problem: &Problem, indices: &Indices, executor: &dyn Executor) -> Result<Counts> {
    let targets = &problem.inputs.targets;
    let walk = Walk::new(&targets.shape, &targets.strides);
    let chunks = Chunks::new(targets.len(), 1, LANES);
    let (ignored, positives) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let first_invalid = AtomicUsize::new(usize::MAX);
    executor.for_each(chunks.count(), &|chunk| {
        let range = chunks.range(chunk);
        let mut cursor = walk.at(range.start);
        let (mut row, mut classes, mut skipped) = (range.start, 0, 0);
        while row < range.end {
            let run = cursor.next_run(range.end - row);
            for i in 0..run.count {
                match indices.label(run.offset + i as isize * run.stride) {
                    Label::Class(_) => classes += 1,
                    Label::Ignored => skipped += 1,
                    Label::Background => {}
                    Label::Invalid => {
                        first_invalid.fetch_min(row + i, Relaxed);
                    }
                }
            }
            row += run.count;
        }
        positives.fetch_add(classes, Relaxed);
        ignored.fetch_add(skipped, Relaxed);
    });
    match first_invalid.into_inner() {
        usize::MAX => Ok(Counts { counted: targets.len() - ignored.into_inner(), positives: positives.into_inner() }),
        row => Err(indices.out_of_range(row, indices.value(walk.at(row).peek(1).offset))),
    }
}

fn sum_of_targets<S: Storage>(problem: &Problem, executor: &dyn Executor) -> f64 {
    let targets = &problem.inputs.targets;
    // SAFETY: the walk below is over the tensor's own shape and strides.
    let memory = unsafe { Memory::<S>::new(targets.data) };
    let walk = Walk::new(&targets.shape, &targets.strides);
    sum_in_batches::<S>(targets.len(), executor, &|start, values| memory.copy_to(&mut walk.at(start), values))
}

/// The sum of `weight` over everything that is counted; `None` without weights.
fn sum_of_weights<S: Storage>(problem: &Problem, executor: &dyn Executor) -> Option<f64> {
    let (weight, strides) = (problem.inputs.weight?, problem.weight_strides?);
    let shape = match problem.options.activation {
        Activation::Sigmoid => &problem.inputs.logits.shape,
        Activation::Softmax => &problem.row_shape,
    };
    // SAFETY: the strides broadcast the tensor's own shape.
    let memory = unsafe { Memory::<S>::new(weight.data) };
    let walk = Walk::new(shape, &strides);
    let indices = Indices::new(problem).filter(|_| problem.options.ignore_index.is_some());
    let targets = &problem.inputs.targets;
    let labels = indices.map(|indices| {
        let strides = match problem.options.activation {
            Activation::Sigmoid => problem.over_classes(targets),
            Activation::Softmax => targets.strides,
        };
        (indices, Walk::new(shape, &strides))
    });
    Some(sum_in_batches::<S>(shape.iter().product(), executor, &|start, values| {
        memory.copy_to(&mut walk.at(start), values);
        if let Some((indices, labels)) = &labels {
            let mut cursor = labels.at(start);
            let mut done = 0;
            while done < values.len() {
                let run = cursor.next_run(values.len() - done);
                for i in 0..run.count {
                    if indices.label(run.offset + i as isize * run.stride) == Label::Ignored {
                        values[done + i] = S::Real::ZERO;
                    }
                }
                done += run.count;
            }
        }
    }))
}

/// Adds up `total` values that `fill` writes for any start, a batch at a time.
fn sum_in_batches<S: Storage>(
    total: usize,
    executor: &dyn Executor,
    fill: &(dyn Fn(usize, &mut [S::Real]) + Sync),
) -> f64 {
    let chunks = Chunks::new(total, 1, BATCH);
    sum_of_chunks(chunks, executor, &|range| {
        let mut values = [S::Real::ZERO; BATCH];
        let mut sums = LaneSums::ZERO;
        for start in range.clone().step_by(BATCH) {
            let values = &mut values[..BATCH.min(range.end - start)];
            fill(start, values);
            sums.add(values);
        }
        sums.total()
    })
}
