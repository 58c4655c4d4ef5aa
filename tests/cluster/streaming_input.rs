//! Standard input is a stream: a line is on its way when it has come, not when the input ends.

use crate::harness::{Dev, Live};
use std::time::Duration;

/// Long enough for anything that would come too early to come.
const SILENCE: Duration = Duration::from_millis(300);

#[test]
fn a_line_is_acknowledged_and_read_before_the_input_ends() {
    let dev = Dev::start();
    dev.cli(&["topic", "create", "chat"]).run().ok();
    let bootstrap = dev.addr().to_string();
    let mut producer = Live::start(&["produce", "chat", "-o", "json", "--bootstrap", &bootstrap]);
    let mut consumer = Live::start(&["consume", "chat", "--from-beginning", "--bootstrap", &bootstrap]);
    for offset in 0..3 {
        assert!(producer.write(format!("line {offset}\r\n").as_bytes()));
        assert_eq!(producer.line(), format!(r#"{{"partition":0,"offset":{offset}}}"#).into_bytes());
        assert_eq!(consumer.line(), format!("line {offset}\r").into_bytes());
        assert!(producer.is_running(), "its input has not ended");
    }

    // A line without its newline is not a line yet; the end of the input makes it one.
    assert!(producer.write(b"without a newline"));
    assert_eq!(producer.line_within(SILENCE), None);
    producer.close_stdin();
    assert_eq!(producer.line(), br#"{"partition":0,"offset":3}"#);
    assert!(producer.wait().success());
    assert_eq!(consumer.line(), b"without a newline");
    assert!(consumer.is_running(), "without --timeout-ms it waits for more");
}
