//! A call of the C ABI: drawn valid, damaged on request, made, and checked as far as the contract alone tells.

use std::ptr::null;

use focal_loss::fuzzing::on_every_isa;

use crate::abi::*;
use crate::memory::{Owned, Spec};
use crate::source::Source;

pub const LOGITS: usize = 0;
pub const TARGETS: usize = 1;
pub const CLASS_ALPHA: usize = 2;
pub const WEIGHT: usize = 3;
pub const NORMALIZER: usize = 4;
pub const GRAD_LOSS: usize = 5;
pub const LOSS: usize = 6;
pub const GRAD: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Forward,
    Backward,
    Both,
}

/// Where an output's memory is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aliasing {
    None,
    /// The gradient replaces the logits.
    InPlace,
    /// The output (first) begins in the other's memory.
    Overlapping(usize, usize),
}

pub struct Call {
    pub function: Function,
    pub options: Options,
    pub tensors: [Option<Spec>; 8],
    labels: Vec<i64>,
    aliasing: Aliasing,
    null_structs: usize,
    inputs_size: usize,
    damaged: bool,
}

/// What a call came to.
#[derive(Clone, PartialEq)]
pub struct Done {
    pub status: i32,
    message: String,
    pub bytes: Vec<Option<Vec<u8>>>,
}

impl Call {
    /// A call that the library must accept.
    pub fn draw(source: &mut Source) -> Self {
        let rank = if source.one_in(16) { 1 + source.below(16) } else { 1 + source.below(4) };
        let mut room = if cfg!(miri) { 24 } else { 700 };
        let shape: Vec<i64> = (0..rank)
            .map(|_| {
                let size =
                    if rank > 4 { 1 + source.below(2) } else { source.pick(&[1, 2, 3, 5, 7, 16, 17, 33, 80, 0]) };
                let size = if size > room { 1 } else { size };
                room /= size.max(1);
                size as i64
            })
            .collect();
        let function = source.pick(&[Function::Both, Function::Forward, Function::Backward]);
        Self::with_shape(source, shape, function)
    }

    pub fn with_shape(source: &mut Source, mut shape: Vec<i64>, function: Function) -> Self {
        let rank = shape.len();
        let dtype = source.pick(&[F32, F64, F16, BF16]);
        let softmax = source.one_in(2);
        let index = source.pick(&[Some(I64), Some(I32), None]);
        let axis = source.below(rank);
        if softmax && index.is_some() && shape[axis] == 0 {
            shape[axis] = 1; // a row without classes has no index
        }
        let classes = shape[axis];
        let mut options = default_options();
        options.activation = softmax.into();
        let any = source.unit();
        options.alpha = source.pick(&[0.25, -1.0, 0.0, 1.0, any]);
        options.gamma = source.pick(&[2.0, 0.0, 0.5, 1.0, 1.5, 5.0, 5.0 * any]);
        options.reduction = source.below(3) as i32;
        options.normalization = source.below(4) as i32;
        options.axis = if source.one_in(2) { axis as i32 } else { axis as i32 - rank as i32 };
        options.num_threads = source.below(4) as i32;
        let mut labels: Vec<i64> = (0..classes).collect();
        if index.is_some() {
            let special = [-1, -100, classes, 0, i64::from(i32::MIN), i64::from(i32::MAX)];
            if !softmax {
                options.has_background_index = source.one_in(2).into();
                options.background_index = source.pick(&special);
                let set = options.has_background_index != 0;
                labels.push(if set { options.background_index } else { classes });
            }
            options.has_ignore_index = source.one_in(2).into();
            options.ignore_index = source.pick(&special);
            if options.has_ignore_index != 0 {
                labels.push(options.ignore_index);
            }
        }
        let rows: Vec<i64> = shape.iter().enumerate().filter(|&(i, _)| i != axis).map(|(_, &size)| size).collect();
        let losses = if softmax { &rows } else { &shape };
        let one = |source: &mut Source| vec![1; source.below(3)];
        let result = if options.reduction == 0 { losses.clone() } else { one(source) };
        let spec = |source: &mut Source, shape: &[i64]| Spec::new(dtype, shape).stride(source, true);
        let mut tensors = [const { None }; 8];
        tensors[LOGITS] = Some(spec(source, &shape));
        tensors[TARGETS] = Some(match index {
            Some(dtype) => Spec::new(dtype, &rows).stride(source, true),
            None => spec(source, &shape),
        });
        if source.one_in(4) {
            tensors[CLASS_ALPHA] = Some(spec(source, &[classes]));
        }
        if source.one_in(4) {
            let kept = source.below(losses.len() + 1);
            let mut weight = losses[losses.len() - kept..].to_vec();
            weight.iter_mut().for_each(|size| *size = if source.one_in(3) { 1 } else { *size });
            tensors[WEIGHT] = Some(spec(source, &weight));
        }
        if source.one_in(4) {
            let shape = one(source);
            tensors[NORMALIZER] = Some(spec(source, &shape));
        }
        if function != Function::Forward && source.one_in(4) {
            tensors[GRAD_LOSS] = Some(spec(source, &result));
        }
        if function != Function::Backward {
            tensors[LOSS] = Some(Spec::new(dtype, &result).stride(source, false));
        }
        let mut aliasing = Aliasing::None;
        if function != Function::Forward {
            tensors[GRAD] = Some(Spec::new(dtype, &shape).stride(source, false));
            if source.one_in(4) {
                tensors[LOGITS] = tensors[GRAD].clone();
                aliasing = Aliasing::InPlace;
            }
        }
        for tensor in tensors.iter_mut().flatten() {
            tensor.by_offset = source.one_in(4);
        }
        let inputs_size = size_of::<Inputs>();
        Self { function, options, tensors, labels, aliasing, null_structs: 0, inputs_size, damaged: false }
    }

    /// Breaks something, or only makes it odd.
    pub fn damage(&mut self, source: &mut Source) {
        self.damaged = true;
        let which = source.below(8);
        let kind = source.below(20);
        let odd = [-1, 0, 1, 2, 3, 17, 1 << 31, 1 << 40, 1 << 62, i64::MAX, i64::MIN, source.any_i64()];
        let number = source.pick(&odd);
        let real = source.any_f64();
        let real = source.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5, 1.5, 1e308, real]);
        match kind {
            0 => self.options.alpha = real,
            1 => self.options.gamma = real,
            2 => match source.below(5) {
                0 => self.options.activation = number as i32,
                1 => self.options.reduction = number as i32,
                2 => self.options.normalization = number as i32,
                3 => self.options.axis = number as i32,
                _ => self.options.num_threads = number as i32,
            },
            // As many bytes are there as in the newest struct, or the size is refused.
            3 => self.options.struct_size = source.pick(&[0, 1, 12, 16, 24, 40, 88, 96, number as usize]),
            4 => self.inputs_size = source.pick(&[0, 8, 16, 24, 40, 47, 56, number as usize]),
            5 => self.null_structs = 1 + source.below(3),
            6 => self.labels.push(number),
            7 => self.tensors[which] = None,
            8 => {
                let other = source.below(6);
                self.aliasing = Aliasing::Overlapping(LOSS + source.below(2), other);
            }
            9 => {
                self.options.has_ignore_index = 1;
                self.options.ignore_index = number;
            }
            10 => {
                self.options.has_background_index = 1;
                self.options.background_index = number;
            }
            _ => {
                let Some(spec) = &mut self.tensors[which] else { return };
                let axis = source.below(spec.shape.len().max(1));
                match kind {
                    11 if !spec.shape.is_empty() => spec.shape[axis] = number,
                    12 => {
                        spec.ndim = number as i32;
                        // A shape that the library may read has as many entries.
                        if let Ok(rank @ 0..=16) = usize::try_from(spec.ndim) {
                            spec.shape.resize(rank.max(spec.shape.len()), 1);
                            let entries = spec.shape.len();
                            spec.strides.iter_mut().for_each(|strides| strides.resize(entries, 1));
                        }
                    }
                    13 => spec.dtype = source.pick(&[F32, F64, F16, BF16, I32, I64]),
                    14 => {
                        let (code, bits) = (number as u8, source.below(256) as u8);
                        spec.dtype = DType { code, bits, lanes: source.below(3) as u16 };
                    }
                    15 => spec.device = (source.pick(&[0, 1, 3, 2, 13, 4, -1]), number as i32),
                    16 => spec.null_data = true,
                    17 => spec.null_shape = true,
                    18 => spec.skipped = 1 + source.below(8),
                    _ => {
                        if source.one_in(4) {
                            spec.byte_offset = Some(u64::MAX - source.below(8) as u64);
                        } else {
                            let rank = spec.shape.len();
                            let strides = spec.strides.get_or_insert_with(|| vec![1; rank]);
                            if rank > 0 {
                                strides[axis] = number;
                            }
                        }
                    }
                }
            }
        }
        // What int32 cannot hold would become another index.
        if self.tensors[TARGETS].as_ref().is_some_and(|spec| spec.dtype == I32) {
            self.labels.retain(|&label| i32::try_from(label).is_ok());
        }
        if self.labels.is_empty() {
            self.labels.push(0);
        }
    }

    /// Memory for every tensor, filled.
    pub fn allocate(&self, source: &mut Source) -> Vec<Option<Owned>> {
        let mut pattern = Vec::new();
        for _ in 0..1 + source.below(61) {
            pattern.push((source.finite_logit(f64::MAX), source.unit(), source.below(1 << 16)));
        }
        let hard = source.one_in(2);
        let odd = self.damaged && source.one_in(4);
        let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0];
        let tensors = self.tensors.iter().enumerate().map(|(slot, spec)| {
            let spec = spec.clone()?;
            let dtype = spec.dtype;
            Some(Owned::new(spec, &mut |i| {
                let (logit, unit, label) = pattern[(i + i / pattern.len()) % pattern.len()];
                if odd && i % 7 == 3 && dtype.code != 0 {
                    return specials[label % 4];
                }
                match slot {
                    LOGITS => logit.clamp(-dtype.largest(), dtype.largest()),
                    TARGETS if dtype.code == 0 => self.labels[label % self.labels.len()] as f64,
                    TARGETS if hard => unit.round(),
                    NORMALIZER => 0.5 + 3.0 * unit,
                    LOSS | GRAD => 77.0,
                    _ => unit,
                }
            }))
        });
        tensors.collect()
    }

    /// Whether the library might follow what has no memory. Strides are a tensor's own business; sizes that have none
    /// do not fit the other tensors, unless there are two of them.
    fn leads_nowhere(&self, memory: &[Option<Owned>]) -> bool {
        let tensors = || memory.iter().flatten();
        let huge = tensors().filter(|owned| owned.spec.count().is_none()).count();
        huge > 1 || tensors().any(|owned| owned.spec.count().is_some_and(|count| owned.elements.len() != count))
    }

    /// The call itself, from memory as it was at first.
    pub fn make(&self, memory: &[Option<Owned>], function: Function, num_threads: i32) -> Done {
        memory.iter().flatten().for_each(Owned::restore);
        let options = Options { num_threads, ..self.options };
        let lent = |slot: usize| match self.aliasing {
            Aliasing::InPlace if slot == GRAD => memory[LOGITS].as_ref(),
            Aliasing::Overlapping(output, other) if slot == output => memory[other]
                .as_ref()
                .filter(|other| memory[output].as_ref().is_some_and(|own| own.initial.len() <= other.initial.len())),
            _ => None,
        };
        let tensors: Vec<Option<Tensor>> =
            (0..8).map(|slot| memory[slot].as_ref().map(|owned| owned.tensor(lent(slot)))).collect();
        let pointer = |slot: usize| tensors[slot].as_ref().map_or(null(), |tensor| tensor as *const Tensor);
        let inputs = Inputs { struct_size: self.inputs_size, tensors: std::array::from_fn(pointer) };
        let options_pointer = if self.null_structs & 1 != 0 { null() } else { &raw const options };
        let inputs_pointer = if self.null_structs & 2 != 0 { null() } else { &raw const inputs };
        let grad_loss = pointer(GRAD_LOSS);
        let (loss, grad) = (pointer(LOSS).cast_mut(), pointer(GRAD).cast_mut());
        // SAFETY: pointers are NULL or lead to structs as the header says, whose memory is there or which the library
        // must refuse (`leads_nowhere`).
        let status = unsafe {
            match function {
                Function::Forward => focal_loss_forward(options_pointer, inputs_pointer, loss),
                Function::Backward => focal_loss_backward(options_pointer, inputs_pointer, grad_loss, grad),
                Function::Both => focal_loss_forward_backward(options_pointer, inputs_pointer, grad_loss, loss, grad),
            }
        };
        let message = last_error_message();
        Done { status, message, bytes: memory.iter().map(|owned| owned.as_ref().map(Owned::bytes)).collect() }
    }

    /// Makes the call on every instruction set and with one thread and several, and checks what came of it.
    pub fn check(&self, memory: &[Option<Owned>]) -> Option<Done> {
        if self.leads_nowhere(memory) {
            return None;
        }
        let first = self.make(memory, self.function, self.options.num_threads);
        let describe = || format!("{:?} {:?} {:?}: {}", self.function, self.options, self.tensors, first.message);
        match first.status {
            OK => assert!(first.message.is_empty()),
            INVALID_ARGUMENT | UNSUPPORTED => assert!(self.damaged, "refused: {}", describe()),
            CUDA => {
                assert!(self.tensors.iter().flatten().any(|spec| matches!(spec.device.0, 2 | 13)), "{}", describe())
            }
            other => panic!("status {other}: {}", describe()),
        }
        assert_eq!(first.status == OK, first.message.is_empty(), "{}", describe());
        let written = |slot: usize| match (self.function, slot) {
            (Function::Forward, GRAD) | (Function::Backward, LOSS) => false,
            (_, LOSS | GRAD) => first.status == OK,
            (_, LOGITS) => {
                let in_place = [Aliasing::InPlace, Aliasing::Overlapping(GRAD, LOGITS)].contains(&self.aliasing);
                first.status == OK && in_place
            }
            _ => false,
        };
        for slot in 0..8 {
            let (Some(owned), Some(bytes)) = (&memory[slot], &first.bytes[slot]) else { continue };
            if written(slot) {
                assert!(owned.gaps_are_untouched(bytes), "wrote beside tensor {slot}: {}", describe());
            } else {
                assert!(*bytes == owned.initial, "tensor {slot} was written: {}", describe());
            }
        }
        if first.status != OK {
            return Some(first);
        }
        if let Aliasing::Overlapping(output, other) = self.aliasing {
            let used = match output {
                LOSS => self.function != Function::Backward,
                _ => self.function != Function::Forward,
            };
            let (Some(own), Some(lender)) = (&memory[output], &memory[other]) else { return Some(first) };
            let met = used && own.initial.len() <= lender.initial.len() && !own.elements.is_empty();
            let met = met && !lender.elements.is_empty() && (other != GRAD_LOSS || self.function != Function::Forward);
            let in_place = output == GRAD && other == LOGITS;
            let skewed = own.spec.skipped != 0 || lender.spec.skipped != 0 || self.inputs_size != size_of::<Inputs>();
            assert!(!met || in_place || skewed, "overlap of {output} and {other} let through: {}", describe());
            return Some(first);
        }
        // One set of bits for every instruction set and number of threads.
        on_every_isa(|isa| {
            for threads in [1, 2] {
                let again = self.make(memory, self.function, threads);
                assert!(again == first, "{isa}, {threads} threads: other bits: {}", describe());
            }
        });
        if self.function == Function::Both {
            let forward = self.make(memory, Function::Forward, 1);
            assert!(forward.bytes[LOSS] == first.bytes[LOSS], "forward gives other bits: {}", describe());
            let backward = self.make(memory, Function::Backward, 1);
            assert!(backward.bytes[GRAD] == first.bytes[GRAD], "backward gives other bits: {}", describe());
        }
        if !self.damaged {
            let in_place = self.aliasing == Aliasing::InPlace;
            for slot in [LOSS, GRAD] {
                let from = if slot == GRAD && in_place { LOGITS } else { slot };
                let (Some(owned), Some(bytes)) = (&memory[from], &first.bytes[from]) else { continue };
                let values = owned.values(bytes);
                assert!(!values.iter().any(|value| value.is_nan()), "NaN in tensor {slot}: {}", describe());
                assert!(slot == GRAD || values.iter().all(|&value| value >= 0.0), "negative loss: {}", describe());
            }
        }
        Some(first)
    }

    /// The same with other tensors, none of them in another's memory.
    pub fn replaced(mut self, replace: impl Fn(usize, Option<Spec>) -> Option<Spec>) -> Self {
        self.aliasing = Aliasing::None;
        self.tensors = std::array::from_fn(|slot| replace(slot, self.tensors[slot].take()));
        self
    }

    pub fn set_labels(&mut self, labels: Vec<i64>) {
        self.labels = labels;
    }
}
