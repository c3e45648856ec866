//! Cleaning: stages that a record passes one after the other. A stage keeps it, changes it or drops it, with a reason.
//!
//! A stage is a file in this folder and a line in [`STAGES`]. The same [`Pipeline`] cleans files (`foundry clean`) and the
//! answers of teachers (`foundry generate`):
//!
//! ```
//! use distillix::foundry::clean::{CleanConfig, Outcome, Pipeline};
//! use distillix::foundry::record::Record;
//!
//! let mut pipeline = Pipeline::new(&CleanConfig::default())?;
//! let mut answer = Record::answer("1", "Add two numbers.", "Sure!\n```python\ndef add(a, b):\n    return a + b\n```\n");
//! answer.finish = Some("stop".into()); // or "length"; best to say it where it is known
//! match pipeline.clean_one(answer) {
//!     Outcome::Kept(record) => assert_eq!(record.response.as_deref(), Some("def add(a, b):\n    return a + b\n")),
//!     Outcome::Dropped(dropped) => panic!("{}: {}", dropped.stage, dropped.reason),
//! }
//! println!("{}", serde_json::to_string(&pipeline.report())?);
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! [`Pipeline::clean`] takes a batch, checks its records on all threads and settles them in their order, so the result depends on
//! the order of the records and on nothing else. Records that are duplicates of *dropped* ones are kept.

mod config;
mod contamination;
mod draft;
mod exact;
mod execute;
mod extract;
mod files;
mod length;
mod licence;
mod minhash;
mod near;
mod pipeline;
mod refusal;
mod repetition;
mod report;
mod secrets;
mod spans;
mod syntax;
mod truncated;

pub use config::{CleanConfig, SecretAction};
pub use draft::Draft;
pub use files::{Cleaned, Job, Progress, clean_files};
pub use pipeline::{Dropped, Outcome, Pipeline};
pub use report::{Example, Report, StageReport};

use anyhow::Result;

/// Why a record is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind of fault, by which reports count.
    pub reason: &'static str,
    /// What exactly, or where; may be empty.
    pub detail: String,
}

impl Fault {
    /// A fault that needs no detail.
    pub fn new(reason: &'static str) -> Self {
        Self { reason, detail: String::new() }
    }

    /// A fault and what exactly it is.
    pub fn with(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// What a stage says: go on, or not.
pub type Verdict = Result<(), Fault>;

/// A step of the cleaning.
pub trait Stage: Send + Sync {
    /// Judges or changes one record, without knowledge of others. Called on many threads.
    ///
    /// # Errors
    /// If the record is to be dropped.
    fn check(&self, draft: &mut Draft) -> Verdict;

    /// Compares a record that passed every stage's `check` with those kept before it. Called in the order of the records.
    ///
    /// # Errors
    /// If the record is to be dropped.
    fn settle(&mut self, _draft: &Draft) -> Verdict {
        Ok(())
    }

    /// Why the stage cannot judge any more, which ends the cleaning.
    fn broken(&self) -> Option<String> {
        None
    }

    /// What the report should say of the stage beside its counts.
    fn remark(&self) -> Option<String> {
        None
    }
}

type Make = fn(&CleanConfig) -> Result<Option<Box<dyn Stage>>>;

/// A stage's name, what it does, and how it is made; `None` where the config gives it nothing to do.
pub struct Entry {
    /// Names the stage in settings, reports and `checks`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    make: Make,
}

/// All stages in the order in which they run.
pub const STAGES: &[Entry] = &[
    Entry {
        name: "refusal",
        about: "drops answers that decline or apologise",
        make: |_| some(refusal::Refusal),
    },
    Entry {
        name: "extract",
        about: "takes the code out of an answer's chatter and fences",
        make: |_| some(extract::Extract),
    },
    Entry {
        name: "truncated",
        about: "drops answers that stop before their end",
        make: |_| some(truncated::Truncated),
    },
    Entry {
        name: "syntax",
        about: "finds the language, and drops what its grammar does not accept",
        make: |config| some(syntax::SyntaxCheck::new(config)?),
    },
    Entry {
        name: "length",
        about: "drops what is too short or long",
        make: |config| some(length::Length::new(config)),
    },
    Entry {
        name: "repetition",
        about: "drops answers caught in a loop",
        make: |_| some(repetition::Repetition),
    },
    Entry {
        name: "secrets",
        about: "takes out keys, passwords and e-mail addresses",
        make: |config| some(secrets::Secrets::new(config)?),
    },
    Entry {
        name: "licence",
        about: "drops what names a licence that is not on the list",
        make: |config| some(licence::Licence::new(config)),
    },
    Entry {
        name: "contamination",
        about: "drops what holds a problem of a benchmark",
        make: |config| {
            Ok(contamination::Contamination::new(config)?.map(|stage| Box::new(stage) as Box<dyn Stage>))
        },
    },
    Entry {
        name: "execute",
        about: "runs Python that has tests, and drops what does not pass (--execute)",
        make: |config| Ok(execute::Execute::new(config)?.map(|stage| Box::new(stage) as Box<dyn Stage>)),
    },
    Entry {
        name: "fim",
        about: "marks parts of code that are worth filling in",
        make: |config| Ok(spans::FimSpans::new(config).map(|stage| Box::new(stage) as Box<dyn Stage>)),
    },
    Entry {
        name: "exact",
        about: "drops copies of earlier records",
        make: |_| some(exact::Exact::default()),
    },
    Entry {
        name: "near",
        about: "drops near duplicates of earlier records",
        make: |config| some(near::Near::new(config)),
    },
];

fn some(stage: impl Stage + 'static) -> Result<Option<Box<dyn Stage>>> {
    Ok(Some(Box::new(stage)))
}
