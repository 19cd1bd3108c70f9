//! The kernels as the driver sees them: PTX, names, and the struct that each is handed. `kernels/problem.h` says what
//! they ask for; what is here mirrors it, which a test checks.

use crate::tensor::{DType, MAX_RANK};

/// Compiled from `kernels/focal_loss.cu` by `kernels/make_ptx.py`; the driver makes it fit the device. Ends with a NUL.
pub const PTX: &str = concat!(include_str!("kernels/focal_loss.ptx"), "\0");

pub const BLOCKS_PER_SM: u32 = 4;
pub const MAX_BLOCKS: u32 = 65536;
pub const MAX_COUNT_BLOCKS: u32 = 256;
pub const ROW_AXES: usize = MAX_RANK - 1;

/// Elements of a `dtype` that one memory access moves.
pub fn lanes(dtype: DType) -> u64 {
    16 / dtype.size() as u64
}

/// Elements that a thread of the `rows` kernels works on at a time.
pub fn row_group(dtype: DType) -> u64 {
    if dtype.size() == 8 { 2 } else { 8 }
}

/// Which outputs a kernel writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writes {
    Loss,
    Grad,
    Both,
}

/// What a kernel does, its element type apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    Count,
    SigmoidRows(Writes),
    SigmoidIndex(Writes),
    SigmoidDense(Writes),
    SigmoidStrided,
    SoftmaxWarp,
    SoftmaxThread,
    Finish,
}

/// One of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub body: Body,
    pub dtype: DType,
}

impl Body {
    pub fn threads(self) -> u32 {
        match self {
            Body::SoftmaxWarp | Body::SoftmaxThread => 128,
            _ => 256,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Body::Count => "count",
            Body::SigmoidRows(_) => "sigmoid_rows",
            Body::SigmoidIndex(_) => "sigmoid_index",
            Body::SigmoidDense(_) => "sigmoid_dense",
            Body::SigmoidStrided => "sigmoid_strided",
            Body::SoftmaxWarp => "softmax_warp",
            Body::SoftmaxThread => "softmax_thread",
            Body::Finish => "finish",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Body::SigmoidRows(writes) | Body::SigmoidIndex(writes) | Body::SigmoidDense(writes) => match writes {
                Writes::Loss => "_loss",
                Writes::Grad => "_grad",
                Writes::Both => "_both",
            },
            _ => "",
        }
    }
}

impl Kernel {
    pub fn all() -> impl Iterator<Item = Self> {
        let by_writes = [Writes::Loss, Writes::Grad, Writes::Both]
            .map(|writes| [Body::SigmoidRows(writes), Body::SigmoidIndex(writes), Body::SigmoidDense(writes)]);
        let others = [Body::Count, Body::SigmoidStrided, Body::SoftmaxWarp, Body::SoftmaxThread, Body::Finish];
        let bodies = by_writes.into_iter().flatten().chain(others);
        bodies.flat_map(|body| [DType::F16, DType::BF16, DType::F32, DType::F64].map(|dtype| Self { body, dtype }))
    }

    pub fn name(self) -> String {
        let dtype = match self.dtype {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::F64 => "f64",
            _ => "f32",
        };
        format!("focal_loss_{}_{dtype}{}", self.body.name(), self.body.suffix())
    }
}

/// A struct of C, and the names of its fields in order.
macro_rules! c_struct {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default)]
        #[repr(C)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)* }

        #[cfg(test)]
        impl $name {
            const FIELDS: &[(&str, usize, usize)] = &[
                $((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>()),)*
            ];
        }
    };
}

c_struct! {
    /// `focal_loss_operand`: a tensor over the logits' index space; strides in elements.
    Operand {
        /// 0: absent.
        address: u64,
        class_stride: i64,
        row_strides: [i64; ROW_AXES],
    }
}

c_struct! {
    /// `focal_loss_problem`, the only parameter of every kernel.
    Arguments {
        logits: Operand,
        targets: Operand,
        weight: Operand,
        grad_loss: Operand,
        loss: Operand,
        grad_logits: Operand,
        class_alpha: u64,
        class_alpha_stride: i64,
        normalizer: u64,
        partials: u64,
        count_partials: u64,
        row_shape: [i64; ROW_AXES],
        rows: i64,
        classes: i64,
        ignore_index: i64,
        background_index: i64,
        alpha: f64,
        gamma: f64,
        divisor: f64,
        count_factor: f64,
        row_rank: i32,
        index_bytes: i32,
        has_ignore: i32,
        has_background: i32,
        reduced: i32,
        count: i32,
        row_weights: i32,
        rows_innermost: i32,
        blocks: u32,
        count_blocks: u32,
    }
}

/// What the device counts for the mean to divide by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Count {
    /// It is known: `divisor`.
    Nothing = 0,
    /// Rows that are not ignored, times `count_factor`.
    Rows = 1,
    /// Rows of a real class, or the sum of dense targets; at least 1.
    Positives = 2,
    /// The sum of `weight` over what is not ignored.
    Weights = 3,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;
    use std::process::{Command, Stdio};

    /// The C compiler finds the same layout and the same numbers in `problem.h`.
    #[test]
    fn the_header_says_the_same() {
        let mut source = String::from("#include <stddef.h>\n#include \"problem.h\"\n");
        let mut assert = |what: String, value: i64| {
            writeln!(source, "_Static_assert({what} == {value}, \"{what}\");").unwrap();
        };
        for (name, size, fields) in [
            ("focal_loss_operand", size_of::<Operand>(), Operand::FIELDS),
            ("focal_loss_problem", size_of::<Arguments>(), Arguments::FIELDS),
        ] {
            assert(format!("sizeof({name})"), size as i64);
            for (field, offset, size) in fields {
                assert(format!("offsetof({name}, {field})"), *offset as i64);
                assert(format!("sizeof((({name} *)0)->{field})"), *size as i64);
            }
            // No field of the header's is missing here: those above fill the struct.
            assert_eq!(fields.iter().map(|(_, _, size)| size).sum::<usize>(), size);
        }
        for (name, value) in [
            ("BLOCKS_PER_SM", BLOCKS_PER_SM as i64),
            ("MAX_BLOCKS", MAX_BLOCKS as i64),
            ("MAX_COUNT_BLOCKS", MAX_COUNT_BLOCKS as i64),
            ("ROW_AXES", ROW_AXES as i64),
            ("ROW_GROUP(8)", row_group(DType::F64) as i64),
            ("ROW_GROUP(4)", row_group(DType::F32) as i64),
            ("ROW_GROUP(2)", row_group(DType::F16) as i64),
            ("COUNT_NOTHING", Count::Nothing as i64),
            ("COUNT_ROWS", Count::Rows as i64),
            ("COUNT_POSITIVES", Count::Positives as i64),
            ("COUNT_WEIGHTS", Count::Weights as i64),
        ] {
            assert(format!("(int)FOCAL_LOSS_{name}"), value);
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cuda/kernels");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let mut compiling = Command::new(compiler)
            .args(["-std=c11", "-fsyntax-only", "-x", "c", "-I", folder, "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a C compiler");
        std::io::Write::write_all(&mut compiling.stdin.take().unwrap(), source.as_bytes()).unwrap();
        assert!(compiling.wait().unwrap().success(), "{source}");
    }

    #[test]
    fn the_ptx_has_every_kernel() {
        assert_eq!(PTX.find('\0'), Some(PTX.len() - 1));
        for kernel in Kernel::all() {
            assert!(PTX.contains(&format!(".entry {}(", kernel.name())), "{}", kernel.name());
        }
        assert_eq!(Kernel::all().count(), PTX.matches(".entry ").count());
    }
}
