//! Which instruction set the kernels are compiled for, chosen once for each process.
//!
//! The kernels are plain Rust, inlined into a shell for each instruction set below; the compiler
//! vectorises each as it can. They give the same bits, so the choice is about speed alone.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The name of the variable that caps the choice, for tests and support.
pub const MAX_ISA_VARIABLE: &str = "FOCAL_LOSS_MAX_ISA";

/// Instruction sets, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the library was compiled for: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// In the order of the variants.
    pub const ALL: &'static [Isa] = &[
        Isa::Baseline,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512,
    ];

    /// NUL-terminated, so that the C API can hand it out.
    pub const fn c_name(self) -> &'static std::ffi::CStr {
        match self {
            Isa::Baseline => c"baseline",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => c"avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => c"avx512",
        }
    }

    pub fn name(self) -> &'static str {
        self.c_name().to_str().expect("names are ASCII")
    }

    pub fn is_available(self) -> bool {
        match self {
            Isa::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && Isa::Avx2.is_available()
            }
        }
    }

    /// The best one that the processor has and `FOCAL_LOSS_MAX_ISA` allows. An unknown name there
    /// caps nothing.
    pub fn chosen() -> Isa {
        /// Its place in `ALL`. Not a lock, which whoever is forked meanwhile would find taken for ever.
        static CHOSEN: AtomicUsize = AtomicUsize::new(usize::MAX);
        if let Some(&isa) = Isa::ALL.get(CHOSEN.load(Ordering::Relaxed)) {
            return isa;
        }
        let isa = Isa::best_within(std::env::var(MAX_ISA_VARIABLE).ok().as_deref());
        CHOSEN.store(isa as usize, Ordering::Relaxed);
        isa
    }

    fn best_within(cap: Option<&str>) -> Isa {
        let cap = cap.and_then(|cap| Isa::ALL.iter().find(|isa| isa.name().eq_ignore_ascii_case(cap.trim())));
        let allowed = |isa: &&Isa| cap.is_none_or(|cap| *isa <= cap) && isa.is_available();
        *Isa::ALL.iter().rev().find(allowed).expect("the baseline is always available")
    }
}

/// A loop to be compiled once for each instruction set: `run` must be `#[inline(always)]`.
pub trait Kernel {
    fn run(self);
}

impl Isa {
    /// Runs the kernel's copy for this instruction set.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        fn avx2<K: Kernel>(kernel: K) {
            kernel.run()
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
        fn avx512<K: Kernel>(kernel: K) {
            kernel.run()
        }
        match self {
            Isa::Baseline => kernel.run(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: values above the baseline come from `chosen` or from tests that ask `is_available`.
            Isa::Avx2 => unsafe { avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 => unsafe { avx512(kernel) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_caps_the_choice() {
        assert_eq!(Isa::best_within(Some("Baseline")), Isa::Baseline);
        assert_eq!(Isa::best_within(Some("no such thing")), Isa::best_within(None));
        for &isa in Isa::ALL {
            assert!(Isa::best_within(Some(isa.name())) <= isa);
        }
    }
}
