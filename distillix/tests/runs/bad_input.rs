//! Bad input gets one clear line and loses nothing.

use crate::harness::{Runs, Train, losses};
use std::fs;

#[track_caller]
fn assert_error(train: Train, parts: &[&str]) {
    let error = train.error();
    assert!(parts.iter().all(|part| error.contains(part)), "{error} lacks one of {parts:?}");
}

#[test]
fn a_wrong_config_is_one_line_and_leaves_no_folder() {
    let runs = Runs::new();
    for (setting, parts) in [
        ("training.muon_lrr=1", ["training.muon_lrr", "did you mean muon_lr?"]),
        ("model.kv_heads=3", ["model.heads is 2 and model.kv_heads 3", "must divide"]),
        ("training.micro_batch=3", ["training.micro_batch is 3", "must divide training.batch_size 4"]),
        ("training.seq_len=65", ["training.seq_len is 65", "at most model.max_seq 64"]),
        ("training.steps=some", ["training.steps", "invalid type"]),
        ("training.muon_lr=-1", ["training.muon_lr is -1", "from 0 up"]),
        ("model.vocab_size=512", ["the tokenizer has", "model.vocab_size is 512: set it to 1024"]),
        ("model.vocab_size=100000", ["the tokenizer has", "model.vocab_size is 100000"]),
        ("data.tokenizer=/nowhere/tokenizer.json", ["/nowhere/tokenizer.json", "No such file"]),
        ("data.template={{ nothing", ["data.template", "template"]),
    ] {
        assert_error(runs.train("run", &[setting]), &parts);
        assert!(!runs.path("run").exists(), "{setting}");
    }
    let broken = runs.file("broken.json", b"{\"training\": {\"steps\": }");
    assert_error(runs.train("run", &[]).arg("--config").arg(&broken), &["broken.json is not JSON"]);
    let unknown = runs.file("unknown.json", b"{\"trainin\": {\"steps\": 5}}");
    assert_error(
        runs.train("run", &[]).arg("--config").arg(&unknown),
        &["unknown.json", "did you mean training?"],
    );
    assert_error(runs.train("run", &[]).arg("--preset").arg("tinny"), &["tinny", "tiny, 50m"]);
    assert_error(
        runs.train("run", &[]).arg("--config").arg(runs.path("none.json")),
        &["cannot read", "none.json"],
    );
    assert!(!runs.path("run").exists());
    let file = runs.file("file", b"");
    assert_error(runs.train("file", &[]), &["cannot create the folder", &file.display().to_string()]);
}

#[test]
fn data_that_cannot_be_trained_on_says_where() {
    let runs = Runs::new();
    let on = |name: &str| Train::new().arg("--out").arg(runs.path("run")).arg("--data").arg(runs.path(name));
    for (name, content, parts) in [
        ("empty.jsonl", &b""[..], ["empty.jsonl", "no documents"]),
        ("broken.jsonl", b"{\"text\": \"a\"}\n{\"text\": \n", ["broken.jsonl:2", "not JSON"]),
        ("latin.jsonl", b"{\"text\": \"a\"}\n\n{\"text\": \"\xe9\"}\n", ["latin.jsonl:3", "UTF-8"]),
        ("number.jsonl", b"{\"text\": 5}\n", ["number.jsonl:1", "string"]),
    ] {
        runs.file(name, content);
        assert_error(on(name).arg("--teacher").arg("none"), &parts);
        assert!(!runs.path("run").exists(), "{name}");
    }
    assert_error(on("missing.jsonl").arg("--teacher").arg("none"), &["missing.jsonl"]);
}

#[test]
fn a_document_longer_than_the_context_is_trained_on() {
    let runs = Runs::new();
    let body = "    x = x + 1\\n".repeat(400);
    let lines = format!("{{\"text\": \"def f(x):\\n{body}\"}}\n").repeat(3);
    let long = runs.file("long.jsonl", lines.as_bytes());
    let settings = ["training.steps=5", "data.validation_fraction=0"];
    let sources = format!("data.sources=[{{\"path\":{:?}}}]", long.display().to_string());
    runs.train("run", &settings).set(&[&sources]).ok();
    assert_eq!(losses(&runs.path("run")).len(), 5);
}

#[test]
fn a_model_that_does_not_fit_is_refused() {
    let runs = Runs::new();
    runs.train("good", &["training.steps=1"]).ok();
    let good = runs.path("good");
    let given = |how: &str, folder: &str| match how {
        "--init" => runs.train("run", &[]).arg(how).arg(runs.path(folder)),
        _ => runs.distill("run", runs.path(folder), &[]),
    };
    for how in ["--init", "--teacher"] {
        assert_error(given(how, "nowhere"), &["nowhere", "there is no such folder"]);
        fs::create_dir_all(runs.path("empty")).unwrap();
        assert_error(given(how, "empty"), &["empty", "it is not the folder of a run"]);
        assert_error(given(how, "data.jsonl"), &["data.jsonl", "it is a file"]);
    }
    let other = given("--init", "good").set(&["model.hidden=32"]);
    assert_error(other, &["--init has another `model` section", "model.hidden: 64 against 32", "--config"]);

    let bytes = fs::read(good.join("model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut nan = bytes.clone();
    nan[8 + header + 40..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut long_header = bytes.clone();
    long_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for (content, words) in [
        (&bytes[..bytes.len() / 2], "model.safetensors"),
        (&bytes[..5], "too few for a safetensors file"),
        (&long_header, "model.safetensors"),
        (&nan, "not finite"),
    ] {
        let bad = runs.path("bad");
        let _ = fs::remove_dir_all(&bad);
        fs::create_dir(&bad).unwrap();
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(good.join(name), bad.join(name)).unwrap();
        }
        fs::write(bad.join("model.safetensors"), content).unwrap();
        for how in ["--init", "--teacher"] {
            assert_error(given(how, "bad"), &["bad", words]);
        }
    }
    assert!(!runs.path("run").exists());
}
