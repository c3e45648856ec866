//! Exact duplicates.

use super::{Draft, Fault, Stage, Verdict};
use std::collections::HashSet;

/// Drops records with the same texts as one kept before; blank space at the ends of lines and around the text does not count.
/// Takes about 20 bytes of memory a record.
#[derive(Default)]
pub struct Exact {
    seen: HashSet<u128>,
}

impl Stage for Exact {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let mut hasher = blake3::Hasher::new();
        for text in draft.record().texts() {
            for line in text.trim().lines() {
                hasher.update(line.trim_end().as_bytes()).update(b"\n");
            }
            hasher.update(b"\0");
        }
        let hash = hasher.finalize();
        draft.content = u128::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i]));
        Ok(())
    }

    fn settle(&mut self, draft: &Draft) -> Verdict {
        if self.seen.insert(draft.content) { Ok(()) } else { Err(Fault::new("copy")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    #[test]
    fn copies() {
        let mut stage = Exact::default();
        let mut keeps = |record| {
            let mut draft = Draft::new(record);
            stage.check(&mut draft).and_then(|()| stage.settle(&draft)).is_ok()
        };
        assert!(keeps(Record::text("a", "x = 1\ny = 2\n")));
        assert!(!keeps(Record::text("b", "\nx = 1  \r\ny = 2")));
        assert!(keeps(Record::text("c", "x = 1\n\ny = 2\n")));
        assert!(keeps(Record::answer("d", "x = 1", "y = 2")));
        assert!(keeps(Record::answer("e", "", "x = 1\ny = 2")), "not the same fields");
        assert!(!keeps(Record::answer("f", "x = 1", "y = 2\n")));
    }
}
