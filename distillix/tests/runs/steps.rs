//! What a step does to the weights.

use crate::harness::{Runs, TINY, losses, metrics, weights};
use distillix::smelter::config::Config;
use distillix::smelter::data::Dataset;
use distillix::smelter::plan::Plan;
use distillix::smelter::teacher::embedded_tokenizer;
use distillix::smelter::trainer::Trainer;
use nn::model::Student;
use std::collections::BTreeMap;
use std::sync::Arc;
use tensor::Device;
use tensor::io::SafeTensors;

/// The loss of a first step of 8 rows in micro-batches, and the optimizer's states after it, which are its gradients
/// times constants (a square for the second moment).
fn first_step(runs: &Runs, micro_batch: usize) -> (f64, BTreeMap<String, Vec<f32>>) {
    let mut config = Config::preset("tiny").unwrap();
    let data = format!("data.sources=[{{\"path\":{:?}}}]", runs.path("data.jsonl"));
    let cache = format!("data.cache_dir={}", runs.path("cache").display());
    let micro = format!("training.micro_batch={micro_batch}");
    let dense = ["model.linear=dense", "training.batch_size=8", "data.fim_rate=0.5"];
    for setting in TINY.iter().chain(&dense).chain(&[&*data, &*cache, &*micro]) {
        config = config.with_setting(setting).unwrap();
    }
    let training = config.training.clone();
    let tokenizer = Arc::new(embedded_tokenizer().unwrap());
    let tokens = tokenizer.len();
    let dataset = Dataset::open(&config.data, tokenizer, training.seq_len, 0, None, &|_| {}).unwrap();
    let student = Student::random(config.model.clone(), tokens, &Device::Cpu, 0).unwrap();
    let plan = Plan::candidates(&config, &Device::Cpu, None).unwrap().remove(0);
    let mut trainer = Trainer::new(config.clone(), plan.clone(), student, None).unwrap();
    let step = dataset.step(0, plan.micro_batches(&config), plan.micro_batch).unwrap();
    assert_eq!(step.micro_batches.len(), 8 / micro_batch);
    trainer.step(&step).unwrap();
    let report = trainer.reports(true).unwrap().remove(0);
    let states = trainer.optimizer_state();
    (report.loss, states.map(|(name, state)| (name, state.to_vec().unwrap())).collect())
}

#[test]
fn micro_batches_do_not_change_the_gradients() {
    let runs = Runs::new();
    let (loss, one_by_eight) = first_step(&runs, 8);
    let (other_loss, eight_by_one) = first_step(&runs, 1);
    assert!((loss - other_loss).abs() < 1e-6 * loss, "{loss} and {other_loss}");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    assert!(one_by_eight.len() > 10);
    for (name, a) in &one_by_eight {
        let b = &eight_by_one[name];
        let size = norm(&mut a.iter().map(|&x| f64::from(x)));
        let apart = norm(&mut a.iter().zip(b).map(|(&x, &y)| f64::from(x) - f64::from(y)));
        assert!(size > 0.0 && apart < 1e-6 * size, "{name}: {apart} of {size}");
    }
}

fn assert_finite(run: &std::path::Path) {
    let file = SafeTensors::open(run.join("model.safetensors")).unwrap();
    for info in file.tensors() {
        let values = file.tensor(&info.name).unwrap().to_vec::<f32>().unwrap();
        assert!(values.iter().all(|x| x.is_finite()), "{}", info.name);
    }
}

#[test]
fn numbers_that_are_not_finite_never_reach_the_weights() {
    let runs = Runs::new();
    runs.train("teacher", &["training.steps=2", "model.linear=dense"]).ok();
    let settings = ["training.steps=50", "training.max_bad_steps=4", "training.checkpoint_every=3"];
    // A rate after whose first update the gradients overflow.
    let rate = ["training.adamw_lr=1e30"];
    let by_rate = runs.train("by-rate", &settings).set(&rate);
    runs.train("good-by-rate", &["training.steps=1", "training.decay_steps=50"]).set(&rate).ok();
    // A relation term beyond the range of f32.
    let weight = ["distillation.relation.heads=2", "distillation.relation.weight=1e42"];
    let by_weight = runs.distill("by-weight", runs.path("teacher"), &settings).set(&weight);
    runs.train("good-by-weight", &["training.steps=1", "training.adamw_lr=0", "training.muon_lr=0"]).ok();

    let gradient = "the gradient of model.";
    for (out, train, good, words) in
        [("by-rate", by_rate, 1, gradient), ("by-weight", by_weight, 0, "the loss is inf")]
    {
        let run = runs.path(out);
        let output = train.output();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let stopped = format!("error: stopped at step {}: 4 steps in a row were skipped", good + 4);
        assert!(stderr.starts_with(&stopped) && stderr.contains(words), "{stderr}");
        assert_finite(&run);
        assert!(weights(&run) == weights(&runs.path(&format!("good-{out}"))), "{out}");
        let lines = metrics(&run);
        assert_eq!(lines.iter().filter(|line| line["warning"].is_string()).count(), 4);
        assert_eq!(lines.iter().filter_map(|line| line["skipped"].as_u64()).max(), Some(4));
        assert_eq!(losses(&run).len(), good);
    }
    // It goes on from where it stopped, and stops again.
    let error = String::from_utf8(runs.resume("by-rate", &[]).output().stderr).unwrap();
    assert!(error.contains("error: stopped at step 6"), "{error}");
}

#[test]
fn weights_that_overflow_are_not_saved() {
    let runs = Runs::new();
    let settings = ["training.steps=40", "training.checkpoint_every=1", "training.adamw_lr=1e37"];
    let output = runs.train("run", &settings).output();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("learning rates") || stderr.contains("has overflowed"), "{stderr}");
    assert_finite(&runs.path("run"));
}
