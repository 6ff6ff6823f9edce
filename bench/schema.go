package main

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/tidwall/gjson"

	"github.com/gatehouse-ws/gatehouse/wsnode/schema"
	"github.com/gatehouse-ws/gatehouse/wsnode/tunnel"
)

//go:embed messages
var messages embed.FS

//go:embed ajv
var ajvFiles embed.FS

// messageBounds are how many times as long as gjson.Valid a check may take.
var messageBounds = []struct {
	name  string
	bound float64
}{{"chat", 1.7}, {"order", 2.8}, {"doc", 2.2}}

// checker is one way to get from the bytes of a message to a verdict.
type checker struct {
	name string
	// time measures it for about d; allocs is none where that is not known.
	time func(d time.Duration) (nanos, allocs float64, err error)
}

// benchSchema runs in the load's own process, but for Node.js.
func benchSchema(ctx context.Context, l *lab) error {
	folder, err := l.installAjv(ctx)
	if err != nil {
		l.say("schema: ajv is left out: %v", err)
	}
	t := l.report.table("schema", "raw bytes to verdict, everything checked, one goroutine", "CPU ns", "of gjson.Valid", "allocations")
	for _, m := range messageBounds {
		if err := l.benchMessage(ctx, t, m.name, m.bound, folder); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

func (l *lab) benchMessage(ctx context.Context, t *Table, name string, bound float64, ajv string) error {
	text, err := messages.ReadFile("messages/" + name + ".json")
	if err != nil {
		return err
	}
	text = bytes.TrimSpace(text)
	checkers := []checker{{name: "gjson.Valid, JSON or not alone", time: alone(func() error {
		if !gjson.ValidBytes(text) {
			return errors.New("not JSON")
		}
		return nil
	})}}
	for _, prepare := range []func(name string, text []byte) (checker, error){gatehouseChecker, santhoshChecker} {
		c, err := prepare(name, text)
		if err != nil {
			return err
		}
		checkers = append(checkers, c)
	}
	if ajv != "" {
		c, stop, err := ajvChecker(ctx, ajv, name)
		if err != nil {
			return err
		}
		defer stop()
		checkers = append(checkers, c)
	}
	first := len(checkers)
	checkers = append(checkers, tunnelLooks(text)...)
	nanos, allocs := make([][]float64, len(checkers)), make([][]float64, len(checkers))
	for round := range l.rounds + 1 { // the first one warms up
		for i, c := range checkers {
			n, a, err := c.time(l.interval / 4)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if round > 0 {
				nanos[i], allocs[i] = append(nanos[i], n), append(allocs[i], a)
			}
		}
	}
	for i, c := range checkers {
		t.row(fmt.Sprintf("%s of %d bytes, %s", name, len(text), c.name), middleOf(nanos[i]), ratioOf(nanos[i], nanos[0]), middleOf(allocs[i]))
	}
	l.report.atMost("schema: "+name+", of gjson.Valid", ratioOf(nanos[1], nanos[0]), bound)
	l.report.atMost("schema: "+name+", allocations", middleOf(allocs[1]), 0)
	l.report.atLeast("schema: "+name+", times as fast as santhosh", ratioOf(nanos[2], nanos[1]), 15)
	if ajv != "" {
		l.report.atLeast("schema: "+name+", times as fast as ajv", ratioOf(nanos[3], nanos[1]), 2)
	}
	for i := first; i < len(checkers); i++ {
		l.report.atMost("schema: "+name+", "+checkers[i].name+", allocations", middleOf(allocs[i]), 0)
	}
	return nil
}

// middleOf is middle for values whose order matters later.
func middleOf(values []float64) float64 { return middle(append([]float64(nil), values...)) }

// ratioOf is the median over rounds of a by b of the same round.
func ratioOf(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return middle(ratios)
}

func alone(op func() error) func(time.Duration) (float64, float64, error) {
	return func(d time.Duration) (float64, float64, error) { return timeAlone(d, op) }
}

func schemaFile(name string) string { return name + ".schema.json" }

// gatehouseChecker is what a node does with a message, all guards on.
func gatehouseChecker(name string, text []byte) (checker, error) {
	files, err := fs.Sub(messages, "messages")
	if err != nil {
		return checker{}, err
	}
	cfg := schema.Default()
	cfg.Types = []schema.Type{{Name: name, Schema: schemaFile(name)}}
	set, err := schema.Compile(files, cfg)
	if err != nil {
		return checker{}, err
	}
	return checker{"Gatehouse", alone(func() error {
		_, err := set.Check(text)
		return err
	})}, nil
}

// tunnelLooks is what a node looks for beside: other protocols in the message, of
// a socket whose first one it is and of one that has sent many.
func tunnelLooks(text []byte) []checker {
	later := &tunnel.Socket{}
	for range 100 {
		later.Look(false, text)
	}
	look := func(s *tunnel.Socket) error {
		if f, ok := s.Look(false, text); ok || s.Found() {
			return fmt.Errorf("found %v", f.Signature)
		}
		return nil
	}
	return []checker{
		{"tunnels, a first message", alone(func() error { return look(&tunnel.Socket{}) })},
		{"tunnels, later", alone(func() error { return look(later) })},
	}
}

func santhoshChecker(name string, text []byte) (checker, error) {
	raw, err := messages.ReadFile("messages/" + schemaFile(name))
	if err != nil {
		return checker{}, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return checker{}, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(schemaFile(name), doc); err != nil {
		return checker{}, err
	}
	s, err := c.Compile(schemaFile(name))
	if err != nil {
		return checker{}, err
	}
	return checker{"santhosh-tekuri/jsonschema", alone(func() error {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return err
		}
		return s.Validate(v)
	})}, nil
}

// installAjv puts ajv into a folder of its own, and the messages beside it.
func (l *lab) installAjv(ctx context.Context) (string, error) {
	folder := filepath.Join(l.dir, "ajv")
	for _, source := range []struct {
		files embed.FS
		name  string
	}{{ajvFiles, "ajv"}, {messages, "messages"}} {
		sub, err := fs.Sub(source.files, source.name)
		if err != nil {
			return "", err
		}
		if err := copyInto(folder, sub); err != nil {
			return "", err
		}
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", err
		}
	}
	install := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	install.Dir = folder
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: %s", err, bytes.TrimSpace(out))
	}
	return folder, nil
}

func copyInto(folder string, files fs.FS) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, e.Name()), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// ajvChecker starts ajv/run.mjs, which measures itself; stop ends it.
func ajvChecker(ctx context.Context, folder, name string) (c checker, stop func(), err error) {
	node := exec.CommandContext(ctx, "node", "run.mjs", schemaFile(name), name+".json")
	node.Dir, node.Stderr = folder, os.Stderr
	in, err := node.StdinPipe()
	if err != nil {
		return c, nil, err
	}
	out, err := node.StdoutPipe()
	if err != nil {
		return c, nil, err
	}
	if err := node.Start(); err != nil {
		return c, nil, err
	}
	answers := bufio.NewReader(out)
	stop = func() { in.Close(); node.Wait() }
	return checker{"ajv on Node.js", func(d time.Duration) (float64, float64, error) {
		if _, err := fmt.Fprintln(in, max(1, d.Milliseconds())); err != nil {
			return 0, 0, err
		}
		line, err := answers.ReadString('\n')
		if err == io.EOF {
			err = errors.New("node has ended")
		}
		if err != nil {
			return 0, 0, err
		}
		nanos, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
		return nanos, none, err
	}}, stop, nil
}
