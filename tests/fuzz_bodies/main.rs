//! The fuzz bodies as ordinary tests: over their seeds, and over a second each of mutated input.
//!
//! The fuzzer proper (`cargo fuzz`, see proto/fuzz) goes further; this keeps every body and every seed alive without it.
//! A failure prints the input. `FRAMEGATE_SEED` repeats a run, `FRAMEGATE_FUZZ_MS` makes it longer.

mod mutate;
#[path = "../../proto/fuzz/bodies/table.rs"]
mod table;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mutate::Mutator;
use table::BODIES;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/fuzz")
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(fuzz_folder().join("seeds").join(name))
        .unwrap_or_else(|error| panic!("proto/fuzz/seeds/{name}: {error}"))
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a seed can be read")).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Runs the body, and says for which input it panicked.
fn hold(name: &str, run: fn(&[u8]), input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(input)))
        .map_err(|_| format!("{name} does not hold for b\"{}\"", input.escape_ascii()))
}

#[test]
fn every_body_has_a_target_and_seeds() {
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    let names = |folder: &str| {
        let mut names: Vec<String> = fs::read_dir(fuzz_folder().join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| name != "table")
            .collect();
        names.sort();
        names
    };
    let bodies: Vec<&str> = BODIES.iter().map(|(name, _)| *name).collect();
    assert!(bodies.is_sorted(), "the table is in order");
    for folder in ["bodies", "fuzz_targets", "seeds"] {
        assert_eq!(names(folder), bodies, "proto/fuzz/{folder}");
    }
    for name in bodies {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} in proto/fuzz/Cargo.toml");
        assert!(!seeds(name).is_empty(), "{name} has seeds");
    }
}

#[test]
fn every_body_holds_for_its_seeds() {
    for (name, run) in BODIES {
        for seed in seeds(name) {
            hold(name, *run, &seed).unwrap();
            for cut in 0..seed.len() {
                hold(name, *run, &seed[..cut]).unwrap();
            }
        }
    }
}

#[test]
fn every_body_holds_for_mutated_input() {
    let time = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("FRAMEGATE_SEED").unwrap_or_else(time);
    let each = Duration::from_millis(number("FRAMEGATE_FUZZ_MS").unwrap_or(1000));
    println!("FRAMEGATE_SEED={seed}");
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((name, run)) = BODIES.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut mutator = Mutator::new(seed, seeds(name));
            let (start, mut runs) = (Instant::now(), 0_u64);
            while start.elapsed() < each {
                for _ in 0..64 {
                    hold(name, *run, mutator.next())?;
                }
                runs += 64;
            }
            println!("{name}: {runs} inputs");
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for outcome in outcomes {
        outcome.unwrap_or_else(|failure| panic!("FRAMEGATE_SEED={seed}: {failure}"));
    }
}
