//! Cross-crate test suites: the tests are the `[[test]]` targets beside this file, and here is what they share.

pub mod check;
pub mod oracle;
pub mod sides;
