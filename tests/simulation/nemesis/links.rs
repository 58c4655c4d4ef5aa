//! Which ways of the network are cut, when several faults cut the same one.

use crate::cluster::{MAX_LATENCY, Sim};
use std::collections::BTreeMap;
use std::time::Duration;

/// Counts, so that the end of one fault does not mend what another still cuts.
#[derive(Debug, Default)]
pub struct Links {
    cuts: BTreeMap<(String, String), u32>,
    slow: BTreeMap<(String, String), u32>,
}

impl Links {
    /// Nothing arrives on these ways any more; what is under way is lost.
    pub fn cut(&mut self, ways: &[(String, String)], sim: &Sim) {
        for way in ways {
            let count = self.cuts.entry(way.clone()).or_default();
            *count += 1;
            if *count == 1 {
                sim.partition_oneway(way.0.as_str(), way.1.as_str());
            }
        }
    }

    /// Takes one cut back from each of these ways.
    pub fn mend(&mut self, ways: &[(String, String)], sim: &Sim) {
        for way in ways {
            let count = self.cuts.entry(way.clone()).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                sim.repair_oneway(way.0.as_str(), way.1.as_str());
            }
        }
    }

    /// Messages between the two take up to `at_most`.
    pub fn slow(&mut self, a: &str, b: &str, at_most: Duration, sim: &Sim) {
        *self.slow.entry(pair(a, b)).or_default() += 1;
        sim.set_link_max_message_latency(a, b, at_most);
    }

    /// One slowness less between the two.
    pub fn hurry(&mut self, a: &str, b: &str, sim: &Sim) {
        let count = self.slow.entry(pair(a, b)).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            sim.set_link_max_message_latency(a, b, MAX_LATENCY);
        }
    }
}

/// A link, whichever end is named first.
fn pair(a: &str, b: &str) -> (String, String) {
    let (first, second) = if a < b { (a, b) } else { (b, a) };
    (first.to_owned(), second.to_owned())
}
