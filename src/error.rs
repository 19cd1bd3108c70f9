//! Errors: a kind, which becomes the C status or the ONNX Runtime code, and a sentence.

use std::borrow::Cow;
use std::fmt;

/// What kind of failure it was; the numbers are the C statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument breaks the contract.
    InvalidArgument = 1,
    /// The arguments make sense, but this build or version cannot serve them.
    Unsupported = 2,
    /// Memory could not be had.
    OutOfMemory = 3,
    /// The CUDA driver or device failed, or there is none.
    Cuda = 4,
    /// A bug in this library.
    Internal = 5,
}

/// A failure with a sentence that names the argument at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
}

/// What everything here that can fail returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What was wrong with which argument.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What a caught panic is reported as.
pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
    Error::new(ErrorKind::Internal, format!("internal error: {text}"))
}

/// `Err` with a formatted sentence: `fail!(InvalidArgument, "gamma is {gamma}, ...")`.
macro_rules! fail {
    ($kind:ident, $($message:tt)*) => {
        return Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format!($($message)*)))
    };
}
pub(crate) use fail;
