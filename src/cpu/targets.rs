//! Class indices: read, checked, and spelled out as one mark for each logit.

use std::fmt;

use crate::error::{Error, ErrorKind};
use crate::math::real::Real;
use crate::problem::Problem;
use crate::tensor::DType;

use super::isa::{Isa, Kernel};
use super::sigmoid_loops::{DONE, IGNORED as IGNORED_MARK, POSITIVE};
use super::storage::{Memory, Storage};
use super::walk::{Run, Walk};

/// The label of an ignored element; hard labels are 0 and 1.
pub const IGNORED: i32 = -1;

/// What a message adds about a special index, if there is one.
struct Special(&'static str, Option<i64>);

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.1.map_or(Ok(()), |index| write!(f, ", {} {index}", self.0))
    }
}

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
        let (background, ignored) = (Special("background_index", *background), Special("ignore_index", *ignored));
        Error::new(
            ErrorKind::InvalidArgument,
            format_args!("targets: class index {value} at row {row} is outside [0, {classes}){background}{ignored}"),
        )
    }

    /// Whether a dense run of indices says background throughout, as most of a detector's do.
    fn is_background(&self, run: Run) -> bool {
        fn all<T: Copy + Into<i64>>(values: Option<&[T]>, background: i64) -> bool {
            values.is_some_and(|values| values.iter().fold(true, |all, &value| all & (value.into() == background)))
        }
        match (self.background.filter(|_| self.background != self.ignored), &self.memory) {
            (None, _) => false,
            (Some(background), IndexMemory::I32(memory)) => all(memory.slice(run), background),
            (Some(background), IndexMemory::I64(memory)) => all(memory.slice(run), background),
        }
    }

    /// The marks of one class in a run of rows.
    fn mark_class(&self, class: usize, run: Run, marks: &mut [u8]) {
        let own = class as i64;
        let own = Some(own).filter(|_| self.background != Some(own));
        let isa = Isa::chosen();
        // An i32 is no index that does not fit it.
        let narrow = |index: i64| i32::try_from(index).ok();
        match &self.memory {
            IndexMemory::I32(memory) if run.stride == 1 => {
                let values = memory.slice(run).expect("the run is dense");
                isa.run(MarkClass { values, own: own.and_then(narrow), ignored: self.ignored.and_then(narrow), marks });
            }
            IndexMemory::I64(memory) if run.stride == 1 => {
                let values = memory.slice(run).expect("the run is dense");
                isa.run(MarkClass { values, own, ignored: self.ignored, marks });
            }
            _ => {
                for (i, to) in marks.iter_mut().enumerate() {
                    *to = mark(self.value(run.offset + i as isize * run.stride), own, self.ignored);
                }
            }
        }
    }
}

/// The mark of a logit of class `own` (`None`: that of the background) whose row has the index `value`.
#[inline(always)]
fn mark<T: PartialEq>(value: T, own: Option<T>, ignored: Option<T>) -> u8 {
    if ignored.is_some_and(|ignored| value == ignored) {
        IGNORED_MARK
    } else if own.is_some_and(|own| value == own) {
        POSITIVE
    } else {
        DONE
    }
}

struct MarkClass<'a, T> {
    values: &'a [T],
    own: Option<T>,
    ignored: Option<T>,
    marks: &'a mut [u8],
}

impl<T: Copy + PartialEq> Kernel for MarkClass<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Self { values, own, ignored, marks } = self;
        marks.iter_mut().zip(values).for_each(|(to, &value)| *to = mark(value, own, ignored));
    }
}

/// Class indices over the logits' index space.
pub struct Rows {
    indices: Indices,
    walk: RowWalk,
}

// There is one for a call; a box would be an allocation.
#[allow(clippy::large_enum_variant)]
enum RowWalk {
    /// Each row's logits follow each other: a walk over the rows, and how many classes they have.
    Innermost(Walk, usize),
    /// Walks over the logits: of the indices, and of the position along the class axis.
    Other(Walk, Walk),
}

impl Rows {
    /// `None` for dense targets.
    pub fn new(problem: &Problem) -> Option<Self> {
        let indices = Indices::new(problem)?;
        let (shape, targets) = (&problem.inputs.logits.shape, &problem.inputs.targets);
        let walk = if problem.axis + 1 == shape.len() && problem.classes > 1 {
            RowWalk::Innermost(Walk::new(&problem.row_shape, &targets.strides), problem.classes)
        } else {
            let rows = Walk::new(shape, &problem.over_classes(targets));
            RowWalk::Other(rows, Walk::new(shape, &problem.along_classes(1)))
        };
        Some(Self { indices, walk })
    }

    /// Marks positives and what is ignored among the logits from `first` on; gives the number of
    /// positives. `None`: all are negatives, and `marks` is as it was.
    pub fn mark(&self, first: usize, marks: &mut [u8]) -> Option<usize> {
        match &self.walk {
            RowWalk::Innermost(rows, classes) => self.mark_rows(rows, *classes, first, marks),
            RowWalk::Other(rows, classes) => Some(self.mark_elements(rows, classes, first, marks)),
        }
    }

    fn mark_rows(&self, rows: &Walk, classes: usize, first: usize, marks: &mut [u8]) -> Option<usize> {
        let (first_row, position) = (first / classes, first % classes);
        let mut left = (position + marks.len()).div_ceil(classes);
        let mut cursor = rows.at(first_row);
        let mut positives = None;
        // Where the row starts; the first one may have started before the marks.
        let mut start = -(position as isize);
        while left > 0 {
            let run = cursor.next_run(left);
            left -= run.count;
            if self.indices.is_background(run) {
                start += (run.count * classes) as isize;
                continue;
            }
            let positives = positives.get_or_insert_with(|| {
                marks.fill(DONE);
                0
            });
            for i in 0..run.count {
                match self.indices.label(run.offset + i as isize * run.stride) {
                    Label::Class(own) => {
                        if let Some(mark) = marks.get_mut((start + own as isize) as usize) {
                            *mark = POSITIVE;
                            *positives += 1;
                        }
                    }
                    Label::Ignored => {
                        let end = marks.len().min((start + classes as isize) as usize);
                        marks[start.max(0) as usize..end].fill(IGNORED_MARK);
                    }
                    Label::Background | Label::Invalid => {}
                }
                start += classes as isize;
            }
        }
        positives
    }

    fn mark_elements(&self, rows: &Walk, classes: &Walk, first: usize, marks: &mut [u8]) -> usize {
        let (mut rows, mut classes) = (rows.at(first), classes.at(first));
        let mut done = 0;
        while done < marks.len() {
            let left = marks.len() - done;
            let class = classes.peek(left);
            // A class for itself, unless all of the run have one.
            let run = rows.peek(if class.stride == 0 { class.count } else { 1 });
            rows.skip(run.count);
            classes.skip(run.count);
            self.indices.mark_class(class.offset as usize, run, &mut marks[done..done + run.count]);
            done += run.count;
        }
        marks.iter().filter(|&&mark| mark == POSITIVE).count()
    }
}

/// The labels that marks stand for: 1, 0 and [`IGNORED`].
pub fn labels_of_marks<S: Storage>(marks: &[u8], labels: &mut [S]) {
    let label = |value: f64| S::store(S::Real::from_f64(value));
    let (zero, one, ignored) = (label(0.0), label(1.0), label(IGNORED.into()));
    for (label, &mark) in labels.iter_mut().zip(marks) {
        *label = match mark {
            POSITIVE => one,
            IGNORED_MARK => ignored,
            _ => zero,
        };
    }
}
