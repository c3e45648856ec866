//! The smelter trains a student: data, trainer, checkpoints, health and metrics.

pub mod config;
pub mod data;
pub mod health;
pub mod run_folder;
