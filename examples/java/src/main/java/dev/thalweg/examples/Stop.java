package dev.thalweg.examples;

/** When to leave: when asked to, after so many records, or when none came for so long. */
final class Stop {
  private final long idleNanos;
  private long left;
  private long quietSince = System.nanoTime();
  private volatile boolean asked;

  Stop(long maxRecords, long idleMillis) {
    left = maxRecords;
    idleNanos = idleMillis > Long.MAX_VALUE / 1_000_000 ? Long.MAX_VALUE : idleMillis * 1_000_000;
  }

  /** From any thread. */
  void ask() {
    asked = true;
  }

  boolean asked() {
    return asked;
  }

  void restartClock() {
    quietSince = System.nanoTime();
  }

  void countRecord() {
    left--;
    quietSince = System.nanoTime();
  }

  boolean now() {
    return asked || left == 0 || System.nanoTime() - quietSince > idleNanos;
  }
}
