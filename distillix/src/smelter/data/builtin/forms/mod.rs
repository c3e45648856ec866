//! The functions that are described by one template each.

mod arithmetic;
mod comparisons;
mod constants;
mod lists;
mod loops;
mod strings;
mod tables;

use super::template::Form;

/// The forms that are little more than copying, which [`all`] includes.
pub(super) fn copying() -> &'static [Form] {
    constants::FORMS
}

/// Every single form.
pub(super) fn all() -> impl Iterator<Item = &'static Form> {
    [
        constants::FORMS,
        arithmetic::FORMS,
        comparisons::FORMS,
        strings::FORMS,
        lists::FORMS,
        tables::FORMS,
        loops::FORMS,
    ]
    .into_iter()
    .flatten()
}
