//! Model goldens: logits, gradients, one optimizer step, the losses of a few steps, and greedy continuation.

use super::golden::{Golden, Tokens};
use super::report::Report;
use anyhow::{Context, Result, bail, ensure};
use autograd::{Gradients, Tape};
use nn::losses::CrossEntropy;
use nn::model::{Input, ModelConfig, Student};
use nn::ops::IGNORE;
use nn::optim::{AdamW, MatrixOptimizer, Muon, Optimizer, OptimizerConfig};
use nn::params::Role;
use serde::Deserialize;
use serde_json::{Map, Value};
use tensor::Tensor;

/// Logits, gradients, losses.
const FORWARD: f64 = 1e-5;
/// Changes of parameters.
const CHANGE: f64 = 1e-4;

#[derive(Deserialize)]
struct OptimizerSettings {
    muon_lr: f64,
    muon_momentum: f64,
    muon_wd: f64,
    adamw_lr: f64,
    betas: [f64; 2],
    eps: f64,
    adamw_wd: f64,
}

/// The settings of a file, and what makes a fresh model of it.
struct Subject<'a> {
    golden: &'a Golden,
    config: ModelConfig,
    optimizer: OptimizerConfig,
    label_smoothing: f64,
    ignore: i64,
}

pub(super) fn verify(golden: &Golden, report: &mut Report) -> Result<()> {
    let subject = Subject::new(golden)?;
    groups(&subject, report)?;
    one_step(&subject, report)?;
    trajectory(&subject, report)?;
    greedy(&subject, report)
}

impl<'a> Subject<'a> {
    fn new(golden: &'a Golden) -> Result<Self> {
        let settings: OptimizerSettings = golden.setting(&["optimizer"])?;
        let optimizer = OptimizerConfig {
            matrices: MatrixOptimizer::Muon,
            muon: Muon {
                lr: settings.muon_lr,
                momentum: settings.muon_momentum,
                weight_decay: settings.muon_wd,
            },
            adamw: AdamW {
                lr: settings.adamw_lr,
                betas: settings.betas,
                eps: settings.eps,
                weight_decay: settings.adamw_wd,
            },
        };
        let config = config(golden)?;
        let label_smoothing = golden.setting(&["label_smoothing"])?;
        let ignore = golden.setting(&["ignore"])?;
        Ok(Subject { golden, config, optimizer, label_smoothing, ignore })
    }

    /// A model with the file's weights.
    fn student(&self) -> Result<Student> {
        let mut student = Student::new(
            self.config.clone(),
            self.config.vocab_size,
            self.golden.device(),
            |_, _, _| Ok(()),
        )?;
        student.params_mut().load(|name| {
            let name = format!("w.{}", short(name));
            if !self.golden.has(&name) {
                return Ok(None);
            }
            self.golden.floats(&name).map(Some).map_err(|e| tensor::Error::argument("load", format!("{e:#}")))
        })?;
        Ok(student)
    }

    fn input(&self, ids: &Tokens) -> Result<Input> {
        Ok(Input { ids: ids.ids(&ids.dims, self.config.vocab_size)?, first_key: None })
    }

    /// Loss of a batch; its gradients go to `grads`.
    fn loss(&self, student: &Student, ids: &Tokens, targets: &Tokens, grads: &mut Gradients) -> Result<f64> {
        ensure!(ids.dims == targets.dims, "ids {:?} with targets {:?}", ids.dims, targets.dims);
        let targets = targets.targets(self.ignore, self.config.vocab_size)?;
        let counted = targets.to_vec::<i32>()?.iter().filter(|&&target| target != IGNORE).count();
        let terms = vec![(1.0, CrossEntropy { label_smoothing: self.label_smoothing }.into())];
        let mut tape = Tape::new();
        let (hidden, _) = student.hidden(&mut tape, &self.input(ids)?, false, None)?;
        let (loss, _) = student.loss(&mut tape, &hidden, targets, terms, counted.max(1) as f64, None)?;
        grads.clear();
        tape.backward(&loss, grads)?;
        Ok(f64::from(loss.detach().item::<f32>()?))
    }
}

/// The name of a parameter in goldens.
fn short(name: &str) -> &str {
    name.strip_prefix("model.").unwrap_or(name)
}

/// The file's configuration. Its tensors are measured against it before memory is taken, so that a nonsensical one
/// costs nothing; the longest context becomes what the file needs.
fn config(golden: &Golden) -> Result<ModelConfig> {
    let mut json: Map<String, Value> = golden.setting(&["config"])?;
    let reference = [
        "vocab_size",
        "hidden",
        "layers",
        "heads",
        "kv_heads",
        "head_dim",
        "mlp",
        "rope_theta",
        "norm_eps",
        "attn_softcap",
        "final_softcap",
        "sub_norm",
    ];
    if let Some(key) = reference.iter().find(|key| !json.contains_key(**key)) {
        bail!("the JSON has no config.{key}");
    }
    // Switches that the reference's configuration may lack: its tensors say.
    let mut switch = |key: &str, on: bool| {
        json.entry(key.to_owned()).or_insert(on.into());
    };
    switch("qk_norm", golden.has("w.layers.0.self_attn.q_norm.weight"));
    switch("tie_embeddings", !golden.has("w.lm_head.weight"));
    let mut config: ModelConfig =
        serde_json::from_value(Value::Object(json)).context("config in the JSON")?;
    config.max_seq = config.max_seq.max(1);
    config.validate()?;
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let matrices = [
        ("embed_tokens".to_owned(), [config.vocab_size, config.hidden]),
        ("layers.0.self_attn.q_proj".to_owned(), [q, config.hidden]),
        ("layers.0.self_attn.k_proj".to_owned(), [kv, config.hidden]),
        ("layers.0.mlp.gate_proj".to_owned(), [config.mlp, config.hidden]),
        (format!("layers.{}.mlp.down_proj", config.layers - 1), [config.hidden, config.mlp]),
    ];
    for (path, want) in matrices {
        let name = format!("w.{path}.weight");
        let dims = golden.dims(&name)?;
        ensure!(dims == want, "{name} has dims {dims:?}, its config says {want:?}");
    }
    let layers = golden.parts("w.layers.").len();
    ensure!(layers == config.layers, "there are tensors of {layers} layers, config says {}", config.layers);
    let length = |name: &str| -> Result<usize> {
        golden.dims(name)?.last().copied().with_context(|| format!("{name} has no dimensions"))
    };
    let lengths = [length("ids")?, length("traj.ids")?, length("greedy.prompt")? + length("greedy.tokens")?];
    config.max_seq = lengths.into_iter().max().unwrap_or(1);
    Ok(config)
}

/// Which optimizer each parameter gets, if the file says.
fn groups(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    if !subject.golden.has_setting("groups") {
        return Ok(());
    }
    let student = subject.student()?;
    for param in student.params().iter() {
        let name = short(&param.name);
        let want: String = subject.golden.setting(&["groups", name])?;
        let got = match param.role {
            Role::Matrix => "muon",
            Role::Embedding => "adamw_decay",
            Role::Norm => "adamw_nodecay",
        };
        report.equal("optimizer groups", name, &[got], &[want.as_str()])?;
    }
    Ok(())
}

/// Logits, gradients, and the parameters after one step.
fn one_step(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    let golden = subject.golden;
    let (ids, targets) = (golden.tokens("ids")?, golden.tokens("targets")?);
    ensure!(ids.dims.len() == 2, "ids has dims {:?}, expected [batch, tokens]", ids.dims);
    let mut student = subject.student()?;
    let logits = student.logits(&subject.input(&ids)?)?;
    let want = golden.floats("logits")?;
    report.close("logits", FORWARD, "logits", &logits.to_vec::<f32>()?, &want.to_vec::<f32>()?)?;
    let mut grads = student.params().gradients()?;
    let loss = subject.loss(&student, &ids, &targets, &mut grads)?;
    if golden.has_setting("loss") {
        report.number("loss", FORWARD, "loss", loss, golden.setting(&["loss"])?);
    }
    for param in student.params().iter() {
        let name = format!("g.{}", short(&param.name));
        let grad = grads.get(param.parameter.id).with_context(|| format!("{name} was not computed"))?;
        report.tensors_close("gradients", FORWARD, &name, grad, &golden.floats(&name)?)?;
    }
    let mut optimizer = Optimizer::new(subject.optimizer, student.params())?;
    optimizer.step(student.params_mut(), &grads, 1.0, 1.0)?;
    for param in student.params().iter() {
        let (name, before) = (format!("after1.{}", short(&param.name)), format!("w.{}", short(&param.name)));
        let (want, before) = (golden.floats(&name)?, golden.floats(&before)?);
        report.changes_close("update", CHANGE, &name, [&param.parameter.value, &want, &before])?;
    }
    Ok(())
}

/// Losses before each of some steps, and after the last; norms of the parameters then, if the file has them.
fn trajectory(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    let golden = subject.golden;
    let (ids, targets) = (golden.tokens("traj.ids")?, golden.tokens("traj.targets")?);
    ensure!(ids.dims.len() == 3, "traj.ids has dims {:?}, expected [steps, batch, tokens]", ids.dims);
    let want: Vec<f64> = golden.setting(&["traj_loss"])?;
    let steps = ids.dims[0];
    ensure!(ids.dims == targets.dims, "traj.ids {:?} with traj.targets {:?}", ids.dims, targets.dims);
    ensure!(want.len() == steps + 1, "traj_loss has {} numbers for {steps} steps", want.len());
    let mut student = subject.student()?;
    let mut optimizer = Optimizer::new(subject.optimizer, student.params())?;
    let mut grads = student.params().gradients()?;
    for (step, &want) in want.iter().enumerate() {
        let batch = step.min(steps - 1);
        let loss = subject.loss(&student, &ids.slice(batch), &targets.slice(batch), &mut grads)?;
        report.number("trajectory", FORWARD, &format!("loss after {step} steps"), loss, want);
        if step < steps {
            optimizer.step(student.params_mut(), &grads, 1.0, 1.0)?;
        }
    }
    for param in student.params().iter().filter(|_| golden.has_setting("after5_l2")) {
        let name = short(&param.name);
        let want: f64 = golden.setting(&["after5_l2", name])?;
        let values = param.parameter.value.to_vec::<f32>()?;
        let got = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        report.number("norms after the steps", CHANGE, name, got, want);
    }
    Ok(())
}

/// The likeliest continuation, with a key–value cache and by full passes.
fn greedy(subject: &Subject<'_>, report: &mut Report) -> Result<()> {
    let golden = subject.golden;
    let (prompts, continuations) = (golden.tokens("greedy.prompt")?, golden.tokens("greedy.tokens")?);
    let vocab = subject.config.vocab_size;
    let (prompts, want) =
        (prompts.ids(&prompts.dims, vocab)?, continuations.ids(&continuations.dims, vocab)?);
    let ([rows, _], [want_rows, count]) = (prompts.dims_n("greedy.prompt")?, want.dims_n("greedy.tokens")?);
    ensure!(rows == want_rows, "greedy.prompt has {rows} rows, greedy.tokens {want_rows}");
    let student = subject.student()?;
    for row in 0..rows {
        let (prompt, want) = (prompts.narrow(0, row, 1)?, want.narrow(0, row, 1)?.to_vec::<u32>()?);
        let mut cache = student.kv_cache(student.config().max_seq)?;
        let (mut next, mut cached) = (student.decode(&prompt, &mut cache)?, Vec::new());
        let (mut read, mut full) = (prompt.to_vec::<u32>()?, Vec::new());
        for step in 0..count {
            cached.push(likeliest(&next)?);
            if step + 1 < count {
                let token = Tensor::from_slice(&cached[step..], &[1, 1], subject.golden.device())?;
                next = student.decode(&token, &mut cache)?;
            }
            let ids = Tensor::from_slice(&read, &[1, read.len()], subject.golden.device())?;
            let logits = student.logits(&Input { ids, first_key: None })?;
            let token = likeliest(&logits.narrow(0, read.len() - 1, 1)?)?;
            read.push(token);
            full.push(token);
        }
        report.equal("greedy tokens", &format!("row {row}, cached"), &cached, &want)?;
        report.equal("greedy tokens", &format!("row {row}, full passes"), &full, &want)?;
    }
    Ok(())
}

fn likeliest(logits: &Tensor) -> Result<u32> {
    Ok(logits.argmax(logits.rank() - 1, false)?.to_vec::<u32>()?[0])
}
