//! Bugs that are planted on purpose, to prove that the checker sees them.

/// Plants a bug for this process.
pub fn plant(bug: Option<&str>) {
    assert!(bug.is_none(), "this build knows no planted bugs");
}
