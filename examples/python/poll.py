"""A member of a consumer group in unary calls, for where no bidirectional stream gets through.

Prints each record as PARTITION<TAB>OFFSET<TAB>VALUE, and what happens to the member on standard error.
"""

import argparse
import signal
import sys
import time

import grpc
from thalweg.v1 import group_pb2, group_pb2_grpc


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def names(topics) -> str:
    return " ".join(f"{t.topic}-{p}" for t in topics for p in t.partitions)


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.sh HOST:PORT poll")
    parser.add_argument("endpoint")
    parser.add_argument("--topic", default="orders")
    parser.add_argument("--group", default="examples")
    parser.add_argument("--max-records", type=int, default=sys.maxsize, help="leave when at least so many came")
    parser.add_argument("--idle-ms", type=int, default=sys.maxsize, help="leave when none came for so long")
    args = parser.parse_args()

    stopping = False

    def stop(*_) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    with grpc.insecure_channel(args.endpoint) as channel:
        groups = group_pb2_grpc.GroupServiceStub(channel)
        options = group_pb2.MemberOptions(
            group_id=args.group,
            client_id="python-poll-example",
            subscription=group_pb2.GroupSubscription(topics=[args.topic]),
            offset_reset=group_pb2.OFFSET_RESET_EARLIEST,
        )
        member = groups.Join(group_pb2.JoinRequest(options=options), timeout=30)
        note(f"joined as {member.member_id}")

        # The cursor is the member's whole state: any broker serves any poll. A poll is also the member's heartbeat, and says
        # that all that was handed out before is dealt with.
        cursor, count, quiet_since = member.cursor, 0, time.monotonic()
        while not stopping and count < args.max_records and (time.monotonic() - quiet_since) * 1000 < args.idle_ms:
            answer = groups.Poll(
                group_pb2.PollRequest(group_id=args.group, member_id=member.member_id, cursor=cursor), timeout=30
            )
            for verb, topics in [("assigned", answer.assigned), ("revoked", answer.revoking), ("lost", answer.lost)]:
                if topics:
                    note(f"{verb} {names(topics)}")
            for data in answer.partitions:
                if data.HasField("error"):
                    note(f"{data.topic}-{data.partition} cannot be read: {data.error.message}")
                for record in data.records.records:
                    print(f"{data.partition}\t{record.offset}\t{record.value.decode(errors='replace')}", flush=True)
                    count += 1
                    quiet_since = time.monotonic()
            cursor = answer.cursor
            # Everything up to this cursor is printed. It is committed before the next poll, which gives back what was revoked.
            if answer.partitions or answer.revoking:
                commit = groups.CommitOffsets(
                    group_pb2.CommitOffsetsRequest(
                        group_id=args.group, member_id=member.member_id, member_epoch=answer.member_epoch, cursor=cursor
                    ),
                    timeout=30,
                )
                for result in commit.results:
                    if result.HasField("error"):
                        note(f"not committed: {result.topic}-{result.partition}: {result.error.message}")

        groups.Leave(group_pb2.LeaveRequest(group_id=args.group, member_id=member.member_id), timeout=30)
    note(f"left after {count} records")


if __name__ == "__main__":
    main()
