//! Near duplicates, by MinHash and locality-sensitive hashing.

use super::minhash::{HASHES, Sketch, sketch};
use super::{CleanConfig, Draft, Fault, Stage, Verdict};
use crate::foundry::tokens::mix;
use std::iter;

/// Rows in a band: so many minima have to be equal for two records to be compared.
const ROWS: usize = 5;
/// Bands. Two records of similarity J are compared with probability 1 - (1 - J^5)^25: 0.99995 at J = 0.8, 0.99 at 0.7.
const BANDS: usize = 25;
/// Records of one key in a band beyond this many are not entered; what they share says little.
const CROWD: usize = 24;
/// Responses of fewer bytes may well be the same to questions that differ.
const SHORT: usize = 160;
/// Memory of a record: its sketch, and its entries in tables that are between 3/8 and 3/4 full.
const BYTES: usize = HASHES + BANDS * 8 * 8 / 3;

/// What is kept of a record to compare it with others.
#[derive(Debug)]
pub struct Signature {
    sketch: Sketch,
    bands: [u32; BANDS],
}

/// Drops records that are much like one kept before.
///
/// Two records are alike if the Jaccard similarity of their sets of shingles, estimated from 256 minima of 8 bits each (standard
/// error 0.025 at 0.8), reaches the config's `near_similarity`. A shingle is a run of tokens within a line, so that moved lines and
/// lines put in between change few of them. Of a prompt and its response only the response counts: several answers to one question, or
/// about one file, share most of what was asked. Memory is bounded: records are kept in two generations, and when the newer one is full,
/// the older one is forgotten.
pub struct Near {
    similarity: f64,
    shingle: usize,
    /// Most records of a generation.
    capacity: usize,
    new: Generation,
    old: Option<Generation>,
    forgotten: u64,
}

struct Generation {
    /// Number of the first record.
    first: u64,
    sketches: Vec<Sketch>,
    tables: Vec<Table>,
}

/// A hash table from keys to places in `sketches`, with open addressing. A slot holds a key in its upper half and a place plus 1 in
/// its lower one; an empty slot is 0.
struct Table {
    slots: Vec<u64>,
    used: usize,
}

impl Near {
    /// The stage for a config.
    pub fn new(config: &CleanConfig) -> Self {
        let capacity =
            (config.near_memory_mb.saturating_mul(1_000_000) / BYTES / 2).clamp(1, u32::MAX as usize - 1);
        Self {
            similarity: config.near_similarity,
            shingle: config.near_shingle,
            capacity,
            new: Generation::new(0),
            old: None,
            forgotten: 0,
        }
    }
}

impl Stage for Near {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let record = draft.record();
        let minima = match record.response.as_deref() {
            Some(response) if response.len() < SHORT => None,
            Some(response) => sketch(iter::once(response), self.shingle),
            None => sketch(record.texts(), self.shingle),
        };
        draft.signature = minima.map(|(sketch, minima)| {
            Box::new(Signature {
                sketch,
                bands: std::array::from_fn(|band| {
                    let rows = &minima[band * ROWS..(band + 1) * ROWS];
                    rows.iter().fold(band as u64, |key, min| mix(key ^ u64::from(*min))) as u32
                }),
            })
        });
        Ok(())
    }

    fn settle(&mut self, draft: &Draft) -> Verdict {
        let Some(signature) = &draft.signature else { return Ok(()) };
        for generation in [Some(&self.new), self.old.as_ref()].into_iter().flatten() {
            if let Some((number, similarity)) = generation.find(signature, self.similarity) {
                return Err(Fault::with(
                    "near duplicate",
                    format!("{similarity:.2} like kept record {}", number + 1),
                ));
            }
        }
        if self.new.sketches.len() >= self.capacity {
            let next = Generation::new(self.new.first + self.new.sketches.len() as u64);
            let old = self.old.replace(std::mem::replace(&mut self.new, next));
            self.forgotten += old.map_or(0, |old| old.sketches.len() as u64);
        }
        self.new.insert(signature);
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        (self.forgotten > 0).then(|| {
            format!(
                "memory was full: each record was compared with the last {} or more; foundry.clean.near_memory_mb sets it",
                self.capacity
            )
        })
    }
}

impl Generation {
    fn new(first: u64) -> Self {
        let tables = (0..BANDS).map(|_| Table { slots: vec![0; 1024], used: 0 }).collect();
        Self { first, sketches: Vec::new(), tables }
    }

    /// The number and similarity of the first record found that is alike.
    fn find(&self, signature: &Signature, least: f64) -> Option<(u64, f64)> {
        self.tables.iter().zip(&signature.bands).find_map(|(table, key)| {
            table.places(*key).find_map(|place| {
                let similarity = signature.sketch.similarity(&self.sketches[place]);
                (similarity >= least).then_some((self.first + place as u64, similarity))
            })
        })
    }

    fn insert(&mut self, signature: &Signature) {
        let place = self.sketches.len();
        self.sketches.push(signature.sketch.clone());
        for (table, key) in self.tables.iter_mut().zip(&signature.bands) {
            table.insert(*key, place);
        }
    }
}

impl Table {
    fn places(&self, key: u32) -> impl Iterator<Item = usize> + '_ {
        let mask = self.slots.len() - 1;
        let probe = (0..=mask).map(move |step| self.slots[(key as usize + step) & mask]);
        let found = probe.take_while(|slot| *slot != 0).filter(move |slot| (slot >> 32) as u32 == key);
        found.map(|slot| slot as u32 as usize - 1)
    }

    fn insert(&mut self, key: u32, place: usize) {
        if self.places(key).take(CROWD).count() == CROWD {
            return;
        }
        if self.used * 4 >= self.slots.len() * 3 {
            let larger = vec![0; self.slots.len() * 2];
            for slot in std::mem::replace(&mut self.slots, larger).into_iter().filter(|slot| *slot != 0) {
                self.put(slot);
            }
        }
        self.put(u64::from(key) << 32 | (place as u64 + 1));
        self.used += 1;
    }

    fn put(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = (slot >> 32) as usize & mask;
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    fn settle(stage: &mut Near, text: &str) -> bool {
        let mut draft = Draft::new(Record::text("t", text));
        stage.check(&mut draft).and_then(|()| stage.settle(&draft)).is_ok()
    }

    /// A text of lines, each of them a line of no other text.
    fn text(seed: usize, lines: std::ops::Range<usize>) -> String {
        lines.map(|line| format!("let v{seed}_{line} = f({line}, {});\n", seed * 7 + line)).collect()
    }

    #[test]
    fn similarity_decides() {
        let mut stage = Near::new(&CleanConfig::default());
        let (mut found, mut wrong) = (0, 0);
        for seed in 0..300 {
            let base = text(2 * seed, 0..45);
            assert!(settle(&mut stage, &base));
            // 40 of 50 lines in common, then 30 of 60.
            let close = format!("{}{}", text(2 * seed, 0..40), text(2 * seed + 1, 0..5));
            let far = format!("{}{}", text(2 * seed, 0..30), text(2 * seed + 1, 100..130));
            found += usize::from(!settle(&mut stage, &close));
            wrong += usize::from(!settle(&mut stage, &far));
        }
        assert!(found >= 298 && wrong == 0, "{found} {wrong}");
    }

    #[test]
    fn of_answers_the_response_decides() {
        let mut stage = Near::new(&CleanConfig::default());
        let mut settle = |prompt: &str, response: &str| {
            let mut draft = Draft::new(Record::answer("a", prompt, response));
            stage.check(&mut draft).and_then(|()| stage.settle(&draft)).is_ok()
        };
        let (question, answer) = (text(0, 0..60), text(1, 0..20));
        assert!(settle(&question, &answer));
        assert!(settle(&question, &text(2, 0..20)), "another answer");
        assert!(!settle(&text(3, 0..60), &answer), "the same answer");
        assert!(
            settle(&question, "return value + 1\n") && settle(&text(3, 0..60), "return value + 1\n"),
            "short"
        );
    }

    #[test]
    fn memory_is_bounded_and_the_newest_are_kept() {
        let mut stage = Near { capacity: 10, ..Near::new(&CleanConfig::default()) };
        for seed in 0..25 {
            assert!(settle(&mut stage, &text(seed, 0..20)));
        }
        assert!(!settle(&mut stage, &text(24, 0..20)) && !settle(&mut stage, &text(11, 0..20)));
        assert!(settle(&mut stage, &text(3, 0..20)), "forgotten");
        assert!(stage.remark().is_some_and(|remark| remark.contains("last 10")));
        assert!(settle(&mut stage, " \n"), "nothing to compare");
    }

    #[test]
    fn tables_grow_and_find() {
        let mut table = Table { slots: vec![0; 16], used: 0 };
        let key = |n: usize| (n as u32).wrapping_mul(0x9e37_79b1);
        (0..10_000).for_each(|n| table.insert(key(n), n));
        (0..10_000).for_each(|n| assert!(table.places(key(n)).any(|place| place == n)));
        assert_eq!(table.places(key(10_001)).count(), 0);
        (0..100).for_each(|n| table.insert(5, n));
        assert_eq!(table.places(5).count(), CROWD);
    }
}
