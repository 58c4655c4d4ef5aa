//! Settings as people write them: values with units, addresses, and the file behind flags and environment.

mod file;
mod values;

pub use file::{ConfigFile, ConfigFileError, MAX_CONFIG_FILE_BYTES};
pub use values::{HostPort, MAX_HOST_PORTS, ParseError, parse_bytes, parse_duration, parse_host_ports};
