//! Fill-ins: where they are cut, and of what.

use super::{Bench, distinct_texts, epoch, segments, validation};
use distillix::smelter::data::IGNORE;
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn fill_ins_reassemble_and_are_never_validated_on() {
    let mut bench = Bench::new();
    let texts = distinct_texts(200, |i| i % 7);
    bench.texts("a.jsonl", &texts);
    bench.config.fim_rate = 1.0;
    bench.config.validation_rows = 100_000;
    let data = bench.dataset(2048);
    let fim = bench.tokenizer.fim();
    let [prefix, suffix, middle] = [fim.prefix, fim.suffix, fim.middle].map(|id| id as i32);
    let pad = fim.pad as i32;
    let (mut whole, mut suffix_first) = (BTreeSet::new(), 0);
    for (ids, targets) in epoch(&data, 0).iter().flat_map(segments).filter(|(ids, _)| ids[0] != pad) {
        assert!(targets.iter().all(|target| ![prefix, suffix, middle, pad].contains(target)));
        let place = |token| ids.iter().position(|id| *id == token).expect("a fill-in");
        let (p, s, m) = (place(prefix), place(suffix), place(middle));
        assert_eq!((ids[0], p, targets[0]), (bench.tokenizer.bos() as i32, 1, IGNORE));
        suffix_first += usize::from(s == p + 1);
        let below = bench
            .tokenizer
            .decode_completion(&[fim.middle], &ids[s + 1..m].iter().map(|id| *id as u32).collect::<Vec<_>>());
        let above = bench.decode(&ids[p + 1..s]);
        // In suffix-first order the prefix stands before the middle, as the start of a document.
        let rest: Vec<u32> = ids[m + 1..].iter().map(|id| *id as u32).collect();
        let filled = if s == p + 1 {
            bench.tokenizer.decode_document(&rest)
        } else {
            above + &bench.tokenizer.decode_completion(&[fim.middle], &rest)
        };
        whole.insert(filled + &below);
    }
    let held_out: BTreeSet<String> = validation(&data)
        .iter()
        .flat_map(segments)
        .filter(|(ids, _)| ids[0] != pad)
        .map(|(ids, _)| {
            assert!(!ids.contains(&prefix));
            bench.decode(&ids)
        })
        .collect();
    // Every document but those held out: they are the ones below the threshold only, as all others are fill-ins.
    let expected: BTreeSet<String> = texts.iter().filter(|text| !held_out.contains(*text)).cloned().collect();
    assert_eq!(whole, expected);
    assert!((70..130).contains(&suffix_first), "{suffix_first}");
    // Another seed, another cut.
    assert_ne!(epoch(&data, 0)[0], epoch(&bench.open(2048, 1).expect("opens"), 0)[0]);
}

#[test]
fn long_fill_ins_fit_rows() {
    let mut bench = Bench::new();
    bench.texts("a.jsonl", &distinct_texts(20, |_| 100));
    (bench.config.fim_rate, bench.config.validation_fraction) = (1.0, 0.0);
    let data = bench.dataset(256);
    let fim = bench.tokenizer.fim();
    let mut lines = 0;
    for (ids, _) in epoch(&data, 0).iter().flat_map(segments).filter(|(ids, _)| ids[0] != fim.pad as i32) {
        let count = |id: u32| ids.iter().filter(|other| **other == id as i32).count();
        let control = [bench.tokenizer.bos(), fim.prefix, fim.suffix, fim.middle, bench.tokenizer.eos()];
        assert_eq!(control.map(count), [1; 5], "a whole fill-in");
        lines += bench.decode(&ids).matches('\n').count();
    }
    assert_eq!((lines, data.validation_rows()), (2000, 0));
}

#[test]
fn own_spans_are_used_for_about_half() {
    let mut bench = Bench::new();
    let lines: String = (0..400)
        .map(|i| {
            format!("{}\n", json!({"text": format!("é def abc{i}(): return xy{i}"), "fim_spans": [[2, 5]]}))
        })
        .collect();
    bench.file("a.jsonl", lines);
    (bench.config.fim_rate, bench.config.validation_fraction) = (1.0, 0.0);
    let data = bench.dataset(512);
    let fim = bench.tokenizer.fim();
    let own = epoch(&data, 0)
        .iter()
        .flat_map(segments)
        .filter(|(ids, _)| {
            let middle = ids.iter().position(|id| *id == fim.middle as i32).map_or(ids.len(), |at| at + 1);
            matches!(bench.decode(&ids[middle..]).trim_start(), "def" | "é def")
        })
        .count();
    assert!((160..250).contains(&own), "{own}");
}

#[test]
fn code_of_answers_is_filled_in_beside_them() {
    let mut bench = Bench::new();
    let lines: String = (0..200)
        .map(|i| {
            let response = format!("é def abc{i}(): return xy{i}");
            format!("{}\n", json!({"prompt": format!("p{i}"), "response": response, "fim_spans": [[2, 5]]}))
        })
        .collect();
    bench.file("a.jsonl", lines);
    (bench.config.fim_rate, bench.config.validation_fraction) = (0.5, 0.0);
    let data = bench.dataset(512);
    let fim = bench.tokenizer.fim();
    let pieces: Vec<Vec<i32>> = epoch(&data, 0)
        .iter()
        .flat_map(segments)
        .map(|(ids, _)| ids)
        .filter(|ids| ids[0] != fim.pad as i32)
        .collect();
    let fill_ins: Vec<&Vec<i32>> = pieces.iter().filter(|ids| ids.contains(&(fim.prefix as i32))).collect();
    assert_eq!(pieces.len() - fill_ins.len(), 200, "every answer is there");
    assert!((75..125).contains(&fill_ins.len()), "{}", fill_ins.len());
    let middle = |ids: &&&Vec<i32>| {
        let at = ids.iter().position(|id| *id == fim.middle as i32).map_or(ids.len(), |at| at + 1);
        matches!(bench.decode(&ids[at..]).trim_start(), "def" | "é def")
    };
    let own = fill_ins.iter().filter(middle).count();
    assert!((25..75).contains(&own), "{own} of {}", fill_ins.len());
    // The prompt is no part of a fill-in.
    assert!(!pieces.iter().any(|ids| bench.decode(ids).contains("p0") && ids.contains(&(fim.prefix as i32))));
}
