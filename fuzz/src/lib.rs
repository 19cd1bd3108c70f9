//! What the fuzz targets share: choices out of bytes, the C ABI as a caller sees it, and calls whose memory is exactly
//! as large as their tensors say, so that AddressSanitizer catches the first byte beyond.

pub mod abi;
pub mod call;
pub mod memory;
pub mod source;
