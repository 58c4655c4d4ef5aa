package dev.thalweg.examples;

import dev.thalweg.v1.Error;
import dev.thalweg.v1.FetchStreamCredit;
import dev.thalweg.v1.GroupServiceGrpc;
import dev.thalweg.v1.MemberOptions;
import dev.thalweg.v1.OffsetToCommit;
import dev.thalweg.v1.PartitionData;
import dev.thalweg.v1.Record;
import dev.thalweg.v1.SubscribeCommit;
import dev.thalweg.v1.SubscribeCommitted;
import dev.thalweg.v1.SubscribeRequest;
import dev.thalweg.v1.SubscribeResponse;
import dev.thalweg.v1.SubscribeRevoke;
import dev.thalweg.v1.SubscribeRevoked;
import dev.thalweg.v1.SubscribeStart;
import dev.thalweg.v1.TopicPartitions;
import io.grpc.Channel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import java.util.ArrayDeque;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** One Subscribe stream. All but the receiving of messages happens on the thread that calls {@link #run}. */
final class Member {
  /** Records that may be on their way: what bounds our memory. */
  private static final int WINDOW = 2_000;

  private static final long COMMIT_EVERY_NANOS = TimeUnit.SECONDS.toNanos(1);

  /** Between two looks at the clock and at {@link Stop}. */
  private static final long TICK_MILLIS = 100;

  private record Place(String topic, int partition) {}

  /** What to do when a commit is answered. */
  private record Then(long commit, Runnable action) {}

  /** What the stream brought: a message, or its end with a status. */
  private record Received(SubscribeResponse event, Status end) {}

  private final Stop stop;
  private final StreamObserver<SubscribeRequest> requests;
  private final BlockingQueue<Received> inbox = new LinkedBlockingQueue<>(); // WINDOW bounds it
  private final Map<Place, Long> positions = new HashMap<>(); // the next offset: printed, and not committed yet
  private final Queue<Then> then = new ArrayDeque<>();
  private long sent; // the last commit that was sent
  private long answered; // and the last that was answered
  private boolean leaving;

  Member(Channel channel, MemberOptions options, Stop stop) {
    this.stop = stop;
    stop.restartClock();
    requests =
        GroupServiceGrpc.newStub(channel)
            .subscribe(
                new StreamObserver<>() {
                  @Override
                  public void onNext(SubscribeResponse event) {
                    inbox.add(new Received(event, null));
                  }

                  @Override
                  public void onError(Throwable error) {
                    inbox.add(new Received(null, Status.fromThrowable(error)));
                  }

                  @Override
                  public void onCompleted() {
                    inbox.add(new Received(null, Status.OK));
                  }
                });
    send(SubscribeRequest.newBuilder().setStart(SubscribeStart.newBuilder().setOptions(options)));
    // Bytes could bound messages by their size; here the number of records is bound enough.
    credit(WINDOW, 1L << 60);
  }

  /** The member's life, until it has left. Fails with {@link StatusRuntimeException} when the stream breaks. */
  void run() throws InterruptedException {
    long nextCommit = System.nanoTime() + COMMIT_EVERY_NANOS;
    while (true) {
      Received received = inbox.poll(TICK_MILLIS, TimeUnit.MILLISECONDS);
      if (received != null && received.event() != null) {
        handle(received.event());
      } else if (received != null && received.end().isOk()) {
        return;
      } else if (received != null) {
        throw received.end().asRuntimeException();
      }

      if (stop.now() && !leaving) {
        // Leave gracefully: commit, wait until that is durable, half-close. The partitions go to others at once.
        leaving = true;
        commit(requests::onCompleted);
      } else if (System.nanoTime() - nextCommit > 0) {
        commit(null);
        nextCommit = System.nanoTime() + COMMIT_EVERY_NANOS;
      }
    }
  }

  private void handle(SubscribeResponse event) {
    switch (event.getEventCase()) {
      case JOINED -> note("joined as " + event.getJoined().getMemberId());
      case ASSIGNED ->
          note(
              event.getAssigned().getPartitionsList().stream()
                  .map(a -> a.getTopic() + "-" + a.getPartition())
                  .collect(Collectors.joining(" ", "assigned ", "")));
      case RECORDS -> process(event.getRecords());
      case REVOKE -> {
        // No more records of these partitions come: what we printed is all we ever will. Once that is committed we give them
        // back, and their next owner goes on exactly there.
        SubscribeRevoke revoke = event.getRevoke();
        note("revoked " + names(revoke.getPartitionsList()));
        var revoked = SubscribeRevoked.newBuilder().setRevocationId(revoke.getRevocationId());
        commit(() -> send(SubscribeRequest.newBuilder().setRevoked(revoked)));
      }
      case LOST -> {
        // Too late to commit: others may read them already, and will see again what we had not committed.
        note("lost " + names(event.getLost().getPartitionsList()) + ": " + event.getLost().getError().getMessage());
        for (TopicPartitions topic : event.getLost().getPartitionsList()) {
          topic.getPartitionsList().forEach(partition -> positions.remove(new Place(topic.getTopic(), partition)));
        }
      }
      case COMMITTED -> {
        SubscribeCommitted committed = event.getCommitted();
        if (committed.hasError()) {
          notCommitted(committed.getError());
        }
        committed.getFailuresList().forEach(failure -> notCommitted(failure.getError()));
        answered = committed.getCommitId();
        runAnswered();
      }
      default -> {} // a heartbeat: the member's standing; shows that a quiet stream is alive
    }
  }

  private void process(PartitionData data) {
    if (data.hasError()) {
      note(data.getTopic() + "-" + data.getPartition() + " cannot be read: " + data.getError().getMessage());
      return;
    }
    for (Record record : data.getRecords().getRecordsList()) {
      if (leaving || stop.now()) {
        return; // not printed, so not committed: it is for the partition's next owner
      }
      System.out.println(data.getPartition() + "\t" + record.getOffset() + "\t" + record.getValue().toStringUtf8());
      stop.countRecord();
      positions.put(new Place(data.getTopic(), data.getPartition()), record.getOffset() + 1);
    }
    // Allow as many more. This also tells the server that we work (max.poll.interval.ms).
    credit(data.getRecords().getRecordsCount(), 0);
  }

  /** Commits what was printed; does {@code action} when that, and every commit before, is answered. */
  private void commit(Runnable action) {
    if (!positions.isEmpty()) {
      SubscribeCommit.Builder commit = SubscribeCommit.newBuilder().setCommitId(++sent);
      positions.forEach(
          (at, next) ->
              commit.addOffsets(
                  OffsetToCommit.newBuilder().setTopic(at.topic()).setPartition(at.partition()).setOffset(next)));
      positions.clear();
      send(SubscribeRequest.newBuilder().setCommit(commit));
    }
    if (action != null) {
      then.add(new Then(sent, action));
      runAnswered();
    }
  }

  private void runAnswered() {
    while (!then.isEmpty() && then.peek().commit() <= answered) {
      then.remove().action().run();
    }
  }

  private void credit(long records, long bytes) {
    send(SubscribeRequest.newBuilder().setCredit(FetchStreamCredit.newBuilder().setRecords(records).setBytes(bytes)));
  }

  private void send(SubscribeRequest.Builder request) {
    requests.onNext(request.build());
  }

  private static String names(List<TopicPartitions> topics) {
    return topics.stream()
        .flatMap(topic -> topic.getPartitionsList().stream().map(partition -> topic.getTopic() + "-" + partition))
        .collect(Collectors.joining(" "));
  }

  private static void notCommitted(Error error) {
    note("not committed: " + error.getMessage());
  }

  private static void note(String text) {
    System.err.println(text);
  }
}
