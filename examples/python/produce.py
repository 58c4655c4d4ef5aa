"""Publishes numbered records to a topic, with stubs generated from proto/ and nothing else of ours."""

import argparse

import grpc
from thalweg.v1 import admin_pb2, admin_pb2_grpc
from thalweg.v1 import common_pb2
from thalweg.v1 import producer_pb2, producer_pb2_grpc

BATCH = 500  # records of one request


def create_topic(channel: grpc.Channel, name: str, partitions: int) -> None:
    admin = admin_pb2_grpc.AdminServiceStub(channel)
    topic = admin_pb2.NewTopic(name=name, partitions=partitions)
    try:
        admin.CreateTopics(admin_pb2.CreateTopicsRequest(topics=[topic]), timeout=30)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.sh HOST:PORT produce")
    parser.add_argument("endpoint")
    parser.add_argument("--topic", default="orders", help="is created if it does not exist")
    parser.add_argument("--partitions", type=int, default=6, help="of a topic that is created")
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--prefix", default="python", help="record i is PREFIX-i")
    args = parser.parse_args()

    with grpc.insecure_channel(args.endpoint) as channel:
        create_topic(channel, args.topic, args.partitions)
        producer = producer_pb2_grpc.ProducerServiceStub(channel)
        partitions = set()
        for first in range(0, args.records, BATCH):
            # The broker picks each record's partition by its key: records of one key stay in order.
            records = [
                common_pb2.Record(key=f"key-{i % 100}".encode(), value=f"{args.prefix}-{i}".encode())
                for i in range(first, min(first + BATCH, args.records))
            ]
            # Answered when the records are on disk on every replica in sync. A retry after UNAVAILABLE or
            # DEADLINE_EXCEEDED could write them twice: producers that mind send encoded batches with a producer id.
            answer = producer.Produce(
                producer_pb2.ProduceRequest(topic=args.topic, records=common_pb2.RecordSet(records=records)), timeout=30
            )
            for result in answer.results:
                if result.HasField("error"):
                    raise SystemExit(f"partition {result.partition} took nothing: {result.error.message}")
                partitions.add(result.partition)
    print(f"sent {args.records} records to {len(partitions)} partitions of {args.topic}")


if __name__ == "__main__":
    main()
