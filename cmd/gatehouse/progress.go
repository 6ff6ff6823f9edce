package main

import (
	"fmt"
	"sync"
	"time"
)

// progress tells a person who waits how far work has come: a line that is
// rewritten on a terminal, else a line now and then. What is over soon shows
// none.
type progress struct {
	c    *cli
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex
	text string
}

func (c *cli) startProgress() *progress {
	p := &progress{c: c, stop: make(chan struct{}), done: make(chan struct{})}
	every := 10 * time.Second
	if c.stderrTerminal {
		every = 250 * time.Millisecond
	}
	go p.run(every) // ends by end
	return p
}

// set replaces the text. Safe for concurrent use.
func (p *progress) set(text string) {
	p.mu.Lock()
	p.text = text
	p.mu.Unlock()
}

func (p *progress) run(every time.Duration) {
	defer close(p.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	live := false
	for {
		select {
		case <-tick.C:
		case <-p.stop:
			if live {
				fmt.Fprint(p.c.stderr, "\r\x1b[K")
			}
			return
		}
		p.mu.Lock()
		text := plain(p.text)
		p.mu.Unlock()
		switch {
		case text == "":
		case p.c.stderrTerminal:
			fmt.Fprintf(p.c.stderr, "\r\x1b[K%s", cut("gatehouse: "+text, p.c.stderrWidth()))
			live = true
		case p.c.format == formatTable: // with JSON, standard error is for scripts
			fmt.Fprintf(p.c.stderr, "gatehouse: %s\n", text)
		}
	}
}

// cut shortens text to less than width columns, since only a line that the
// terminal has not wrapped can be rewritten. No width is an unknown one.
func cut(text string, width int) string {
	const end = "..."
	if r := []rune(text); width > len(end) && len(r) >= width {
		return string(r[:width-1-len(end)]) + end
	}
	return text
}

// end takes the line off the terminal.
func (p *progress) end() {
	close(p.stop)
	<-p.done
}
