//! Secrets and e-mail addresses.

use super::{CleanConfig, Draft, Fault, SecretAction, Stage, Verdict};
use crate::foundry::syntax::Syntax;
use anyhow::{Context, Result};
use regex::{Captures, Regex};
use std::borrow::Cow;
use std::ops::Range;

/// Takes out keys, tokens, passwords and e-mail addresses, or drops what has any.
///
/// Only what is known by its form, or is random enough, counts as a secret. In code, an address is one only in a comment or a
/// string, where `a@b.it` is no product of matrices. Strings in code that a teacher wrote keep their addresses:
/// these are made up, and tests may depend on them.
pub struct Secrets {
    action: SecretAction,
    known: Vec<(&'static str, &'static [&'static str], Regex)>,
    assigned: Regex,
    private_key: Regex,
    email: Regex,
}

/// Forms of secrets: a name, texts of which a text with one holds one (looking for these is much faster), and a pattern. The
/// pattern's group, if there is one, is the secret.
const KNOWN: [(&str, &[&str], &str); 15] = [
    ("AWS_KEY", &["AKIA", "ASIA"], r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    (
        "GITHUB_TOKEN",
        &["ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"],
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b",
    ),
    ("GITLAB_TOKEN", &["glpat-"], r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("SLACK_TOKEN", &["xox"], r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}"),
    (
        "SLACK_WEBHOOK",
        &["hooks.slack.com"],
        r"hooks\.slack\.com/services/(T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{20,})",
    ),
    ("GOOGLE_KEY", &["AIza"], r"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("API_KEY", &["sk-"], r"\bsk-(?:[a-z]+[0-9]*-)*[A-Za-z0-9_]{24,}[A-Za-z0-9_-]*"),
    ("STRIPE_KEY", &["k_live_", "k_test_"], r"\b[sr]k_(?:live|test)_[0-9a-zA-Z]{16,}\b"),
    ("HF_TOKEN", &["hf_"], r"\bhf_[A-Za-z0-9]{34}\b"),
    ("NPM_TOKEN", &["npm_"], r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("PYPI_TOKEN", &["pypi-AgEI"], r"\bpypi-AgEI[A-Za-z0-9_-]{50,}"),
    ("SENDGRID_KEY", &["SG."], r"\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}\b"),
    ("JWT", &["eyJ"], r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
    ("TELEGRAM_TOKEN", &[":AA"], r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}\b"),
    ("PASSWORD", &["://"], r#"\b[a-z][a-z0-9+.-]*://[^\s/:@'"<>{}$%*]+:([^\s/:@'"<>{}$%*]{6,})@[A-Za-z0-9]"#),
];

/// A string that is given to something called a secret.
const ASSIGNED: &str = r#"(?i-u)(?:password|passwd|secret|api_?key|access_?key|auth_?token|access_?token|private_?key)['"]?\s*(?::=|[:=])\s*['"]([A-Za-z0-9+/=_.~-]{16,})['"]"#;
const PRIVATE_KEY: &str = r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)-----END";
const EMAIL: &str = r"[A-Za-z0-9][A-Za-z0-9._%+-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,24}\b";
/// What stands for an address; of the domain that exists for it (RFC 2606).
const STAND_IN: &str = "name@example.com";
/// Words in passwords that are none.
const PLACEHOLDERS: [&str; 10] = [
    "example",
    "password",
    "secret",
    "changeme",
    "your",
    "xxxx",
    "dummy",
    "sample",
    "placeholder",
    "redacted",
];

impl Secrets {
    /// The stage for a config.
    ///
    /// # Errors
    /// None that a user could cause: the patterns are fixed, and a test compiles them.
    pub fn new(config: &CleanConfig) -> Result<Self> {
        let regex = |pattern: &str| Regex::new(pattern).with_context(|| format!("the pattern {pattern}"));
        let known = KNOWN.into_iter().map(|(name, signs, pattern)| Ok((name, signs, regex(pattern)?)));
        let known = known.collect::<Result<_>>()?;
        Ok(Self {
            action: config.secrets,
            known,
            assigned: regex(ASSIGNED)?,
            private_key: regex(PRIVATE_KEY)?,
            email: regex(EMAIL)?,
        })
    }

    /// The text without secrets and addresses, if it has any, and the kind of the last that it had. An address counts if
    /// `is_address` says so of its bytes.
    fn redact(
        &self,
        text: &str,
        is_address: impl Fn(Range<usize>) -> bool,
    ) -> Option<(String, &'static str)> {
        // Addresses first: their places are those of the text as it is.
        let mut kind = None;
        let mut out = if !text.contains('@') {
            Cow::Borrowed(text)
        } else {
            self.email.replace_all(text, |found: &Captures<'_>| {
                let all = found.get_match();
                if is_public(all.as_str())
                    || text[..all.start()].ends_with([':', '/'])
                    || !is_address(all.range())
                {
                    return all.as_str().to_owned();
                }
                kind = Some("e-mail address");
                STAND_IN.to_owned()
            })
        };
        if out.contains("PRIVATE KEY") {
            replace(&mut out, &self.private_key, |key| {
                kind = Some("private key");
                Some(without_base64(key))
            });
        }
        for (name, _, pattern) in
            self.known.iter().filter(|(_, signs, _)| signs.iter().any(|sign| text.contains(sign)))
        {
            replace(&mut out, pattern, |secret| {
                let is_secret = *name != "PASSWORD" || !is_placeholder(secret);
                is_secret.then(|| {
                    kind = Some("secret");
                    format!("REDACTED_{name}")
                })
            });
        }
        replace(&mut out, &self.assigned, |secret| {
            (is_random(secret) && !is_placeholder(secret)).then(|| {
                kind = Some("secret");
                "REDACTED_SECRET".to_owned()
            })
        });
        kind.map(|kind| (out.into_owned(), kind))
    }
}

/// Replaces the pattern's first group, or else the whole match, where `by` gives something to put there.
fn replace(text: &mut Cow<'_, str>, pattern: &Regex, mut by: impl FnMut(&str) -> Option<String>) {
    let mut out = String::new();
    let mut copied = 0;
    for found in pattern.captures_iter(text) {
        let secret = found.get(1).unwrap_or(found.get_match());
        if let Some(stand_in) = by(secret.as_str()) {
            out.push_str(&text[copied..secret.start()]);
            out.push_str(&stand_in);
            copied = secret.end();
        }
    }
    if copied > 0 {
        out.push_str(&text[copied..]);
        *text = Cow::Owned(out);
    }
}

/// Addresses that are nobody's, and what only looks like one.
fn is_public(address: &str) -> bool {
    let address = address.to_ascii_lowercase();
    let (name, domain) = address.split_once('@').unwrap_or((&address, ""));
    let reserved = ["example.com", "example.org", "example.net", "example.edu"].contains(&domain);
    let reserved =
        reserved || [".example", ".test", ".invalid", ".localhost"].iter().any(|end| domain.ends_with(end));
    // Of a repository's address, an image for displays of two densities (icon@2x.png), or a version (name@1.2.x).
    let file = [".png", ".jpg", ".svg", ".webp", ".gif"].iter().any(|end| domain.ends_with(end));
    reserved || name == "git" || file || domain.starts_with(|c: char| c.is_ascii_digit())
}

fn is_placeholder(secret: &str) -> bool {
    let lower = secret.to_ascii_lowercase();
    PLACEHOLDERS.iter().any(|word| lower.contains(word))
}

/// True if the characters are as mixed as drawn ones: letters and digits, and at least 3.3 bits of entropy a character.
fn is_random(secret: &str) -> bool {
    let mut counts = [0u32; 128];
    secret.bytes().filter(u8::is_ascii).for_each(|byte| counts[byte as usize] += 1);
    let total = secret.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|n| **n > 0)
        .map(|n| f64::from(*n) / total)
        .map(|share| -share * share.log2())
        .sum();
    let has = |test: fn(&u8) -> bool| secret.bytes().any(|byte| test(&byte));
    entropy >= 3.3 && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

/// A key in its frame, the lines as they were, with nothing in them.
fn without_base64(key: &str) -> String {
    let mut lines: Vec<String> = key.lines().map(str::to_owned).collect();
    let last = lines.len().saturating_sub(1);
    for line in lines.iter_mut().take(last).skip(1) {
        let runs = line.split(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
        let longest = runs.max_by_key(|run| run.len()).unwrap_or_default().to_owned();
        if longest.len() >= 16 {
            *line = line.replace(&longest, "REDACTED");
        }
    }
    if last == 0 { "-----BEGIN PRIVATE KEY-----REDACTED-----END".to_owned() } else { lines.join("\n") }
}

/// Ranges of comments, and of strings: all, or those that stand alone as documentation.
fn texts_in_code(syntax: &Syntax, strings: bool) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    syntax.visit(|node| {
        let kind = node.kind();
        let is_string = kind.contains("string") || kind.contains("literal") || kind.contains("heredoc");
        let is_doc = || node.parent().is_some_and(|parent| parent.kind() == "expression_statement");
        let found = kind.contains("comment") || (is_string && (strings || is_doc()));
        if found {
            ranges.push(node.byte_range());
        }
        // What does not fit the grammar may be anything.
        if node.is_error() {
            ranges.push(node.byte_range());
        }
        !found
    });
    ranges
}

impl Stage for Secrets {
    fn check(&self, draft: &mut Draft) -> Verdict {
        let mut kinds = Vec::new();
        let strings = !draft.record().is_answer();
        let has_address = draft.body().contains('@') && self.email.is_match(draft.body());
        let places = draft.syntax().filter(|_| has_address).map(|syntax| texts_in_code(syntax, strings));
        let within = |range: Range<usize>| {
            places.as_ref().is_none_or(|all| all.iter().any(|r| r.start <= range.start && range.end <= r.end))
        };
        let body = self.redact(draft.body(), within);
        if let Some((body, kind)) = body {
            kinds.push(kind);
            draft.set_body(body);
        }
        let record = draft.record_mut();
        // Other addresses could make tests of another meaning.
        if let Some((tests, kind)) = record.tests.as_deref().and_then(|tests| self.redact(tests, |_| false)) {
            kinds.push(kind);
            record.tests = Some(tests);
        }
        for text in record.texts_beside_the_body() {
            if let Some((redacted, kind)) = self.redact(text, |_| true) {
                kinds.push(kind);
                *text = redacted;
            }
        }
        match (kinds.first(), self.action) {
            (None, _) => Ok(()),
            (Some(kind), SecretAction::Drop) => Err(Fault::new(kind)),
            (Some(_), SecretAction::Redact) => {
                draft.changed = true;
                kinds.dedup();
                draft.note("secrets", format!("redacted: {}", kinds.join(", ")));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foundry::record::Record;
    use crate::smelter::data::Message;

    fn clean(record: Record) -> Record {
        let mut draft = Draft::new(record);
        let stage = Secrets::new(&CleanConfig::default()).expect("patterns");
        assert_eq!(stage.check(&mut draft), Ok(()));
        draft.into_record()
    }

    fn python(text: &str) -> String {
        let record = Record { language: Some("python".into()), ..Record::text("t", text) };
        clean(record).text.expect("text")
    }

    #[test]
    fn secrets_are_redacted() {
        // Put together here, so that no tool takes this file for one with secrets.
        let github = format!("ghp_{}", "a1B2c3D4".repeat(5));
        let aws = format!("AKIA{}", "ABCD1234EFGH5678");
        let random = "q8Zr2LmX0vT5nB7w";
        for (text, expected) in [
            (format!("t = '{github}'\n"), "t = 'REDACTED_GITHUB_TOKEN'\n"),
            (format!("k = '{aws}'\n"), "k = 'REDACTED_AWS_KEY'\n"),
            (format!("api_key = \"{random}\"\n"), "api_key = \"REDACTED_SECRET\"\n"),
            (
                format!("u = 'postgres://bob:{random}@db/x'\n"),
                "u = 'postgres://bob:REDACTED_PASSWORD@db/x'\n",
            ),
        ] {
            assert_eq!(python(&text), expected);
        }
        let frame = |inside: &str| {
            format!("k = '''-----BEGIN RSA PRIVATE KEY-----\n{inside}\n-----END RSA PRIVATE KEY-----'''\n")
        };
        assert_eq!(python(&frame(&"MIIEow".repeat(10))), frame("REDACTED"));
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "password = 'your-password-goes-here-1'\n",
            "api_key = os.environ['API_KEY_FOR_SERVICE_1']\n",
            "url = 'http://user:password@host/'\n",
            "url = f'http://{user}:{password}@host/'\n",
            "digest = 'd41d8cd98f00b204e9800998ecf8427e'\n",
            "secret = 'aaaaaaaaaaaaaaaaaaaa'\n",
            "y = a@b.it\nz = x @ self.weight\n",
            "# sk-learn-is-not-a-key-but-a-long-name\n",
        ] {
            assert_eq!(python(text), text);
        }
    }

    #[test]
    fn addresses() {
        let text = "# by Jo <jo.doe@mail.org>\nx = a@b.org\ns = 'é jo@mail.org'\n";
        assert_eq!(python(text), "# by Jo <name@example.com>\nx = a@b.org\ns = 'é name@example.com'\n");
        let mut answer = Record::answer("a", "Write to jo@mail.org.", "s = 'jo@mail.org'  # jo@mail.org\n");
        answer.language = Some("python".into());
        let answer = clean(answer);
        assert_eq!(answer.prompt.as_deref(), Some("Write to name@example.com."));
        assert_eq!(answer.response.as_deref(), Some("s = 'jo@mail.org'  # name@example.com\n"));
        assert_eq!(answer.checks["secrets"], "redacted: e-mail address");
        let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let talk = ["who?", "jo@mail.org", "again", "jo@mail.org!"].map(str::to_owned);
        let roles = ["user", "assistant", "user", "assistant"];
        let messages = roles.iter().zip(&talk).map(|(role, text)| message(role, text)).collect();
        let talk = clean(Record { messages: Some(messages), ..Record::default() });
        assert!(talk.texts().all(|text| !text.contains("jo@")), "{talk:?}");
        let github = format!("ghp_{}", "a1B2c3D4".repeat(5));
        let tests = format!("f('{github}', 'jo@mail.org')");
        let tests = clean(Record { tests: Some(tests), ..Record::text("t", "x") }).tests;
        assert_eq!(tests.as_deref(), Some("f('REDACTED_GITHUB_TOKEN', 'jo@mail.org')"));
        let kept = "Ask git@github.com:a/b.git, a@example.com, or see icon@2x.png.";
        assert_eq!(clean(Record::text("t", kept)).text.as_deref(), Some(kept));
        let config = CleanConfig { secrets: SecretAction::Drop, ..CleanConfig::default() };
        let drop = Secrets::new(&config).expect("made");
        let fault = drop.check(&mut Draft::new(Record::text("t", "Ask jo@mail.org."))).unwrap_err();
        assert_eq!(fault.reason, "e-mail address");
    }
}
