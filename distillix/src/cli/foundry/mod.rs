//! `distillix foundry`: one file a subcommand.

mod clean;
mod display;
mod exec;
mod export;
mod generate;
mod inspect;
mod prompts;
mod status;
mod teachers;

use super::{Output, WrongUse};
use crate::foundry::config::{FoundryConfig, TeacherConfig};
use crate::foundry::teacher::base_url;
use crate::smelter::config::Config;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Makes training data: prompts, teachers that answer them, cleaning, and code that is run before it is trusted.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    Generate(generate::Args),
    Status(status::Args),
    Export(export::Args),
    Clean(clean::Args),
    Exec(exec::Args),
    Inspect(inspect::Args),
    Prompts(prompts::Args),
    Teachers(teachers::Args),
}

pub(super) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Generate(args) => generate::run(args),
        Command::Status(args) => status::run(args),
        Command::Export(args) => export::run(args),
        Command::Clean(args) => clean::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Prompts(args) => prompts::run(args),
        Command::Teachers(args) => teachers::run(args),
    }
}

/// The arguments that say who the teachers are and how to use them.
#[derive(Debug, clap::Args)]
struct FoundryArgs {
    /// A teacher: opencode:URL#PROVIDER/MODEL, or openai:URL#MODEL with the URL up to /v1. Repeatable.
    #[arg(long = "teacher", value_name = "TEACHER")]
    teachers: Vec<String>,
    /// Name of the environment variable that holds the key or password of the teachers.
    #[arg(long, value_name = "VARIABLE")]
    key_env: Option<String>,
    /// A file that holds it.
    #[arg(long, value_name = "FILE", conflicts_with = "key_env")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// The arguments that change a config.
#[derive(Debug, clap::Args)]
struct ConfigArgs {
    /// A JSON file with keys to change, in the section foundry (`distillix config` prints all).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change one key of the config, as in foundry.temperature=0.2. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl ConfigArgs {
    /// The foundry's section.
    fn foundry(&self) -> Result<FoundryConfig> {
        let mut config = Config::default();
        if let Some(path) = &self.config {
            config = config.with_file(path).map_err(wrong)?;
        }
        for setting in &self.settings {
            config = config.with_setting(setting).map_err(wrong)?;
        }
        Ok(config.foundry)
    }
}

/// The store that belongs to an output.
fn beside(output: &Path) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(".foundry");
    path.into()
}

/// The store that a user names by its path or by its output's.
fn store_of(path: &Path) -> PathBuf {
    Some(beside(path)).filter(|store| store.exists()).unwrap_or_else(|| path.to_owned())
}

/// Makes an error one of wrong use.
fn wrong(error: anyhow::Error) -> anyhow::Error {
    WrongUse(format!("{error:#}")).into()
}

impl FoundryArgs {
    /// The foundry's config, teachers of the command line included.
    fn config(&self) -> Result<FoundryConfig> {
        let mut config = self.config_of_file()?;
        for spec in &self.teachers {
            config.add_teacher(spec).context("--teacher").map_err(wrong)?;
        }
        config.validate().map_err(wrong)?;
        self.check_key(&config.resolved_teachers()?)?;
        Ok(config)
    }

    /// Checks that the one key of the command line has one server to go to.
    fn check_key(&self, teachers: &[TeacherConfig]) -> Result<()> {
        if self.key_env.is_none() && self.key_file.is_none() {
            return Ok(());
        }
        // One that has a key of its own is not sent this one.
        let takes = |t: &&TeacherConfig| t.key_env == self.key_env && t.key_file == self.key_file;
        let origin = |t: &TeacherConfig| Ok(base_url(&t.url)?.origin().ascii_serialization());
        let servers: BTreeSet<String> = teachers.iter().filter(takes).map(origin).collect::<Result<_>>()?;
        if servers.len() > 1 {
            return Err(WrongUse(format!(
                "--key-env and --key-file name one key, and it would go to {}: give each teacher its own key_env or key_file in \
                 foundry.teachers of a --config",
                Vec::from_iter(servers).join(" and ")
            ))
            .into());
        }
        Ok(())
    }

    /// The same without them.
    fn config_of_file(&self) -> Result<FoundryConfig> {
        let mut config = self.config.foundry()?;
        // One takes the place of the other, whichever the file of the config names.
        if self.key_env.is_some() || self.key_file.is_some() {
            (config.defaults.key_env, config.defaults.key_file) =
                (self.key_env.clone(), self.key_file.clone());
        }
        Ok(config)
    }
}

/// Runs what waits for servers.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads that talk to servers")?;
    let result = runtime.block_on(work);
    // Lookups of names that hang must not keep the program.
    runtime.shutdown_background();
    result
}
