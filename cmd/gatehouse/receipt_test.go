package main

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func TestWaitingText(t *testing.T) {
	c := &cli{now: func() time.Time { return testNow }, zone: testZone}
	for _, tc := range []struct {
		silent, inGrace int
		want            string
	}{
		{0, 0, "waiting for 0 of 1 node"},
		{1, 0, "waiting for 1 of 2 nodes: node-1"},
		{3, 0, "waiting for 3 of 4 nodes: node-1, node-2, node-3"},
		{4, 0, "waiting for 4 of 5 nodes: node-1, node-2, node-3 and 1 more"},
		{2, 1, "waiting for 2 of 3 nodes: node-1, node-2; sockets on 1 of them have until 2026-11-23 13:00:30 CET (in 30 s) to renew"},
	} {
		r := &pb.Receipt{GraceUntil: timestamppb.New(testNow.Add(30 * time.Second)), Rows: []*pb.ReceiptRow{{Node: "node-0", Enforced: true}}}
		for i := range tc.silent {
			r.Rows = append(r.Rows, &pb.ReceiptRow{Node: fmt.Sprintf("node-%d", i+1), InGrace: i < tc.inGrace})
		}
		if got := c.waitingText(r); got != tc.want {
			t.Errorf("%s\nwant %s", got, tc.want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tc := range []struct {
		text  string
		width int
		want  string
	}{
		{"abcdefgh", 0, "abcdefgh"},
		{"abcdefgh", 9, "abcdefgh"},
		{"abcdefgh", 8, "abcd..."},
		{"äöüäöüäö", 8, "äöüä..."},
		{"abcdefgh", 4, "..."},
		{"abcdefgh", 3, "abcdefgh"},
	} {
		if got := cut(tc.text, tc.width); got != tc.want {
			t.Errorf("%q in %d columns: %q, want %q", tc.text, tc.width, got, tc.want)
		}
	}
}
