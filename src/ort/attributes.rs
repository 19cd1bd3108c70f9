//! A node's attributes, as the operators' specification has them, turned into [`Options`].

use std::ffi::{CStr, c_char};
use std::fmt;

use ort_sys::OrtKernelInfo;

use crate::error::{Error, ErrorKind, Result, fail, text};
use crate::options::{Activation, Normalization, Options, Reduction};
use crate::tensor::{MAX_RANK, Shape};

use super::api::{Api, Lossy, call};

pub const REDUCTIONS: [(&str, Reduction); 3] =
    [("none", Reduction::None), ("sum", Reduction::Sum), ("mean", Reduction::Mean)];

const NORMALIZATIONS: [(&str, Normalization); 4] = [
    ("elements", Normalization::Elements),
    ("rows", Normalization::Rows),
    ("positives", Normalization::Positives),
    ("weights", Normalization::Weights),
];

/// The attribute, if any, that says `name`; an error names those that are allowed.
fn one_of<T: Copy>(attribute: &str, name: &str, allowed: &[(&'static str, T)]) -> Result<T> {
    match allowed.iter().find(|(known, _)| *known == name) {
        Some((_, value)) => Ok(*value),
        None => fail!(InvalidArgument, "attribute {attribute} is \"{name}\", but must be one of {}", Names(allowed)),
    }
}

/// The names of a table, for a message.
struct Names<'a, T>(&'a [(&'static str, T)]);

impl<T> fmt::Display for Names<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(index, (name, _))| {
            f.write_str(if index == 0 { "" } else { ", " })?;
            write!(f, "\"{name}\"")
        })
    }
}

/// A node as the host shows it while a kernel is made.
pub struct Node {
    api: Api,
    info: *const OrtKernelInfo,
}

impl Node {
    /// # Safety
    /// The info is valid for as long as the result is used, as it is during `CreateKernel`.
    pub unsafe fn new(api: Api, info: *const OrtKernelInfo) -> Self {
        Self { api, info }
    }

    pub fn options(&self, activation: Activation) -> Result<Options> {
        let defaults = Options::default();
        let reduction = self.string(c"reduction")?;
        let normalization = self.string(c"normalization")?;
        let default_alpha = match activation {
            Activation::Sigmoid => defaults.alpha,
            Activation::Softmax => -1.0,
        };
        let options = Options {
            activation,
            alpha: self.number(c"alpha")?.unwrap_or(default_alpha),
            gamma: self.number(c"gamma")?.unwrap_or(defaults.gamma),
            reduction: reduction.map_or(Ok(defaults.reduction), |name| one_of("reduction", &name, &REDUCTIONS))?,
            normalization: normalization
                .map_or(Ok(defaults.normalization), |name| one_of("normalization", &name, &NORMALIZATIONS))?,
            axis: self.integer(c"axis")?.map_or(defaults.axis, |axis| axis as isize),
            ignore_index: self.integer(c"ignore_index")?,
            background_index: self.integer(c"background_index")?,
            num_threads: 0,
        };
        options.validate()?;
        Ok(options)
    }

    /// The node's name; empty where it has none.
    pub fn name(&self) -> String {
        // SAFETY: the host fills at most `size` bytes.
        self.text(|buffer, size| unsafe { call!(self.api, KernelInfo_GetNodeName, self.info, buffer, size) })
            .unwrap_or_default()
    }

    /// The shape that the graph gives an input; `None` where it leaves the rank or a size open, or where
    /// there is no such input. An unknown rank looks like rank 0.
    pub fn input_shape(&self, index: usize) -> Option<Shape> {
        let mut count = 0;
        let mut types = std::ptr::null_mut();
        let mut info = std::ptr::null();
        let mut rank = 0;
        let mut sizes = [0i64; MAX_RANK];
        // SAFETY: the type info is released after its last use; no more sizes are asked for than fit.
        unsafe {
            call!(self.api, KernelInfo_GetInputCount, self.info, &mut count).ok()?;
            if index >= count {
                return None;
            }
            call!(self.api, KernelInfo_GetInputTypeInfo, self.info, index, &mut types).ok()?;
            let asked = call!(self.api, CastTypeInfoToTensorInfo, types, &mut info).and_then(|()| {
                if info.is_null() {
                    return Ok(());
                }
                call!(self.api, GetDimensionsCount, info, &mut rank)?;
                call!(self.api, GetDimensions, info, sizes.as_mut_ptr(), rank.min(MAX_RANK))
            });
            ((*self.api.table()).ReleaseTypeInfo)(types);
            asked.ok()?;
        }
        let sizes = sizes.get(..rank).filter(|sizes| !sizes.is_empty() && sizes.iter().all(|&size| size >= 0))?;
        Shape::new(sizes.iter().map(|&size| size as usize))
    }

    fn number(&self, name: &CStr) -> Result<Option<f64>> {
        let mut value = 0f32;
        // SAFETY: the host writes one float.
        let Err(missing) =
            (unsafe { call!(self.api, KernelInfoGetAttribute_float, self.info, name.as_ptr(), &mut value) })
        else {
            return Ok(Some(value.into()));
        };
        let mut value = 0i64;
        // SAFETY: the host writes one integer.
        if unsafe { call!(self.api, KernelInfoGetAttribute_int64, self.info, name.as_ptr(), &mut value) }.is_ok() {
            return Ok(Some(value as f64));
        }
        self.absent(missing, name, "a float")
    }

    fn integer(&self, name: &CStr) -> Result<Option<i64>> {
        let mut value = 0i64;
        // SAFETY: the host writes one integer.
        match unsafe { call!(self.api, KernelInfoGetAttribute_int64, self.info, name.as_ptr(), &mut value) } {
            Ok(()) => Ok(Some(value)),
            Err(missing) => self.absent(missing, name, "an int"),
        }
    }

    fn string(&self, name: &CStr) -> Result<Option<String>> {
        // SAFETY: the host fills at most `size` bytes.
        let text = self.text(|buffer, size| unsafe {
            call!(self.api, KernelInfoGetAttribute_string, self.info, name.as_ptr(), buffer, size)
        });
        match text {
            Ok(text) => Ok(Some(text)),
            Err(missing) => self.absent(missing, name, "a string"),
        }
    }

    /// An attribute that could not be read as `expected`: `None` if it is not there, an error if it is of another
    /// type. The host says which in words alone; should they ever change, trying the other types decides.
    fn absent<T>(&self, missing: Error, name: &CStr, expected: &str) -> Result<Option<T>> {
        if missing.kind() == ErrorKind::OutOfMemory {
            return Err(missing);
        }
        let message = missing.message();
        let Self { api, info } = *self;
        let (mut float, mut integer, mut sizes) = (0f32, 0i64, [0usize; 3]);
        let [text, floats, integers] = &mut sizes;
        // SAFETY: one number, or the size that the other types would need, is written.
        let mut of_another_type = || unsafe {
            call!(api, KernelInfoGetAttribute_float, info, name.as_ptr(), &mut float).is_ok()
                || call!(api, KernelInfoGetAttribute_int64, info, name.as_ptr(), &mut integer).is_ok()
                || call!(api, KernelInfoGetAttribute_string, info, name.as_ptr(), std::ptr::null_mut(), text).is_ok()
                || call!(api, KernelInfoGetAttributeArray_float, info, name.as_ptr(), std::ptr::null_mut(), floats)
                    .is_ok()
                || call!(api, KernelInfoGetAttributeArray_int64, info, name.as_ptr(), std::ptr::null_mut(), integers)
                    .is_ok()
        };
        if message.contains("No attribute with name") || !(message.contains("type don't match") || of_another_type()) {
            return Ok(None);
        }
        fail!(InvalidArgument, "attribute {} is not {expected} ({message})", Lossy(name.to_bytes()))
    }

    /// Asks for the size, then for the text, which ends with a NUL.
    fn text(&self, read: impl Fn(*mut c_char, *mut usize) -> Result<()>) -> Result<String> {
        let mut size = 0usize;
        read(std::ptr::null_mut(), &mut size)?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(size)?;
        buffer.resize(size, 0u8);
        read(buffer.as_mut_ptr().cast(), &mut size)?;
        let bytes = buffer.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(text(format_args!("{}", Lossy(bytes)))?)
    }
}
