package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// child is a server in a process of its own.
type child struct {
	addr string
	name string
	dir  string // its folder
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	lab  *lab
}

// start runs a server pinned to core.
func (l *lab) start(core int, sp spec) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	arg, err := json.Marshal(sp)
	if err != nil {
		return nil, err
	}
	c := &child{lab: l, name: sp.Kind, dir: sp.Dir, cmd: exec.Command(exe, serveCommand, string(arg))}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := onCore(l.cores, core, c.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	c.out = json.NewDecoder(out)
	hello, err := c.answer()
	if err != nil {
		return nil, errors.Join(err, c.stop())
	}
	c.addr = hello.Addr
	l.children = append(l.children, c)
	return c, nil
}

// server runs a server on the servers' core.
func (l *lab) server(sp spec) (*child, error) { return l.serverOn(l.cores.server, sp) }

// serverOn runs a server on a core, with a folder of its own.
func (l *lab) serverOn(core int, sp spec) (*child, error) {
	dir, err := os.MkdirTemp(l.dir, sp.Kind+"-")
	if err != nil {
		return nil, err
	}
	sp.Dir = dir
	return l.start(core, sp)
}

func (c *child) answer() (answer, error) {
	var a answer
	err := c.out.Decode(&a)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return a, fmt.Errorf("server %s: %w", c.name, err)
	}
	return a, nil
}

func (c *child) ask(o order) (answer, error) {
	if err := json.NewEncoder(c.in).Encode(o); err != nil {
		return answer{}, fmt.Errorf("server %s: %w", c.name, err)
	}
	return c.answer()
}

func (c *child) usage() (answer, error) { return c.ask(order{Do: "usage"}) }

// kill ends the server as a crash would.
func (c *child) kill() error {
	c.forget()
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill server %s: %w", c.name, err)
	}
	_ = c.cmd.Wait() // it tells of the signal, and closes what is open
	return nil
}

// forget takes the server out of those of the run, whose time it keeps.
func (c *child) forget() {
	if used, err := c.usage(); err == nil { // else it is gone already
		c.lab.ended += used.User + used.System
	}
	c.lab.children = slices.DeleteFunc(c.lab.children, func(o *child) bool { return o == c })
}

// stop ends the server and waits for it. To stop it again does nothing.
func (c *child) stop() error {
	if c.cmd.ProcessState != nil {
		return nil
	}
	c.forget()
	if err := errors.Join(c.in.Close(), c.cmd.Wait()); err != nil {
		return fmt.Errorf("server %s: %w", c.name, err)
	}
	return nil
}

// profileName is where the profiles of the measurement under way go, without
// ending.
func (l *lab) profileName() (string, error) {
	slug := strings.Map(func(r rune) rune {
		if r == ' ' || r == '/' {
			return '-'
		}
		if r == ',' {
			return -1
		}
		return r
	}, l.current)
	l.profiled++
	slug += fmt.Sprintf("-%04d", l.profiled)
	return filepath.Abs(filepath.Join(l.profile, slug))
}
