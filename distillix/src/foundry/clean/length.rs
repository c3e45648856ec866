//! Records that are too short or too long.

use super::{CleanConfig, Draft, Fault, Stage, Verdict};

/// Drops bodies outside the limits, in characters, blank space around them not counted.
pub struct Length {
    min: usize,
    max: usize,
}

impl Length {
    /// The stage for a config.
    pub fn new(config: &CleanConfig) -> Self {
        Self { min: config.min_chars, max: config.max_chars }
    }
}

impl Stage for Length {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let length = draft.body().trim().chars().count();
        if length == 0 {
            return Err(Fault::new("empty"));
        }
        if length < self.min {
            return Err(Fault::with("too short", format!("{length} characters")));
        }
        if length > self.max {
            return Err(Fault::with("too long", format!("{length} characters")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    #[test]
    fn limits_are_in_characters() {
        let stage = Length::new(&CleanConfig { min_chars: 3, max_chars: 4, ..CleanConfig::default() });
        let verdict =
            |text: &str| stage.check(&mut Draft::new(Record::text("t", text))).err().map(|f| f.reason);
        let texts = [" \n", "éé \n", "ééé", "éééé\n", "ééééé"];
        assert_eq!(texts.map(verdict), [Some("empty"), Some("too short"), None, None, Some("too long")]);
    }
}
