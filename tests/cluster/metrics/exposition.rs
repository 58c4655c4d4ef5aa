//! Prometheus' exposition format, version 0.0.4, read more strictly than Prometheus does.

use std::collections::{BTreeMap, BTreeSet};

/// One metric with all that was told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    pub kind: String,
    pub help: String,
    /// Of every series: the suffix of its name (`_bucket`, `_sum`, `_count`, or nothing), its labels, its value.
    pub series: Vec<(String, Labels, f64)>,
}

/// Names and values, in the order in which they stand.
pub type Labels = Vec<(String, String)>;

/// The families by name, or what is wrong and in which line.
pub fn parse(text: &str) -> Result<BTreeMap<String, Family>, String> {
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    let mut families = BTreeMap::new();
    let mut current: Option<String> = None;
    for (number, line) in text.lines().enumerate() {
        take_line(line, &mut families, &mut current)
            .map_err(|wrong| format!("line {}: {wrong}: {line}", number + 1))?;
    }
    families
        .iter()
        .try_for_each(|(name, family)| check(name, family).map_err(|wrong| format!("{name}: {wrong}")))?;
    Ok(families)
}

fn take_line(
    line: &str,
    families: &mut BTreeMap<String, Family>,
    current: &mut Option<String>,
) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').ok_or("no help")?;
        is_name(name, true).then_some(()).ok_or("no metric's name")?;
        let family = Family { kind: String::new(), help: help.to_owned(), series: Vec::new() };
        let before = families.insert(name.to_owned(), family);
        *current = Some(name.to_owned());
        return before.is_none().then_some(()).ok_or_else(|| "the family stands twice".to_owned());
    }
    let name = current.clone().ok_or("a family begins with its help")?;
    let family = families.get_mut(&name).ok_or("no such family")?;
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (named, kind) = rest.split_once(' ').ok_or("no type")?;
        let known = ["counter", "gauge", "histogram"].contains(&kind);
        let fits = named == name && known && family.kind.is_empty() && family.series.is_empty();
        kind.clone_into(&mut family.kind);
        return fits.then_some(()).ok_or_else(|| "a type that does not belong here".to_owned());
    }
    if family.kind.is_empty() {
        return Err("a series before its type".to_owned());
    }
    let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
    let value = number(value)?;
    let (full, labels) = match series.split_once('{') {
        Some((full, labels)) => (full, labels_of(labels)?),
        None => (series, Labels::new()),
    };
    let suffix = full.strip_prefix(&name).ok_or("a series of another family")?;
    let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
    if !suffixes.contains(&suffix) {
        return Err("a series of another family".to_owned());
    }
    family.series.push((suffix.to_owned(), labels, value));
    Ok(())
}

fn is_name(name: &str, colons: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    name.starts_with(|c: char| fits(c) && !c.is_ascii_digit()) && name.chars().all(fits)
}

fn number(text: &str) -> Result<f64, String> {
    let plain = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    match text {
        "+Inf" => Ok(f64::INFINITY),
        _ if plain => text.parse().map_err(|_| "no number".to_owned()),
        _ => Err("no number".to_owned()),
    }
}

/// `a="b",c="d"}`.
fn labels_of(text: &str) -> Result<Labels, String> {
    let mut labels = Labels::new();
    let mut rest = text;
    loop {
        let (name, value) = rest.split_once("=\"").ok_or("no label")?;
        if !is_name(name, false) || labels.iter().any(|(known, _)| known == name) {
            return Err(format!("the label {name}"));
        }
        let mut chars = value.char_indices();
        let mut read = String::new();
        let end = loop {
            match chars.next().ok_or("a label without end")? {
                (at, '"') => break at,
                (_, '\\') => read.push(match chars.next().ok_or("a label without end")?.1 {
                    'n' => '\n',
                    escaped @ ('\\' | '"') => escaped,
                    other => return Err(format!("\\{other} means nothing")),
                }),
                (_, plain) => read.push(plain),
            }
        };
        labels.push((name.to_owned(), read));
        match &value[end + 1..] {
            "}" => return Ok(labels),
            more => rest = more.strip_prefix(',').ok_or("labels that do not end")?,
        }
    }
}

fn check(name: &str, family: &Family) -> Result<(), String> {
    if family.series.is_empty() || family.help.is_empty() {
        return Err("without series or help".to_owned());
    }
    let mut seen = BTreeSet::new();
    for (suffix, labels, value) in &family.series {
        let mut sorted = labels.clone();
        sorted.sort();
        if !seen.insert((suffix, sorted)) {
            return Err(format!("{labels:?} stands twice"));
        }
        if family.kind != "gauge" && !(value.is_finite() && *value >= 0.0) {
            return Err(format!("{labels:?} counts {value}"));
        }
    }
    match family.kind.as_str() {
        "counter" if !name.ends_with("_total") => Err("a counter's name ends in _total".to_owned()),
        "histogram" => check_histogram(family),
        _ => Ok(()),
    }
}

/// What one histogram's series say together.
#[derive(Default)]
struct Whole {
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: Option<f64>,
}

fn check_histogram(family: &Family) -> Result<(), String> {
    let mut wholes: BTreeMap<Labels, Whole> = BTreeMap::new();
    for (suffix, labels, value) in &family.series {
        let (bounds, own): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(name, _)| name == "le");
        let whole = wholes.entry(own).or_default();
        match (suffix.as_str(), bounds.as_slice()) {
            ("_bucket", [(_, bound)]) => whole.buckets.push((number(bound)?, *value)),
            ("_count", []) => whole.count = Some(*value),
            ("_sum", []) => whole.sum = Some(*value),
            _ => return Err(format!("{labels:?} has the wrong bounds")),
        }
    }
    for (labels, Whole { buckets, count, sum }) in &wholes {
        let grow = buckets.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
        let last = buckets.last().filter(|(bound, _)| *bound == f64::INFINITY).map(|(_, all)| *all);
        if !grow || last.is_none() || last != *count || sum.is_none() {
            return Err(format!("{labels:?} does not add up"));
        }
    }
    Ok(())
}

#[test]
fn what_prometheus_would_misread_is_refused() {
    let good = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"1,}\\\"\\n\"} 2\n";
    assert_eq!(parse(good).unwrap()["a_total"].series[0].1, [("x".to_owned(), "1,}\"\n".to_owned())]);
    let histogram = "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
    parse(histogram).unwrap();
    for (from, to) in [
        ("# HELP a_total Help.\n", ""),
        ("# TYPE a_total counter\n", ""),
        ("counter", "summary"),
        ("} 2\n", "} 2"),
        ("} 2", "} two"),
        ("} 2", "} -2"),
        ("} 2", "} 2 1700000000"),
        ("\\n\"}", "\\t\"}"),
        ("\\n\"}", "\\n\"\"}"),
        ("x=", "x-y="),
        ("a_total", "a"),
        ("} 2\n", "} 2\na_total{x=\"1,}\\\"\\n\"} 3\n"),
        ("} 2\n", "} 2\nb_total 3\n"),
    ] {
        let bad = good.replace(from, to);
        assert!(parse(&bad).is_err(), "{bad}");
    }
    for (from, to) in [
        ("h_count 2", "h_count 3"),
        ("h_bucket{le=\"1\"} 1", "h_bucket{le=\"1\"} 3"),
        ("h_bucket{le=\"+Inf\"} 2\n", ""),
        ("h_sum 3\n", ""),
        ("h_bucket{le=\"1\"}", "h_bucket"),
    ] {
        let bad = histogram.replace(from, to);
        assert!(parse(&bad).is_err(), "{bad}");
    }
}
