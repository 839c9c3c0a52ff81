//! The fuzz bodies as ordinary tests: over their seeds, and over a second each of mutated input.
//!
//! The fuzzer proper (`cargo fuzz`, see proto/fuzz and dataplane/fuzz) goes further; this keeps every body and every seed alive without it.
//! A failure prints the input. `FRAMEGATE_SEED` repeats a run, `FRAMEGATE_FUZZ_MS` makes it longer.

#[path = "../../dataplane/fuzz/bodies/table.rs"]
mod dataplane_table;
mod mutate;
#[path = "../../proto/fuzz/bodies/table.rs"]
mod proto_table;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mutate::Mutator;

/// What must hold for any bytes.
type Run = fn(&[u8]);

/// The folders of bodies, and their tables.
const FOLDERS: [(&str, &[(&str, Run)]); 2] =
    [("proto/fuzz", proto_table::BODIES), ("dataplane/fuzz", dataplane_table::BODIES)];

fn bodies() -> Vec<(&'static str, &'static str, Run)> {
    let bodies = FOLDERS.iter().flat_map(|(folder, bodies)| bodies.iter().map(|(name, run)| (*folder, *name, *run)));
    bodies.collect()
}

fn path(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn seeds(folder: &str, name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(path(folder).join("seeds").join(name))
        .unwrap_or_else(|error| panic!("{folder}/seeds/{name}: {error}"))
        .map(|entry| entry.expect("a folder can be listed").path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a seed can be read")).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Runs the body, and says for which input it panicked.
fn hold(name: &str, run: Run, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| run(input)))
        .map_err(|_| format!("{name} does not hold for b\"{}\"", input.escape_ascii()))
}

#[test]
fn every_body_has_a_target_and_seeds() {
    for (folder, bodies) in FOLDERS {
        let manifest = fs::read_to_string(path(folder).join("Cargo.toml")).unwrap();
        let names = |part: &str| {
            let mut names: Vec<String> = fs::read_dir(path(folder).join(part))
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .filter(|name| name != "table")
                .collect();
            names.sort();
            names
        };
        let bodies: Vec<&str> = bodies.iter().map(|(name, _)| *name).collect();
        assert!(bodies.is_sorted(), "the table is in order");
        for part in ["bodies", "fuzz_targets", "seeds"] {
            assert_eq!(names(part), bodies, "{folder}/{part}");
        }
        for name in bodies {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} in {folder}/Cargo.toml");
            assert!(!seeds(folder, name).is_empty(), "{name} has seeds");
        }
    }
}

#[test]
fn every_body_holds_for_its_seeds() {
    for (folder, name, run) in bodies() {
        for seed in seeds(folder, name) {
            hold(name, run, &seed).unwrap();
            for cut in 0..seed.len() {
                hold(name, run, &seed[..cut]).unwrap();
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
    let (bodies, next) = (bodies(), AtomicUsize::new(0));
    let work = || {
        while let Some(&(folder, name, run)) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut mutator = Mutator::new(seed, seeds(folder, name));
            let (start, mut runs) = (Instant::now(), 0_u64);
            while start.elapsed() < each {
                for _ in 0..64 {
                    hold(name, run, mutator.next())?;
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
