//! Cross-crate test suites: the tests are the `[[test]]` targets beside this file.
