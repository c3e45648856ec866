//! Existing data through the cleaning, from every form it comes in to what the trainer reads.

mod common;

use common::{Style, sentencepiece};
use distillix::foundry::clean::{CleanConfig, Draft, Job, Outcome, Pipeline, Stage, Verdict, clean_files};
use distillix::foundry::ingest::Source;
use distillix::foundry::output::SetWriter;
use distillix::foundry::record::Record;
use distillix::smelter::data::{DataConfig, Dataset, SourceConfig};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const PYTHON: &str =
    "# Größe\ndef area(width, height):\n    \"\"\"Return the area, in m².\"\"\"\n    return width * height\n";
const RUST: &str =
    "fn double(values: &[u32]) -> Vec<u32> {\n    values.iter().map(|value| value * 2).collect()\n}\n";

fn read(paths: &[PathBuf]) -> Vec<Record> {
    let mut records = Vec::new();
    let source = Source::new(paths, &[]).expect("opens");
    source
        .read(&mut |raw| {
            records.push(raw.into_record().map_err(|wrong| anyhow::anyhow!("{wrong:?}"))?);
            Ok(())
        })
        .expect("reads");
    records
}

fn write(path: &Path, records: &[Record]) {
    let mut writer = SetWriter::create(path).expect("creates");
    records.iter().for_each(|record| writer.write(record).expect("writes"));
    writer.finish().expect("finishes");
}

fn clean(inputs: &[PathBuf], output: &Path, config: &CleanConfig) -> Vec<Record> {
    let mut pipeline = Pipeline::new(config).expect("a pipeline");
    let job = Job { inputs: inputs.to_vec(), output: output.to_path_buf(), dropped: None };
    clean_files(&job, &mut pipeline, &AtomicBool::new(false), |_| {}).expect("cleans");
    read(&[output.to_path_buf()])
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_distillix")).args(arguments).output().expect("runs")
}

#[test]
fn every_form_holds_the_same_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut record = Record::answer("a", "Größe?", "日本");
    record.fim_spans = vec![(0, 1)];
    record.checks.insert("syntax".into(), "ok".into());
    record.sample = Some(3);
    record.extra.insert("stars".into(), json!({"n": 5}));
    record.source = Some("s".into());
    let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let chat: Record =
        serde_json::from_value(json!({"id": "c", "source": "s", "messages": messages})).expect("a record");
    let records = vec![record, chat, Record { source: Some("s".into()), ..Record::text("t", PYTHON) }];
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"] {
        let path = folder.path().join(name);
        write(&path, &records);
        assert_eq!(read(&[path]), records, "{name}");
    }
    assert!(
        SetWriter::create(&folder.path().join("a.csv"))
            .is_err_and(|error| error.to_string().contains(".parquet"))
    );
}

#[test]
fn folders_and_archives_give_their_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("checkout");
    let file = |name: &str, content: &[u8]| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, content).expect("writes");
    };
    file(".gitignore", b"build/\n*.gen.py\n");
    file("src/a.py", PYTHON.as_bytes());
    file("src/b.rs", RUST.as_bytes());
    file("src/c.gen.py", b"x = 1\n");
    file("build/d.py", b"x = 2\n");
    file("notes.txt", b"no code");
    file("f.hs", b"double x = x + x\n");
    let names = |records: &[Record]| records.iter().map(|record| record.id.clone()).collect::<BTreeSet<_>>();
    let found = read(std::slice::from_ref(&root));
    assert_eq!(names(&found), ["src/a.py", "src/b.rs", "f.hs"].map(str::to_owned).into());
    assert_eq!(
        found.iter().map(|r| r.language.as_deref()).collect::<BTreeSet<_>>(),
        [Some("python"), Some("rust"), Some("haskell")].into()
    );

    let archive = folder.path().join("a.tar.gz");
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
        std::fs::File::create(&archive).expect("creates"),
        Default::default(),
    ));
    builder.append_dir_all(".", root.join("src")).expect("packs");
    builder.into_inner().and_then(|gz| gz.finish()).expect("packs");
    assert_eq!(names(&read(std::slice::from_ref(&archive))).len(), 3);

    // A broken file among others is counted; one that was named is an error.
    let broken = root.join("z.jsonl.gz");
    std::fs::write(&broken, &std::fs::read(&archive).expect("reads")[..40]).expect("writes");
    let output = folder.path().join("out.jsonl");
    assert_eq!(clean(std::slice::from_ref(&root), &output, &CleanConfig::default()).len(), 3);
    let mut pipeline = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
    let job = Job { inputs: vec![broken], output: output.clone(), dropped: None };
    let error = clean_files(&job, &mut pipeline, &AtomicBool::new(false), |_| {}).expect_err("must fail");
    assert!(format!("{error:#}").contains("z.jsonl.gz"), "{error:#}");
    assert_eq!(read(&[output]).len(), 3, "the output is as it was");
}

#[test]
fn valid_code_is_kept_however_it_looks() {
    let table = format!("T = [\n{}]\n", "    0, 0, 0, 0, 0, 0, 0, 0,\n".repeat(60));
    let minified = format!(
        "const a={};\n",
        (0..400).map(|i| format!("function(){{return {i}}}")).collect::<Vec<_>>().join("+")
    );
    let asserts: String = (0..60).map(|i| format!("assert f({i}) == {i}\n")).collect();
    for (language, code) in [
        ("python", "x=lambda a,b:(a\n+b);y=[x(1,2),\n3]\n"),
        ("python", "class Größe:\n    日本 = 1\n"),
        ("python", "def f(): ...\nasync def g(): await f()\n"),
        ("python", "match x:\n    case [1, *rest] if rest: pass\n    case _: print(f'{x!r:>{10}}')\n"),
        ("python", table.as_str()),
        ("python", asserts.as_str()),
        ("javascript", minified.as_str()),
        ("rust", "fn f<'a, T: ?Sized + 'a>(x: &'a T) -> impl Fn() -> &'a T { move || x }\n"),
        ("go", "package a\n\nfunc F[T any](x T) T { return x }\n"),
        ("java", "record P(int x, int y) { P { if (x < 0) throw new IllegalArgumentException(); } }\n"),
        ("c", "int main(void){int a[]={1,2,3};return a[0]?*a:0;}\n"),
        ("cpp", "template<class... T> auto sum(T... x) { return (x + ... + 0); }\n"),
        ("typescript", "type A<T> = T extends (infer U)[] ? U : never;\n"),
        ("bash", "for i in {1..3}; do echo \"${i%%x}\"; done 2>&1 | tee >(cat)\n"),
    ] {
        for as_answer in [false, true] {
            let record =
                if as_answer { Record::answer("a", "Write it.", code) } else { Record::text("a", code) };
            let record = Record { language: Some(language.into()), ..record };
            let mut pipeline = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
            match pipeline.clean_one(record) {
                Outcome::Kept(record) => assert_eq!(record.body().map(str::trim_end), Some(code.trim_end())),
                Outcome::Dropped(dropped) => {
                    panic!("{language} {code}: {} {} {}", dropped.stage, dropped.reason, dropped.detail)
                }
            }
        }
    }
}

/// The text of record `seed`: `lines` lines, the first `shared` of them those of record `seed` whatever `side` is.
fn planted(seed: usize, lines: usize, shared: usize, side: usize) -> String {
    let line = |i: usize| {
        let owner = if i < shared { 0 } else { side };
        format!("value_{seed}_{i}_{owner} = compute(item_{i}_{owner}, {seed} + {owner})\n")
    };
    (0..lines).map(line).collect()
}

#[test]
fn near_duplicates_are_found_and_others_are_not() {
    // Of two texts with n lines each and s in common, the similarity is s / (2n - s).
    let (n, pairs) = (36, 1000);
    for (shared, similarity, is_duplicate) in [(32, 0.8, true), (27, 0.6, false), (20, 0.38, false)] {
        assert!((shared as f64 / (2 * n - shared) as f64 - similarity).abs() < 0.005);
        let mut pipeline = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
        let text = |seed, side| Record::text(format!("{seed} {side}"), planted(seed, n, shared, side));
        let records: Vec<Record> =
            (0..pairs).map(|seed| text(seed, 1)).chain((0..pairs).map(|seed| text(seed, 2))).collect();
        let outcomes = pipeline.clean(records);
        assert!(outcomes[..pairs].iter().all(|outcome| matches!(outcome, Outcome::Kept(_))));
        let dropped = outcomes[pairs..]
            .iter()
            .filter(|o| matches!(o, Outcome::Dropped(d) if d.stage == "near"))
            .count();
        if is_duplicate {
            assert!(dropped * 100 >= pairs * 98, "{dropped} of {pairs} at {similarity}");
        } else {
            assert!(dropped * 100 <= pairs * 2, "{dropped} of {pairs} at {similarity}");
        }
    }
}

#[test]
fn what_is_cleaned_is_trained_on_with_its_spans() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    let code = |i: usize| format!("# é日本\ndef f{i}(x):\n    y{i} = x + {i}\n    return y{i}\n");
    let texts =
        (0..40).map(|i| Record { language: Some("python".into()), ..Record::text(format!("t{i}"), code(i)) });
    let answers = (40..80).map(|i| {
        let response = format!("Sure, für dich:\n```python\n{}```\n", code(i));
        Record {
            language: Some("python".into()),
            ..Record::answer(format!("a{i}"), format!("Write f{i}."), response)
        }
    });
    write(&input, &texts.chain(answers).collect::<Vec<_>>());
    let config = CleanConfig { skip: vec!["near".into()], ..CleanConfig::default() };
    let records = clean(&[input], &output, &config);
    assert_eq!(records.len(), 80);
    for record in &records {
        let body = record.body().expect("a body");
        assert!(body.starts_with("# é日本\ndef f"), "{body}");
        let chars: Vec<char> = body.chars().collect();
        let spans: Vec<String> =
            record.fim_spans.iter().map(|(a, b)| chars[*a..*b].iter().collect()).collect();
        assert!(spans.iter().any(|span| span.starts_with("return y")), "{spans:?}");
    }
    for style in [Style::Prepend, Style::Metaspace] {
        let data = DataConfig {
            sources: vec![SourceConfig::path(&output)],
            fim_rate: 1.0,
            validation_fraction: 0.0,
            cache_dir: Some(folder.path().join("cache")),
            ..DataConfig::default()
        };
        let dataset = Dataset::open(&data, Arc::new(sentencepiece(style)), 512, 0, None, &|_| {});
        assert!(dataset.is_ok(), "{:#}", dataset.err().expect("an error"));
    }
}

#[test]
fn the_program_reports_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (input, output, dropped) = (path("in.jsonl"), path("out.jsonl"), path("dropped.jsonl"));
    let mut file = std::fs::File::create(&input).expect("creates");
    for line in [
        json!({"id": "ok", "text": PYTHON, "language": "python"}).to_string(),
        json!({"id": "copy", "text": PYTHON, "language": "python"}).to_string(),
        json!({"id": "no", "prompt": "p", "response": "I'm sorry, but I can't help with that.", "language": "python"}).to_string(),
        json!({"id": "cut", "prompt": "p", "response": "```python\ndef f(x):\n    return g(x,\n```", "language": "python"}).to_string(),
        "{broken".to_owned(),
    ] {
        writeln!(file, "{line}").expect("writes");
    }
    let ran = program(&["foundry", "clean", &input, "--output", &output, "--dropped", &dropped, "--json"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let report: Value = serde_json::from_slice(&ran.stdout).expect("one JSON line");
    assert_eq!((report["records"].clone(), report["kept"].clone()), (json!(5), json!(1)));
    let counts = |stage: &str| {
        let stages = report["stages"].as_array().expect("stages");
        stages.iter().find(|s| s["stage"] == stage).map(|s| s["dropped"].as_u64())
    };
    for stage in ["read", "refusal", "truncated", "exact"] {
        assert_eq!(counts(stage), Some(Some(1)), "{stage}: {report}");
    }
    let why: Vec<Value> =
        read(&[dropped.clone().into()]).into_iter().map(|r| r.checks["dropped"]["stage"].clone()).collect();
    assert_eq!(why, ["exact", "refusal", "truncated"]);

    let before = std::fs::read(&output).expect("reads");
    let wrong = |arguments: &[&str], code: i32, part: &str| {
        let all = [&["foundry", "clean", &input, "--output", &output], arguments].concat();
        let ran = program(&all);
        let error = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(code) && error.contains(part), "{code} {part}: {error}");
    };
    wrong(&["--skip", "nera"], 2, "did you mean near?");
    wrong(&["--language", "cobol"], 2, "cobol");
    wrong(&["--against", "/nonexistent.jsonl"], 1, "/nonexistent.jsonl");
    wrong(&["--set", "foundry.clean.min_char=3"], 2, "did you mean min_chars?");
    wrong(&["--language", "go"], 1, "no record is left");
    wrong(&[output.as_str()], 2, "out.jsonl is read");
    wrong(&["--dropped", &input], 2, "in.jsonl is read");
    assert_eq!(std::fs::read(&output).expect("reads"), before, "a run that fails leaves the old set");
    assert!(!Path::new(&format!("{output}.partial")).exists());

    let ran = program(&["foundry", "inspect", &input, "--json"]);
    let report: Value = serde_json::from_slice(&ran.stdout).expect("one JSON line");
    assert_eq!((report["records"].clone(), report["unreadable"].clone()), (json!(4), json!(1)));
    let shown = program(&["foundry", "inspect", &input, "--color", "always", "--samples", "9"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("\u{1b}[35mdef") && shown.contains("python 4"), "{shown}");
}

#[test]
fn a_stopped_run_keeps_what_it_did() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    write(&input, &[Record::text("a", PYTHON)]);
    std::fs::write(&output, "old").expect("writes");
    let mut pipeline = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
    let job = Job { inputs: vec![input], output: output.clone(), dropped: None };
    let stop = AtomicBool::new(true);
    let cleaned = clean_files(&job, &mut pipeline, &stop, |_| {}).expect("stops");
    let partial = cleaned.stopped.expect("stopped");
    assert_eq!(std::fs::read_to_string(&output).expect("reads"), "old");
    assert_eq!(partial, folder.path().join("stopped-out.jsonl"));
    // Nothing that follows takes it away.
    drop(SetWriter::create(&output).expect("creates"));
    assert_eq!(read(&[partial])[0].body(), Some(PYTHON));
}

#[test]
fn files_that_are_being_made_are_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    write(&path("in.jsonl"), &[Record::text("a", PYTHON), Record::text("b", PYTHON)]);
    for dropped in ["dropped.jsonl", "dropped.jsonl", "out.jsonl"] {
        let job = Job {
            inputs: vec![folder.path().to_path_buf()],
            output: path("out.jsonl"),
            dropped: Some(path(dropped)),
        };
        let mut pipeline = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
        match clean_files(&job, &mut pipeline, &AtomicBool::new(false), |_| {}) {
            Ok(cleaned) => assert_eq!((cleaned.report.records, cleaned.report.kept), (2, 1)),
            Err(error) => assert!(error.to_string().contains("cannot both go to") && dropped == "out.jsonl"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Records of all sorts: nothing panics, the batches do not matter, and what is kept is kept again.
    #[test]
    fn outcomes_do_not_depend_on_batches(bodies in prop::collection::vec(
        ("(def f\\(x\\):\n    return x\n|```python\n|```\n|I'm sorry, I can't\\.|é日 |a@b.org |x = \\[|\n|# rest of the code\n){0,8}",
         prop::option::of("python|rust|c|text"), any::<bool>()), 1..12)) {
        let records: Vec<Record> = bodies.iter().enumerate().map(|(i, (body, language, is_answer))| {
            let record = if *is_answer { Record::answer(i.to_string(), "q", body) } else { Record::text(i.to_string(), body) };
            Record { language: language.clone(), ..record }
        }).collect();
        let mut whole = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
        let mut single = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
        let outcomes = whole.clean(records.clone());
        let others: Vec<Outcome> = records.into_iter().map(|record| single.clean_one(record)).collect();
        prop_assert_eq!(&outcomes, &others);
        let kept: Vec<Record> = outcomes.into_iter().filter_map(|outcome| match outcome {
            Outcome::Kept(record) => Some(record),
            Outcome::Dropped(_) => None,
        }).collect();
        for record in &kept {
            let length = record.body().map_or(0, |body| body.chars().count());
            prop_assert!(record.fim_spans.iter().all(|(start, end)| start < end && *end <= length));
        }
        let mut again = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
        let twice: Vec<Outcome> = again.clean(kept.clone());
        prop_assert_eq!(twice, kept.into_iter().map(Outcome::Kept).collect::<Vec<_>>());
    }
}

/// A stage whose means fail.
struct Broken;

impl Stage for Broken {
    fn check(&self, _: &mut Draft) -> Verdict {
        Ok(())
    }

    fn broken(&self) -> Option<String> {
        Some("out of order".to_owned())
    }
}

#[test]
fn a_stage_that_cannot_judge_ends_the_cleaning() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
    write(&input, &[Record::text("a", PYTHON)]);
    std::fs::write(&output, "as it was").expect("writes");
    let mut pipeline = Pipeline::new(&CleanConfig::default()).expect("a pipeline");
    pipeline.push("broken", Box::new(Broken));
    let job = Job { inputs: vec![input], output: output.clone(), dropped: None };
    let cleaned = clean_files(&job, &mut pipeline, &AtomicBool::new(false), |_| {});
    let error = cleaned.expect_err("it cannot go on").to_string();
    assert!(error.contains("stage broken") && error.contains("out of order"), "{error}");
    assert_eq!(std::fs::read_to_string(&output).expect("reads"), "as it was");
}
