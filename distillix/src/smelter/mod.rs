//! The smelter trains a student: data, trainer, checkpoints, health and metrics.

pub mod checkpoint;
pub mod config;
pub mod data;
pub mod evaluate;
pub mod health;
pub mod inputs;
pub mod metrics;
pub mod plan;
pub mod run_folder;
pub mod teacher;
pub mod train;
pub mod trainer;
