"""A member of a consumer group on one stream, with stubs generated from proto/ and nothing else of ours.

Prints each record as PARTITION<TAB>OFFSET<TAB>VALUE, and what happens to the member on standard error.
"""

import argparse
import queue
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable

import grpc
from thalweg.v1 import consumer_pb2, group_pb2, group_pb2_grpc

WINDOW = 2_000  # records that may be on their way: what bounds our memory
COMMIT_EVERY = 1.0  # seconds
TICK = 0.2  # seconds between two looks at the clock and at Ctrl-C


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def names(topics) -> str:
    return " ".join(f"{t.topic}-{p}" for t in topics for p in t.partitions) or "nothing"


class Stop:
    """When to leave: on Ctrl-C, after so many records, or when none came for so long."""

    def __init__(self, max_records: int | None, idle_ms: int | None) -> None:
        self.left = max_records
        self.idle = idle_ms / 1000 if idle_ms else None
        self.quiet_since = time.monotonic()
        self.asked = False

    def count(self) -> None:
        self.quiet_since = time.monotonic()
        if self.left is not None:
            self.left -= 1

    def now(self) -> bool:
        quiet = time.monotonic() - self.quiet_since
        return self.asked or self.left == 0 or (self.idle is not None and quiet > self.idle)


class Member:
    """One Subscribe stream."""

    def __init__(self, groups: group_pb2_grpc.GroupServiceStub, options: group_pb2.MemberOptions, stop: Stop) -> None:
        self.stop = stop
        self.leaving = False
        stop.quiet_since = time.monotonic()
        # gRPC takes our messages from here and sends them; None half-closes the stream.
        self.outbox: queue.SimpleQueue = queue.SimpleQueue()
        # A thread puts the server's messages here, so that we can wait for them with a timeout. WINDOW bounds it.
        self.inbox: queue.SimpleQueue = queue.SimpleQueue()
        self.positions: dict[tuple[str, int], group_pb2.OffsetToCommit] = {}  # printed, not committed yet
        self.sent, self.answered = 0, 0  # commits
        self.then: list[tuple[int, Callable[[], None]]] = []  # what to do when that commit is answered

        self.send(start=group_pb2.SubscribeStart(options=options))
        # `bytes` could bound messages by their size; here the number of records is bound enough.
        self.send(credit=consumer_pb2.FetchStreamCredit(records=WINDOW, bytes=1 << 60))
        stream = groups.Subscribe(iter(self.outbox.get, None))
        threading.Thread(target=self.receive, args=[stream], daemon=True).start()

    def send(self, **command) -> None:
        self.outbox.put(group_pb2.SubscribeRequest(**command))

    def receive(self, stream) -> None:
        try:
            for event in stream:
                self.inbox.put(event)
            self.inbox.put(None)
        except grpc.RpcError as error:
            self.inbox.put(error)

    def run(self) -> None:
        """Until the member has left. Raises grpc.RpcError when the stream breaks."""
        next_commit = time.monotonic() + COMMIT_EVERY
        while True:
            try:
                event = self.inbox.get(timeout=TICK)
                if event is None:
                    return
                if isinstance(event, grpc.RpcError):
                    raise event
                self.handle(event)
            except queue.Empty:
                pass
            if self.stop.now() and not self.leaving:
                # Leave gracefully: commit, wait until that is durable, half-close. The partitions go to others at once.
                self.leaving = True
                self.commit(then=lambda: self.outbox.put(None))
            elif time.monotonic() > next_commit:
                self.commit()
                next_commit = time.monotonic() + COMMIT_EVERY

    def handle(self, event: group_pb2.SubscribeResponse) -> None:
        match event.WhichOneof("event"):
            case "joined":
                note(f"joined as {event.joined.member_id}")
            case "assigned":
                note("assigned " + " ".join(f"{a.topic}-{a.partition}" for a in event.assigned.partitions))
            case "records":
                self.process(event.records)
            case "revoke":
                # No more records of these partitions come: what we printed is all we ever will. Once that is committed we
                # give them back, and their next owner goes on exactly there.
                revoke = event.revoke
                note(f"revoked {names(revoke.partitions)}")
                revoked = group_pb2.SubscribeRevoked(revocation_id=revoke.revocation_id)
                self.commit(then=lambda: self.send(revoked=revoked))
            case "lost":
                # Too late to commit: others may read them already, and will see again what we had not committed.
                note(f"lost {names(event.lost.partitions)}: {event.lost.error.message}")
                for topic in event.lost.partitions:
                    for partition in topic.partitions:
                        self.positions.pop((topic.topic, partition), None)
            case "committed":
                committed = event.committed
                for error in [committed.error, *(failure.error for failure in committed.failures)]:
                    if error.code:
                        note(f"not committed: {error.message}")
                self.answered = committed.commit_id
                self.run_answered()
            case "heartbeat":
                pass  # the member's standing; shows that a quiet stream is alive

    def process(self, data: consumer_pb2.PartitionData) -> None:
        if data.HasField("error"):
            note(f"{data.topic}-{data.partition} cannot be read: {data.error.message}")
            return
        for record in data.records.records:
            if self.leaving or self.stop.now():
                return  # not printed, so not committed: it is for the partition's next owner
            print(f"{data.partition}\t{record.offset}\t{record.value.decode(errors='replace')}", flush=True)
            self.stop.count()
            self.positions[data.topic, data.partition] = group_pb2.OffsetToCommit(
                topic=data.topic, partition=data.partition, offset=record.offset + 1
            )
        # Allow as many more. This also tells the server that we work (max.poll.interval.ms).
        self.send(credit=consumer_pb2.FetchStreamCredit(records=len(data.records.records)))

    def commit(self, then: Callable[[], None] | None = None) -> None:
        """Commits what was printed; calls `then` when that, and every commit before, is answered."""
        if self.positions:
            self.sent += 1
            self.send(commit=group_pb2.SubscribeCommit(commit_id=self.sent, offsets=self.positions.values()))
            self.positions.clear()
        if then:
            self.then.append((self.sent, then))
            self.run_answered()

    def run_answered(self) -> None:
        while self.then and self.then[0][0] <= self.answered:
            self.then.pop(0)[1]()


def main() -> None:
    parser = argparse.ArgumentParser(prog="run.sh HOST:PORT consume")
    parser.add_argument("endpoint")
    parser.add_argument("--topic", default="orders")
    parser.add_argument("--group", default="examples")
    parser.add_argument("--max-records", type=int, help="leave after so many")
    parser.add_argument("--idle-ms", type=int, help="leave when none came for so long")
    args = parser.parse_args()

    stop = Stop(args.max_records, args.idle_ms)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(stop, "asked", True))

    options = group_pb2.MemberOptions(
        group_id=args.group,
        member_id=str(uuid.uuid4()),
        client_id="python-example",
        subscription=group_pb2.GroupSubscription(topics=[args.topic]),
        offset_reset=group_pb2.OFFSET_RESET_EARLIEST,
    )
    with grpc.insecure_channel(args.endpoint) as channel:
        groups = group_pb2_grpc.GroupServiceStub(channel)
        while True:
            try:
                return Member(groups, options, stop).run()
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or stop.asked:
                    sys.exit(f"{error.code().name}: {error.details()}")
                # The same member id on a new stream: we go on where we were, from what was committed.
                note(f"the stream broke, and is opened anew: {error.details()}")
                time.sleep(1)


if __name__ == "__main__":
    main()
