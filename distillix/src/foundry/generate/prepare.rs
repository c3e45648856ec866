//! What is done before the first request: settings compared, servers looked at, limits that cannot be kept refused.

use super::Event;
use crate::foundry::budget::Limits;
use crate::foundry::config::{FoundryConfig, Price, Strategy, TeacherConfig, TeacherKind};
use crate::foundry::orchestrate::{Gate, outcomes_a_prompt};
use crate::foundry::store::Store;
use crate::foundry::teacher::{FailureKind, Offer, connect};
use crate::smelter::config::{differences, suggestion};
use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// Records that a prompt can have.
pub(super) fn answers_a_prompt(config: &FoundryConfig, teachers: usize) -> u64 {
    let each = if config.strategy == Strategy::All { teachers as u64 } else { 1 };
    u64::from(outcomes_a_prompt(config)) * each
}

/// The settings that decide what is asked and what is kept. Rates, limits and prices are not among them.
pub(super) fn settings(config: &FoundryConfig, teachers: &[TeacherConfig]) -> Value {
    let teachers: Vec<Value> = teachers
        .iter()
        .map(|teacher| {
            json!({"name": teacher.name(), "kind": teacher.kind, "model": teacher.model, "api": teacher.api,
                "extra": teacher.extra, "agent": teacher.agent, "weight": teacher.weight})
        })
        .collect();
    json!({
        "teachers": teachers, "strategy": config.strategy, "samples": config.samples, "judge": config.judge,
        "agreement": config.agreement, "system": config.system, "sampling": config.sampling(0),
    })
}

/// Refuses to mix answers to different settings by accident.
pub(super) fn check_settings(store: &Store, settings: &Value) -> Result<()> {
    if let Some(before) = store.meta("settings")? {
        let before: Value = serde_json::from_str(&before)?;
        let mut found = Vec::new();
        differences("", &before, settings, &mut found);
        ensure!(
            found.is_empty(),
            "the store {} was made with other settings: {}. Nothing is lost: take another --store, or go on in this one with \
             --allow-changes, which asks again what the new settings need and keeps the old answers",
            store.path().display(),
            found.join("; ")
        );
    }
    Ok(())
}

/// The ways to all teachers, and the index of the judge's.
pub(super) async fn gates(
    config: &FoundryConfig,
    observe: &mut dyn FnMut(Event),
) -> Result<(Vec<Gate>, Option<usize>)> {
    let (teachers, judge) = config.resolved_with_judge()?;
    let mut gates = Vec::new();
    let mut silent = Vec::new();
    for teacher in teachers {
        let connection = connect(&teacher, Duration::from_secs_f64(config.connect_timeout_s))?;
        let label = teacher.label();
        let mut offer = Offer::default();
        match connection.offers().await {
            Ok(offers) => match offers.iter().find(|offer| offer.model == teacher.model) {
                Some(found) => offer = found.clone(),
                // Servers of the openai kind answer to names that they do not list.
                None if teacher.kind == TeacherKind::Opencode => {
                    let names: Vec<&str> = offers.iter().map(|offer| offer.model.as_str()).collect();
                    let near = if names.is_empty() {
                        "it has none".to_owned()
                    } else {
                        suggestion(&teacher.model, &names)
                    };
                    bail!("{} has no model {}, {near}", teacher.name(), teacher.model);
                }
                None => {}
            },
            Err(failure) if failure.kind.is_fatal() && failure.kind != FailureKind::NotFound => {
                bail!("{label}: {failure}");
            }
            Err(failure) if failure.kind == FailureKind::NotFound && teacher.agent.is_some() => {
                bail!("{label}: {failure}");
            }
            Err(failure) if matches!(failure.kind, FailureKind::Connection | FailureKind::Timeout) => {
                silent.push(format!("{label} does not answer: {failure}"));
            }
            // Some servers have no such list.
            Err(failure) => observe(Event::Warning(format!("{label} does not list its models: {failure}"))),
        }
        gates.push(Gate::new(teacher, connection, offer, config));
    }
    if silent.len() == gates.len() || config.strategy == Strategy::One && !silent.is_empty() {
        bail!("{}", silent.join("; "));
    }
    silent.into_iter().for_each(|text| observe(Event::Warning(text)));
    Ok((gates, judge))
}

/// A limit can be kept only where the worst case is known.
pub(super) fn check_budget(limits: &Limits, gates: &[Gate], max_output_tokens: u32) -> Result<()> {
    for gate in gates {
        let label = gate.config.label();
        if limits.cost.is_some() && gate.price().is_none() {
            let free = Price { input: 0.0, output: 0.0 };
            let key = json!({"price": free});
            bail!(
                "--max-cost cannot be kept: nobody says what {label} costs. Give its price in the config (foundry.teachers or \
                 foundry.defaults, as in {key} for a free one)"
            );
        }
        if (limits.cost.is_some() || limits.tokens.is_some())
            && gate.longest_answer(max_output_tokens).is_none()
        {
            bail!(
                "--max-cost and --max-tokens cannot be kept: the server does not say how long an answer of {label} can be. Set \
                 limit.output of the model in the server's config, or use --max-requests"
            );
        }
    }
    Ok(())
}
