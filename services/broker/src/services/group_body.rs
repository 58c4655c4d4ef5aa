//! Subscribe's answers [without a copy](super::whole_body).

use super::group::{Group, host};
use super::messages::Messages;
use super::own_stream::OwnStream;
use super::whole_body::{self, Batches, Whole};
use crate::in_flight::InFlight;
use std::sync::Arc;
use thalweg_proto::v1;
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::v1::subscribe_response::Event;

/// The method that is served here.
pub const PATH: &str = "/thalweg.v1.GroupService/Subscribe";

/// Serves Subscribe. `most` is the longest request that is read, in bytes; what is half received counts against `budget`.
pub fn own<S>(inner: S, group: Arc<Group>, budget: Arc<InFlight>, most: usize) -> OwnStream<S> {
    OwnStream::new(inner, PATH, move |request| {
        let host = host(request.extensions());
        let inbound = Messages::new(request.into_body(), &budget, most).telling_cancel();
        whole_body::respond(group.stream(host, inbound))
    })
}

impl Whole for v1::SubscribeResponse {
    type Message = Self;
    type Inner = v1::PartitionData;
    // `records`: field 5, length-delimited.
    const TAG_INNER: u8 = (5 << 3) | 2;
    // `record_batches`: field 10, length-delimited.
    const TAG_BATCHES: u8 = (10 << 3) | 2;

    fn take_batches(&mut self) -> Option<(Batches, &v1::PartitionData)> {
        let Some(Event::Records(around)) = &mut self.event else { return None };
        match around.data.take() {
            Some(Data::RecordBatches(batches)) => Some((Batches::One(batches), around)),
            other => {
                around.data = other;
                None
            }
        }
    }

    fn message(&self) -> &Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::whole_body::{COPY_BELOW, assert_same_wire};

    #[test]
    fn the_wire_is_what_the_generated_encoder_makes() {
        let records = |data| {
            let data = v1::PartitionData {
                topic: "t".into(),
                partition: 3,
                next_offset: 300,
                high_watermark: 1 << 40,
                tag: 9,
                data,
                ..Default::default()
            };
            v1::SubscribeResponse { event: Some(Event::Records(data)) }
        };
        for size in [0, 1, 127, 128, COPY_BELOW - 1, COPY_BELOW, 1 << 20] {
            assert_same_wire(&records(Some(Data::RecordBatches(vec![7; size].into()))));
        }
        let record = v1::Record { value: Some("v".into()), ..Default::default() };
        assert_same_wire(&records(Some(Data::Records(v1::RecordSet { records: vec![record] }))));
        assert_same_wire(&records(None));
        let joined = v1::SubscribeJoined { member_id: "m".into(), member_epoch: 1 };
        assert_same_wire(&v1::SubscribeResponse { event: Some(Event::Joined(joined)) });
        assert_same_wire(&v1::SubscribeResponse::default());
    }
}
