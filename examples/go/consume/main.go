// A member of a consumer group on one stream, with stubs generated from proto/ and nothing else of ours.
//
// Prints each record as PARTITION<TAB>OFFSET<TAB>VALUE, and what happens to the member on standard error.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/thalweg-dev/thalweg/examples/go/gen/thalweg/v1"
)

const (
	window      = 2000 // records that may be on their way: what bounds our memory
	commitEvery = time.Second
)

func main() {
	log.SetFlags(0)
	endpoint := flag.String("endpoint", "127.0.0.1:9292", "any broker")
	topic := flag.String("topic", "orders", "what to read")
	group := flag.String("group", "examples", "the group")
	maxRecords := flag.Int("max-records", -1, "leave after so many")
	idle := flag.Int("idle-ms", 1<<31-1, "leave when no record came for so long")
	flag.Parse()

	// Done on Ctrl-C: the member then leaves gracefully.
	stopped, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	conn, err := grpc.NewClient(*endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	options := &pb.MemberOptions{
		GroupId:      *group,
		MemberId:     rand.Text(),
		ClientId:     "go-example",
		Subscription: &pb.GroupSubscription{Topics: []string{*topic}},
		OffsetReset:  pb.OffsetReset_OFFSET_RESET_EARLIEST,
	}
	left := *maxRecords
	for {
		m := member{left: left, idle: time.Duration(*idle) * time.Millisecond, positions: map[place]int64{}}
		err := m.run(stopped, pb.NewGroupServiceClient(conn), options)
		if err == nil {
			return
		}
		if status.Code(err) != codes.Unavailable || stopped.Err() != nil {
			log.Fatal(err)
		}
		// The same member id on a new stream: we go on where we were, from what was committed.
		log.Printf("the stream broke, and is opened anew: %v", err)
		left = m.left
		time.Sleep(time.Second)
	}
}

// place is a partition of a topic.
type place struct {
	topic     string
	partition int32
}

// member is one Subscribe stream.
type member struct {
	stream    grpc.BidiStreamingClient[pb.SubscribeRequest, pb.SubscribeResponse]
	left      int           // records until we leave; below zero: no limit
	idle      time.Duration // without records until we leave
	leaving   bool
	positions map[place]int64 // the next offset to read, of what was printed and is not committed yet
	sent      uint64          // the last commit that was sent
	answered  uint64          // and the last that was answered
	then      []afterCommit
}

// afterCommit is what to do when a commit is answered.
type afterCommit struct {
	commit uint64
	do     func() error
}

// run is the member's life, until it has left. A failed Send says only io.EOF: the stream's error comes from Recv.
func (m *member) run(stopped context.Context, groups pb.GroupServiceClient, options *pb.MemberOptions) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream, err := groups.Subscribe(ctx)
	if err != nil {
		return err
	}
	m.stream = stream
	m.send(&pb.SubscribeRequest{Command: &pb.SubscribeRequest_Start{Start: &pb.SubscribeStart{Options: options}}})
	// Bytes could bound messages by their size; here the number of records is bound enough.
	m.credit(window, 1<<60)

	events, failed := make(chan *pb.SubscribeResponse), make(chan error, 1)
	go func() {
		for {
			event, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case events <- event:
			case <-ctx.Done():
				return
			}
		}
	}()

	commits := time.NewTicker(commitEvery)
	defer commits.Stop()
	quiet := time.NewTimer(m.idle)
	for {
		select {
		case event := <-events:
			if event.GetRecords() != nil {
				quiet.Reset(m.idle)
			}
			m.handle(event)
			if m.left == 0 {
				m.leave()
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-commits.C:
			m.commit(nil)
		case <-quiet.C:
			m.leave()
		case <-stopped.Done():
			m.leave()
			stopped = context.Background() // said once
		}
	}
}

func (m *member) handle(event *pb.SubscribeResponse) {
	switch event := event.Event.(type) {
	case *pb.SubscribeResponse_Joined:
		log.Printf("joined as %s", event.Joined.MemberId)
	case *pb.SubscribeResponse_Assigned:
		text := "assigned"
		for _, a := range event.Assigned.Partitions {
			text += fmt.Sprintf(" %s-%d", a.Topic, a.Partition)
		}
		log.Print(text)
	case *pb.SubscribeResponse_Records:
		m.process(event.Records)
	case *pb.SubscribeResponse_Revoke:
		// No more records of these partitions come: what we printed is all we ever will. Once that is committed we give them
		// back, and their next owner goes on exactly there.
		log.Printf("revoked%s", names(event.Revoke.Partitions))
		m.commit(func() error {
			return m.send(&pb.SubscribeRequest{Command: &pb.SubscribeRequest_Revoked{
				Revoked: &pb.SubscribeRevoked{RevocationId: event.Revoke.RevocationId},
			}})
		})
	case *pb.SubscribeResponse_Lost:
		// Too late to commit: others may read them already, and will see again what we had not committed.
		log.Printf("lost%s: %s", names(event.Lost.Partitions), event.Lost.Error.GetMessage())
		for _, topic := range event.Lost.Partitions {
			for _, partition := range topic.Partitions {
				delete(m.positions, place{topic.Topic, partition})
			}
		}
	case *pb.SubscribeResponse_Committed:
		if err := event.Committed.Error; err != nil {
			log.Printf("not committed: %s", err.Message)
		}
		for _, failure := range event.Committed.Failures {
			log.Printf("not committed: %s-%d: %s", failure.Topic, failure.Partition, failure.Error.GetMessage())
		}
		m.answered = event.Committed.CommitId
		m.runAnswered()
	case *pb.SubscribeResponse_Heartbeat:
		// The member's standing; shows that a quiet stream is alive.
	}
}

func (m *member) process(data *pb.PartitionData) {
	if data.Error != nil {
		log.Printf("%s-%d cannot be read: %s", data.Topic, data.Partition, data.Error.Message)
		return
	}
	records := data.GetRecords().GetRecords()
	for _, record := range records {
		if m.leaving || m.left == 0 {
			return // not printed, so not committed: it is for the partition's next owner
		}
		fmt.Printf("%d\t%d\t%s\n", data.Partition, record.Offset, record.Value)
		m.left--
		m.positions[place{data.Topic, data.Partition}] = record.Offset + 1
	}
	// Allow as many more. This also tells the server that we work (max.poll.interval.ms).
	m.credit(uint64(len(records)), 0)
}

// commit commits what was printed; `then` is done when that, and every commit before, is answered.
func (m *member) commit(then func() error) {
	if len(m.positions) > 0 {
		var offsets []*pb.OffsetToCommit
		for at, next := range m.positions {
			offsets = append(offsets, &pb.OffsetToCommit{Topic: at.topic, Partition: at.partition, Offset: next})
		}
		clear(m.positions)
		m.sent++
		m.send(&pb.SubscribeRequest{Command: &pb.SubscribeRequest_Commit{
			Commit: &pb.SubscribeCommit{CommitId: m.sent, Offsets: offsets},
		}})
	}
	if then != nil {
		m.then = append(m.then, afterCommit{m.sent, then})
		m.runAnswered()
	}
}

func (m *member) runAnswered() {
	for len(m.then) > 0 && m.then[0].commit <= m.answered {
		m.then[0].do()
		m.then = m.then[1:]
	}
}

// leave leaves gracefully: commits, waits until that is durable, half-closes. The partitions go to others at once.
func (m *member) leave() {
	if !m.leaving {
		m.leaving = true
		m.commit(m.stream.CloseSend)
	}
}

func (m *member) credit(records, bytes uint64) {
	m.send(&pb.SubscribeRequest{Command: &pb.SubscribeRequest_Credit{
		Credit: &pb.FetchStreamCredit{Records: &records, Bytes: bytes},
	}})
}

func (m *member) send(request *pb.SubscribeRequest) error { return m.stream.Send(request) }

func names(topics []*pb.TopicPartitions) (text string) {
	for _, topic := range topics {
		for _, partition := range topic.Partitions {
			text += fmt.Sprintf(" %s-%d", topic.Topic, partition)
		}
	}
	return text
}
