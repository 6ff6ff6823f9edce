package authority

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/auditlog"
)

// disk is a writer that can be full.
type disk struct {
	mu   sync.Mutex
	full error
	room int // bytes that it still takes while full
	bytes.Buffer
}

func (d *disk) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full != nil {
		n, _ := d.Buffer.Write(p[:min(d.room, len(p))])
		d.room -= n
		return n, d.full
	}
	return d.Buffer.Write(p)
}

func (d *disk) set(full error, room int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full, d.room = full, room
}

func (d *disk) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.String()
}

// TestAuditOutlivesAFullDisk proves that lines wait while they cannot be
// written, that what is beyond the bound is counted, and that the trail goes on
// with whole lines.
func TestAuditOutlivesAFullDisk(t *testing.T) {
	d := &disk{full: errors.New("no space left"), room: 40}
	a := NewAudit(d)
	value := strings.Repeat("x", 1000)
	const lines = 3000
	for i := range lines {
		a.record(testStart, "Test", "ok", slog.Int("i", i), slog.String("value", value))
	}
	a.Flush()
	lost, err := a.failure()
	if err == nil || lost < 1500 || len(a.buf) > auditBound {
		t.Fatalf("error %v, %d lines lost, %d bytes wait", err, lost, len(a.buf))
	}
	d.set(nil, 0)
	a.Flush()
	a.record(testStart, "Test", "ok", slog.Int("i", lines))
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "lines were lost") {
		t.Errorf("Close: %v", err)
	}
	written, told := 0, uint64(0)
	for line := range strings.Lines(d.text()) {
		var v struct {
			Action string
			I      int
			Lines  uint64
			Seal   uint64
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v in %.100q", err, line)
		}
		if v.Seal > 0 {
			continue
		}
		if v.Action == "AuditLost" {
			told += v.Lines
		} else {
			written++
		}
	}
	if told != lost || uint64(written)+lost != lines+1 {
		t.Errorf("%d lines written, %d told as lost, %d lost, of %d", written, told, lost, lines+1)
	}
	if !strings.Contains(d.text(), fmt.Sprint(`"i":`, lines)) {
		t.Error("the line after the recovery is missing")
	}
	var v auditlog.Verifier
	if err := v.Read("disk", strings.NewReader(d.text())); err != nil {
		t.Fatal(err)
	}
	if r := v.Finish(); len(r.Problems) > 0 {
		t.Errorf("the chain is broken: %+v", r)
	}
}

// TestAuditClose proves that Close writes all, or tells why not.
func TestAuditClose(t *testing.T) {
	d := &disk{}
	a := NewAudit(d)
	a.record(testStart, "Test", "ok")
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if got, want := d.text(), `{"time":"2026-11-23T12:00:00.000000Z","action":"Test","outcome":"ok"}`+"\n"+`{"seal":1,"time":"`; !strings.HasPrefix(got, want) {
		t.Errorf("got %s want %s", got, want)
	}
	full := errors.New("no space left")
	a = NewAudit(&disk{full: full})
	a.record(testStart, "Test", "ok")
	if err := a.Close(); !errors.Is(err, full) {
		t.Errorf("Close: %v", err)
	}
}

// TestAuditWritesItself proves that nobody has to flush.
func TestAuditWritesItself(t *testing.T) {
	d := &disk{}
	a := NewAudit(d)
	defer a.Close()
	a.record(testStart, "Test", "ok")
	for deadline := time.Now().Add(10 * time.Second); d.text() == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not written within 10 s")
		}
	}
}

// TestAuditAllocs pins what a line costs beside its attributes: nothing.
func TestAuditAllocs(t *testing.T) {
	if raceEnabled {
		t.Skip("sync.Pool drops items under the race detector")
	}
	a := NewAudit(io.Discard)
	defer a.Close()
	attrs := []slog.Attr{slog.String("token_id", "01JD8Z0Q4M3T5V7X9ZABCDEFGH"), slog.String("subject", "ada"), slog.Int("n", 7)}
	if n := testing.AllocsPerRun(1000, func() { a.record(testStart, "Redeem", "ok", attrs...) }); n != 0 {
		t.Errorf("%v allocations a line", n)
	}
}

// TestConfig pins what a configuration must keep to, and that all problems are
// told at once.
func TestConfig(t *testing.T) {
	c := DefaultConfig()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []struct {
		edit func(*Config)
		want string
	}{
		{func(c *Config) { c.Tokens.MaxTTL = 0 }, "tokens.max_ttl: 0s is outside 1s to 8760h0m0s: a handshake token is not for keeping"},
		{func(c *Config) { c.Tokens.DefaultTTL = 2 * time.Hour }, "tokens.default_ttl: 2h0m0s is outside 1s to 1h0m0s: tokens.max_ttl is the ceiling"},
		{func(c *Config) { c.Tokens.MaxUses = 0 }, "tokens.max_uses: 0 is outside 1 to 10000: all uses of a token are told in one message"},
		{func(c *Config) { c.Tokens.MaxUses = 10_001 }, "tokens.max_uses: 10001 is outside 1 to 10000: all uses of a token are told in one message"},
		{func(c *Config) { c.Sessions.MaxTTL = -1 }, "sessions.max_ttl: -1ns is outside 1s to 8760h0m0s: a socket outlives no login for longer"},
		{func(c *Config) { c.Sessions.DefaultTTL = 0 }, "sessions.default_ttl: 0s is outside 1s to 168h0m0s: sessions.max_ttl is the ceiling"},
		{func(c *Config) { c.Fleet.HeartbeatInterval = 0 }, "fleet.heartbeat_interval: 0s is outside 10ms to 1m0s: nodes live by their heartbeats"},
		{func(c *Config) { c.Fleet.AdmissionFence = time.Second }, "fleet.admission_fence: 1s is outside 2s to 1h0m0s: at least two heartbeats must fit"},
		{func(c *Config) { c.Fleet.RetryAfter = 0 }, "fleet.retry_after: 0s is outside 1s to 1h0m0s: Retry-After is in whole seconds"},
		{func(c *Config) { c.Fleet.SessionFence = time.Second }, "fleet.session_fence: 1s is outside 10s to 720h0m0s: fleet.admission_fence must end before it, or 0 for no fence"},
		{func(c *Config) { c.Fleet.MaxEntries = 5001 }, "fleet.max_entries: 5001 is outside 1 to 5000: a message has at most 4 MiB"},
		{func(c *Config) { c.Fleet.MaxEntries = 0 }, "fleet.max_entries: 0 is outside 1 to 5000: a message has at most 4 MiB"},
		{func(c *Config) { c.Fleet.MaxInstances = 0 }, "fleet.max_instances: 0 is outside 1 to 10000: each receipt has a row for each instance"},
		{func(c *Config) { c.Fleet.MaxInstances = 10_001 }, "fleet.max_instances: 10001 is outside 1 to 10000: each receipt has a row for each instance"},
		{func(c *Config) { c.EdgeKeys.Lead = time.Second }, "edge_keys.lead: 1s is outside 10s to 24h0m0s: until fleet.admission_fence is over a node may refuse tokens of a key that it has not heard of; and edge_keys.lifetime must be longer"},
		{func(c *Config) { c.EdgeKeys.Lifetime = time.Second }, "edge_keys.lifetime: 1s is outside 1m0s to 8760h0m0s: a key id has 16 bits and must not come around too soon"},
		{func(c *Config) { c.EdgeKeys.Lifetime, c.Tokens.MaxTTL = time.Hour, 1001*time.Hour }, "edge_keys.lifetime: 1h0m0s is below a thousandth of tokens.max_ttl: nodes would hold over 1000 keys"},
	} {
		c := DefaultConfig()
		bad.edit(&c)
		err := c.Validate()
		if err == nil || !slices.Contains(strings.Split(err.Error(), "\n"), bad.want) {
			t.Errorf("got %v\nwant %s", err, bad.want)
		}
	}
	var none Config
	if err := none.Validate(); err == nil || strings.Count(err.Error(), "\n") < 6 {
		t.Errorf("the zero value: %v", err)
	}
	c.Fleet.SessionFence = 0
	if err := c.Validate(); err != nil || releaseAfter(c.Fleet.fence()) != 0 {
		t.Errorf("without a fence: %v", err)
	}
}

// BenchmarkAuditRecord is a line of a redemption, written to a file.
func BenchmarkAuditRecord(b *testing.B) {
	f, err := os.OpenFile(filepath.Join(b.TempDir(), "audit.jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	a := NewAudit(f)
	defer a.Close()
	attrs := []slog.Attr{
		slog.String("token_id", "01JD8Z0Q4M3T5V7X9ZABCDEFGH"), slog.String("session_id", "9b2f61d04c7a4e8fb3d5a06c1e97f248"), slog.String("audience", "chat"),
		slog.String("client_ip", "198.51.100.9"), slog.String("caller", "node-1"), slog.String("tenant", "acme"), slog.String("subject", "user-12345"),
	}
	b.ReportAllocs()
	for b.Loop() {
		a.record(testStart, "Redeem", "ok", attrs...)
	}
}
