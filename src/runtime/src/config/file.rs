//! The settings file: TOML, read into one flat map that stands behind flags and environment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest settings file read, in bytes.
pub const MAX_CONFIG_FILE_BYTES: u64 = 1 << 20;

/// What may be wrong with a settings file. A retry gives the same.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Read {
        /// Its place.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than [`MAX_CONFIG_FILE_BYTES`].
    #[error("the settings file {} is over {MAX_CONFIG_FILE_BYTES} bytes", path.display())]
    TooLarge {
        /// Its place.
        path: PathBuf,
    },
    /// It is not TOML.
    #[error("{origin} is not valid TOML: {message}")]
    Syntax {
        /// Which file.
        origin: String,
        /// Where and what.
        message: String,
    },
    /// A value is neither text, number, truth value nor a list of them.
    #[error("{origin}: `{key}` holds {found}, which no setting takes")]
    Value {
        /// Which file.
        origin: String,
        /// The key.
        key: String,
        /// What stands there.
        found: &'static str,
    },
    /// Two spellings of one key, such as `data-dir` and `data_dir`.
    #[error("{origin}: `{key}` is set twice")]
    Twice {
        /// Which file.
        origin: String,
        /// The key.
        key: String,
    },
    /// Keys that nothing reads.
    #[error("{origin}: {}", Unknown(keys))]
    UnknownKeys {
        /// Which file.
        origin: String,
        /// Each unknown key, with the known key nearest to it if one is near.
        keys: Vec<(String, Option<String>)>,
    },
}

struct Unknown<'a>(&'a [(String, Option<String>)]);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, near)) in self.0.iter().enumerate() {
            write!(f, "{}unknown setting `{key}`", if at == 0 { "" } else { "; " })?;
            if let Some(near) = near {
                write!(f, ", did you mean `{near}`?")?;
            }
        }
        Ok(())
    }
}

/// A settings file as a flat map from key to text, so that its values go through the same parsers as flags.
///
/// Tables join their keys with dots (`[log] level = "debug"` is `log.level`), lists of plain values join theirs
/// with commas, and `_` in a key reads as `-`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    origin: String,
    values: BTreeMap<String, String>,
}

impl ConfigFile {
    /// No file: every key is absent.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads the file at `path`.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigFileError> {
        let path = path.as_ref();
        let unreadable = |source| ConfigFileError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        // One byte past the bound tells a file at the bound from one over it.
        let file = File::open(path).map_err(unreadable)?;
        file.take(MAX_CONFIG_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_CONFIG_FILE_BYTES {
            return Err(ConfigFileError::TooLarge { path: path.to_owned() });
        }
        Self::parse(path.display().to_string(), &text)
    }

    /// Reads `text`; `origin` names it in errors.
    pub fn parse(origin: impl Into<String>, text: &str) -> Result<Self, ConfigFileError> {
        let mut file = Self { origin: origin.into(), values: BTreeMap::new() };
        let table: toml::Table = toml::from_str(text).map_err(|error| ConfigFileError::Syntax {
            origin: file.origin.clone(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        file.flatten("", table)?;
        Ok(file)
    }

    fn flatten(&mut self, prefix: &str, table: toml::Table) -> Result<(), ConfigFileError> {
        for (key, value) in table {
            let key = format!("{prefix}{}", key.replace('_', "-"));
            match value {
                toml::Value::Table(inner) => self.flatten(&format!("{key}."), inner)?,
                value => {
                    let text = scalar_or_list(&value).map_err(|found| ConfigFileError::Value {
                        origin: self.origin.clone(),
                        key: key.clone(),
                        found,
                    })?;
                    if self.values.insert(key.clone(), text).is_some() {
                        return Err(ConfigFileError::Twice { origin: self.origin.clone(), key });
                    }
                }
            }
        }
        Ok(())
    }

    /// The value of `key`, spelled with `-` and dots.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Every key that is set, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Where the settings came from, for messages. Empty when there was no file.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Refuses keys that are not in `allowed`: a misspelt setting must not pass as the default.
    pub fn check_keys(&self, allowed: &[&str]) -> Result<(), ConfigFileError> {
        let keys: Vec<_> = self
            .keys()
            .filter(|key| !allowed.contains(key))
            .map(|key| (key.to_owned(), nearest(key, allowed).map(str::to_owned)))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        Err(ConfigFileError::UnknownKeys { origin: self.origin.clone(), keys })
    }
}

fn scalar_or_list(value: &toml::Value) -> Result<String, &'static str> {
    let toml::Value::Array(items) = value else {
        return scalar(value);
    };
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let text = scalar(item)?;
        // It would read as two entries once joined.
        if text.contains(',') {
            return Err("a list entry with a comma in it");
        }
        texts.push(text);
    }
    Ok(texts.join(","))
}

fn scalar(value: &toml::Value) -> Result<String, &'static str> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(truth) => Ok(truth.to_string()),
        toml::Value::Datetime(_) => Err("a date"),
        toml::Value::Array(_) => Err("a list within a list"),
        toml::Value::Table(_) => Err("a list of tables"),
    }
}

/// The allowed key with the fewest edits to `key`, if those are few for its length.
fn nearest<'a>(key: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let limit = (key.chars().count() / 3).max(1);
    allowed
        .iter()
        .map(|candidate| (edits(key, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance: insertions, deletions and substitutions from `a` to `b`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_lists_and_spellings_become_one_flat_map() {
        let file = ConfigFile::parse(
            "x.toml",
            "data_dir = \"/data\"\nlisten = [\"a:1\", \"b:2\"]\n[log]\nlevel = \"debug\"\n[log.files]\nkeep = 3\nzip = true\n",
        )
        .unwrap();
        let all: Vec<_> = file.keys().map(|key| (key, file.get(key).unwrap())).collect();
        assert_eq!(
            all,
            [
                ("data-dir", "/data"),
                ("listen", "a:1,b:2"),
                ("log.files.keep", "3"),
                ("log.files.zip", "true"),
                ("log.level", "debug"),
            ]
        );
        assert_eq!(file.get("absent"), None);
        assert_eq!(ConfigFile::empty().keys().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, wanted) in [
            ("a = ", "not valid TOML"),
            ("a = 1\na = 2", "not valid TOML"),
            ("a_b = 1\na-b = 2", "`a-b` is set twice"),
            ("a = 1979-05-27", "`a` holds a date"),
            ("a = [[1]]", "a list within a list"),
            ("[[a]]\nb = 1", "a list of tables"),
            ("a = [\"x,y\"]", "a comma"),
        ] {
            let error = ConfigFile::parse("x.toml", text).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("x.toml"), "{text}: {error}");
        }
        let error = ConfigFile::load("/nonexistent/x.toml").unwrap_err().to_string();
        assert!(error.contains("/nonexistent/x.toml"), "{error}");
    }

    #[test]
    fn files_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, "a = 1\n").unwrap();
        assert_eq!(ConfigFile::load(&path).unwrap().get("a"), Some("1"));
        std::fs::write(&path, "#".repeat(MAX_CONFIG_FILE_BYTES as usize + 1)).unwrap();
        assert!(matches!(ConfigFile::load(&path), Err(ConfigFileError::TooLarge { .. })));
    }

    #[test]
    fn a_misspelt_key_names_the_nearest() {
        let file = ConfigFile::parse("x.toml", "data-dri = 1\nzzz = 2\nlog.level = 3").unwrap();
        let error = file.check_keys(&["data-dir", "log.level", "listen"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "x.toml: unknown setting `data-dri`, did you mean `data-dir`?; unknown setting `zzz`"
        );
        assert!(file.check_keys(&["data-dri", "zzz", "log.level"]).is_ok());
        assert_eq!((edits("", "abc"), edits("kitten", "sitting"), edits("a", "a")), (3, 3, 0));
    }
}
