//! Learning from another run.

use crate::harness::{Runs, Train, losses, metrics, program};
use distillix::smelter::config::Config;
use tensor::io::SafeTensors;

fn with_teacher(runs: &Runs, out: &str, settings: &[&str]) -> Train {
    runs.distill(out, runs.path("teacher"), &["training.steps=4"]).set(settings)
}

/// A full-precision run to learn from.
fn runs_with_teacher() -> Runs {
    let runs = Runs::new();
    let settings = ["training.steps=10", "model.linear=dense", "model.layers=2", "model.mlp=96"];
    runs.train("teacher", &settings).ok();
    runs
}

#[test]
fn every_loss_against_a_teacher_can_be_chosen() {
    let runs = runs_with_teacher();
    for kind in ["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "tvd", "uld"] {
        with_teacher(&runs, kind, &[&format!("distillation.loss.kind={kind}")]).ok();
        let lines = metrics(&runs.path(kind));
        let terms: Vec<f64> = lines.iter().filter_map(|line| line["distillation"].as_f64()).collect();
        // A JSON number is finite.
        assert!(terms.len() == 4 && terms.iter().all(|&term| term > 0.0), "{kind}: {terms:?}");
        for line in lines.iter().filter(|line| line["loss"].is_number()) {
            let [loss, ce, term] =
                ["loss", "cross_entropy", "distillation"].map(|key| line[key].as_f64().unwrap());
            let expected = 0.5 * ce + 0.5 * term;
            assert!((loss - expected).abs() < 1e-5 * expected, "{kind}: {loss} is not {expected}");
        }
    }
}

#[test]
fn attention_relations_can_be_learned_too() {
    let runs = runs_with_teacher();
    with_teacher(&runs, "run", &["distillation.relation.heads=2", "distillation.relation.teacher_layer=0"])
        .ok();
    let terms: Vec<f64> =
        metrics(&runs.path("run")).iter().filter_map(|line| line["relation"].as_f64()).collect();
    assert!(terms.len() == 4 && terms.iter().all(|&term| term > 0.0), "{terms:?}");
    let fails = |settings: &[&str]| with_teacher(&runs, "none", settings).error();
    assert!(fails(&["distillation.relation.heads=3"]).contains("distillation.relation.heads is 3"));
    assert!(fails(&["distillation.relation.teacher_layer=2"]).contains("beyond the teacher's 2 layers"));
    assert!(!runs.path("none").exists());
}

#[test]
fn a_student_can_start_from_the_teacher() {
    let runs = runs_with_teacher();
    let teacher = SafeTensors::open(runs.path("teacher").join("model.safetensors")).unwrap();
    // No step changes anything, so the weights are those of the start.
    let still = ["training.muon_lr=0", "training.adamw_lr=0", "distillation.init=true"];
    for (out, model) in [("ternary", "model.linear=ternary"), ("narrow", "model.mlp=64")] {
        with_teacher(&runs, out, &still).set(&["model.layers=2", "model.mlp=96", model]).ok();
        let student = SafeTensors::open(runs.path(out).join("model.safetensors")).unwrap();
        for info in student.tensors() {
            let [a, b] = [&student, &teacher].map(|file| file.tensor(&info.name).unwrap());
            let fits = a.dims() == b.dims();
            assert_eq!(fits, out == "ternary" || !info.name.contains("mlp"), "{}", info.name);
            assert!(!fits || a.to_vec::<f32>().unwrap() == b.to_vec::<f32>().unwrap(), "{}", info.name);
        }
    }
    let said = with_teacher(&runs, "other", &still).set(&["model.hidden=32"]).ok();
    assert!(said.contains("warning: no weight of the teacher has the dimensions"), "{said}");
}

#[test]
fn losses_without_a_use_for_the_teacher_are_refused() {
    let runs = Runs::new();
    for (kind, words) in [
        ("cross_entropy", "cross_entropy and focal do not"),
        ("focal", "cross_entropy and focal do not"),
        ("top_k_forward_kl", "needs a cache"),
    ] {
        let error = runs.train("run", &[&format!("distillation.loss.kind={kind}")]).error();
        assert!(error.contains("distillation.loss") && error.contains(words), "{error}");
        assert!(error.contains("forward_kl, reverse_kl"), "{error}");
    }
    assert!(!runs.path("run").exists());
}

#[test]
fn a_teacher_must_speak_the_same_tokens() {
    let runs = runs_with_teacher();
    // The same tokens in a larger table are fine.
    with_teacher(&runs, "padded", &["model.vocab_size=1088"]).ok();
    assert_eq!(losses(&runs.path("padded")).len(), 4);

    let corpus = runs.file("corpus.txt", "def one(x):\n    return x + 1\n".repeat(50).as_bytes());
    let tokenizer = runs.path("tokenizer.json");
    let output = std::process::Command::new(program())
        .args(["tokenizer", "train", "--vocab-size", "300", "--out"])
        .arg(&tokenizer)
        .arg("--data")
        .arg(&corpus)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Where nobody says it, the vocabulary's size follows from the tokenizer.
    runs.train("own", &["training.steps=2"]).arg("--tokenizer").arg(&tokenizer).ok();
    let config = Config::default().with_file(&runs.path("own").join("config.json")).unwrap();
    assert_eq!(config.model.vocab_size, 320);
    runs.distill("from-own", runs.path("own"), &["training.steps=2"]).ok();
    let error =
        with_teacher(&runs, "other", &["model.vocab_size=320"]).arg("--tokenizer").arg(&tokenizer).error();
    assert!(error.contains("the teacher has another tokenizer than this run"), "{error}");
    let error = runs.train("other", &["model.vocab_size=320"]).arg("--init").arg(runs.path("teacher"));
    let error = error.arg("--tokenizer").arg(&tokenizer).error();
    assert!(error.contains("--init has another tokenizer than this run"), "{error}");
    let error = with_teacher(&runs, "other", &["model.vocab_size=512"]).error();
    assert!(error.contains("model.vocab_size is 512: set it to 1024"), "{error}");
    assert!(!runs.path("other").exists());
}
