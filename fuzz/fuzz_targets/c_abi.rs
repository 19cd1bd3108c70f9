//! Calls of the C ABI, valid ones and damaged ones: every status a documented one, a failed call has written nothing, a
//! successful one the same bits on every instruction set and for every number of threads, and nothing beside its outputs.
#![no_main]

use focal_loss_fuzz::call::Call;
use focal_loss_fuzz::source::Source;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut source = Source::new(bytes);
    let mut call = Call::draw(&mut source);
    for _ in 0..source.below(4) {
        call.damage(&mut source);
    }
    let memory = call.allocate(&mut source);
    call.check(&memory);
});
