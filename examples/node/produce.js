// Publishes numbered records to a topic, with stubs generated from proto/ and nothing else of ours.

import { parseArgs } from "node:util";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { AdminService } from "./gen/thalweg/v1/admin_pb.js";
import { ProducerService } from "./gen/thalweg/v1/producer_pb.js";

const BATCH = 500; // records of one request

const { values: args } = parseArgs({
  options: {
    endpoint: { type: "string", default: "127.0.0.1:9292" },
    topic: { type: "string", default: "orders" }, // is created if it does not exist
    partitions: { type: "string", default: "6" }, // of a topic that is created
    records: { type: "string", default: "1000" },
    prefix: { type: "string", default: "node" }, // record i is PREFIX-i
  },
});

const transport = createGrpcTransport({ baseUrl: `http://${args.endpoint}`, defaultTimeoutMs: 30_000 });

try {
  const topic = { name: args.topic, partitions: Number(args.partitions) };
  await createClient(AdminService, transport).createTopics({ topics: [topic] });
} catch (error) {
  if (ConnectError.from(error).code !== Code.AlreadyExists) throw error;
}

const producer = createClient(ProducerService, transport);
const bytes = (text) => new TextEncoder().encode(text);
const used = new Set();
const count = Number(args.records);
for (let first = 0; first < count; first += BATCH) {
  const records = [];
  for (let i = first; i < Math.min(first + BATCH, count); i++) {
    // The broker picks each record's partition by its key: records of one key stay in order.
    records.push({ key: bytes(`key-${i % 100}`), value: bytes(`${args.prefix}-${i}`) });
  }
  // Answered when the records are on disk on every replica in sync. A retry after UNAVAILABLE or DEADLINE_EXCEEDED could
  // write them twice: producers that mind send encoded batches with a producer id.
  const answer = await producer.produce({ topic: args.topic, payload: { case: "records", value: { records } } });
  for (const { partition, error } of answer.results) {
    if (error) throw new Error(`partition ${partition} took nothing: ${error.message}`);
    used.add(partition);
  }
}
console.log(`sent ${count} records to ${used.size} partitions of ${args.topic}`);
process.exit(); // the transport would keep its connection
