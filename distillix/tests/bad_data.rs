//! Bad input is an error that says where and what.

mod common;

use common::{Style, sentencepiece};
use distillix::smelter::data::{DataConfig, Dataset, SourceConfig};
use std::sync::Arc;

struct Bench {
    folder: tempfile::TempDir,
    config: DataConfig,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = DataConfig {
            sources: Vec::new(),
            cache_dir: Some(folder.path().join("cache")),
            ..DataConfig::default()
        };
        Self { folder, config }
    }

    fn file(&mut self, name: &str, content: &[u8]) -> &mut Self {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).expect("writes");
        self.config.sources.push(SourceConfig::path(path));
        self
    }

    fn error(&self) -> String {
        let [error, other] = [Style::Prepend, Style::Metaspace].map(|style| {
            let opened = Dataset::open(&self.config, Arc::new(sentencepiece(style)), 64, 0, None, &|_| {});
            format!("{:#}", opened.err().expect("must fail"))
        });
        assert_eq!(error, other, "what is wrong does not depend on the tokenizer");
        error
    }
}

#[test]
fn bad_input_says_where() {
    let fails = |content: &[u8], expected: &[&str]| {
        let mut bench = Bench::new();
        let error = bench.file("bad.jsonl", content).error();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    };
    fails(b"{\"text\": \"a\"}\n\n{\"text\": }\n", &["bad.jsonl:3", "not JSON"]);
    fails(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n", &["bad.jsonl:2", "UTF-8"]);
    fails(b"{\"text\": 5}\n", &["bad.jsonl:1", "string"]);
    fails(b"{\"content\": \"a\"}\n", &["bad.jsonl:1", "`text`", "`prompt`"]);
    fails(b"{\"text\": \"a\", \"prompt\": \"b\"}\n", &["bad.jsonl:1", "either"]);
    fails(b"{\"prompt\": \"b\"}\n", &["bad.jsonl:1"]);
    fails(b"{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\n", &["bad.jsonl:1", "assistant"]);
    fails(b"{\"text\": \"ab\", \"fim_spans\": [[1, 3]]}\n", &["bad.jsonl:1", "[1, 3]", "2 characters"]);
    fails(b"", &["bad.jsonl", "no documents"]);
    fails(b"{\"text\": \"\"}\n", &["bad.jsonl", "1 empty"]);

    let mut bench = Bench::new();
    assert!(bench.error().contains("sources is empty"));
    bench.config.sources = vec![SourceConfig::default()];
    assert!(bench.error().contains("no built-in curriculum"));
    bench.config.sources = vec![SourceConfig::path("/nonexistent/x.jsonl")];
    assert!(bench.error().contains("/nonexistent/x.jsonl"));
    bench.config.sources =
        vec![SourceConfig { languages: vec!["pyton".to_owned()], ..SourceConfig::path(bench.folder.path()) }];
    assert!(bench.error().contains("pyton"));
    bench.config.sources = vec![SourceConfig::path(bench.folder.path())];
    assert!(bench.error().contains("no documents"), "{}", bench.error());
    bench.config.fim_rate = 1.5;
    assert!(bench.error().contains("fim_rate"));
    let unknown = serde_json::from_str::<DataConfig>("{\"fim_rat\": 1}").unwrap_err().to_string();
    assert!(unknown.contains("fim_rat") && unknown.contains("fim_rate"), "{unknown}");
    let full = serde_json::to_string(&DataConfig::default()).expect("JSON");
    assert_eq!(serde_json::from_str::<DataConfig>(&full).expect("parses"), DataConfig::default());
}
