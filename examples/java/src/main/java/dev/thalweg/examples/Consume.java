package dev.thalweg.examples;

import dev.thalweg.v1.GroupSubscription;
import dev.thalweg.v1.MemberOptions;
import dev.thalweg.v1.OffsetReset;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A member of a consumer group on one stream, with stubs generated from proto/ and nothing else of ours.
 *
 * <p>Prints each record as PARTITION, OFFSET and VALUE between tabs, and what happens to the member on standard error.
 */
final class Consume {
  public static void main(String[] arguments) throws InterruptedException {
    Args args = Args.parse(arguments);
    MemberOptions options =
        MemberOptions.newBuilder()
            .setGroupId(args.text("group", "examples"))
            .setMemberId(UUID.randomUUID().toString())
            .setClientId("java-example")
            .setSubscription(GroupSubscription.newBuilder().addTopics(args.text("topic", "orders")))
            .setOffsetReset(OffsetReset.OFFSET_RESET_EARLIEST)
            .build();
    Stop stop = new Stop(args.number("max-records", Long.MAX_VALUE), args.number("idle-ms", Long.MAX_VALUE));

    // On Ctrl-C the virtual machine waits for this hook: it lets the member leave gracefully, and then ends with its status.
    CountDownLatch left = new CountDownLatch(1);
    AtomicInteger status = new AtomicInteger(1);
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  stop.ask();
                  try {
                    left.await();
                    Runtime.getRuntime().halt(status.get());
                  } catch (InterruptedException interrupted) {
                    Thread.currentThread().interrupt();
                  }
                }));

    String endpoint = args.text("endpoint", "127.0.0.1:9292");
    ManagedChannel channel = Grpc.newChannelBuilder(endpoint, InsecureChannelCredentials.create()).build();
    try {
      while (true) {
        try {
          new Member(channel, options, stop).run();
          status.set(0);
          break;
        } catch (StatusRuntimeException error) {
          if (error.getStatus().getCode() != Status.Code.UNAVAILABLE || stop.asked()) {
            throw error;
          }
          // The same member id on a new stream: we go on where we were, from what was committed.
          System.err.println("the stream broke, and is opened anew: " + error.getStatus().getDescription());
          Thread.sleep(1000);
        }
      }
    } finally {
      channel.shutdownNow();
      System.out.flush();
      left.countDown();
    }
  }
}
