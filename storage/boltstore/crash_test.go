package boltstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// A process that stores, redeems, revokes and ends is killed at random moments,
// many times over on one file. Whatever it was answered holds for the processes
// after it: no token it stored is unknown, none is redeemed twice, none that it
// revoked is redeemed.
func TestKilled(t *testing.T) {
	rounds := 20
	if long() {
		rounds = 300
	}
	c := crashes{t: t, path: filepath.Join(t.TempDir(), "gatehouse.db"),
		stored: map[string]bool{}, redeemed: map[string]string{}, revoked: map[string]bool{}, late: map[string]bool{}, ending: map[string]bool{}}
	for round := range rounds {
		c.run(round)
		c.verify()
		if t.Failed() {
			return
		}
	}
	if len(c.redeemed) == 0 || len(c.revoked) == 0 || len(c.ending) == 0 {
		t.Errorf("%d redeemed, %d revoked, %d ended: the test tests nothing", len(c.redeemed), len(c.revoked), len(c.ending))
	}
	t.Logf("%d processes were killed; %d tokens stored, %d redeemed, %d revoked, %d sessions ended", rounds, len(c.stored), len(c.redeemed), len(c.revoked), len(c.ending))
}

// crashes is what all processes so far were answered.
type crashes struct {
	t        *testing.T
	path     string
	stored   map[string]bool
	redeemed map[string]string // session by token
	revoked  map[string]bool
	late     map[string]bool // sessions that were asked for when their token was revoked already
	ending   map[string]bool // sessions that a process was about to end, or has ended
}

// run runs a process, kills it and notes what it has said.
func (c *crashes) run(round int) {
	cmd := child(c.t, "crash", c.path, strconv.Itoa(round))
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	must(c.t, err)
	must(c.t, cmd.Start())
	lines := bufio.NewScanner(pipe)
	first := true
	for lines.Scan() {
		if first {
			time.AfterFunc(time.Duration(5+rand.IntN(120))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			first = false
		}
		c.note(lines.Text())
	}
	must(c.t, lines.Err())
	if err := cmd.Wait(); err == nil || first {
		c.t.Fatalf("the child ended by itself: %v", err)
	}
}

func (c *crashes) note(line string) {
	what, args, _ := strings.Cut(line, " ")
	words := strings.Fields(args)
	switch what {
	case "stored":
		for _, id := range words {
			c.stored[id] = true
		}
	case "redeeming":
		if c.revoked[words[0]] {
			c.late[words[1]] = true
		}
	case "redeemed":
		if prior, ok := c.redeemed[words[0]]; ok && prior != words[1] {
			c.t.Errorf("token %s was redeemed as %s and as %s", words[0], prior, words[1])
		}
		if c.late[words[1]] {
			c.t.Errorf("token %s was redeemed after it was revoked", words[0])
		}
		c.redeemed[words[0]] = words[1]
	case "revoked":
		c.revoked[words[0]] = true
	case "ending":
		c.ending[words[0]] = true
	default:
		c.t.Fatalf("the child says %q", line)
	}
}

// verify opens the file as the next process would.
func (c *crashes) verify() {
	t := c.t
	s := open(t, c.path, crashOptions)
	defer check(t, s)
	ids := make([]storage.TokenID, 0, len(c.stored))
	for text := range c.stored {
		id, err := hex.DecodeString(text)
		must(t, err)
		ids = append(ids, storage.TokenID(id))
	}
	found, err := s.Lookup(t.Context(), ids)
	must(t, err)
	for i, x := range found {
		if x == nil {
			t.Errorf("token %x was stored, and is unknown", ids[i])
			return
		}
	}
	statuses, err := s.Statuses(t.Context(), found)
	must(t, err)
	var over []*storage.Token
	for i, x := range found {
		text := hex.EncodeToString(x.ID[:])
		session, used := c.redeemed[text]
		if used && (statuses[i].Uses != 1 || hex.EncodeToString(statuses[i].Sessions[0][:]) != session) {
			t.Errorf("token %s was redeemed as %s, and its status is %+v", text, session, statuses[i])
		}
		if c.revoked[text] && statuses[i].RevokedBy == (storage.Revision{}) {
			t.Errorf("token %s was revoked, and its status is %+v", text, statuses[i])
		}
		if used || c.revoked[text] {
			over = append(over, x)
		}
	}
	for part := range slices.Chunk(over, 100) {
		c.redeemAgain(s, part)
	}
}

// redeemAgain tries what must not succeed: another session of tokens that were redeemed
// or revoked and, where it was redeemed, the same after that.
func (c *crashes) redeemAgain(s *Store, tokens []*storage.Token) {
	var batch []storage.Redemption
	for _, x := range tokens {
		other := testSession(0)
		other.ID = storage.SessionID{0xff}
		binary.BigEndian.PutUint64(other.ID[8:], rand.Uint64())
		batch = append(batch, storage.Redemption{Token: x, Session: other})
		if session := c.redeemed[hex.EncodeToString(x.ID[:])]; session != "" {
			id, err := hex.DecodeString(session)
			must(c.t, err)
			same := testSession(0)
			same.ID = storage.SessionID(id)
			batch = append(batch, storage.Redemption{Token: x, Session: same})
		}
	}
	results, err := s.Redeem(c.t.Context(), batch)
	must(c.t, err)
	for i, r := range results {
		text, session := hex.EncodeToString(batch[i].Token.ID[:]), hex.EncodeToString(batch[i].Session.ID[:])
		same := session == c.redeemed[text]
		switch {
		case r.Err == storage.ErrRevoked: // by a revocation that was answered, or by one that was not
		case !same && r.Err == storage.ErrUsed:
		case same && r.Err == storage.ErrSessionEnded && c.ending[session]:
		case same && r.Err == nil && r.Retried && !c.revoked[text]:
		default:
			c.t.Errorf("token %s, redeemed as %q, revoked: %v, and now as %s: %+v", text, c.redeemed[text], c.revoked[text], session, r)
		}
	}
}

var crashOptions = Options{MapBytes: 16 << 20, AheadBytes: 1, slotTokens: 100, purgeMin: 20, freshBytes: 20_000}

// childCrash works until it is killed, in odd rounds on a file that is compacted all
// the time. It says what it was answered, and before
// it redeems a token or ends a session that it is about to.
func childCrash(path string) error {
	round, err := strconv.Atoi(os.Getenv(optionEnv))
	if err != nil {
		return err
	}
	s, err := Open(path, crashOptions)
	if err != nil {
		return err
	}
	w := crashWorker{s: s, ctx: context.Background(), next: round << 12}
	if err := s.PutInstance(w.ctx, &storage.Instance{ID: testNode, Node: "node-1"}); err != nil {
		return err
	}
	for q := (storage.TokenQuery{Limit: 1000}); ; {
		page, err := s.ListTokens(w.ctx, q)
		if err != nil {
			return err
		}
		w.tokens = append(w.tokens, page.Tokens...)
		if q.After = page.Next; !page.More {
			break
		}
	}
	errs := make(chan error)
	if round%2 == 1 {
		go func() {
			for {
				if _, err := s.Compact(w.ctx, nil); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for range 6 {
		go func() {
			for {
				if err := w.step(); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

type crashWorker struct {
	s   *Store
	ctx context.Context

	mu       sync.Mutex
	next     int
	tokens   []*storage.Token
	sessions []storage.SessionID
}

func say(format string, args ...any) {
	_, _ = os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n") // one write, so that lines stay whole
}

func (w *crashWorker) step() error {
	w.mu.Lock()
	var token *storage.Token
	if n := len(w.tokens); n > 0 {
		token = w.tokens[rand.IntN(n)]
	}
	var session storage.SessionID
	if n := len(w.sessions); n > 0 {
		session = w.sessions[rand.IntN(n)]
	}
	w.mu.Unlock()
	switch p := rand.IntN(20); {
	case p < 6 || token == nil:
		return w.store()
	case p < 15:
		x := testSession(0)
		for i := range x.ID {
			x.ID[i] = byte(rand.Uint32())
		}
		say("redeeming %x %x", token.ID, x.ID)
		r, err := w.s.Redeem(w.ctx, []storage.Redemption{{Token: token, Session: x}})
		if err != nil {
			return err
		}
		if r[0].Err == nil {
			say("redeemed %x %x", token.ID, x.ID)
			w.mu.Lock()
			w.sessions = append(w.sessions, x.ID)
			w.mu.Unlock()
		} else if !errors.Is(r[0].Err, storage.ErrUsed) && !errors.Is(r[0].Err, storage.ErrRevoked) {
			return r[0].Err
		}
	case p < 16:
		if _, err := w.s.Append(w.ctx, storage.Entry{Kind: storage.Revoke, Selector: storage.Selector{Token: token.ID}, KeepUntil: benchStart.Add(time.Hour)}); err != nil {
			return err
		}
		say("revoked %x", token.ID)
	case p < 19:
		if session == (storage.SessionID{}) {
			return nil
		}
		say("ending %x", session)
		if _, err := w.s.EndSessions(w.ctx, []storage.SessionID{session}); err != nil {
			return err
		}
	default:
		_, err := w.s.Sweep(w.ctx, benchStart, 0)
		return err
	}
	return nil
}

func (w *crashWorker) store() error {
	var tokens []*storage.Token
	w.mu.Lock()
	for range 1 + rand.IntN(4) {
		tokens = append(tokens, testToken(w.next))
		w.next++
	}
	w.mu.Unlock()
	r, err := w.s.Insert(w.ctx, tokens)
	if err != nil {
		return err
	}
	var ids []string
	for i := range r {
		if r[i].Err == nil { // a number may have been another process's, that was killed
			ids = append(ids, hex.EncodeToString(tokens[i].ID[:]))
		}
	}
	say("stored %s", strings.Join(ids, " "))
	found, err := w.s.Lookup(w.ctx, []storage.TokenID{tokens[0].ID})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokens = append(w.tokens, found...)
	return nil
}
