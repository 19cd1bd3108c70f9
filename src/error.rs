//! Errors: a kind, which becomes the C status or the ONNX Runtime code, and a sentence.

use std::borrow::Cow;
use std::collections::TryReserveError;
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
    /// Where there is no memory for the sentence, that is the error.
    pub(crate) fn new(kind: ErrorKind, message: fmt::Arguments) -> Self {
        match message.as_str() {
            Some(message) => Self::fixed(kind, message),
            None => text(message).map_or_else(Self::from, |message| Self { kind, message: message.into() }),
        }
    }

    const fn fixed(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message: Cow::Borrowed(message) }
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

/// What every fallible allocation says.
impl From<TryReserveError> for Error {
    fn from(_: TryReserveError) -> Self {
        Self::fixed(ErrorKind::OutOfMemory, "memory could not be had")
    }
}

/// What `format!` gives, if there is memory for it.
pub(crate) fn text(arguments: fmt::Arguments) -> std::result::Result<String, TryReserveError> {
    struct Fallible(std::result::Result<String, TryReserveError>);
    impl fmt::Write for Fallible {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let Ok(written) = &mut self.0 else { return Err(fmt::Error) };
            match written.try_reserve(text.len()) {
                Ok(()) => written.push_str(text),
                Err(error) => self.0 = Err(error),
            }
            Ok(())
        }
    }
    let mut written = Fallible(Ok(String::new()));
    // The one reason to fail is kept.
    let _ = fmt::write(&mut written, arguments);
    written.0
}

/// What `Box::new` gives, if there is memory for it.
pub(crate) fn boxed<T>(value: T) -> std::result::Result<Box<T>, TryReserveError> {
    let mut room = Vec::new();
    room.try_reserve_exact(1)?;
    room.push(value);
    let one = Box::into_raw(room.into_boxed_slice());
    // SAFETY: a slice of one has the layout of what is in it.
    Ok(unsafe { Box::from_raw(one.cast()) })
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
    Error::new(ErrorKind::Internal, format_args!("internal error: {text}"))
}

/// `Err` with a formatted sentence: `fail!(InvalidArgument, "gamma is {gamma}, ...")`.
macro_rules! fail {
    ($kind:ident, $($message:tt)*) => {
        return Err($crate::error::Error::new($crate::error::ErrorKind::$kind, format_args!($($message)*)))
    };
}
pub(crate) use fail;
