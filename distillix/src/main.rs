//! The `distillix` program.
fn main() {}
