//! Descriptions of metrics.

use std::fmt::Write;

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends. Its name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often values fell below each of some bounds, and their sum.
    Histogram,
}

impl Kind {
    /// Its name in the exposition format.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric with all its series. The unit is the end of its name (`_seconds`, `_bytes`), as Prometheus wants it.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `thalweg_` and what it is.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// One sentence, for people.
    pub help: &'static str,
    /// The names of its own labels; `service` and `node` come on top.
    pub labels: &'static [&'static str],
}

impl Family {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
        Family { name, kind: Kind::Counter, help, labels }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
        Family { name, kind: Kind::Gauge, help, labels }
    }

    /// A histogram.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family {
        Family { name, kind: Kind::Histogram, help, labels }
    }
}

/// A table of metrics in Markdown, in the order given.
pub fn reference<'a>(families: impl IntoIterator<Item = &'a Family>) -> String {
    let mut text = "| metric | kind | labels | what it tells |\n|---|---|---|---|\n".to_owned();
    for family in families {
        let labels = family.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        writeln!(text, "| `{}` | {} | {labels} | {} |", family.name, family.kind.name(), family.help)
            .expect("writing to a string cannot fail");
    }
    text
}
