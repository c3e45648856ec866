//! A real benchmark among real code. `DISTILLIX_HUMANEVAL` names HumanEval.jsonl (or .jsonl.gz), which must never lie in the project,
//! `DISTILLIX_CODE` a folder of code; without them this test says that it is skipped.

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

    let planted = problems.iter().enumerate().flat_map(|(at, problem)| {
        let text = |name: &str| problem[name].as_str().expect("a text");
        let code = format!("{}{}", text("prompt"), text("canonical_solution"));
        let forms = [("renamed", renamed(&code)), ("reformatted", reformatted(&code)), ("verbatim", code)];
        let hosts = &hosts;
        forms.into_iter().enumerate().map(move |(form, (name, code))| {
            let host = hosts[(at * 7 + form * 31) % hosts.len()].body().unwrap_or_default();
            let cut = host[..host.floor_char_boundary(host.len() / 2)].rfind('\n').map_or(0, |at| at + 1);
            Record::text(
                format!("{} {name}", text("task_id")),
                format!("{}\n{code}\n{}", &host[..cut], &host[cut..]),
            )
        })
    });
    let planted: Vec<Record> = planted.collect();
    let missed: Vec<String> = pipeline
        .clean(planted)
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::Kept(record) => Some(record.id),
            Outcome::Dropped(_) => None,
        })
        .collect();
    assert!(missed.is_empty(), "{missed:?}");

    let count = hosts.len();
    let hits: Vec<String> = pipeline
        .clean(hosts)
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::Kept(_) => None,
            Outcome::Dropped(dropped) => Some(format!("{}: {}", dropped.record.id, dropped.detail)),
        })
        .collect();
    eprintln!("{} false hits in {count} files: {hits:?}", hits.len());
    assert!(hits.len() * 1000 <= count, "{hits:?}");
}
