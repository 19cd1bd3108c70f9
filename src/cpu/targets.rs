//! Class indices: read, checked, and spelled out as one label for each logit.

use crate::error::{Error, ErrorKind};
use crate::math::real::Real;
use crate::problem::Problem;
use crate::tensor::DType;

use super::storage::Memory;
use super::walk::{Cursor, Run};

/// The label of an ignored element; hard labels are 0 and 1.
pub const IGNORED: i32 = -1;

/// What a class index means for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    Class(usize),
    Background,
    Ignored,
    Invalid,
}

/// Class indices of either width, with what the special ones mean.
#[derive(Clone, Copy)]
pub struct Indices {
    memory: IndexMemory,
    classes: usize,
    background: Option<i64>,
    ignored: Option<i64>,
}

#[derive(Clone, Copy)]
enum IndexMemory {
    I32(Memory<i32>),
    I64(Memory<i64>),
}

impl Indices {
    /// `None` for dense targets.
    pub fn new(problem: &Problem) -> Option<Self> {
        let targets = &problem.inputs.targets;
        // SAFETY: the problem's tensors are valid for the call, and offsets come from their walks.
        let memory = unsafe {
            match targets.dtype {
                DType::I32 => IndexMemory::I32(Memory::new(targets.data)),
                DType::I64 => IndexMemory::I64(Memory::new(targets.data)),
                _ => return None,
            }
        };
        Some(Self {
            memory,
            classes: problem.classes,
            background: problem.background_index(),
            ignored: problem.options.ignore_index,
        })
    }

    #[inline]
    pub fn value(&self, offset: isize) -> i64 {
        match &self.memory {
            IndexMemory::I32(memory) => memory.read(offset).into(),
            IndexMemory::I64(memory) => memory.read(offset),
        }
    }

    #[inline]
    pub fn label(&self, offset: isize) -> Label {
        let value = self.value(offset);
        if Some(value) == self.ignored {
            Label::Ignored
        } else if Some(value) == self.background {
            Label::Background
        } else {
            match usize::try_from(value) {
                Ok(class) if class < self.classes => Label::Class(class),
                _ => Label::Invalid,
            }
        }
    }

    /// The error for an index that is none of a class, the background or ignored.
    pub fn out_of_range(&self, row: usize, value: i64) -> Error {
        let Self { classes, background, ignored, .. } = self;
        let special = |name: &str, index: &Option<i64>| index.map_or(String::new(), |i| format!(", {name} {i}"));
        let message = format!(
            "targets: class index {value} at row {row} is outside [0, {classes}){}{}",
            special("background_index", background),
            special("ignore_index", ignored)
        );
        Error::new(ErrorKind::InvalidArgument, message)
    }

    /// One label for each of the next `labels.len()` logits: 1 where the class is the row's own, 0
    /// elsewhere, [`IGNORED`] throughout an ignored row. `targets` walks the class indices and
    /// `classes` the position along the class axis, both over the logits' shape.
    pub fn spell_out<R: Real>(&self, targets: &mut Cursor, classes: &mut Cursor, labels: &mut [R]) {
        let ignored = R::from_f64(IGNORED.into());
        let mut done = 0;
        while done < labels.len() {
            let left = labels.len() - done;
            let (row, class) = (targets.peek(left), classes.peek(left));
            let count = row.count.min(class.count);
            targets.skip(count);
            classes.skip(count);
            let part = &mut labels[done..done + count];
            done += count;
            if row.stride == 0 {
                let label = self.label(row.offset);
                part.fill(if label == Label::Ignored { ignored } else { R::ZERO });
                if let Label::Class(own) = label {
                    for_own_position(own, class, count, |i| part[i] = R::ONE);
                }
            } else {
                for (i, t) in part.iter_mut().enumerate() {
                    let at = (class.offset + i as isize * class.stride) as usize;
                    *t = match self.label(row.offset + i as isize * row.stride) {
                        Label::Ignored => ignored,
                        Label::Class(own) if own == at => R::ONE,
                        _ => R::ZERO,
                    };
                }
            }
        }
    }
}

/// Where in a run of class positions (stride 1, or 0 for a single class) a row's own class lies.
#[inline]
pub fn for_own_position(own: usize, class: Run, count: usize, mut set: impl FnMut(usize)) {
    let first = class.offset as usize;
    match class.stride {
        0 if own == first => (0..count).for_each(&mut set),
        1 if own >= first && own - first < count => set(own - first),
        _ => {}
    }
}
