package main

import (
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

func TestKeys(t *testing.T) {
	c := newCaller(t)
	c.check(c.run("", "key", "list"), exitOK, `KEY  STATE     CREATED   ACTIVE FROM  RETIRED
7    overlaps  26 h ago  25 h ago     in 60 min
8    active    2 h ago   60 min ago   in 3 h
9    next      now       in 60 s      -
`, "")
	c.check(c.run("", "key", "rotate", "--reason=yearly"), exitOK, "rotated: key 9 makes tokens in 60 s; others forgotten: 0\n", "")
	c.check(c.run("", "key", "rotate", "--reason=stolen", "--now", "--yes"), exitOK, "rotated: key 9 makes tokens from now on; others forgotten: 2\n", "")
	c.check(c.run("", "key", "rotate", "--reason=stolen", "--now"), exitUsage, "",
		"gatehouse: error: --now makes every token that is out useless, and there is no terminal to ask at\ngatehouse: hint: add --yes\n")
	c.check(c.run("", "key", "rotate"), exitUsage, "", "gatehouse: error: --reason is required\ngatehouse: hint: gatehouse key rotate --help has examples\n")
	sent := requestsOf[*pb.RotateEdgeKeysRequest](c.authority)
	if want := (&pb.RotateEdgeKeysRequest{Reason: "stolen", DropOthers: true}); len(sent) != 2 || !proto.Equal(sent[1], want) {
		t.Errorf("sent %v", sent)
	}
}
