//! `distillix foundry teachers`.

use super::{FoundryArgs, Output, block_on, wrong};
use crate::cli::WrongUse;
use crate::foundry::config::{FoundryConfig, Price, TeacherConfig};
use crate::foundry::teacher::{Failure, FailureKind, Message, Offer, Request, connect};
use anyhow::Result;
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Lists the models that servers offer, and says whether a teacher answers, how fast, and at what price.
///
/// A teacher with a model is asked for a few words. Without a model (openai:URL), its server's models are only listed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  distillix foundry teachers --teacher openai:http://127.0.0.1:8091/v1
  distillix foundry teachers --teacher opencode:http://127.0.0.1:4096#local/smollm2
  distillix foundry teachers --config my.json --json")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    foundry: FoundryArgs,
    /// Print a JSON line for each model on stdout.
    #[arg(long)]
    json: bool,
}

/// One model of one server.
#[derive(Serialize)]
struct Row<'a> {
    teacher: String,
    model: &'a str,
    offered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    price: Option<Price>,
    context: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.foundry.config_of_file()?;
    config.validate().map_err(wrong)?;
    let mut teachers = config.resolved_teachers()?;
    for spec in &args.foundry.teachers {
        // Here a teacher may lack a model.
        teachers.push(TeacherConfig::parse(spec, &config.defaults).map_err(wrong)?);
    }
    if teachers.is_empty() {
        return Err(
            WrongUse("name at least one --teacher, or a --config with foundry.teachers".into()).into()
        );
    }
    args.foundry.check_key(&teachers)?;
    let output = Output { json: args.json };
    let mut all_well = true;
    for teacher in &teachers {
        let connect_timeout = Duration::from_secs_f64(config.connect_timeout_s);
        let timeout = config.timeout(16);
        all_well &= block_on(show(teacher, connect_timeout, timeout, output))?;
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what one server offers, and whether the teacher's model answers.
async fn show(
    config: &TeacherConfig,
    connect_timeout: Duration,
    timeout: Duration,
    output: Output,
) -> Result<bool> {
    let teacher = connect(config, connect_timeout)?;
    let begin = Instant::now();
    let offers = teacher.offers().await;
    let latency = begin.elapsed();
    let reachable = match &offers {
        Ok(offers) => format!("{} models, listed in {} ms", offers.len(), latency.as_millis()),
        Err(failure) => format!("cannot list models: {failure}"),
    };
    output.prose(&format!("{}: {reachable}", config.name()))?;
    let mut well = offers.is_ok();
    let offers = offers.unwrap_or_default();
    for offer in offers.iter().filter(|offer| offer.model != config.model) {
        print(output, config, offer, true, None)?;
    }
    if !config.model.is_empty() {
        let own = offers.iter().find(|offer| offer.model == config.model);
        let offer = own.cloned().unwrap_or_else(|| Offer { model: config.model.clone(), ..Offer::default() });
        let mut sampling = FoundryConfig::default().sampling(0);
        (sampling.max_tokens, sampling.temperature) = (16, 0.0);
        let request = Request { messages: vec![Message::user("Answer with the word yes.")], sampling };
        let begin = Instant::now();
        let ask = async {
            match teacher.ask(&request, 16).await {
                Err(failure) if failure.again => teacher.ask(&request, 16).await,
                asked => asked,
            }
        };
        let asked = tokio::time::timeout(timeout, ask).await;
        let asked = asked.unwrap_or_else(|_| {
            Err(Failure::new(FailureKind::Timeout, format!("no answer in {} s", timeout.as_secs())))
        });
        well = asked.is_ok();
        print(output, config, &offer, own.is_some(), Some(asked.map(|_| begin.elapsed())))?;
    }
    teacher.close().await;
    Ok(well)
}

fn print(
    output: Output,
    config: &TeacherConfig,
    offer: &Offer,
    offered: bool,
    asked: Option<Result<Duration, Failure>>,
) -> Result<()> {
    let price = if offer.model == config.model { config.price.or(offer.price) } else { offer.price };
    let says = match &asked {
        None => "offered".to_owned(),
        Some(Ok(latency)) => format!("answers, {} ms", latency.as_millis()),
        Some(Err(failure)) => format!("does not answer: {failure}"),
    };
    let costs = price.map_or("price unknown".to_owned(), |price| {
        format!("{} / {} a million tokens read / written", price.input, price.output)
    });
    let context = offer.context.map_or(String::new(), |context| format!(", context {context}"));
    output.prose(&format!("  {:<32} {says}; {costs}{context}", offer.model))?;
    output.record(&Row {
        teacher: config.name(),
        model: &offer.model,
        offered,
        answers: asked.as_ref().map(Result::is_ok),
        latency_ms: asked.as_ref().and_then(|asked| Some(asked.as_ref().ok()?.as_millis() as u64)),
        error: asked.and_then(|asked| asked.err().map(|failure| failure.to_string())),
        price,
        context: offer.context,
    })?;
    Ok(())
}
