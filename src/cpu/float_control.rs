//! The processor's floating-point control: rounding, subnormals, traps.
//!
//! Hosts change it. ONNX Runtime flushes subnormals to zero where a session asks for that, and so does anything that was
//! linked with `-ffast-math`. The kernels promise the same bits to all, so they run with the defaults (to nearest,
//! subnormals kept, nothing traps), and the caller's setting is put back.

/// Runs `body` with the defaults.
pub fn with_defaults<T>(body: impl FnOnce() -> T) -> T {
    // What computes is behind a call, so that none of it is moved out of here.
    #[inline(never)]
    fn behind_a_call<T>(body: impl FnOnce() -> T) -> T {
        body()
    }
    let _restored = Defaults::set();
    behind_a_call(body)
}

/// The defaults are set until this is dropped.
struct Defaults(Option<control::Register>);

impl Defaults {
    fn set() -> Self {
        let found = control::get();
        let changed = !control::is_default(found);
        if changed {
            control::set(control::DEFAULT);
        }
        Self(changed.then_some(found))
    }
}

impl Drop for Defaults {
    fn drop(&mut self) {
        if let Some(found) = self.0 {
            control::set(found);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod control {
    use std::arch::asm;

    /// MXCSR: six exception flags, then the control bits.
    pub type Register = u32;
    /// All exceptions masked, to nearest.
    pub const DEFAULT: Register = 0x1f80;
    const FLAGS: Register = 0x3f;

    pub fn is_default(register: Register) -> bool {
        register & !FLAGS == DEFAULT
    }

    pub fn get() -> Register {
        let mut register = 0;
        // SAFETY: writes the four bytes it is given.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut register, options(nostack, preserves_flags)) };
        register
    }

    pub fn set(register: Register) {
        // SAFETY: a value that the register had, or its default, both without reserved bits.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const register, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod control {
    use std::arch::asm;

    /// FPCR.
    pub type Register = u64;
    pub const DEFAULT: Register = 0;

    pub fn is_default(register: Register) -> bool {
        register == DEFAULT
    }

    pub fn get() -> Register {
        let register;
        // SAFETY: reads the control register.
        unsafe { asm!("mrs {}, fpcr", out(reg) register, options(nostack, preserves_flags)) };
        register
    }

    pub fn set(register: Register) {
        // SAFETY: a value that the register had, or its default.
        unsafe { asm!("msr fpcr, {}", in(reg) register, options(nostack, preserves_flags)) };
    }
}

/// Elsewhere the caller's setting is taken as it is.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub type Register = ();
    pub const DEFAULT: Register = ();
    pub fn is_default(_: Register) -> bool {
        true
    }
    pub fn get() {}
    pub fn set(_: Register) {}
}
