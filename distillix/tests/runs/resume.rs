//! Whatever interrupts a run, it goes on to the same bytes.

use crate::harness::{Runs, losses, metrics, weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tensor::Stream;

fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}"))
}

/// All that two finished runs must have in common.
#[track_caller]
fn assert_same_end(a: &Path, b: &Path, steps: u64) {
    assert!(weights(a) == weights(b), "{} has other weights", b.display());
    for name in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let [a, b] = [a, b].map(|run| fs::read(checkpoint(run, steps).join(name)).expect("a checkpoint"));
        assert!(a == b, "{name} of step {steps} differs");
    }
    assert_eq!(losses(a), losses(b));
    let told: Vec<u64> = losses(b).into_iter().map(|(step, _)| step).collect();
    assert_eq!(told, (1..=steps).collect::<Vec<_>>());
    assert!(!b.join("model.partial").exists());
}

fn signal(pid: u32, name: &str) {
    // Fails only if the process has ended meanwhile.
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).output();
}

#[track_caller]
fn wait_for_step(run: &Path, step: u64) {
    let begin = Instant::now();
    let mark = format!("{{\"step\":{step},\"loss\"");
    while !fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().contains(&mark) {
        assert!(begin.elapsed() < Duration::from_secs(60), "the run makes no steps");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    let runs = Runs::new();
    let settings = ["training.steps=200", "training.eval_every=25", "training.checkpoint_every=25"];
    runs.train("whole", &settings).ok();
    for (name, out) in [("INT", "interrupted"), ("TERM", "terminated")] {
        let run = runs.path(out);
        let child = runs.train(out, &settings).spawn();
        wait_for_step(&run, 5);
        signal(child.id(), name);
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let stopped = losses(&run).last().unwrap().0;
        assert!((5..200).contains(&stopped), "{stopped}: {stdout}");
        assert!(stdout.contains(&format!("stopped after step {stopped} of 200; go on with:")), "{stdout}");
        assert!(stdout.contains(&format!("distillix train --resume --out {}", run.display())), "{stdout}");
        assert!(checkpoint(&run, stopped).is_dir());
        let said = runs.resume(out, &[]).ok();
        assert!(said.contains(&format!("from step {stopped}")), "{said}");
        assert_same_end(&runs.path("whole"), &run, 200);
    }
}

/// `DISTILLIX_KILLS` sets how often it kills.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let kills: u32 = std::env::var("DISTILLIX_KILLS").map_or(6, |n| n.parse().expect("a number"));
    let runs = Runs::new();
    let settings = ["training.steps=30", "training.checkpoint_every=1", "training.keep_checkpoints=2"];
    let begin = Instant::now();
    runs.train("whole", &settings).ok();
    let whole = begin.elapsed();
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let random = Stream::new(seed);
    let (mut draws, mut killed, mut while_saving) = (0, 0, 0);
    for round in 0.. {
        let out = format!("killed-{round}");
        let run = runs.path(&out);
        loop {
            let train = runs.train(&out, &settings);
            // A kill may come before there is a folder.
            let mut child = if run.exists() { train.arg("--resume") } else { train }.spawn();
            std::thread::sleep(whole.mul_f64(random.uniform_f64(draws)));
            draws += 1;
            if killed == kills || child.try_wait().unwrap().is_some() {
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            while_saving += u32::from(has_unfinished_checkpoint(&run));
        }
        assert_same_end(&runs.path("whole"), &run, 30);
        if killed == kills {
            break;
        }
    }
    println!("{killed} kills, {while_saving} of them while a checkpoint was being saved");
}

fn has_unfinished_checkpoint(run: &Path) -> bool {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with('.'))
}

#[test]
fn a_resume_without_a_checkpoint_starts_over() {
    let runs = Runs::new();
    let settings = ["training.steps=6", "training.checkpoint_every=3", "training.keep_checkpoints=9"];
    runs.train("base", &settings).ok();
    for (out, init) in [("random", None), ("init", Some(runs.path("base")))] {
        let start = |name: &str, seed: &str| {
            let train = runs.train(name, &settings).set(&[seed]);
            match &init {
                Some(init) => train.arg("--init").arg(init),
                None => train,
            }
        };
        start(out, "training.seed=7").ok();
        // The same run as a kill before its first step leaves it.
        let again = format!("{out}-again");
        start(&again, "training.seed=7").ok();
        let run = runs.path(&again);
        for step in [3, 6] {
            fs::remove_dir_all(checkpoint(&run, step)).unwrap();
        }
        assert_eq!(checkpoint(&run, 0).exists(), init.is_some());
        runs.resume(&again, &[]).ok();
        assert_same_end(&runs.path(out), &run, 6);
    }
    assert!(weights(&runs.path("random")) != weights(&runs.path("init")));
}

#[test]
fn a_finished_run_is_left_alone_or_goes_on() {
    let runs = Runs::new();
    let settings = ["training.steps=8", "training.checkpoint_every=4"];
    runs.train("run", &settings).ok();
    let run = runs.path("run");
    let before = (weights(&run), metrics(&run));
    let said = runs.resume("run", &[]).ok();
    assert!(said.contains("all 8 steps were done before"), "{said}");
    assert!(before == (weights(&run), metrics(&run)));

    runs.resume("run", &["training.steps=12", "training.checkpoint_every=5"]).ok();
    let factors: Vec<f64> = metrics(&run).iter().filter_map(|line| line["lr_factor"].as_f64()).collect();
    assert_eq!(factors.len(), 12);
    // The cosine still ends at step 8.
    assert!(factors[6] > 0.1 && factors[8..].iter().all(|&factor| factor == 0.1), "{factors:?}");
    // The same as a run that was longer from the beginning.
    runs.train("long", &["training.steps=12", "training.decay_steps=8", "training.checkpoint_every=5"]).ok();
    assert_same_end(&runs.path("long"), &run, 12);

    // Another horizon may be asked for.
    runs.resume("run", &["training.steps=14", "training.decay_steps=16"]).ok();
    let last = metrics(&run).iter().filter_map(|line| line["lr_factor"].as_f64()).next_back();
    assert!(last.is_some_and(|factor| factor > 0.1), "{last:?}");
    let error = runs.resume("runn", &[]).error();
    assert!(error.contains("there is no run to resume"), "{error}");
    let error = runs.resume("run", &["training.steps=8"]).error();
    assert!(error.contains("training.steps: 14 against 8"), "{error}");
}

#[test]
fn what_would_mix_two_runs_is_refused() {
    let runs = Runs::new();
    let settings = ["training.steps=100000", "training.checkpoint_every=50"];
    let mut child = runs.train("run", &settings).spawn();
    let run = runs.path("run");
    wait_for_step(&run, 60);
    let error = runs.resume("run", &[]).error();
    assert!(error.contains("another process is training in"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();

    let saved = weights(&run);
    let error = runs.train("run", &settings).error();
    assert!(error.contains("already holds a run") && error.contains("--resume"), "{error}");
    let error = runs.resume("run", &["training.muon_lr=0.5", "model.norm_eps=1e-5"]).error();
    assert!(error.contains("training.muon_lr: 0.02 against 0.5"), "{error}");
    assert!(error.contains("model.norm_eps: 1e-6 against 0.00001"), "{error}");
    assert!(weights(&run) == saved);
    // A run that has lost its config is not started over.
    fs::remove_file(run.join("config.json")).unwrap();
    let error = runs.train("run", &settings).error();
    assert!(error.contains("has checkpoints but no config.json"), "{error}");
    assert!(checkpoint(&run, 50).is_dir());
}

#[test]
fn a_broken_checkpoint_is_passed_over() {
    let runs = Runs::new();
    let settings = ["training.steps=9", "training.checkpoint_every=3", "training.keep_checkpoints=2"];
    runs.train("whole", &settings).ok();
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    // Another number, as a disk may make of one; the file is as well-formed as before.
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("model.safetensors", cut),
        ("optimizer.safetensors", cut),
        ("state.json", cut),
        ("model.safetensors", flip),
        ("optimizer.safetensors", flip),
    ];
    for (name, damage) in damages {
        runs.train("run", &settings).ok();
        let run = runs.path("run");
        let file = checkpoint(&run, 9).join(name);
        let mut bytes = fs::read(&file).unwrap();
        damage(&mut bytes);
        fs::write(&file, bytes).unwrap();
        let said = runs.resume("run", &[]).ok();
        assert!(said.contains("warning: the checkpoint of step 9 cannot be used"), "{said}");
        assert!(said.contains("from step 6"), "{said}");
        assert_same_end(&runs.path("whole"), &run, 9);
        assert!(checkpoint(&run, 6).is_dir() && run.join("checkpoints/broken-00000009").is_dir());
        fs::remove_dir_all(&run).unwrap();
    }
}

#[test]
fn a_run_goes_on_only_with_the_data_and_the_teacher_it_began_with() {
    let runs = Runs::new();
    runs.train("teacher", &["training.steps=2"]).ok();
    runs.train("other", &["training.steps=2", "training.seed=1"]).ok();
    runs.distill("run", runs.path("teacher"), &["training.steps=4"]).ok();
    let longer = || runs.resume("run", &["training.steps=6"]);
    let data = runs.path("data.jsonl");
    let text = fs::read_to_string(&data).unwrap();
    // The same length, so that only the content tells.
    fs::write(&data, text.replace("total_0", "total_x")).unwrap();
    let error = longer().error();
    assert!(error.contains("data.jsonl") && error.contains("is not what the run in"), "{error}");
    fs::write(&data, text).unwrap();

    let teacher = runs.path("teacher").join("model.safetensors");
    let weights = fs::read(&teacher).unwrap();
    fs::copy(runs.path("other").join("model.safetensors"), &teacher).unwrap();
    let error = longer().error();
    assert!(error.contains("the teacher is not the one that the run in"), "{error}");
    fs::write(&teacher, weights).unwrap();
    longer().ok();
    assert_eq!(losses(&runs.path("run")).len(), 6);
}

#[test]
fn threads_do_not_change_a_bit() {
    let runs = Runs::new();
    for threads in ["1", "2", "4"] {
        runs.train(threads, &["training.steps=12"]).arg("--threads").arg(threads).ok();
    }
    assert_same_end(&runs.path("1"), &runs.path("2"), 12);
    assert_same_end(&runs.path("1"), &runs.path("4"), 12);
}

#[cfg(unix)]
#[test]
fn a_full_disk_loses_nothing() {
    let runs = Runs::new();
    runs.train("whole", &["training.steps=20", "training.decay_steps=5"]).ok();
    runs.train("run", &["training.steps=5"]).ok();
    let run = runs.path("run");
    let before = weights(&run);
    let output =
        runs.resume("run", &["training.steps=20", "training.checkpoint_every=10"]).output_on_small_disk();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: the checkpoint of step 10 could not be saved"), "{stderr}");
    assert!(stderr.contains("model.safetensors") && stderr.lines().count() == 1, "{stderr}");
    assert!(weights(&run) == before && checkpoint(&run, 5).is_dir() && !has_unfinished_checkpoint(&run));
    let said = runs.resume("run", &[]).ok();
    assert!(said.contains("from step 5"), "{said}");
    assert_same_end(&runs.path("whole"), &run, 20);
}
