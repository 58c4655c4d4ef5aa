//! Something stored before the harm was tried, and looked at after it.

use crate::harness::{Api, Dev};

const TOPIC: &str = "canary";

/// A topic that nobody attacks.
pub struct Canary {
    expected: Vec<Vec<u8>>,
}

impl Canary {
    pub async fn new(api: &Api) -> Canary {
        api.create_topic(TOPIC, 1, &[]).await;
        let mut canary = Canary { expected: Vec::new() };
        canary.sings(api).await;
        canary
    }

    /// What was stored is there, and more can be stored.
    pub async fn sings(&mut self, api: &Api) {
        assert_eq!(api.values(TOPIC, 0).await, self.expected, "what was stored is unharmed");
        let value = format!("song {}", self.expected.len());
        let result = api.produce_values(TOPIC, 0, &[&value]).await.unwrap();
        assert_eq!(result.base_offset, self.expected.len() as i64);
        self.expected.push(value.into_bytes());
        assert_eq!(api.values(TOPIC, 0).await, self.expected);
    }

    /// The same on a server that has just been started again from the folder, however it had ended.
    pub async fn sings_after_a_kill(&mut self, dev: &mut Dev) -> Api {
        assert!(dev.is_running(), "the server lives on: {}", dev.stderr_tail());
        dev.kill();
        dev.restart();
        let api = Api::connect(dev).await;
        self.sings(&api).await;
        api
    }
}
