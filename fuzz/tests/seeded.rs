//! The C ABI's fuzz target without libFuzzer: the committed corpus, then inputs from a seed. `make sanitize` runs this in
//! Miri, which sees every byte, and every pointer's right to it, and in ThreadSanitizer.

use focal_loss_fuzz::call::Call;
use focal_loss_fuzz::source::Source;

fn run(bytes: &[u8]) {
    let mut source = Source::new(bytes);
    let mut call = Call::draw(&mut source);
    for _ in 0..source.below(4) {
        call.damage(&mut source);
    }
    let memory = call.allocate(&mut source);
    call.check(&memory);
}

#[test]
fn the_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/c_abi");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap().take(if cfg!(miri) { 5 } else { usize::MAX }) {
        run(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn inputs_from_a_seed() {
    run_from(1, if cfg!(miri) { 25 } else { 1000 });
}

#[test]
fn inputs_from_seeds_on_many_threads() {
    std::thread::scope(|scope| {
        for seed in 2..if cfg!(miri) { 4 } else { 10 } {
            scope.spawn(move || run_from(seed, if cfg!(miri) { 4 } else { 100 }));
        }
    });
}

fn run_from(seed: u64, count: usize) {
    let mut state = seed;
    for _ in 0..count {
        let bytes: Vec<u8> = (0..300)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        run(&bytes);
    }
}
