package netloop

import "testing"

// Who is in when nobody is let in any more stays as he is.
func TestLetNobodyIn(t *testing.T) {
	for name, over := range ways {
		t.Run(name, func(t *testing.T) {
			s := over(t, testConfig)
			s.next()
			c := s.dial()
			exchange(t, c, "before")
			_ = s.l.Close()
			s.LetNobodyIn()
			if err := <-s.ended; err != nil {
				t.Errorf("Serve: %v", err)
			}
			s.ended <- nil // for the end of the test
			exchange(t, c, "after")
		})
	}
}
