//! The functions that are described by one template each.

mod arithmetic;
mod comparisons;
mod lists;
mod loops;
mod strings;
mod tables;

use super::template::Form;

/// Every single form.
pub(super) fn all() -> impl Iterator<Item = &'static Form> {
    [arithmetic::FORMS, comparisons::FORMS, strings::FORMS, lists::FORMS, tables::FORMS, loops::FORMS]
        .into_iter()
        .flatten()
}
