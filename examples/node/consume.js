// A member of a consumer group on one stream, with stubs generated from proto/ and nothing else of ours.
//
// Prints each record as PARTITION<TAB>OFFSET<TAB>VALUE, and what happens to the member on standard error.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { GroupService, OffsetReset } from "./gen/thalweg/v1/group_pb.js";

const WINDOW = 2_000; // records that may be on their way: what bounds our memory
const COMMIT_EVERY_MS = 1_000;

const { values: args } = parseArgs({
  options: {
    endpoint: { type: "string", default: "127.0.0.1:9292" },
    topic: { type: "string", default: "orders" },
    group: { type: "string", default: "examples" },
    "max-records": { type: "string", default: "Infinity" }, // leave after so many
    "idle-ms": { type: "string" }, // leave when none came for so long
  },
});

/** What is pushed comes out of it, until it is ended: our half of a stream. */
class Outbox {
  #messages = [];
  #ended = false;
  #wake = () => {};

  push(message) {
    this.#messages.push(message);
    this.#wake();
  }

  end() {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#messages.length > 0) yield this.#messages.shift();
      if (this.#ended) return;
      await new Promise((resolve) => (this.#wake = resolve));
    }
  }
}

const names = (topics) => topics.flatMap((t) => t.partitions.map((p) => `${t.topic}-${p}`)).join(" ");
const decoder = new TextDecoder();
let left = Number(args["max-records"]);

/** One Subscribe stream. */
class Member {
  #outbox = new Outbox();
  #positions = new Map(); // partition -> what to commit: printed, and not committed yet
  #sent = 0n; // the last commit that was sent
  #answered = 0n; // and the last that was answered
  #then = []; // what to do when a commit is answered
  #leaving = false;
  #quiet;

  /** The member's life, until it has left. */
  async run(groups, options) {
    this.#send("start", { options });
    // `bytes` could bound messages by their size; here the number of records is bound enough.
    this.#send("credit", { records: BigInt(WINDOW), bytes: 1n << 60n });
    const commits = setInterval(() => this.#commit(), COMMIT_EVERY_MS);
    this.#heard();
    try {
      for await (const { event } of groups.subscribe(this.#outbox)) this.#handle(event);
    } finally {
      clearInterval(commits);
      clearTimeout(this.#quiet);
    }
  }

  /** Leaves gracefully: commits, waits until that is durable, half-closes. The partitions go to others at once. */
  leave() {
    if (this.#leaving) return;
    this.#leaving = true;
    this.#commit(() => this.#outbox.end());
  }

  #handle(event) {
    switch (event.case) {
      case "joined":
        console.error(`joined as ${event.value.memberId}`);
        break;
      case "assigned":
        console.error("assigned", ...event.value.partitions.map((a) => `${a.topic}-${a.partition}`));
        break;
      case "records":
        this.#process(event.value);
        break;
      case "revoke": {
        // No more records of these partitions come: what we printed is all we ever will. Once that is committed we give them
        // back, and their next owner goes on exactly there.
        const { revocationId, partitions } = event.value;
        console.error(`revoked ${names(partitions)}`);
        this.#commit(() => this.#send("revoked", { revocationId }));
        break;
      }
      case "lost":
        // Too late to commit: others may read them already, and will see again what we had not committed.
        console.error(`lost ${names(event.value.partitions)}: ${event.value.error?.message}`);
        for (const { topic, partitions } of event.value.partitions) {
          for (const partition of partitions) this.#positions.delete(`${topic}-${partition}`);
        }
        break;
      case "committed": {
        const { commitId, error, failures } = event.value;
        for (const failed of [error, ...failures.map((f) => f.error)]) {
          if (failed) console.error(`not committed: ${failed.message}`);
        }
        this.#answered = commitId;
        this.#runAnswered();
        break;
      }
      case "heartbeat": // the member's standing; shows that a quiet stream is alive
        break;
    }
  }

  #process({ topic, partition, error, data }) {
    if (error) {
      console.error(`${topic}-${partition} cannot be read: ${error.message}`);
      return;
    }
    const records = data.value?.records ?? [];
    for (const record of records) {
      if (this.#leaving) return; // not printed, so not committed: it is for the partition's next owner
      console.log(`${partition}\t${record.offset}\t${decoder.decode(record.value)}`);
      this.#positions.set(`${topic}-${partition}`, { topic, partition, offset: record.offset + 1n });
      if (--left <= 0) this.leave();
    }
    this.#heard();
    // Allow as many more. This also tells the server that we work (max.poll.interval.ms).
    this.#send("credit", { records: BigInt(records.length) });
  }

  /** Commits what was printed; calls `then` when that, and every commit before, is answered. */
  #commit(then) {
    if (this.#positions.size > 0) {
      this.#send("commit", { commitId: ++this.#sent, offsets: [...this.#positions.values()] });
      this.#positions.clear();
    }
    if (then) {
      this.#then.push({ commit: this.#sent, then });
      this.#runAnswered();
    }
  }

  #runAnswered() {
    while (this.#then.length > 0 && this.#then[0].commit <= this.#answered) this.#then.shift().then();
  }

  #heard() {
    clearTimeout(this.#quiet);
    if (args["idle-ms"]) this.#quiet = setTimeout(() => this.leave(), Number(args["idle-ms"]));
  }

  #send(command, value) {
    this.#outbox.push({ command: { case: command, value } });
  }
}

let stopped = false;
let member;
for (const name of ["SIGINT", "SIGTERM"]) {
  process.on(name, () => {
    stopped = true;
    member?.leave();
  });
}

const groups = createClient(GroupService, createGrpcTransport({ baseUrl: `http://${args.endpoint}` }));
const options = {
  groupId: args.group,
  memberId: randomUUID(),
  clientId: "node-example",
  subscription: { topics: [args.topic] },
  offsetReset: OffsetReset.EARLIEST,
};
for (;;) {
  try {
    member = new Member();
    await member.run(groups, options);
    break;
  } catch (reason) {
    const error = ConnectError.from(reason);
    if (stopped || error.code !== Code.Unavailable) {
      console.error(`${Code[error.code]}: ${error.rawMessage}`);
      process.exit(1);
    }
    // The same member id on a new stream: we go on where we were, from what was committed.
    console.error(`the stream broke, and is opened anew: ${error.rawMessage}`);
    await sleep(1_000);
  }
}
process.exit(); // the transport would keep its connection
