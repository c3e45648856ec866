//! What a set consists of, and random records of it.

use super::record::Record;
use super::tokens::mix;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What a set consists of.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Statistics {
    /// Records.
    pub records: u64,
    /// Records with a `text`.
    pub texts: u64,
    /// Records with a `prompt` and a `response`.
    pub answers: u64,
    /// Records with `messages`.
    pub conversations: u64,
    /// Records by language.
    pub languages: BTreeMap<String, u64>,
    /// Records by teacher and model.
    pub teachers: BTreeMap<String, u64>,
    /// For each check, records by what it said; what is no single word counts as `other`.
    pub checks: BTreeMap<String, BTreeMap<String, u64>>,
    /// Characters of the bodies.
    pub body: Lengths,
    /// Characters of the prompts.
    pub prompt: Lengths,
    /// Records with tests.
    pub with_tests: u64,
    /// Records with `fim_spans`.
    pub with_fim_spans: u64,
    /// All `fim_spans`.
    pub fim_spans: u64,
    /// `fim_spans` that are no range of the body's characters.
    pub invalid_fim_spans: u64,
}

/// How long texts are.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Lengths {
    /// Characters of all.
    pub total: u64,
    /// The longest.
    pub max: u64,
    /// How many are of each length, by the length's number of binary digits.
    #[serde(skip)]
    by_digits: Vec<u64>,
    /// The 10th, 50th and 90th percentile, within a factor of two: the upper end of the class that holds it.
    pub percentiles: [u64; 3],
}

impl Lengths {
    fn add(&mut self, length: u64) {
        self.total += length;
        self.max = self.max.max(length);
        let digits = (u64::BITS - length.leading_zeros()) as usize;
        self.by_digits.resize(self.by_digits.len().max(digits + 1), 0);
        self.by_digits[digits] += 1;
    }

    fn finish(&mut self) {
        let count: u64 = self.by_digits.iter().sum();
        self.percentiles = [10, 50, 90].map(|percent| {
            let mut before = 0;
            let class = self.by_digits.iter().position(|n| {
                before += n;
                before * 100 >= count * percent
            });
            class.map_or(0, |digits| ((1u128 << digits) - 1) as u64).min(self.max)
        });
    }
}

impl Statistics {
    /// Counts a record.
    pub fn add(&mut self, record: &Record) {
        let count =
            |map: &mut BTreeMap<String, u64>, name: &str| *map.entry(name.to_owned()).or_default() += 1;
        self.records += 1;
        match (&record.text, &record.response) {
            (Some(_), _) => self.texts += 1,
            (None, Some(_)) => self.answers += 1,
            (None, None) => self.conversations += 1,
        }
        count(&mut self.languages, record.language.as_deref().unwrap_or("none"));
        if record.teacher.is_some() || record.model.is_some() {
            let parts = [&record.teacher, &record.model].into_iter().filter_map(Option::as_deref);
            count(&mut self.teachers, &parts.collect::<Vec<_>>().join(" "));
        }
        for (check, said) in &record.checks {
            let said = match said {
                Value::String(word) if !word.contains(' ') => word.clone(),
                Value::Bool(_) => said.to_string(),
                _ => "other".to_owned(),
            };
            count(self.checks.entry(check.clone()).or_default(), &said);
        }
        let length = record.body().unwrap_or_default().chars().count();
        self.body.add(length as u64);
        if let Some(prompt) = &record.prompt {
            self.prompt.add(prompt.chars().count() as u64);
        }
        self.with_tests += u64::from(record.tests.is_some());
        self.with_fim_spans += u64::from(!record.fim_spans.is_empty());
        self.fim_spans += record.fim_spans.len() as u64;
        let invalid = record.fim_spans.iter().filter(|(start, end)| start >= end || *end > length);
        self.invalid_fim_spans += invalid.count() as u64;
    }

    /// Completes what follows from the counts.
    pub fn finish(&mut self) {
        self.body.finish();
        self.prompt.finish();
    }
}

/// Draws `size` records of a stream, each with the same probability (Vitter's algorithm R).
#[derive(Debug)]
pub struct Sampler {
    size: usize,
    seed: u64,
    seen: u64,
    records: Vec<(u64, Record)>,
}

impl Sampler {
    /// A sampler whose draws are a function of `seed`.
    pub fn new(size: usize, seed: u64) -> Self {
        Self { size, seed, seen: 0, records: Vec::new() }
    }

    /// Takes note of a record.
    pub fn add(&mut self, record: &Record) {
        self.seen += 1;
        let drawn = ((u128::from(mix(self.seed ^ mix(self.seen))) * u128::from(self.seen)) >> 64) as usize;
        if self.records.len() < self.size {
            self.records.push((self.seen, record.clone()));
        } else if drawn < self.size {
            self.records[drawn] = (self.seen, record.clone());
        }
    }

    /// The records that were drawn, with their numbers from 1, in order.
    pub fn into_records(mut self) -> Vec<(u64, Record)> {
        self.records.sort_by_key(|(number, _)| *number);
        self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted() {
        let mut statistics = Statistics::default();
        let mut text = Record::text("a", "é".repeat(100));
        text.fim_spans = vec![(0, 100), (0, 101)];
        text.checks.insert("execute".into(), "pass".into());
        statistics.add(&text);
        let answer = Record {
            language: Some("python".into()),
            model: Some("m".into()),
            ..Record::answer("b", "q", "r")
        };
        statistics.add(&answer);
        statistics.finish();
        assert_eq!((statistics.records, statistics.texts, statistics.answers), (2, 1, 1));
        assert_eq!(
            (statistics.body.total, statistics.body.max, statistics.body.percentiles),
            (101, 100, [1, 1, 100])
        );
        assert_eq!((statistics.fim_spans, statistics.invalid_fim_spans), (2, 1));
        assert_eq!((statistics.languages["python"], statistics.checks["execute"]["pass"]), (1, 1));
    }

    #[test]
    fn every_record_has_the_same_chance() {
        let mut counts = [0u32; 20];
        for seed in 0..2000 {
            let mut sampler = Sampler::new(5, seed);
            (0..20).for_each(|i| sampler.add(&Record::text(i.to_string(), "x")));
            for (number, record) in sampler.into_records() {
                assert_eq!(record.id, (number - 1).to_string());
                counts[number as usize - 1] += 1;
            }
        }
        // 500 expected, with a standard deviation below 20.
        assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
    }
}
