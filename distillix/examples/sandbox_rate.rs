//! How many samples a second the sandbox runs with their tests, one run at a time on each processor.

use anyhow::Result;
use distillix::foundry::sandbox::{Limits, Options, Sandbox, launch_if_asked};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const RUNS: usize = 300;

fn main() -> Result<ExitCode> {
    if let Some(code) = launch_if_asked() {
        return Ok(code);
    }
    let sandbox = Sandbox::new(Options::default())?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (begun, passed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || -> Result<()> {
        while begun.fetch_add(1, Ordering::Relaxed) < RUNS {
            let tests = "assert add(2, 2) == 4\ndef test_add():\n    assert add(2, 3) == 5\n";
            let verdict =
                sandbox.run("def add(a, b):\n    return a + b\n", Some(tests), &Limits::default())?;
            passed.fetch_add(usize::from(verdict.passed()), Ordering::Relaxed);
        }
        Ok(())
    };
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;
    let rate = RUNS as f64 / begin.elapsed().as_secs_f64();
    println!("{rate:.1} runs/s on {threads} threads, {} of {RUNS} passed", passed.into_inner());
    Ok(ExitCode::SUCCESS)
}
