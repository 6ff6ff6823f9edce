//go:build unix

package wsnode

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gatehouse-ws/gatehouse/wsnode/wstest"
)

// Where there are fewer descriptors than sockets may be, they decide: enough
// stay free for the sockets that no limit counts, and the log says what is in
// force.
func TestFewDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	fewer := limit
	fewer.Cur = 1000
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &fewer); err != nil {
		t.Skip(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	for configured, want := range map[int]int{500: 500, 900: 1000 - 100 - maxRejecting} {
		inLab(t, func(c *Config, _ *wstest.Authority) { c.Limits.Sockets.Max = configured }, func(l *lab) {
			if got := l.MaxSockets(); got != want {
				t.Errorf("%d sockets of %d configured, want %d", got, configured, want)
			}
			lines := l.logs.lines(t, "the limit on open files allows fewer sockets than limits.sockets.max: raise it, or start more nodes")
			if (len(lines) == 1) != (want < configured) {
				t.Fatalf("%d configured: logged %v", configured, lines)
			}
			for _, line := range lines {
				if line["configured"] != float64(configured) || line["sockets_max"] != float64(want) {
					t.Errorf("logged %v, want %d in force of %d", line, want, configured)
				}
			}
		})
	}
}
