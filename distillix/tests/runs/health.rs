//! A sick layer is told of, a healthy run is left in peace.

use crate::harness::{Runs, metrics};

#[test]
fn weight_decay_on_ternary_matrices_is_told_of_and_the_default_is_not() {
    let runs = Runs::new();
    let warnings = |out: &str, settings: &[&str]| -> Vec<String> {
        let said = runs.train(out, &["training.warmup_steps=40"]).set(settings).ok();
        let lines = metrics(&runs.path(out)).into_iter();
        let found: Vec<String> =
            lines.filter_map(|line| Some(line["warning"].as_str()?.to_owned())).collect();
        assert_eq!(said.matches("warning: ").count(), found.len(), "{said}");
        found
    };
    let none: [String; 0] = [];
    assert_eq!(warnings("default", &["training.steps=100"]), none);
    // Decay acts over 1 / (rate · decay) steps: 500 at the default rate, 100 at this one, which alone does no harm.
    let quick = ["training.steps=300", "training.muon_lr=0.1"];
    assert_eq!(warnings("quick", &quick), none);
    let found = warnings("decay", &[quick[0], quick[1], "training.muon_weight_decay=0.1"]);
    assert!(found.iter().any(|warning| warning.contains("fallen by")), "{found:?}");
    for warning in found {
        assert!(
            warning.contains("model.layers.0.") && warning.contains("training.muon_weight_decay"),
            "{warning}"
        );
    }
}

#[test]
fn each_bound_can_be_set() {
    let runs = Runs::new();
    for (bound, words) in [
        ("max_zero_share=0.1", "the layer is dying out"),
        ("min_zero_share=0.9", "it has become binary"),
        ("max_flip_share=0", "flipped in one step"),
        ("min_gamma=1", "the scale has shrunk"),
    ] {
        let out = bound.split('=').next().unwrap();
        let said = runs.train(out, &["training.steps=8", &format!("training.health.{bound}")]).ok();
        let warning = said.lines().find(|line| line.contains(words)).expect(words);
        assert!(warning.contains("model.layers.0.self_attn.q_proj.weight"), "{warning}");
    }
}
