//! The program's commands around a trained model, from outside.

use distillix::smelter::config::Config;
use distillix::smelter::data::{DEFAULT_TEMPLATE, builtin};
use nn::model::{ModelConfig, Student};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;
use tensor::{DType, Device, Tensor};

/// The program: where it was built, or where the environment says if the tests were packed to run elsewhere.
fn program() -> String {
    std::env::var("CARGO_BIN_EXE_distillix").unwrap_or(env!("CARGO_BIN_EXE_distillix").into())
}

fn run(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(program())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

/// Standard output of a run that ends well.
#[track_caller]
fn stdout(args: &[&str]) -> String {
    let output = run(args, b"");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a run that ends with `code`.
#[track_caller]
fn error(args: &[&str], code: i32) -> String {
    error_with(args, b"", code)
}

#[track_caller]
fn error_with(args: &[&str], stdin: &[u8], code: i32) -> String {
    let output = run(args, stdin);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    stderr
}

fn config() -> Config {
    let mut config = Config::preset("tiny").unwrap();
    config.model = ModelConfig {
        hidden: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        mlp: 64,
        max_seq: 96,
        init_std: 0.2,
        ..config.model
    };
    config.training.seq_len = 96;
    config
}

/// A run folder with random weights, as `change` leaves its tensors.
fn folder(change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> TempDir {
    let folder = TempDir::new().unwrap();
    let config = config();
    let student = Student::random(config.model.clone(), 1024, &Device::Cpu, 5).unwrap();
    let mut tensors: BTreeMap<String, Tensor> =
        student.params().iter().map(|p| (p.name.clone(), p.parameter.value.clone())).collect();
    change(&mut tensors);
    let path = |name: &str| folder.path().join(name);
    fs::write(path("config.json"), config.to_json().unwrap()).unwrap();
    fs::write(path("tokenizer.json"), builtin::TOKENIZER_JSON).unwrap();
    fs::write(path("chat_template.jinja"), DEFAULT_TEMPLATE).unwrap();
    tensor::io::save(
        path("model.safetensors"),
        tensors.iter().map(|(n, t)| (n.clone(), t)),
        &BTreeMap::new(),
    )
    .unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn complete<'a>(model: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["complete", "--model", text(model), "--max-tokens", "24"], more].concat()
}

const PROMPT: &str = "def add(a, b):\n    \"\"\"Add.\"\"\"\n";

#[test]
fn completions_are_reproducible() {
    let folder = folder(|_| {});
    let model = folder.path();
    let greedy = stdout(&complete(model, &["--temperature", "0", PROMPT]));
    assert!(!greedy.is_empty());
    assert_eq!(stdout(&complete(model, &["--threads", "1", PROMPT])), greedy);
    let piped = run(&complete(model, &[]), PROMPT.as_bytes());
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), greedy);

    let record: Value = serde_json::from_str(&stdout(&complete(model, &["--json", PROMPT]))).unwrap();
    assert_eq!(record["text"], json!(greedy));
    assert_eq!(record["ids"].as_array().unwrap().len() as u64, record["new_tokens"].as_u64().unwrap());
    assert!(record["tokens_per_second"].as_f64().unwrap() > 0.0);

    let sample =
        |seed| stdout(&complete(model, &["--temperature", "1", "--top-p", "0.9", "--seed", seed, PROMPT]));
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
}

#[test]
fn fill_ins_and_messages() {
    let folder = folder(|_| {});
    let model = folder.path();
    let record = |more: &[&str]| -> Value {
        serde_json::from_str(&stdout(&[&complete(model, &["--json"]), more].concat())).unwrap()
    };
    let fill = record(&["--prefix", "def f(", "--suffix", "-x"]);
    let start = record(&["def f("]);
    // BOS and the prefix, then three control tokens and the suffix.
    assert_eq!(fill["prompt_tokens"].as_u64().unwrap(), start["prompt_tokens"].as_u64().unwrap() + 5);
    let chat = record(&["--chat", "--system", "Be brief.", "Add two numbers."]);
    assert!(chat["prompt_tokens"].as_u64() > record(&["Add two numbers."])["prompt_tokens"].as_u64());

    fs::remove_file(model.join("chat_template.jinja")).unwrap();
    assert!(error(&complete(model, &["--chat", "hi"]), 1).contains("chat_template.jinja"));
    assert_eq!(run(&complete(model, &["--prefix", "a", "b"]), b"").status.code(), Some(2));
    assert_eq!(run(&complete(model, &["--system", "a", "b"]), b"").status.code(), Some(2));
}

#[test]
fn long_prompts_are_cut_and_the_context_ends() {
    let folder = folder(|_| {});
    let long = "x = 1\n".repeat(200);
    let output = run(&complete(folder.path(), &["--json", &long]), b"");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["prompt_tokens"], json!(96 - 24));
    assert!(record["dropped_prompt_tokens"].as_u64().unwrap() > 100);
    assert!(String::from_utf8(output.stderr).unwrap().contains("left out"));

    let output = run(
        &[
            "complete",
            "--model",
            text(folder.path()),
            "--max-tokens",
            "500",
            "--json",
            "--temperature",
            "3",
            PROMPT,
        ],
        b"",
    );
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = record["prompt_tokens"].as_u64().unwrap() + record["new_tokens"].as_u64().unwrap();
    if record["finish"] == json!("context_full") {
        assert_eq!(all, 97);
    } else {
        assert_eq!(record["finish"], json!("end"));
    }
}

#[test]
fn damaged_run_folders_are_one_line() {
    let good = folder(|_| {});
    let path = good.path();
    let weights = fs::read(path.join("model.safetensors")).unwrap();
    let broken = |bytes: &[u8]| {
        fs::write(path.join("model.safetensors"), bytes).unwrap();
        error(&complete(path, &["x"]), 1)
    };
    broken(b"");
    broken(&weights[..weights.len() / 2]);
    broken(&weights[..40]);
    let mut hostile = weights.clone();
    hostile[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(broken(&hostile).contains("header"));
    // The first tensor's data starts at 4 instead of 0, which leaves a gap and cuts it short.
    let at = weights.windows(4).position(|bytes| bytes == b":[0,").unwrap() + 2;
    hostile.clone_from(&weights);
    hostile[at] = b'4';
    broken(&hostile);

    fs::write(path.join("model.safetensors"), &weights).unwrap();
    stdout(&complete(path, &["x"]));
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let bytes = fs::read(path.join(name)).unwrap();
        fs::remove_file(path.join(name)).unwrap();
        assert!(error(&complete(path, &["x"]), 1).contains(&format!("no {name}")));
        fs::write(path.join(name), bytes).unwrap();
    }
    fs::write(path.join("tokenizer.json"), "{}").unwrap();
    error(&complete(path, &["x"]), 1);
    assert!(error(&complete(Path::new("/nowhere"), &["x"]), 1).contains("no such folder"));
    assert!(error(&complete(&path.join("config.json"), &["x"]), 1).contains("folder of a run"));
}

#[test]
fn weights_that_do_not_fit_the_config_are_one_line() {
    let good = folder(|_| {});
    let with = |setting: &str| {
        let config = config().with_setting(setting).unwrap();
        fs::write(good.path().join("config.json"), config.to_json().unwrap()).unwrap();
        error(&complete(good.path(), &["x"]), 1)
    };
    assert!(with("model.kv_heads=3").contains("model.heads is 4 and model.kv_heads 3"));
    assert!(
        with("model.vocab_size=1000")
            .contains("the tokenizer has 1024 tokens, more than model.vocab_size 1000")
    );
    assert!(with("model.vocab_size=16777216").contains("embed_tokens"));
    assert!(with("model.layers=16777216").contains("too few for model.layers"));
    assert!(with("model.layers=1").contains("has a tensor model.layers.1."));
    assert!(with("model.layers=3").contains("has no tensor model.layers.2."));
    assert!(with("model.hidden=40").contains("has dims"));
    assert!(with("model.max_seq=16777216").contains("model.max_seq"));
    assert!(with("model.sub_norm=true").contains("sub_norm"));
    fs::write(good.path().join("config.json"), r#"{"model": {"hiden": 1}}"#).unwrap();
    assert!(error(&complete(good.path(), &["x"]), 1).contains("did you mean hidden?"));

    let name = "model.layers.1.mlp.up_proj.weight";
    let nan = folder(|tensors| {
        let mut values = tensors[name].to_vec::<f32>().unwrap();
        values[7] = f32::NAN;
        tensors.insert(name.into(), Tensor::from_slice(&values, &[64, 32], &Device::Cpu).unwrap());
    });
    let message = error(&complete(nan.path(), &["x"]), 1);
    assert!(message.contains(name) && message.contains("not finite at element 7"), "{message}");
    let integers = folder(|tensors| {
        tensors.insert(name.into(), Tensor::zeros(&[64, 32], DType::I32, &Device::Cpu).unwrap());
    });
    assert!(error(&complete(integers.path(), &["x"]), 1).contains("floating-point"));
}

#[test]
fn wrong_use_is_exit_code_2() {
    let folder = folder(|_| {});
    let code = |args: &[&str]| run(args, b"").status.code();
    assert_eq!(code(&["complete", "x"]), Some(2));
    assert_eq!(code(&complete(folder.path(), &["--max-tokens", "-3", "x"])), Some(2));
    assert_eq!(code(&complete(folder.path(), &["--device", "gpu", "x"])), Some(2));
    assert_eq!(code(&complete(folder.path(), &["--threads", "0", "x"])), Some(2));
    assert!(error(&complete(folder.path(), &["--top-p", "1.5", "x"]), 2).contains("top-p"));
    for temperature in [&["--temperature=-1"][..], &["--temperature", "-1"]] {
        let args = complete(folder.path(), &[temperature, &["x"]].concat());
        assert!(error(&args, 2).contains("the temperature is -1"));
    }
    assert!(error(&["config", "126m"], 2).contains("the presets are tiny"));
    assert!(error(&["config", "tiny", "--set", "model.hidden=0"], 2).contains("model.hidden"));
    let nowhere = text(folder.path()).to_owned() + "/run";
    let out_of_range = ["train", "--out", &nowhere, "--set", "training.label_smoothing=1"];
    assert!(error(&out_of_range, 2).contains("training.label_smoothing is 1"));
    assert!(error_with(&complete(folder.path(), &[]), b"a\xffb", 2).contains("UTF-8 at byte 2"));
    error(&complete(folder.path(), &["--device", "cuda:0", "x"]), 1);
}

#[test]
fn inspect_shows_health() {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let folder = folder(|tensors| {
        // One large value makes all others round to zero.
        let mut values = vec![0f32; 32 * 32];
        values[0] = 1.0;
        tensors.insert(name.into(), Tensor::from_slice(&values, &[32, 32], &Device::Cpu).unwrap());
    });
    let args = ["inspect", "--model", text(folder.path())];
    let table = stdout(&args);
    assert!(table.contains("layers.1.mlp.down_proj"), "{table}");
    assert!(table.contains(&format!("warning: {name}: 99.9% of the weights are 0")), "{table}");
    let record: Value = serde_json::from_str(&stdout(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(record["parameters"], json!(config().model.parameters()));
    assert_eq!(record["config"]["model"]["hidden"], json!(32));
    assert_eq!(record["warnings"].as_array().unwrap().len(), 1, "{}", record["warnings"]);
    let weights = record["weights"].as_array().unwrap();
    let q = weights.iter().find(|weight| weight["name"] == json!(name)).unwrap();
    assert_eq!(q["shares"], json!([0.0, 1023.0 / 1024.0, 1.0 / 1024.0]));
    assert_eq!(q["gamma"].as_f64().map(|gamma| gamma as f32), Some(1.0 / 1024.0));
}

#[test]
fn configs_round_trip_through_the_program() {
    for name in ["tiny", "50m", "125m", "300m"] {
        let printed = stdout(&["config", name]);
        let config = Config::default().with_json(&printed, name).unwrap();
        assert_eq!(config, Config::preset(name).unwrap());
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("c.json");
        fs::write(&file, &printed).unwrap();
        assert_eq!(stdout(&["config", "--config", text(&file)]), printed);
    }
    assert!(stdout(&["config"]).contains("125m"));
    let changed: Value = serde_json::from_str(&stdout(&[
        "config",
        "tiny",
        "--set",
        "training.steps=7",
        "--set",
        "distillation.teacher=a",
    ]))
    .unwrap();
    assert_eq!(
        (&changed["training"]["steps"], &changed["distillation"]["teacher"]),
        (&json!(7), &json!("a"))
    );
    assert!(
        error(&["config", "tiny", "--set", "training.muon_lrr=1"], 2)
            .contains("training.muon_lrr: there is no such key, did you mean muon_lr?")
    );
    assert!(error(&["config", "tiny", "--set", "model.heads=5"], 2).contains("kv_heads must divide heads"));
    assert!(error(&["config", "huge"], 2).contains("tiny, 50m, 125m, 300m"));
}

#[test]
fn tokenizers_are_trained_and_shown() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a.txt"), "the cat sat on the mat\n".repeat(30)).unwrap();
    fs::write(
        path("b.jsonl"),
        "{\"text\": \"concatenate\"}\n\n{\"prompt\": \"p\", \"response\": \"concatenate\"}\n",
    )
    .unwrap();
    let out = path("tokenizer.json");
    let (a, b) = (path("a.txt"), path("b.jsonl"));
    let train = ["tokenizer", "train", "--data", text(&a), text(&b), "--out", text(&out), "--vocab-size"];
    let with = |size| [&train[..], &[size]].concat();
    let report = stdout(&with("270"));
    assert!(report.contains("270 tokens"), "{report}");
    let cut = stdout(&["tokenizer", "encode", text(&out), "the cat é"]);
    assert!(cut.starts_with("   ") && cut.contains("\"the\"") && cut.lines().count() < 9, "{cut}");
    let shown = stdout(&["tokenizer", "inspect", text(&out), "--text", text(&a)]);
    assert!(
        shown.contains("270, in 320 rows")
            && shown.contains("<|fim_prefix|> 2")
            && shown.contains("bytes a token"),
        "{shown}"
    );
    let record: Value =
        serde_json::from_str(&stdout(&["tokenizer", "encode", text(&out), "--json", "the"])).unwrap();
    assert_eq!(record["tokens"], json!(["the"]));

    assert!(error(&with("100"), 1).contains("ask for 262"));
    fs::write(&b, "{\"text\": \"fine\"}\nnot json\n").unwrap();
    assert!(error(&with("270"), 1).contains("b.jsonl:2: it is not JSON"));
    fs::write(&a, "").unwrap();
    fs::write(&b, "").unwrap();
    assert!(error(&with("270"), 1).contains("no text"));
    assert!(error(&["tokenizer", "inspect", text(&b)], 1).contains("b.jsonl"));
}
