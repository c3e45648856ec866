//! Runs the attacks, with all layers and with fewer.

use super::attacks::{ATTACKS, Attack};
use super::host::Host;
use super::{NAMESPACES, options, sandbox};
use distillix::foundry::sandbox::{Layer, Limits, Sandbox};
use std::time::{Duration, Instant};

fn run(sandbox: &Sandbox, attack: &Attack) -> Vec<String> {
    let mut host = Host::new();
    let mut limits = Limits::default();
    (attack.limits)(&mut limits);
    let begin = Instant::now();
    // Someone tries to get in, as long as it runs.
    let (verdict, reached) = std::thread::scope(|scope| {
        let run = scope.spawn(|| sandbox.run(&host.aim(attack.code), None, &limits));
        let mut reached = false;
        while !run.is_finished() {
            reached |= host.can_reach_in();
            std::thread::sleep(Duration::from_millis(20));
        }
        (run.join().expect("no panic"), reached)
    });
    let verdict = verdict.expect("the sandbox works");
    let mut problems = host.damage();
    if reached {
        problems.push("it could be reached from outside".to_owned());
    }
    problems.extend(verdict.stdout.lines().filter(|line| line.starts_with("ESCAPED")).map(str::to_owned));
    if let Some(ends) = attack.ends
        && verdict.verdict != ends
    {
        problems.push(format!("it ended with {:?}: {}\n{}", verdict.verdict, verdict.reason, verdict.stderr));
    }
    if attack.ends.is_none() && verdict.stderr.contains("SyntaxError") {
        problems.push(verdict.stderr.clone());
    }
    let most = limits.wall_seconds + 5.0;
    if begin.elapsed().as_secs_f64() > most {
        problems.push(format!("it took {:.1} s", begin.elapsed().as_secs_f64()));
    }
    if verdict.stdout.len() + verdict.stderr.len() > 4 * limits.output_bytes {
        problems.push("too much output was kept".to_owned());
    }
    problems
}

fn all_contained(without: &[Layer]) {
    let Some(sandbox) = sandbox(without) else { return };
    let mut failures = Vec::new();
    let mut missing = Vec::new();
    for attack in ATTACKS {
        let problems = run(&sandbox, attack);
        let next = sandbox.run("x = 6 * 7\nprint(x)", Some("assert x == 42"), &Limits::default());
        let next_runs = next.as_ref().is_ok_and(|verdict| verdict.passed() && verdict.stdout == "42\n");
        let layers = next.iter().flat_map(|verdict| verdict.layers.missing());
        missing = layers.map(|state| format!("{}: {}", state.layer, state.detail)).collect();
        if !problems.is_empty() || !next_runs {
            failures.push(format!("{}: {}; next sample: {next:?}", attack.name, problems.join("; ")));
        }
    }
    println!("{} attacks; layers missing: {missing:#?}", ATTACKS.len());
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), ATTACKS.len(), failures.join("\n"));
}

#[test]
fn attacks_are_contained() {
    all_contained(&[]);
}

#[test]
fn attacks_are_contained_without_namespaces() {
    all_contained(&NAMESPACES);
}

#[test]
fn attacks_are_contained_without_user_namespaces() {
    all_contained(&[Layer::UserNamespace]);
}

#[test]
fn attacks_are_contained_without_landlock() {
    all_contained(&[Layer::Landlock]);
}

/// An attack that fails by itself would prove nothing.
#[test]
fn attacks_get_out_when_their_guards_are_gone() {
    if sandbox(&[]).is_none() {
        return;
    }
    let mut harmless = Vec::new();
    for attack in ATTACKS.iter().filter(|attack| !attack.guards.is_empty()) {
        let options = distillix::foundry::sandbox::Options { allow_missing: true, ..options(attack.guards) };
        let sandbox = Sandbox::new(options).expect("runs without its guards");
        if run(&sandbox, attack).is_empty() {
            harmless.push(attack.name);
        }
    }
    assert!(harmless.is_empty(), "these get nowhere even without guards: {harmless:?}");
}
