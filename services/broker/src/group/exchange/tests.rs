use super::*;
use crate::in_flight::InFlight;
use thalweg_proto::v1;

struct Setting {
    exchange: Exchange,
    budget: Arc<InFlight>,
    // The other ends, which must stay.
    _queue: mpsc::Sender<Asked>,
    _cancels: mpsc::UnboundedSender<u64>,
}

fn setting() -> Setting {
    let (queue, queued) = mpsc::channel(1);
    let (cancels, cancelled) = mpsc::unbounded_channel();
    let target =
        Target { id: CoordinatorId(1), epoch: CoordinatorEpoch(1), endpoint: "127.0.0.1:1".to_owned() };
    let (metadata, ended) = (Arc::new(MetadataStore::new()), Arc::default());
    let exchange = Exchange::new(target, metadata, queued, cancelled, ended, Shutdown::new());
    Setting { exchange, budget: InFlight::new(1 << 20), _queue: queue, _cancels: cancels }
}

impl Setting {
    fn ask(&mut self, id: u64, call: Call, until: Instant) -> oneshot::Receiver<Outcome> {
        let (answer, answered) = oneshot::channel();
        let client_host = Arc::from("h");
        let charge = self.budget.charge(10_000);
        self.exchange.take(Asked { id, shard: None, client_host, until, call, answer, charge });
        answered
    }
}

fn beat(max_wait_ms: u32) -> Call {
    Call::Heartbeat(v1::HeartbeatRequest { max_wait_ms: Some(max_wait_ms), ..Default::default() })
}

#[tokio::test]
async fn a_call_whose_caller_gave_up_never_leaves() {
    let mut setting = setting();
    let began = Instant::now();
    let mut late = setting.ask(1, beat(0), began + Duration::from_secs(5));
    let mut in_time = setting.ask(2, beat(0), began + Duration::from_secs(60));
    // The process stood still meanwhile.
    let now = began + Duration::from_secs(10);
    let message = setting.exchange.message(now).unwrap();
    assert_eq!(message.calls.iter().map(|call| (call.id, call.within_ms)).collect::<Vec<_>>(), [(2, 50_000)]);
    assert!(matches!(late.try_recv(), Ok(Err(Failure::NotSent(_)))));
    assert!(in_time.try_recv().is_err(), "it is under way");
    let _late = setting.ask(3, beat(0), began);
    assert!(setting.exchange.message(now).is_none(), "no empty message either");
    // The caller of the one that left is gone: that is said.
    setting.exchange.cancel(2);
    let message = setting.exchange.message(now).unwrap();
    assert!(matches!(message.calls[0].call, Some(Call::Cancel(_))));
}

#[tokio::test]
async fn a_call_that_waits_holds_its_entry_alone_once_it_has_left() {
    let mut setting = setting();
    let now = Instant::now();
    let until = now + Duration::from_secs(20);
    let _held = setting.ask(1, beat(10_000), until);
    let quick = setting.ask(2, beat(0), until);
    assert_eq!(setting.budget.used(), 20_000);
    assert_eq!(setting.exchange.message(now).unwrap().calls.len(), 2);
    assert_eq!(setting.budget.used(), 10_000 + ENTRY_BYTES);
    let reply =
        internal::GroupReply { id: 2, reply: Some(Reply::Heartbeat(Default::default())), error: None };
    setting.exchange.deliver(internal::ExchangeResponse { replies: vec![reply] });
    assert!(quick.await.unwrap().is_ok());
    assert_eq!(setting.budget.used(), ENTRY_BYTES);
}
