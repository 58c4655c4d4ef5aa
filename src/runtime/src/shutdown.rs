//! One word that ends a service: [`Shutdown`].

use tokio_util::sync::CancellationToken;

/// Says "end now" to everything that holds a clone. Cheap to clone; once triggered it stays so.
///
/// A [child](Shutdown::child) ends with its parent, but its own trigger leaves the parent running.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that nobody has triggered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells every holder, and every child, to end. Doing it again changes nothing.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Whether it has been triggered, here or in a parent.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it is triggered. Safe to drop and call again, so it fits `select!`.
    pub async fn triggered(&self) {
        self.token.cancelled().await;
    }

    /// A shutdown for one part: the parent triggers it, it does not trigger the parent.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_parent_ends_its_children_and_not_the_other_way() {
        let parent = Shutdown::new();
        let (first, second) = (parent.child(), parent.child());
        first.trigger();
        assert!(first.is_triggered());
        assert!(!parent.is_triggered() && !second.is_triggered());
        parent.trigger();
        second.triggered().await;
        assert!(parent.clone().is_triggered());
    }
}
