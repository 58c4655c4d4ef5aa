// Publishes numbered records to a topic, with stubs generated from proto/ and nothing else of ours.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/thalweg-dev/thalweg/examples/go/gen/thalweg/v1"
)

const batch = 500 // records of one request

func main() {
	log.SetFlags(0)
	endpoint := flag.String("endpoint", "127.0.0.1:9292", "any broker")
	topic := flag.String("topic", "orders", "is created if it does not exist")
	partitions := flag.Int("partitions", 6, "of a topic that is created")
	records := flag.Int("records", 1000, "how many")
	prefix := flag.String("prefix", "go", "record i is PREFIX-i")
	flag.Parse()

	conn, err := grpc.NewClient(*endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	if err := createTopic(conn, *topic, int32(*partitions)); err != nil {
		log.Fatal(err)
	}
	used := map[int32]bool{}
	for first := 0; first < *records; first += batch {
		if err := produce(conn, *topic, *prefix, first, min(first+batch, *records), used); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Printf("sent %d records to %d partitions of %s\n", *records, len(used), *topic)
}

func createTopic(conn *grpc.ClientConn, name string, partitions int32) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := pb.NewAdminServiceClient(conn).CreateTopics(ctx, &pb.CreateTopicsRequest{
		Topics: []*pb.NewTopic{{Name: name, Partitions: &partitions}},
	})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

func produce(conn *grpc.ClientConn, topic, prefix string, from, to int, used map[int32]bool) error {
	var records []*pb.Record
	for i := from; i < to; i++ {
		// The broker picks each record's partition by its key: records of one key stay in order.
		records = append(records, &pb.Record{
			Key:   fmt.Appendf(nil, "key-%d", i%100),
			Value: fmt.Appendf(nil, "%s-%d", prefix, i),
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	// Answered when the records are on disk on every replica in sync. A retry after UNAVAILABLE or DEADLINE_EXCEEDED could
	// write them twice: producers that mind send encoded batches with a producer id.
	answer, err := pb.NewProducerServiceClient(conn).Produce(ctx, &pb.ProduceRequest{
		Topic:   topic,
		Payload: &pb.ProduceRequest_Records{Records: &pb.RecordSet{Records: records}},
	})
	if err != nil {
		return err
	}
	for _, result := range answer.Results {
		if result.Error != nil {
			return fmt.Errorf("partition %d took nothing: %s", result.Partition, result.Error.Message)
		}
		used[result.Partition] = true
	}
	return nil
}
