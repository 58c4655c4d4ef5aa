//! The parts of the documentation that the code itself says: `docs/METRICS.md` and `docs/CONFIGURATION.md`.
//!
//! The tests below fail when a page is not what the code says; `THALWEG_WRITE_DOCS=1 cargo test -p thalweg reference` writes them
//! anew.

use crate::args::Cli;
use clap::{Arg, Command, CommandFactory};
use std::fmt::Write;
use thalweg_core::config::CATALOGUE;
use thalweg_runtime::observe::{Family, PROCESS_FAMILIES, reference};

/// The servers whose flags are configuration.
const SERVERS: [&str; 5] = ["dev", "controller", "broker", "coordinator", "operator"];

/// Every metric.
fn metrics() -> String {
    let parts: [(&str, &[&'static Family]); 7] = [
        ("Every process", &PROCESS_FAMILIES),
        ("Every process that exports telemetry", &thalweg_runtime::telemetry::FAMILIES),
        ("Every gRPC server", &thalweg_runtime::metrics::FAMILIES),
        ("Brokers", &thalweg_broker::metrics::FAMILIES),
        ("Controllers", &thalweg_controller::metrics::FAMILIES),
        ("Coordinators", &thalweg_coordinator::metrics::FAMILIES),
        ("Operators", &thalweg_operator::metrics::FAMILIES),
    ];
    let mut page = "# Metrics

Written from the code; do not edit. With `--metrics-listen HOST:PORT` (`THALWEG_METRICS_LISTEN`) a server shows them for Prometheus at
`GET /metrics`, beside the gRPC health service and the log's filter (`GET` and `PUT /log-filter`). The unit is the end of a metric's
name. All but those of the process have the labels `service` (broker, controller, coordinator, operator) and `node` (its id). At most 1,000 topics of a
broker have series of their own; the others come together as `(other)`. Counters of a partition begin anew when it comes to a broker.
"
    .to_owned();
    for (title, families) in parts {
        write!(page, "\n## {title}\n\n{}", reference(families.iter().copied()))
            .expect("writing to a string cannot fail");
    }
    page
}

/// Every flag of a server and every key of a topic.
fn configuration() -> String {
    let mut page = "# Configuration

Written from the code; do not edit. A server's setting is a flag, an environment variable or a key of the TOML file that `--config`
names (the flag without its dashes, with `-` as `_`); the flag wins over the environment, the environment over the file.
"
    .to_owned();
    let program = Cli::command();
    for name in SERVERS {
        let Some(server) = program.find_subcommand(name) else { continue };
        write!(page, "\n## thalweg {name}\n\n{}", flags(server)).expect("writing to a string cannot fail");
    }
    write!(page, "\n## Topics\n\n{}", topic_keys()).expect("writing to a string cannot fail");
    page
}

fn flags(server: &Command) -> String {
    let mut table = "| flag | environment | default | what it does |\n|---|---|---|---|\n".to_owned();
    for flag in server.get_arguments().filter(|flag| flag.get_long().is_some() && !flag.is_global_set()) {
        writeln!(
            table,
            "| `--{}` | {} | {} | {} |",
            flag.get_long().unwrap_or_default(),
            flag.get_env().map_or(String::new(), |name| format!("`{}`", name.to_string_lossy())),
            default(flag),
            cell(&flag.get_help().map(ToString::to_string).unwrap_or_default())
        )
        .expect("writing to a string cannot fail");
    }
    table
}

fn default(flag: &Arg) -> String {
    let values: Vec<_> =
        flag.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    values.join(", ")
}

fn topic_keys() -> String {
    let mut table = "| key | default | unit | allowed | what it does |\n|---|---|---|---|---|\n".to_owned();
    for key in CATALOGUE {
        writeln!(
            table,
            "| `{}` | `{}` | {} | {} | {} |",
            key.name,
            key.default,
            key.unit,
            cell(&key.kind.allowed(key.unit).to_string()),
            cell(key.doc)
        )
        .expect("writing to a string cannot fail");
    }
    table
}

/// A text that does not break its table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

mod tests {
    use super::*;
    use std::path::Path;

    fn check(page: &str, says: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(page);
        if std::env::var_os("THALWEG_WRITE_DOCS").is_some() {
            std::fs::write(&path, says).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == says,
            "docs/{page} is old; run THALWEG_WRITE_DOCS=1 cargo test -p thalweg reference"
        );
    }

    #[test]
    fn the_page_of_metrics_is_what_the_code_says() {
        check("METRICS.md", &metrics());
    }

    #[test]
    fn the_page_of_settings_is_what_the_code_says() {
        check("CONFIGURATION.md", &configuration());
    }

    #[test]
    fn every_metric_is_named_as_prometheus_wants_it() {
        let parts = [
            &PROCESS_FAMILIES[..],
            &thalweg_runtime::telemetry::FAMILIES,
            &thalweg_runtime::metrics::FAMILIES,
            &thalweg_broker::metrics::FAMILIES,
            &thalweg_controller::metrics::FAMILIES,
            &thalweg_coordinator::metrics::FAMILIES,
            &thalweg_operator::metrics::FAMILIES,
        ];
        let mut names = Vec::new();
        for family in parts.concat() {
            let counter = family.kind == thalweg_runtime::observe::Kind::Counter;
            assert_eq!(counter, family.name.ends_with("_total"), "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains('|'), "{}", family.name);
            names.push(family.name);
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "a name stands twice: {names:?}");
    }

    /// Dashboards and alerts ask for nothing that the program does not have.
    #[test]
    fn every_metric_that_is_asked_for_exists() {
        let known = metrics();
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
        let mut asked = 0;
        for folder in ["prometheus", "grafana"] {
            for file in std::fs::read_dir(deploy.join(folder)).unwrap() {
                let path = file.unwrap().path();
                if path.is_dir() {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                for name in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                    if !name.starts_with("thalweg_") && !name.starts_with("process_") {
                        continue;
                    }
                    let family = name.strip_suffix("_bucket").unwrap_or(name);
                    assert!(known.contains(&format!("| `{family}` |")), "{}: {name}", path.display());
                    asked += 1;
                }
            }
        }
        assert!(asked > 50, "{asked}");
    }
}
