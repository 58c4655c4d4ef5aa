//! Bugs that are planted on purpose, to prove that the checker sees them.

use thalweg_core::planted::{Bug, plant as plant_bug};

/// Plants the bug of that name in this process.
pub fn plant(name: Option<&str>) {
    let bug = name.map(|name| Bug::named(name).unwrap_or_else(|| panic!("no bug is called {name}")));
    plant_bug(bug);
}
