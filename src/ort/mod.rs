//! The ONNX Runtime operators: `RegisterCustomOps`, and behind it the operators of domain `focal_loss`.
//!
//! A host that loads the library hands over its `OrtApiBase`; every call goes through that table, so the
//! library does not link against ONNX Runtime, and one binary serves every version since 1.17.
//!
//! | file | what |
//! |---|---|
//! | [`api`] | the host's function table: what is called, how statuses become errors and back |
//! | [`operator`] | the table of operators: names, types, execution providers |
//! | [`attributes`] | a node's attributes become [`crate::Options`] |
//! | [`kernel`] | a node's life: made with its attributes, computed, destroyed |
//! | [`shape`] | output shapes for hosts that can be told |
//! | [`executor`] | chunks on the host's thread pool |
//!
//! There is a variant of each operator for the CPU and for CUDA, whose work goes to the host's own stream.

mod api;
mod attributes;
mod executor;
mod kernel;
mod operator;
mod shape;

use std::ffi::{CStr, CString, c_int};
use std::sync::Mutex;

use ort_sys::{OrtApi, OrtApiBase, OrtCustomOpDomain, OrtErrorCode, OrtSessionOptions, OrtStatusPtr};

use crate::error::{Result, fail};
use api::{Api, call};
use operator::Operator;

const DOMAIN: &CStr = c"focal_loss";

/// The newest API version that is asked for, and the oldest that serves: ONNX Runtime 1.17.
const API_VERSION: u32 = 17;

/// Ours, for other copies of the library in the process.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => unreachable!(),
};

/// Marks session options that have the operators, with our version, since adding a domain twice is an error. Another copy
/// of the library in the process sees it too.
const MARK: &CStr = c"focal_loss.registered";

/// A host's domain; made once, and kept for the life of the process, since sessions share it.
struct Host {
    api: *const OrtApi,
    /// A host can be unloaded, and one of another version be loaded where it was.
    version: CString,
    domain: *mut OrtCustomOpDomain,
}

// SAFETY: the pointers are only passed back to the host, which synchronises.
unsafe impl Send for Host {}

/// One entry for each ONNX Runtime in the process: there can be several.
static HOSTS: Mutex<Vec<Host>> = Mutex::new(Vec::new());

/// Registers the operators of domain "focal_loss" with an ONNX Runtime session.
///
/// ONNX Runtime itself calls this when the library is given to `register_custom_ops_library` or
/// `RegisterCustomOpsLibrary_V2`. Registering twice with the same options is allowed.
///
/// # Safety
/// `options` and `base` are the host's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RegisterCustomOps(options: *mut OrtSessionOptions, base: *const OrtApiBase) -> OrtStatusPtr {
    if base.is_null() {
        // Without the table there is not even a status to be made.
        return OrtStatusPtr::default();
    }
    // SAFETY: the host's table; version 1 of the API has been there from the beginning.
    let (newest, oldest) = unsafe { (((*base).GetApi)(API_VERSION), ((*base).GetApi)(1)) };
    if newest.is_null() {
        if oldest.is_null() {
            return OrtStatusPtr::default();
        }
        // SAFETY: `CreateStatus` is the first entry of every version.
        return unsafe {
            ((*oldest).CreateStatus)(
                OrtErrorCode::ORT_NOT_IMPLEMENTED,
                c"focal_loss: ONNX Runtime 1.17 or newer is needed".as_ptr(),
            )
        };
    }
    // SAFETY: a table of at least version 17, valid for the life of the host.
    let api = unsafe { Api::new(newest) };
    api.guard("focal_loss", || {
        if options.is_null() {
            fail!(InvalidArgument, "RegisterCustomOps: the session options are NULL");
        }
        // SAFETY: `GetVersionString` returns a string that lives as long as the host.
        let version = unsafe { CStr::from_ptr(((*base).GetVersionString)()) };
        register(api, options, version)
    })
}

fn register(api: Api, options: *mut OrtSessionOptions, version: &CStr) -> Result<()> {
    let mut marked: c_int = 0;
    // SAFETY: the host's session options, and a place for the answer.
    unsafe { call!(api, HasSessionConfigEntry, options, MARK.as_ptr(), &mut marked)? };
    if marked != 0 {
        return registered_by_this_version(api, options);
    }
    let domain = domain(api, version)?;
    // SAFETY: both are the host's.
    unsafe {
        call!(api, AddCustomOpDomain, options, domain)?;
        call!(api, AddSessionConfigEntry, options, MARK.as_ptr(), VERSION.as_ptr())
    }
}

/// What these options have must be what they are asked to have.
fn registered_by_this_version(api: Api, options: *mut OrtSessionOptions) -> Result<()> {
    let mut text = [0u8; 64];
    let mut size = text.len();
    // SAFETY: the host writes at most `size` bytes, and fails for a longer text.
    unsafe { call!(api, GetSessionConfigEntry, options, MARK.as_ptr(), text.as_mut_ptr().cast(), &mut size)? };
    let found = CStr::from_bytes_until_nul(&text).unwrap_or_default();
    if found != VERSION {
        fail!(
            InvalidArgument,
            "RegisterCustomOps: the session options have the operators of version {} of this library, and this is {}",
            found.to_string_lossy(),
            VERSION.to_string_lossy()
        );
    }
    Ok(())
}

/// This host's domain with all operators.
fn domain(api: Api, version: &CStr) -> Result<*mut OrtCustomOpDomain> {
    let Ok(mut hosts) = HOSTS.lock() else { fail!(Internal, "an earlier registration panicked") };
    if let Some(host) = hosts.iter().find(|host| host.api == api.table() && *host.version == *version) {
        return Ok(host.domain);
    }
    // All memory first: nothing of the host's is left behind for want of it.
    hosts.try_reserve(1)?;
    let operators: &'static [Operator] = Vec::leak(operator::all(api, infers_shapes_safely(version))?);
    let mut domain = std::ptr::null_mut();
    // SAFETY: the host copies the name and fills in the domain.
    unsafe { call!(api, CreateCustomOpDomain, DOMAIN.as_ptr(), &mut domain)? };
    for operator in operators {
        // SAFETY: the operator lives for ever, as the host requires.
        unsafe { call!(api, CustomOpDomain_Add, domain, operator.as_ort())? };
    }
    hosts.push(Host { api: api.table(), version: version.to_owned(), domain });
    Ok(domain)
}

/// Before 1.24, a node with an empty optional input crashes the host on its way to the inference function.
fn infers_shapes_safely(version: &CStr) -> bool {
    let mut numbers = version.to_str().unwrap_or_default().split('.').map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(1), Some(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        for (version, safe) in [
            (c"1.17.3", false),
            (c"1.23.2", false),
            (c"1.24.0", true),
            (c"1.32.0", true),
            (c"2.0.0-rc", true),
            (c"1.100", true),
            (c"?", false),
        ] {
            assert_eq!(infers_shapes_safely(version), safe, "{version:?}");
        }
    }
}
