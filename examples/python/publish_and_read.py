"""Publishes records to Thalweg and reads them back, with stubs generated from proto/ and nothing else of ours."""

import sys
import uuid

import grpc
from thalweg.v1 import admin_pb2, admin_pb2_grpc
from thalweg.v1 import consumer_pb2, consumer_pb2_grpc
from thalweg.v1 import producer_pb2, producer_pb2_grpc
from thalweg.v1 import common_pb2


def main(endpoint: str) -> None:
    channel = grpc.insecure_channel(endpoint)
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    producer = producer_pb2_grpc.ProducerServiceStub(channel)
    consumer = consumer_pb2_grpc.ConsumerServiceStub(channel)

    topic = f"python-{uuid.uuid4().hex[:8]}"
    admin.CreateTopics(
        admin_pb2.CreateTopicsRequest(topics=[admin_pb2.NewTopic(name=topic, partitions=2)]), timeout=30
    )

    # Plain records: the broker picks each record's partition by its key, and answers with where it went.
    sent = [(f"user-{i % 3}".encode(), f"event {i}".encode()) for i in range(10)]
    records = [
        common_pb2.Record(key=key, value=value, headers=[common_pb2.Header(key="lang", value=b"python")])
        for key, value in sent
    ]
    answer = producer.Produce(
        producer_pb2.ProduceRequest(topic=topic, records=common_pb2.RecordSet(records=records)), timeout=30
    )
    for (key, value), position in zip(sent, answer.positions, strict=True):
        print(f"sent {key.decode()}: {value.decode()} -> partition {position.partition}, offset {position.offset}")

    # Tail is one server stream over all partitions; it ends where the topic ended when the call began.
    got = []
    for batch in consumer.Tail(
        consumer_pb2.TailRequest(topic=topic, start=consumer_pb2.TAIL_START_EARLIEST, until_end=True), timeout=30
    ):
        got.extend((record.key, record.value) for record in batch.records)
    print(f"read {len(got)} records")

    if sorted(got) != sorted(sent):
        sys.exit("what was read is not what was sent")
    for user in {key for key, _ in sent}:
        if [v for k, v in got if k == user] != [v for k, v in sent if k == user]:
            sys.exit(f"the records of {user.decode()} came out of order")

    # A refusal is a gRPC status with a code and a sentence.
    try:
        producer.Produce(producer_pb2.ProduceRequest(topic="no-such-topic", records=common_pb2.RecordSet(records=records)), timeout=30)
        sys.exit("a topic that does not exist took records")
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.NOT_FOUND:
            raise
        print(f"refused, as it should be: {error.code().name}: {error.details()}")

    admin.DeleteTopics(admin_pb2.DeleteTopicsRequest(names=[topic]), timeout=30)
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9292")
