//! Sources to batches: what is trained on, how often, and in which order.

mod common;
#[path = "data/fim.rs"]
mod fim;

use common::{Style, sentencepiece};
use distillix::smelter::data::{
    Batch, DataConfig, Dataset, Example, ExampleGenerator, IGNORE, Message, Piece, Prefetch, SourceConfig,
    SourceKind, Split, Template,
};
use distillix::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

struct Bench {
    folder: tempfile::TempDir,
    tokenizer: Arc<Tokenizer>,
    config: DataConfig,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = DataConfig {
            sources: Vec::new(),
            fim_rate: 0.0,
            cache_dir: Some(folder.path().join("cache")),
            ..DataConfig::default()
        };
        Self { folder, tokenizer: Arc::new(sentencepiece(Style::Prepend)), config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&mut self, name: &str, content: impl AsRef<[u8]>) -> &mut Self {
        std::fs::write(self.path(name), content).expect("writes");
        self.config.sources.push(SourceConfig::path(self.path(name)));
        self
    }

    fn texts(&mut self, name: &str, texts: &[String]) -> &mut Self {
        self.file(name, texts.iter().map(|text| format!("{}\n", json!({"text": text}))).collect::<String>())
    }

    fn open(&self, seq_len: usize, seed: u64) -> anyhow::Result<Dataset> {
        Dataset::open(&self.config, self.tokenizer.clone(), seq_len, seed, None, &|_| {})
    }

    fn dataset(&self, seq_len: usize) -> Dataset {
        self.open(seq_len, 0).expect("opens")
    }

    fn error(&self) -> String {
        format!("{:#}", self.open(64, 0).err().expect("must fail"))
    }

    fn decode(&self, ids: &[i32]) -> String {
        self.tokenizer.decode_document(&ids.iter().map(|id| *id as u32).collect::<Vec<_>>())
    }
}

/// Texts, each of them another, of `len` words.
fn distinct_texts(count: usize, len: impl Fn(usize) -> usize) -> Vec<String> {
    (0..count)
        .map(|i| {
            (0..len(i)).map(|j| format!("def abc{i}(): return xy{j}\n")).collect::<String>() + &i.to_string()
        })
        .collect()
}

/// Inputs and targets of each document's piece in each row.
fn segments(batch: &Batch) -> Vec<(Vec<i32>, Vec<i32>)> {
    let mut all = Vec::new();
    for row in 0..batch.rows {
        let range = row * batch.cols..(row + 1) * batch.cols;
        let (ids, targets, docs) =
            (&batch.ids[range.clone()], &batch.targets[range.clone()], &batch.docs[range]);
        assert!(docs[0] == 0 && docs.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 1));
        for doc in 0..=docs[docs.len() - 1] {
            let at: Vec<usize> = (0..docs.len()).filter(|at| docs[*at] == doc).collect();
            all.push((at.iter().map(|at| ids[*at]).collect(), at.iter().map(|at| targets[*at]).collect()));
        }
    }
    all
}

/// All training rows of one epoch of a set with a single source.
fn epoch(data: &Dataset, number: u64) -> Vec<Batch> {
    let rows = data.reports()[0].rows.expect("an end");
    (number * rows..(number + 1) * rows).map(|row| data.batch(row, 0, 1, 1).expect("a batch")).collect()
}

fn validation(data: &Dataset) -> Vec<Batch> {
    (0..data.validation_rows()).map(|row| data.validation_batch(row, 1).expect("a batch")).collect()
}

fn pairs(ids: &[i32], targets: &[i32], into: &mut BTreeMap<(i32, i32), usize>) {
    for pair in ids.iter().copied().zip(targets.iter().copied()) {
        *into.entry(pair).or_default() += 1;
    }
}

/// How often each pair of input and target comes, with each text as one plain document.
fn expected_pairs<'a>(
    bench: &Bench,
    texts: impl IntoIterator<Item = &'a String>,
) -> BTreeMap<(i32, i32), usize> {
    let mut expected = BTreeMap::new();
    for text in texts {
        let mut ids = vec![bench.tokenizer.bos() as i32];
        ids.extend(bench.tokenizer.encode_document(text).expect("encodes").iter().map(|id| *id as i32));
        ids.push(bench.tokenizer.eos() as i32);
        let mut targets = ids[1..].to_vec();
        targets.push(IGNORE);
        pairs(&ids, &targets, &mut expected);
    }
    expected
}

fn seen_pairs(bench: &Bench, batches: &[Batch]) -> BTreeMap<(i32, i32), usize> {
    let mut seen = BTreeMap::new();
    let pad = bench.tokenizer.fim().pad as i32;
    for (ids, targets) in batches.iter().flat_map(segments) {
        if ids[0] == pad {
            assert!(ids.iter().all(|id| *id == pad) && targets.iter().all(|target| *target == IGNORE));
            continue;
        }
        for at in 0..ids.len() - 1 {
            assert_eq!(targets[at], ids[at + 1], "targets are the next ids");
        }
        let last = *ids.last().expect("not empty");
        assert_eq!(last == bench.tokenizer.eos() as i32, *targets.last().expect("not empty") == IGNORE);
        pairs(&ids, &targets, &mut seen);
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_token_once_an_epoch_and_held_out_documents_never(
        lens in prop::collection::vec(0usize..12, 1..60), seq_len in 2usize..150,
    ) {
        let mut bench = Bench::new();
        let mut texts = distinct_texts(lens.len(), |i| lens[i]);
        texts.push("a".to_owned());
        bench.texts("a.jsonl", &texts);
        bench.config.validation_rows = 100_000;
        let data = bench.dataset(seq_len);
        // Which are held out does not depend on the row length, so long rows tell.
        let whole = bench.dataset(4096);
        let held_out: BTreeSet<String> =
            validation(&whole).iter().flat_map(segments).map(|(ids, _)| bench.decode(&ids)).filter(|t| !t.is_empty()).collect();
        prop_assert!(held_out.iter().all(|text| texts.contains(text)));
        prop_assert!(texts.len() < 11 || !held_out.is_empty());
        let train = expected_pairs(&bench, texts.iter().filter(|text| !held_out.contains(*text)));
        for number in 0..2 {
            prop_assert_eq!(&seen_pairs(&bench, &epoch(&data, number)), &train);
        }
        let validation_pairs = expected_pairs(&bench, texts.iter().filter(|text| held_out.contains(*text)));
        prop_assert_eq!(seen_pairs(&bench, &validation(&data)), validation_pairs);
    }
}

#[test]
fn steps_are_a_function_of_seed_and_number() {
    let mut bench = Bench::new();
    bench.texts("a.jsonl", &distinct_texts(300, |i| i % 9));
    let (data, again, other) = (bench.dataset(64), bench.dataset(64), bench.open(64, 1).expect("opens"));
    let one = data.step(7, 8, 1).expect("a step");
    assert_eq!(one, again.step(7, 8, 1).expect("a step"));
    assert_ne!(one, other.step(7, 8, 1).expect("a step"));
    assert_ne!(one, data.step(8, 8, 1).expect("a step"));
    // 8 micro-batches of a row are one micro-batch of 8 rows.
    let wide = data.step(7, 1, 8).expect("a step");
    let joined =
        |part: fn(&Batch) -> &Vec<i32>| one.micro_batches.iter().flat_map(part).copied().collect::<Vec<_>>();
    let all = &wide.micro_batches[0];
    assert_eq!(
        (joined(|b| &b.ids), joined(|b| &b.targets), joined(|b| &b.docs)),
        (all.ids.clone(), all.targets.clone(), all.docs.clone())
    );
    assert_eq!((one.trained_tokens, one.trained_bytes), (wide.trained_tokens, wide.trained_bytes));
    assert_eq!(one.trained_tokens, all.targets.iter().filter(|target| **target != IGNORE).count());
    let ahead = Prefetch::start(Arc::new(again), 5..9, 8, 1, 2).expect("starts");
    let ahead: Vec<_> = ahead.map(|step| step.expect("a step")).collect();
    assert_eq!(ahead.len(), 4);
    assert_eq!(ahead[2], one);
    // The same rows are validated on, whatever the seed.
    assert_eq!(validation(&data), validation(&other));
    assert!(data.validation_rows() > 0);
}

#[test]
fn only_answers_are_trained_on() {
    let mut bench = Bench::new();
    let lines: String = (0..50)
        .map(|i| match i % 2 {
            0 => format!("{}\n", json!({"prompt": format!("p{i} </s> question"), "response": format!("A{i}!")})),
            _ => format!(
                "{}\n",
                json!({"messages": [{"role": "system", "content": "be good"}, {"role": "user", "content": "q"},
                    {"role": "assistant", "content": format!("A{i}!")}, {"role": "user", "content": "again"},
                    {"role": "assistant", "content": format!("A{i}?")}], "id": i})
            ),
        })
        .collect();
    bench.file("a.jsonl", lines);
    // Answered documents are never fill-ins.
    (bench.config.fim_rate, bench.config.validation_fraction) = (1.0, 0.0);
    let data = bench.dataset(300);
    let (mut answers, mut bytes) = (BTreeMap::new(), 0);
    for batch in epoch(&data, 0) {
        bytes += batch.trained_bytes;
        for (ids, targets) in
            segments(&batch).into_iter().filter(|(ids, _)| ids[0] == bench.tokenizer.bos() as i32)
        {
            let trained: Vec<i32> = targets.iter().copied().filter(|target| *target != IGNORE).collect();
            let eos = bench.tokenizer.eos() as i32;
            assert_eq!(trained.last(), Some(&eos));
            let turns: Vec<String> = trained
                .split(|id| *id == eos)
                .map(|turn| bench.decode(turn))
                .filter(|t| !t.is_empty())
                .collect();
            assert_eq!(trained.iter().filter(|id| **id == eos).count(), turns.len());
            assert_eq!(ids.iter().filter(|id| **id == eos).count(), turns.len(), "a written </s> is text");
            *answers.entry(turns).or_insert(0) += 1;
        }
    }
    let expected: BTreeMap<Vec<String>, i32> = (0..50)
        .map(|i| {
            (if i % 2 == 0 { vec![format!("A{i}!")] } else { vec![format!("A{i}!"), format!("A{i}?")] }, 1)
        })
        .collect();
    assert_eq!(answers, expected);
    let expected_bytes: usize = expected.keys().flatten().map(String::len).sum();
    assert_eq!(bytes as usize, expected_bytes);
}

#[test]
fn bytes_of_plain_text_are_counted_exactly() {
    let mut bench = Bench::new();
    let texts = distinct_texts(40, |i| i % 5);
    bench.texts("a.jsonl", &texts);
    bench.config.validation_fraction = 0.0;
    for (seq_len, style) in [(7, Style::Prepend), (64, Style::Metaspace), (1000, Style::Prepend)] {
        bench.tokenizer = Arc::new(sentencepiece(style));
        let bytes: u64 = epoch(&bench.dataset(seq_len), 0).iter().map(|batch| batch.trained_bytes).sum();
        // A piece that continues a document has no target for its first token, which the piece before it had.
        assert_eq!(bytes as usize, texts.iter().map(String::len).sum::<usize>());
    }
}

#[test]
fn templates_render_and_prompt_ids_start_the_training_ids() {
    let tokenizer = sentencepiece(Style::Prepend);
    let turn = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let messages = [turn("user", "x </s> y"), turn("assistant", "def abc")];
    let chat = "{{ bos_token }}{% for m in messages %}{% if loop.first and m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}\
                {{ '[' + m.role.upper() + ']' }} {{ m.content.strip() }}{{ eos_token }}\n{% endfor %}\
                {% if add_generation_prompt %}[ASSISTANT] {% endif %}";
    for source in [distillix::smelter::data::DEFAULT_TEMPLATE, chat] {
        let template = Template::new(source).expect("valid");
        let prompt = template.encode_prompt(&tokenizer, &messages[..1]).expect("renders");
        let pieces = template.render(&tokenizer, &messages, false).expect("renders");
        let trained: Vec<&Piece> =
            pieces.iter().filter(|p| matches!(p, Piece::Text(_, true) | Piece::Token(_, true))).collect();
        assert_eq!(trained, [&Piece::Text("def abc".to_owned(), true), &Piece::Token(tokenizer.eos(), true)]);
        assert_eq!(prompt.iter().filter(|id| **id == tokenizer.bos()).count(), 1);
        assert!(tokenizer.decode_document(&prompt).contains("x </s> y"));
        let mut bench = Bench::new();
        bench.config.template = source.to_owned();
        bench.config.validation_fraction = 0.0;
        bench.file("a.jsonl", json!({"messages": messages}).to_string());
        let batch = bench.dataset(128).batch(0, 0, 1, 1).expect("a batch");
        assert!(
            batch.ids.iter().map(|id| *id as u32).take(prompt.len()).eq(prompt.iter().copied()),
            "{source}"
        );
        assert_eq!(batch.targets.iter().position(|t| *t != IGNORE), Some(prompt.len() - 1));
    }
    let raw = Template::new("{{ prompt }}{{ response }}").expect("valid");
    assert_eq!(
        raw.render(&tokenizer, &messages, false).expect("renders"),
        [Piece::Text("x </s> y".to_owned(), false), Piece::Text("def abc".to_owned(), true)]
    );
    let error =
        Template::new(chat).expect("valid").render(&tokenizer, &[turn("system", "s")], false).unwrap_err();
    assert!(error.to_string().contains("no system"), "{error}");
    assert!(Template::new("{% if %}").is_err());
}

struct Counting;

impl ExampleGenerator for Counting {
    fn example(&self, split: Split, index: u64) -> Example {
        Example { prompt: format!("def {}{index}():", split.name()), response: format!("\n return {index}") }
    }
}

#[test]
fn generated_examples_are_whole_and_come_once() {
    let bench = Bench::new();
    let mut config = bench.config.clone();
    config.sources.push(SourceConfig::default());
    config.validation_rows = 5;
    let data = Dataset::open(&config, bench.tokenizer.clone(), 96, 3, Some(Arc::new(Counting)), &|_| {})
        .expect("opens");
    assert_eq!((data.validation_rows(), data.reports()[0].rows), (5, None));
    let mut seen = BTreeSet::new();
    let step = data.step(0, 4, 8).expect("a step");
    assert_eq!(step, data.step(0, 4, 8).expect("a step"));
    for (ids, targets) in step.micro_batches.iter().flat_map(segments) {
        let text = bench.decode(&ids);
        if text.is_empty() {
            continue;
        }
        let answer: Vec<i32> = targets.iter().copied().filter(|target| *target != IGNORE).collect();
        let answer =
            bench.tokenizer.decode_completion(&[5], &answer.iter().map(|id| *id as u32).collect::<Vec<_>>());
        let number = answer.trim_start_matches("\n return ");
        assert_eq!(text, format!("def train{number}():\n return {number}"));
        assert!(seen.insert(text));
    }
    assert!(seen.len() > 60, "{}", seen.len());
    let batch = data.validation_batch(4, 8).expect("a batch");
    assert_eq!(batch.rows, 1);
    assert!(bench.decode(&batch.ids).contains("validation"));
}

#[test]
fn sources_have_their_weights_share() {
    let mut bench = Bench::new();
    bench.texts("a.jsonl", &vec!["a".repeat(90); 5]).texts("b.jsonl", &vec!["b".repeat(90); 50]);
    bench.config.sources[0].weight = 3.0;
    bench.config.validation_fraction = 0.0;
    let data = bench.dataset(96);
    let batch = data.batch(0, 0, 1, 2000).expect("a batch");
    let a = bench.tokenizer.id("a").expect("a token") as i32;
    let rows = batch.ids.chunks(96).filter(|row| row.contains(&a)).count();
    assert!((1450..1550).contains(&rows), "{rows}");
}

#[test]
fn folders_of_code() {
    let mut bench = Bench::new();
    let root = bench.path("code");
    let write = |name: &str, text: &[u8]| {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("creates");
        std::fs::write(path, text).expect("writes");
    };
    let code = |i: u32| format!("def abc{i}():\n    return xy\n# {}\n", "x".repeat(40));
    write(".gitignore", b"build/\n");
    for (i, name) in ["a.py", "sub/b.py", "build/c.py", ".hidden/d.py", "e.rs", "f.txt"].iter().enumerate() {
        write(name, code(i as u32).as_bytes());
    }
    write("binary.py", &[0xff; 60]);
    write("short.py", b"x");
    write("generated.py", format!("# @generated\n{}", code(9)).as_bytes());
    bench.config.sources =
        vec![SourceConfig { languages: vec!["python".to_owned()], ..SourceConfig::path(&root) }];
    bench.config.validation_fraction = 0.0;
    let data = bench.dataset(512);
    let meta = data.reports()[0].meta.clone().expect("a shard");
    let skipped: BTreeMap<String, u64> = meta.skipped.into_iter().collect();
    assert_eq!(skipped.values().sum::<u64>(), 3, "{skipped:?}");
    assert_eq!((meta.documents, meta.train), (2, 2));
    let text: BTreeSet<String> =
        epoch(&data, 0).iter().flat_map(segments).map(|(ids, _)| bench.decode(&ids)).collect();
    assert!(text.contains(&code(0)) && text.contains(&code(1)));
}

fn shards(bench: &Bench) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(bench.path("cache")).expect("a cache");
    entries.map(|e| e.expect("an entry").path()).filter(|p| p.join("meta.json").exists()).collect()
}

fn read_all(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("a shard");
    entries
        .map(|e| e.expect("an entry").path())
        .map(|p| (p.file_name().expect("a name").into(), std::fs::read(p).expect("reads")))
        .collect()
}

#[test]
fn shards_are_made_once_for_content_and_settings() {
    let mut bench = Bench::new();
    let texts = distinct_texts(60, |i| i % 5);
    bench.texts("a.jsonl", &texts);
    bench.config.fim_rate = 0.5;
    let first = bench.dataset(64).step(0, 1, 8).expect("a step");
    assert_eq!(shards(&bench).len(), 1);
    let folder = shards(&bench).into_iter().next().expect("one");
    let made = std::fs::metadata(folder.join("tokens.bin")).expect("exists").modified().expect("a time");
    // The same content under another name and time: no new shard.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    std::fs::File::open(bench.path("a.jsonl")).and_then(|f| f.set_modified(later)).expect("sets the time");
    assert_eq!(bench.dataset(64).step(0, 1, 8).expect("a step"), first);
    assert_eq!(
        std::fs::metadata(folder.join("tokens.bin")).expect("exists").modified().expect("a time"),
        made
    );
    assert_eq!(shards(&bench).len(), 1);
    // Another seed, another content, another template: new ones.
    bench.open(64, 1).expect("opens");
    assert_eq!(shards(&bench).len(), 2);
    bench.config.template = "{{ prompt }}{{ response }}".to_owned();
    bench.dataset(64);
    assert_eq!(shards(&bench).len(), 3);
    let mut text = std::fs::read_to_string(bench.path("a.jsonl")).expect("reads");
    text.push_str("{\"text\": \"more\"}\n");
    std::fs::write(bench.path("a.jsonl"), text).expect("writes");
    bench.dataset(64);
    assert_eq!(shards(&bench).len(), 4);
}

#[test]
fn interrupted_and_simultaneous_makers() {
    let mut bench = Bench::new();
    bench.texts("a.jsonl", &distinct_texts(400, |i| i % 5));
    let expected = bench.dataset(64).step(3, 1, 8).expect("a step");
    let folder = shards(&bench).into_iter().next().expect("one");
    let files = read_all(&folder);
    // What a killed maker leaves: a partial folder, and no warm entry.
    let partial = folder.with_extension("partial");
    std::fs::remove_dir_all(bench.path("cache").join("warm")).expect("removes");
    std::fs::rename(&folder, &partial).expect("renames");
    std::fs::write(partial.join("tokens.bin"), b"half").expect("writes");
    let steps: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| bench.dataset(64).step(3, 1, 8).expect("a step"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
    });
    assert!(steps.iter().all(|step| *step == expected));
    assert_eq!(read_all(&folder), files);
    assert!(!partial.exists());
    // A damaged shard is an error that says what to do.
    std::fs::write(folder.join("tokens.bin"), b"half").expect("writes");
    assert!(bench.error().contains("delete"), "{}", bench.error());
}

#[test]
fn shards_do_not_depend_on_threads() {
    let mut bench = Bench::new();
    bench.texts("a.jsonl", &distinct_texts(500, |i| i % 13));
    bench.config.fim_rate = 0.5;
    let made: Vec<_> = [1, 4]
        .into_iter()
        .map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| bench.dataset(64));
            let folder = shards(&bench).into_iter().next().expect("one");
            let files = read_all(&folder);
            std::fs::remove_dir_all(bench.path("cache")).expect("removes");
            files
        })
        .collect();
    assert_eq!(made[0], made[1]);
}

#[test]
fn compressed_lines() {
    use std::io::Write;
    let mut bench = Bench::new();
    let lines: String =
        distinct_texts(30, |i| i % 4).iter().map(|t| format!("{}\n", json!({"text": t}))).collect();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines.as_bytes()).expect("writes");
    let zst =
        ruzstd::encoding::compress_to_vec(lines.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    let mut steps = Vec::new();
    for (name, bytes) in
        [("a.jsonl", lines.into_bytes()), ("a.jsonl.gz", gz.finish().expect("ends")), ("a.jsonl.zst", zst)]
    {
        bench.config.sources.clear();
        steps.push(bench.file(name, bytes).dataset(64).step(0, 1, 4).expect("a step"));
    }
    assert!(steps.iter().all(|step| *step == steps[0]));
    // All of them as a folder.
    bench.config.sources =
        vec![SourceConfig { kind: SourceKind::Jsonl, ..SourceConfig::path(bench.folder.path()) }];
    assert_eq!(bench.dataset(64).reports()[0].meta.as_ref().map(|meta| meta.documents), Some(90));
}
