//! The settings file behind command line and environment: flag > environment > file > default.

use crate::args::{Cli, SETTINGS_FILE, WITH_SETTINGS_FILE};
use crate::error::CliError;
use clap::{ArgMatches, Command, CommandFactory};
use std::ffi::OsString;
use std::path::PathBuf;
use thalweg_runtime::config::ConfigFile;

/// Arguments that a settings file cannot hold.
const NOT_IN_A_FILE: [&str; 3] = [SETTINGS_FILE, "help", "version"];

/// Why the command line cannot be read.
#[derive(Debug)]
pub enum Misread {
    /// The parser says it.
    Usage(clap::Error),
    /// The settings file is to blame.
    File(CliError),
}

/// Reads a command line, with the values of the settings file that it names behind it.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, Misread> {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = match settings_file(&args) {
        Some((server, path)) => with_file(Cli::command(), server, &path)?,
        None => Cli::command(),
    };
    command.try_get_matches_from(args).map_err(Misread::Usage)
}

/// The server to run and the settings file that it is told to read. A line that cannot be read names none: the parser will say
/// what is wrong with it.
fn settings_file(args: &[OsString]) -> Option<(&'static str, PathBuf)> {
    let relaxed = WITH_SETTINGS_FILE.into_iter().fold(Cli::command(), |command, server| {
        // What is required may stand in the file.
        command.mut_subcommand(server, |command| command.mut_args(|arg| arg.required(false)))
    });
    let matches = relaxed.try_get_matches_from(args).ok()?;
    let (name, matches) = matches.subcommand()?;
    let server = WITH_SETTINGS_FILE.into_iter().find(|server| *server == name)?;
    if matches.subcommand().is_some() {
        return None;
    }
    Some((server, matches.get_one::<PathBuf>(SETTINGS_FILE)?.clone()))
}

/// Makes the file's values the defaults of the server's flags: the parser itself lets environment and command line win.
fn with_file(command: Command, server: &'static str, path: &PathBuf) -> Result<Command, Misread> {
    let unusable = |error| Misread::File(CliError::usage(error));
    let file = ConfigFile::load(path).map_err(unusable)?;
    let mut flags: Vec<String> = Vec::new();
    let command = command.mut_subcommand(server, |command| {
        command.mut_args(|arg| {
            let Some(flag) = arg.get_long() else { return arg };
            if NOT_IN_A_FILE.contains(&arg.get_id().as_str()) {
                return arg;
            }
            flags.push(flag.to_owned());
            match file.get(flag) {
                // The parser keeps defaults for as long as the program runs, and there is one file.
                Some(value) => arg.required(false).default_value(&*value.to_owned().leak()),
                None => arg,
            }
        })
    });
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    file.check_keys(&flags).map_err(unusable)?;
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{BrokerArgs, ControllerArgs};
    use clap::FromArgMatches;
    use std::io::Write;

    fn parse_with(file: &str, args: &[&str]) -> Result<ArgMatches, String> {
        let mut settings = tempfile::NamedTempFile::new().unwrap();
        settings.write_all(file.as_bytes()).unwrap();
        let path = settings.path().to_str().unwrap();
        let args: Vec<&str> = [&["thalweg"], args, &["--config", path]].concat();
        let args = args.into_iter().map(OsString::from);
        parse(args).map_err(|misread| match misread {
            Misread::Usage(error) => error.to_string(),
            Misread::File(error) => error.to_string(),
        })
    }

    fn broker(file: &str, args: &[&str]) -> BrokerArgs {
        let matches = parse_with(file, &[&["broker"], args].concat()).unwrap();
        BrokerArgs::from_arg_matches(matches.subcommand().unwrap().1).unwrap()
    }

    #[test]
    fn a_file_gives_what_the_command_line_does_not() {
        let file = "node-id = 7\ncontrollers = [\"a:1\", \"b:2\"]\ndata_dir = \"/d1,/d2\"\nrack = \"r\"\nlisten = \"h:3\"";
        let args = broker(file, &["--rack", "other"]);
        assert_eq!(args.node_id, Some(7));
        assert_eq!(args.rack.as_deref(), Some("other"));
        let controllers: Vec<String> = args.controllers.iter().map(ToString::to_string).collect();
        assert_eq!(controllers, ["a:1", "b:2"]);
        assert_eq!(args.data_dir, [PathBuf::from("/d1"), PathBuf::from("/d2")]);
        assert_eq!((args.listen.to_string().as_str(), args.internal_listen.port), ("h:3", 9392));
    }

    #[test]
    fn a_flag_without_value_can_be_set_in_a_file() {
        let file =
            "node-id = 4\njoin = true\nauto-balance = false\ndata-dir = \"d\"\nvoters = \"1@a:1,2@b:2\"";
        let matches = parse_with(file, &["controller"]).unwrap();
        let args = ControllerArgs::from_arg_matches(matches.subcommand().unwrap().1).unwrap();
        assert!(args.join && !args.auto_balance);
        assert_eq!((args.node_id, args.voters.len()), (4, 2));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let required = "node-id = 1\ncontrollers = \"a:1\"\ndata-dir = \"d\"\n";
        for (file, words) in [
            ("nod-id = 1", "did you mean `node-id`"),
            ("node-id = 1", "--controllers"),
            ("config = \"other.toml\"", "unknown setting `config`"),
            (&format!("{required}listen = \"nowhere\""), "--listen"),
            (&format!("{required}replica-lag-time-max = \"soon\""), "500ms"),
        ] {
            let error = parse_with(file, &["broker"]).unwrap_err();
            assert!(error.contains(words), "{file}: {error}");
        }
        let missing = parse(["thalweg", "broker", "--config", "/nonexistent.toml"].map(OsString::from));
        assert!(matches!(missing, Err(Misread::File(_))));
    }

    #[test]
    fn looking_after_brokers_needs_none_of_the_flags_that_run_one() {
        let args =
            |args: &[&str]| parse([&["thalweg", "broker"], args].concat().into_iter().map(OsString::from));
        assert!(args(&["list"]).is_ok());
        assert!(args(&["drain", "3", "--no-wait"]).is_ok());
        assert!(args(&[]).is_err(), "running one needs an id, controllers and a folder");
        assert!(args(&["--node-id", "1", "list"]).is_err());
    }
}
