//! The language of a record, and whether its grammar accepts the code.

use super::{CleanConfig, Draft, Fault, Stage, Verdict};
use crate::foundry::detect::detect;
use crate::foundry::language::Language;
use crate::foundry::syntax::Syntax;
use anyhow::Result;

/// Finds the language of records that name none, drops languages that are not wanted, and code that is not code.
///
/// Answers have to fit the grammar. Files that somebody keeps are nearly always valid, and grammars do not know every
/// dialect and macro: those are dropped only if the grammar makes nothing of a good part of them.
pub struct SyntaxCheck {
    /// Empty for all.
    wanted: Vec<Language>,
}

/// Share of a file's bytes within errors from which it is not in that language.
const MAX_ERROR_SHARE: f64 = 0.2;

impl SyntaxCheck {
    /// The stage for a config.
    pub fn new(config: &CleanConfig) -> Result<Self> {
        Ok(Self { wanted: config.languages.iter().filter_map(|name| Language::from_name(name)).collect() })
    }
}

impl Stage for SyntaxCheck {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let named = draft.record().language.clone().filter(|name| !name.trim().is_empty());
        let language = match (draft.language(), &named) {
            (Some(language), _) => Some(language),
            (None, Some(_)) => None,
            // Nobody said that it is code: it has to be all of that.
            (None, None) => draft.adopt_detected().filter(|(_, fits)| *fits).map(|(language, _)| language),
        };
        let Some(language) = language else {
            return if self.wanted.is_empty() {
                Ok(())
            } else {
                Err(Fault::with("unwanted language", named.unwrap_or_else(|| "prose, or unknown".to_owned())))
            };
        };
        if !self.wanted.is_empty() && !self.wanted.contains(&language) {
            return Err(Fault::with("unwanted language", language.name()));
        }
        draft.set_language(language);
        let body = draft.body();
        if body.trim().is_empty() {
            return Err(Fault::new("empty"));
        }
        let Some(syntax) = draft.syntax() else {
            draft.note("syntax", "not parsed: too long");
            return Ok(());
        };
        if syntax.is_valid() {
            draft.note("syntax", "ok");
            return Ok(());
        }
        let errors = syntax.errors.len();
        let wrong = syntax.wrong_bytes;
        let first = syntax.errors[0].start;
        let line = body[..first].matches('\n').count() + 1;
        let tolerated = !draft.record().is_answer() && (wrong as f64) < MAX_ERROR_SHARE * body.len() as f64;
        if tolerated {
            draft.note("syntax", format!("{errors} errors, the first in line {line}"));
            return Ok(());
        }
        match detect(body).filter(|other| *other != language) {
            Some(other) if Syntax::parse_valid(other, body).is_some() => {
                Err(Fault::with("another language", format!("{other}, not {language}")))
            }
            _ => Err(Fault::with("syntax error", format!("{language}, line {line}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;

    fn check(config: &CleanConfig, record: Record) -> Result<Option<String>, Fault> {
        let mut draft = Draft::new(record);
        SyntaxCheck::new(config).expect("valid").check(&mut draft)?;
        Ok(draft.record().language.clone())
    }

    fn answer(language: Option<&str>, code: &str) -> Result<Option<String>, Fault> {
        let language = language.map(str::to_owned);
        check(&CleanConfig::default(), Record { language, ..Record::answer("a", "q", code) })
    }

    #[test]
    fn languages_are_found_and_checked() {
        let python = Ok(Some("python".to_owned()));
        assert_eq!(answer(None, "def f(x):\n    return x\n"), python);
        assert_eq!(answer(Some("Py"), "x = 1\n"), python);
        assert_eq!(answer(None, "It is so because it is.\n"), Ok(None));
        assert_eq!(answer(Some("haskell"), "f x = = x\n"), Ok(Some("haskell".to_owned())));
        let fault = |result: Result<_, Fault>| result.map_err(|fault| (fault.reason, fault.detail));
        assert_eq!(
            fault(answer(Some("python"), "x = 1\ndef f(x:\n    return x\ny = 2\n")),
            Err(("syntax error", "python, line 2".to_owned()))
        );
        assert_eq!(
            fault(answer(Some("python"), "pub fn f(x: u8) -> u8 {\n    x\n}\n")),
            Err(("another language", "rust, not python".to_owned()))
        );
        let only = CleanConfig { languages: vec!["rust".into()], ..CleanConfig::default() };
        let unwanted = |record| check(&only, record).is_err_and(|fault| fault.reason == "unwanted language");
        assert!(
            unwanted(Record::text("t", "def f(x):\n    return x\n")) && unwanted(Record::text("t", "Prose."))
        );
        assert!(!unwanted(Record::text("t", "fn f(x: u8) -> u8 { x }\n")));
    }

    #[test]
    fn a_file_may_have_what_the_grammar_does_not_know() {
        let mut code = "int f(int x) { return x + 1; }\n".repeat(20);
        code.push_str("DEFINE_THING(a, b) int\n");
        let record = Record { language: Some("c".into()), ..Record::text("t", code) };
        assert!(check(&CleanConfig::default(), record).is_ok());
        let prose =
            Record { language: Some("c".into()), ..Record::text("t", "This is a text, not a program.") };
        assert!(check(&CleanConfig::default(), prose).is_err());
    }
}
