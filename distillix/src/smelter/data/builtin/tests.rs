//! What the curriculum promises.
