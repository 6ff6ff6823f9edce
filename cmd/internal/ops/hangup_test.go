//go:build unix

package ops

import (
	"syscall"
	"testing"
)

func TestOnHangup(t *testing.T) {
	called := make(chan struct{})
	stop := OnHangup(func() { called <- struct{}{} })
	for range 3 { // each call is over before the next signal
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		<-called
	}
	stop()
}
