package netloop

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// prefaced serves TLS to who says "hello\n" first.
func prefaced(t *testing.T, over func(testing.TB, Config) *served, cfg Config) *served {
	s := over(t, cfg)
	var have []byte
	preface := func(in []byte) (rest []byte, done bool, err error) {
		if have = append(have, in...); !bytes.HasPrefix(have, []byte("hello\n")) {
			if bytes.HasPrefix([]byte("hello\n"), have) {
				return nil, false, nil
			}
			return nil, false, errUnwelcome
		}
		return have[len("hello\n"):], true, nil
	}
	s.preface.Store(&preface)
	return s
}

var errUnwelcome = errors.New("unwelcome")

// joined writes something before what is written first.
type joined struct {
	net.Conn
	before []byte
}

func (j *joined) Write(p []byte) (int, error) {
	n := len(p)
	p = append(j.before, p...)
	j.before = nil
	_, err := j.Conn.Write(p)
	return n, err
}

func TestPreface(t *testing.T) { overEachTLS(t, testPreface) }

func testPreface(t *testing.T, over func(testing.TB, Config) *served) {
	handshake := func(t *testing.T, s *served, c net.Conn) {
		t.Helper()
		s.next()
		over := tls.Client(c, s.client)
		exchange(t, over, "behind the preface")
		if err := over.Close(); err != nil {
			t.Error(err)
		}
	}
	failed := func(t *testing.T, s *served) error {
		t.Helper()
		select {
		case err := <-s.failed:
			return err
		case <-time.After(patience):
			t.Fatal("nobody is told of the failure")
			return nil
		}
	}
	wantReset := func(t *testing.T, c net.Conn) {
		t.Helper()
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%d bytes and %v, want a reset", n, err)
		}
	}
	t.Run("in pieces", func(t *testing.T) {
		s := prefaced(t, over, testConfig)
		c := s.dialTCP()
		for _, piece := range []string{"h", "ell", "o\n"} {
			if _, err := io.WriteString(c, piece); err != nil {
				t.Fatal(err)
			}
		}
		handshake(t, s, c)
	})
	t.Run("with the first bytes of TLS behind it", func(t *testing.T) {
		s := prefaced(t, over, testConfig)
		handshake(t, s, &joined{s.dialTCP(), []byte("hello\n")})
	})
	t.Run("an unwelcome one resets", func(t *testing.T) {
		s := prefaced(t, over, testConfig)
		c := s.dialTCP()
		if _, err := io.WriteString(c, "hallo\n"); err != nil {
			t.Fatal(err)
		}
		if err := failed(t, s); err != errUnwelcome {
			t.Errorf("%v, want %v", err, errUnwelcome)
		}
		wantReset(t, c)
	})
	t.Run("half of one, then the end", func(t *testing.T) {
		s := prefaced(t, over, testConfig)
		c := s.dialTCP()
		if _, err := io.WriteString(c, "hel"); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := failed(t, s); err != io.EOF {
			t.Errorf("%v, want EOF", err)
		}
	})
	t.Run("one that does not come is given up", func(t *testing.T) {
		cfg := testConfig
		cfg.HandshakeTimeout = 50 * time.Millisecond
		s := prefaced(t, over, cfg)
		c := s.dialTCP()
		if err := failed(t, s); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want a timeout", err)
		}
		wantReset(t, c)
	})
	t.Run("a handshake after it has what is left of the time", func(t *testing.T) {
		cfg := testConfig
		cfg.HandshakeTimeout = 50 * time.Millisecond
		s := prefaced(t, over, cfg)
		if _, err := io.WriteString(s.dialTCP(), "hello\n"); err != nil {
			t.Fatal(err)
		}
		if err := failed(t, s); err == nil || errors.Is(err, ErrStopped) {
			t.Errorf("%v, want a timeout", err)
		}
	})
	t.Run("Stop gives one up that is awaited", func(t *testing.T) {
		s := prefaced(t, over, testConfig)
		c := s.dialTCP()
		<-s.accepted
		_ = s.l.Close()
		s.Stop()
		if err := failed(t, s); err != ErrStopped {
			t.Errorf("%v, want %v", err, ErrStopped)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Error("the connection is open")
		}
	})
}

func TestPlainTCPHasNoPreface(t *testing.T) {
	overEach(t, func(t *testing.T, over func(testing.TB, Config) *served) {
		s := over(t, testConfig)
		preface := func([]byte) ([]byte, bool, error) { return nil, false, errUnwelcome }
		s.preface.Store(&preface)
		s.next()
		exchange(t, s.dial(), "hello\n")
	})
}
