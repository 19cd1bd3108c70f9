//! Softmax rows of every length that is treated in its own way: the same bits from every instruction set, layout and
//! number of threads, in place too.

use super::executor::Rayon;
use super::isa::Isa;
use super::run_with;
use super::tests::{Owned, noise, owned};
use crate::options::{Activation, Options, Reduction};
use crate::problem::{Inputs, Outputs, Problem};
use crate::tensor::{DType, Strides};

/// How rows lie in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Rows,
    /// A class after the other, each with all rows.
    Classes,
    /// Rows with their classes from the last to the first.
    Backwards,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Targets {
    Index,
    OneHot,
    Soft,
}

struct Case {
    dtype: DType,
    rows: usize,
    classes: usize,
    targets: Targets,
}

/// Ordinary rows, rows of huge and of infinite logits, and ties.
fn logit(row: usize, class: usize) -> f64 {
    let x = noise(row * 1009 + class) * 30.0 - 20.0;
    match row % 8 {
        1 => x.round(),
        2 => x * 100.0,
        3 => x * 1e3 - 3e4,
        4 if class == 1 => f64::INFINITY,
        5 if class.is_multiple_of(3) => f64::NEG_INFINITY,
        6 if class == 2 => f64::NAN,
        _ => x,
    }
}

impl Case {
    /// A tensor of the logits' shape, the values being placed as the layout says.
    fn tensor(&self, layout: Layout, value: impl Fn(usize, usize) -> f64) -> Owned {
        let (n, k) = (self.rows, self.classes);
        let mut made = owned(self.dtype, &[n, k], |i| match layout {
            Layout::Rows => value(i / k, i % k),
            Layout::Classes => value(i % n, i / n),
            Layout::Backwards => value(i / k, k - 1 - i % k),
        });
        let strides = match layout {
            Layout::Rows => [k as isize, 1],
            Layout::Classes => [1, n as isize],
            Layout::Backwards => [k as isize, -1],
        };
        made.tensor.strides = Strides::new(strides).unwrap();
        if layout == Layout::Backwards {
            made.tensor.data = made.tensor.data.wrapping_add((k - 1) * self.dtype.size());
        }
        made
    }

    /// The losses' bytes, and the gradient's, row by row.
    fn compute(&self, layout: Layout, in_place: bool, isa: Isa, num_threads: usize) -> (Vec<u64>, Vec<u8>) {
        let (n, k) = (self.rows, self.classes);
        let own = |row: usize| row * 5 % k;
        let logits = self.tensor(layout, logit);
        let targets = match self.targets {
            Targets::Index => owned(DType::I64, &[n], |row| if row % 16 == 7 { -1.0 } else { own(row) as f64 }),
            Targets::OneHot => self.tensor(layout, |row, class| f64::from(u8::from(class == own(row)))),
            Targets::Soft => self.tensor(layout, |row, class| noise(row + class * 3) / k as f64),
        };
        let other = self.tensor(layout, |_, _| 7.0);
        let grad = if in_place { &logits } else { &other };
        let loss = owned(self.dtype, &[n], |_| 7.0);
        let options = Options {
            activation: Activation::Softmax,
            alpha: -1.0,
            gamma: if k.is_multiple_of(2) { 2.0 } else { 1.5 },
            reduction: Reduction::None,
            ignore_index: (self.targets == Targets::Index).then_some(-1),
            ..Options::default()
        };
        let (class_alpha, weight, normalizer, grad_loss) = (None, None, None, None);
        let inputs =
            Inputs { logits: logits.tensor, targets: targets.tensor, class_alpha, weight, normalizer, grad_loss };
        let outputs = Outputs { loss: Some(loss.tensor), grad_logits: Some(grad.tensor) };
        // SAFETY: every tensor's memory is above, and nobody else has it.
        let problem = unsafe { Problem::new(options, inputs, outputs).unwrap() };
        run_with(&problem, &Rayon { num_threads }, isa).unwrap();
        let size = self.dtype.size();
        let mut bytes = Vec::new();
        for i in 0..n * k {
            let offset = (i / k) as isize * grad.tensor.strides[0] + (i % k) as isize * grad.tensor.strides[1];
            let at = grad.tensor.data.wrapping_offset(offset * size as isize);
            // SAFETY: an element of the tensor.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(at, size) });
        }
        (loss.bytes.clone(), bytes)
    }
}

#[test]
fn rows_of_any_length_give_the_same_bits() {
    for (classes, rows) in [(1, 40), (2, 40), (15, 40), (16, 40), (33, 40), (80, 40), (300, 20), (4097, 9), (9000, 9)] {
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            for targets in [Targets::Index, Targets::OneHot, Targets::Soft] {
                let case = Case { dtype, rows, classes, targets };
                let expected = case.compute(Layout::Rows, false, Isa::Baseline, 1);
                if targets == Targets::OneHot {
                    let index = Case { targets: Targets::Index, ..case }.compute(Layout::Rows, false, Isa::Baseline, 1);
                    let row = classes * dtype.size();
                    let counted = (0..rows).filter(|row| row % 16 != 7);
                    let same = |n: usize| expected.1[n * row..(n + 1) * row] == index.1[n * row..(n + 1) * row];
                    assert!(counted.into_iter().all(same), "{dtype:?} K {classes}: index and one-hot");
                }
                for layout in [Layout::Rows, Layout::Classes, Layout::Backwards] {
                    for in_place in [false, true] {
                        let got = case.compute(layout, in_place, Isa::chosen(), 2);
                        assert!(got == expected, "{dtype:?} {targets:?} K {classes}, {layout:?}, in place {in_place}");
                    }
                }
                for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
                    assert!(case.compute(Layout::Rows, false, isa, 1) == expected, "{dtype:?} K {classes} {isa:?}");
                }
            }
        }
    }
}
