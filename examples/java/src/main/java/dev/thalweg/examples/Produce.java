package dev.thalweg.examples;

import com.google.protobuf.ByteString;
import dev.thalweg.v1.AdminServiceGrpc;
import dev.thalweg.v1.CreateTopicsRequest;
import dev.thalweg.v1.NewTopic;
import dev.thalweg.v1.ProduceRequest;
import dev.thalweg.v1.ProduceResult;
import dev.thalweg.v1.ProducerServiceGrpc;
import dev.thalweg.v1.Record;
import dev.thalweg.v1.RecordSet;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.TimeUnit;

/** Publishes numbered records to a topic, with stubs generated from proto/ and nothing else of ours. */
final class Produce {
  /** Records of one request. */
  private static final long BATCH = 500;

  public static void main(String[] arguments) {
    Args args = Args.parse(arguments);
    String endpoint = args.text("endpoint", "127.0.0.1:9292");
    String topic = args.text("topic", "orders"); // is created if it does not exist
    int partitions = (int) args.number("partitions", 6); // of a topic that is created
    long count = args.number("records", 1000);
    String prefix = args.text("prefix", "java"); // record i is PREFIX-i

    ManagedChannel channel = Grpc.newChannelBuilder(endpoint, InsecureChannelCredentials.create()).build();
    try {
      createTopic(channel, topic, partitions);
      Set<Integer> used = new HashSet<>();
      for (long first = 0; first < count; first += BATCH) {
        RecordSet.Builder records = RecordSet.newBuilder();
        for (long i = first; i < Math.min(first + BATCH, count); i++) {
          // The broker picks each record's partition by its key: records of one key stay in order.
          records.addRecords(
              Record.newBuilder()
                  .setKey(ByteString.copyFromUtf8("key-" + i % 100))
                  .setValue(ByteString.copyFromUtf8(prefix + "-" + i)));
        }
        // Answered when the records are on disk on every replica in sync. A retry after UNAVAILABLE or DEADLINE_EXCEEDED
        // could write them twice: producers that mind send encoded batches with a producer id.
        var answer =
            ProducerServiceGrpc.newBlockingStub(channel)
                .withDeadlineAfter(30, TimeUnit.SECONDS)
                .produce(ProduceRequest.newBuilder().setTopic(topic).setRecords(records).build());
        for (ProduceResult result : answer.getResultsList()) {
          if (result.hasError()) {
            throw new IllegalStateException(
                "partition " + result.getPartition() + " took nothing: " + result.getError().getMessage());
          }
          used.add(result.getPartition());
        }
      }
      System.out.printf("sent %d records to %d partitions of %s%n", count, used.size(), topic);
    } finally {
      channel.shutdownNow();
    }
  }

  private static void createTopic(ManagedChannel channel, String name, int partitions) {
    try {
      AdminServiceGrpc.newBlockingStub(channel)
          .withDeadlineAfter(30, TimeUnit.SECONDS)
          .createTopics(
              CreateTopicsRequest.newBuilder()
                  .addTopics(NewTopic.newBuilder().setName(name).setPartitions(partitions))
                  .build());
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Status.Code.ALREADY_EXISTS) {
        throw error;
      }
    }
  }
}
