//! Output shapes, for hosts that can be told.

use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;

use ort_sys::{OrtOpAttr, OrtOpAttrType, OrtShapeInferContext, OrtTensorTypeAndShapeInfo};

use crate::error::Result;
use crate::options::{Activation, Reduction};
use crate::problem::resolve_axis;
use crate::tensor::MAX_RANK;

use super::api::{Api, call};
use super::attributes::REDUCTIONS;
use super::operator::{LOGITS, Operator};

/// Sets the output's shape where it is known. An unknown rank looks like rank 0, and then says nothing.
///
/// # Safety
/// `context` is the host's for this call.
pub unsafe fn infer(operator: &Operator, context: *mut OrtShapeInferContext) -> Result<()> {
    let api = operator.api;
    let mut info = std::ptr::null_mut();
    // SAFETY: the host's context, which keeps the info.
    unsafe { call!(api, ShapeInferContext_GetInputTypeShape, context, LOGITS + operator.first_input(), &mut info)? };
    let mut rank = 0;
    // SAFETY: as above.
    unsafe { call!(api, GetDimensionsCount, info, &mut rank)? };
    if rank == 0 || rank > MAX_RANK {
        return Ok(());
    }
    // SAFETY: as above.
    let reduced = unsafe { reduction(api, context) } != Some(Reduction::None);
    if operator.kind.gradient || (!reduced && operator.kind.activation == Activation::Sigmoid) {
        // The logits' own type and shape, symbolic sizes included.
        // SAFETY: as above.
        return unsafe { call!(api, ShapeInferContext_SetOutputTypeShape, context, 0, info) };
    }
    let mut left_out = 0..rank;
    if !reduced {
        // SAFETY: as above.
        let axis = resolve_axis(unsafe { axis(api, context) }, rank)?;
        left_out = axis..axis + 1;
    }
    // SAFETY: as above.
    unsafe { set_output(api, context, info, left_out, rank) }
}

/// The output has the logits' type and their axes, but for those that are left out.
///
/// # Safety
/// As for [`infer`]; `info` is the logits'.
unsafe fn set_output(
    api: Api,
    context: *mut OrtShapeInferContext,
    info: *mut OrtTensorTypeAndShapeInfo,
    left_out: Range<usize>,
    rank: usize,
) -> Result<()> {
    let mut sizes = [0i64; MAX_RANK];
    let mut symbols: [*const c_char; MAX_RANK] = [c"".as_ptr(); MAX_RANK];
    let mut output = std::ptr::null_mut();
    // An enumerator that a newer host added must not become a Rust value.
    let mut element_type = 0i32;
    // SAFETY: `rank` entries are there to be filled; the new info is released after the host copied it.
    unsafe {
        call!(api, GetDimensions, info, sizes.as_mut_ptr(), rank)?;
        call!(api, GetSymbolicDimensions, info, symbols.as_mut_ptr(), rank)?;
        call!(api, GetTensorElementType, info, (&raw mut element_type).cast())?;
        sizes.copy_within(left_out.end..rank, left_out.start);
        symbols.copy_within(left_out.end..rank, left_out.start);
        let kept = rank - left_out.len();
        call!(api, CreateTensorTypeAndShapeInfo, &mut output)?;
        let set = call!(api, SetDimensions, output, sizes.as_ptr(), kept)
            .and_then(|()| call!(api, SetSymbolicDimensions, output, symbols.as_mut_ptr(), kept))
            .and_then(|()| call!(api, SetTensorElementType, output, *(&raw const element_type).cast()))
            .and_then(|()| call!(api, ShapeInferContext_SetOutputTypeShape, context, 0, output));
        ((*api.table()).ReleaseTensorTypeAndShapeInfo)(output);
        set
    }
}

/// # Safety
/// As for [`infer`].
unsafe fn reduction(api: Api, context: *mut OrtShapeInferContext) -> Option<Reduction> {
    let mut text = [0u8; 16];
    // SAFETY: passed on, with room for sixteen bytes.
    let size = unsafe {
        attribute(api, context, c"reduction", OrtOpAttrType::ORT_OP_ATTR_STRING, text.as_mut_ptr().cast(), 16)?
    };
    let text = std::str::from_utf8(text.get(..size)?).ok()?.trim_end_matches('\0');
    REDUCTIONS.iter().find(|(name, _)| *name == text).map(|(_, reduction)| *reduction)
}

/// # Safety
/// As for [`infer`].
unsafe fn axis(api: Api, context: *mut OrtShapeInferContext) -> isize {
    let mut value = -1i64;
    // SAFETY: passed on, with room for one integer.
    unsafe { attribute(api, context, c"axis", OrtOpAttrType::ORT_OP_ATTR_INT, (&raw mut value).cast(), 8) };
    value as isize
}

/// Reads an attribute into `room` bytes; `None` where it is absent or of another type.
///
/// # Safety
/// As for [`infer`]; `data` has that room.
unsafe fn attribute(
    api: Api,
    context: *mut OrtShapeInferContext,
    name: &CStr,
    kind: OrtOpAttrType,
    data: *mut c_void,
    room: usize,
) -> Option<usize> {
    let mut attribute: *const OrtOpAttr = std::ptr::null();
    let mut size = 0;
    // SAFETY: the context keeps the attribute.
    unsafe {
        call!(api, ShapeInferContext_GetAttribute, context, name.as_ptr(), &mut attribute).ok()?;
        call!(api, ReadOpAttr, attribute, kind, data, room, &mut size).ok()?;
    }
    Some(size)
}
