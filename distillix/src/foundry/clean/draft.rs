//! A record on its way through the stages.

use crate::foundry::detect::recognise;
use crate::foundry::language::Language;
use crate::foundry::record::Record;
use crate::foundry::syntax::Syntax;
use std::cell::OnceCell;

/// A record, with what stages found out about it.
#[derive(Debug)]
pub struct Draft {
    record: Record,
    /// The tree if all of the body fits its grammar, where that was asked.
    valid: OnceCell<Option<Syntax>>,
    /// The tree of a body that does not, or of which that was not asked.
    syntax: OnceCell<Option<Syntax>>,
    /// True once a stage changed the record.
    pub(super) changed: bool,
    /// Hash of the content, for exact duplicates.
    pub(super) content: u128,
    /// Signature of the content, for near duplicates.
    pub(super) signature: Option<Box<super::near::Signature>>,
}

impl Draft {
    /// A draft of a record that no stage has seen.
    pub fn new(record: Record) -> Self {
        let (valid, syntax) = Default::default();
        Self { record, valid, syntax, changed: false, content: 0, signature: None }
    }

    /// The record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The record, to change anything but its body and language.
    pub fn record_mut(&mut self) -> &mut Record {
        &mut self.record
    }

    /// What is learned from the record; empty if it has none.
    pub fn body(&self) -> &str {
        self.record.body().unwrap_or_default()
    }

    /// Replaces the body. What was known of the old one is forgotten.
    pub fn set_body(&mut self, body: String) {
        if let Some(old) = self.record.body_mut() {
            *old = body;
            self.record.fim_spans.clear();
            self.forget_syntax();
            self.changed = true;
        }
    }

    /// The language that the record names, if it is one of ours.
    pub fn language(&self) -> Option<Language> {
        Language::from_name(self.record.language.as_deref()?)
    }

    /// Sets the language.
    pub fn set_language(&mut self, language: Language) {
        if self.language() != Some(language) {
            self.forget_syntax();
        }
        self.record.language = Some(language.name().to_owned());
    }

    fn forget_syntax(&mut self) {
        (self.valid, self.syntax) = Default::default();
    }

    /// Sets the language if all of the body fits its grammar, and says whether it does.
    pub fn adopt(&mut self, language: Language) -> bool {
        if self.language() != Some(language) {
            return self.adopt_tree(language, Syntax::parse_valid(language, self.body()));
        }
        let fits = self.valid_syntax().is_some();
        if fits {
            self.record.language = Some(language.name().to_owned());
        }
        fits
    }

    /// The language that the body looks to be written in, and whether all of it fits the grammar. If so, it is set.
    pub fn adopt_detected(&mut self) -> Option<(Language, bool)> {
        let (language, valid) = recognise(self.body())?;
        let syntax = valid.into_inner().unwrap_or_else(|| Syntax::parse_valid(language, self.body()));
        Some((language, self.adopt_tree(language, syntax)))
    }

    fn adopt_tree(&mut self, language: Language, valid: Option<Syntax>) -> bool {
        let Some(syntax) = valid else { return false };
        self.forget_syntax();
        self.valid = OnceCell::from(Some(syntax));
        self.record.language = Some(language.name().to_owned());
        true
    }

    /// The syntax tree of the body, parsed once. `None` without a language of ours, or for a body that is too long to parse.
    pub fn syntax(&self) -> Option<&Syntax> {
        let valid = self.valid.get().and_then(Option::as_ref);
        valid.or_else(|| self.syntax.get_or_init(|| Syntax::parse(self.language()?, self.body())).as_ref())
    }

    /// The syntax tree if all of the body fits the grammar. Much faster than [`syntax`](Self::syntax) where it does not.
    pub fn valid_syntax(&self) -> Option<&Syntax> {
        if let Some(syntax) = self.syntax.get() {
            return syntax.as_ref().filter(|syntax| syntax.is_valid());
        }
        self.valid.get_or_init(|| Syntax::parse_valid(self.language()?, self.body())).as_ref()
    }

    /// Notes what a check said.
    pub fn note(&mut self, check: &str, said: impl Into<serde_json::Value>) {
        self.record.checks.insert(check.to_owned(), said.into());
    }

    /// The record as the stages left it.
    pub fn into_record(self) -> Record {
        self.record
    }
}
