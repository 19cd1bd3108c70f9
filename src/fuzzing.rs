//! For the fuzz targets alone, whose build sets `cfg(fuzzing)`: the instruction set of this thread's calls.

use std::cell::Cell;

use crate::cpu::isa::Isa;

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

pub(crate) fn isa() -> Isa {
    FORCED.get().unwrap_or_else(Isa::chosen)
}

/// Runs `body` on every instruction set that the processor has, slowest first.
pub fn on_every_isa(mut body: impl FnMut(&'static str)) {
    for &isa in Isa::ALL.iter().filter(|isa| isa.is_available()) {
        FORCED.set(Some(isa));
        body(isa.name());
    }
    FORCED.set(None);
}
