//! FetchStream's answers [without a copy](super::whole_body).

use super::consumer::Consumer;
use super::messages::Messages;
use super::own_stream::OwnStream;
use super::whole_body::{self, Batches, Whole};
use crate::in_flight::InFlight;
use std::sync::Arc;
use thalweg_proto::v1;
use thalweg_proto::v1::partition_data::Data;

/// The method that is served here.
pub const PATH: &str = "/thalweg.v1.ConsumerService/FetchStream";

/// Serves FetchStream. `most` is the longest request that is read, in bytes; what is half received counts against `budget`.
pub fn own<S>(inner: S, consumer: Arc<Consumer>, budget: Arc<InFlight>, most: usize) -> OwnStream<S> {
    OwnStream::new(inner, PATH, move |request| {
        let inbound = Messages::new(request.into_body(), &budget, most);
        whole_body::respond(consumer.stream(inbound))
    })
}

impl Whole for v1::FetchStreamResponse {
    type Message = Self;
    type Inner = v1::PartitionData;
    // `data`: field 1, length-delimited.
    const TAG_INNER: u8 = (1 << 3) | 2;
    // `record_batches`: field 10, length-delimited.
    const TAG_BATCHES: u8 = (10 << 3) | 2;

    fn take_batches(&mut self) -> Option<(Batches, &v1::PartitionData)> {
        let around = self.data.as_mut()?;
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

    fn message(data: Option<Data>, error: Option<v1::Error>) -> v1::FetchStreamResponse {
        let data = v1::PartitionData {
            topic: "t".into(),
            partition: 3,
            next_offset: 300,
            high_watermark: 1 << 40,
            last_stable_offset: 7,
            log_start_offset: 0,
            tag: 9,
            error,
            data,
        };
        v1::FetchStreamResponse { data: Some(data) }
    }

    #[test]
    fn the_wire_is_what_the_generated_encoder_makes() {
        let sizes = [0, 1, 127, 128, COPY_BELOW - 1, COPY_BELOW, 1 << 20];
        let batches = sizes.map(|size| message(Some(Data::RecordBatches(vec![7; size].into())), None));
        let record = v1::Record { value: Some("v".into()), ..Default::default() };
        let others = [
            message(None, Some(v1::Error { code: 4, ..Default::default() })),
            message(Some(Data::Records(v1::RecordSet { records: vec![record] })), None),
            v1::FetchStreamResponse { data: None },
        ];
        for message in batches.into_iter().chain(others) {
            assert_same_wire(&message);
        }
    }
}
