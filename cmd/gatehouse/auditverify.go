package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gatehouse-ws/gatehouse/auditlog"
	pb "github.com/gatehouse-ws/gatehouse/proto/gatehouse/authority/v1"
)

const auditVerifyHelp = `Prove that the files of an audit trail are what the authority wrote: every line
is there, unchanged and in its place. No authority is asked. Name rotated files
from the oldest to the newest; - is standard input, for those that are packed.
Without a file it is the trail in --state, or that of a gatehouse dev.

What a trail can't show by itself is that its end was cut off, or that all of it
was written anew. --checkpoint compares with what gatehouse audit checkpoint
printed earlier and was kept where the authority's machine can't change it.

The exit code is 1 if anything is wrong; then each place is told, and through
where the trail still holds.`

func (c *cli) auditVerifyCommand() *cobra.Command {
	var state, checkpoints string
	var first uint64
	cmd := &cobra.Command{
		Use: "verify [FILE...]", Short: "Prove that a trail's files are whole, without the authority", Long: auditVerifyHelp,
		Example: `  gatehouse audit verify --state /var/lib/gatehouse/authority
  gatehouse audit verify audit.jsonl.2 audit.jsonl.1 audit.jsonl --checkpoint /mnt/elsewhere/checkpoints.json
  zcat audit.jsonl.1.gz | gatehouse audit verify - audit.jsonl
  gatehouse audit verify --first 1001 audit.jsonl -o json | jq .held`,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkState(cmd); err != nil {
				return err
			}
			v := &auditlog.Verifier{First: first}
			if cmd.Flags().Changed("checkpoint") {
				var err error
				if v.Checkpoints, err = readCheckpoints(checkpoints); err != nil {
					return err
				}
			}
			files, err := c.openAudit(args, state, false)
			if err != nil {
				return err
			}
			defer files.close()
			return c.verifyAudit(cmd.Context(), v, files)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&checkpoints, "checkpoint", "", "a file with what gatehouse audit checkpoint -o json printed, once or many times")
	f.Uint64Var(&first, "first", 1, "the batch that the files begin with, where older files are gone")
	stateFlag(f, &state)
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

const (
	maxCheckpoints     = 100_000
	maxCheckpointBytes = 64 << 20
)

// readCheckpoints reads one JSON object after the other.
func readCheckpoints(path string) ([]auditlog.Checkpoint, error) {
	const hint = "it holds what gatehouse audit checkpoint -o json printed, once or many times"
	f, err := os.Open(path)
	if err != nil {
		return nil, usage(hint, "--checkpoint: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	out, err := parseCheckpoints(io.LimitReader(f, maxCheckpointBytes))
	if err != nil {
		return nil, usage(hint, "--checkpoint: %s: %w", path, err)
	}
	return out, nil
}

func parseCheckpoints(r io.Reader) (out []auditlog.Checkpoint, err error) {
	for d := json.NewDecoder(r); ; {
		var c auditlog.Checkpoint
		err := d.Decode(&c)
		switch {
		case errors.Is(err, io.EOF) && len(out) > 0:
			return out, nil
		case errors.Is(err, io.EOF):
			return nil, errors.New("it is empty")
		case err != nil:
			return nil, fmt.Errorf("checkpoint %d: %w", len(out)+1, err)
		case c.Sequence == 0:
			return nil, fmt.Errorf("checkpoint %d has no sequence", len(out)+1)
		case len(out) == maxCheckpoints:
			return nil, fmt.Errorf("more than %d checkpoints: the newest alone is enough, it stands for all before it", maxCheckpoints)
		}
		out = append(out, c)
	}
}

// auditReader reads a file for the verifier: it shows how far that has come, ends
// with ctx, and waits a moment for the rest of a batch that is being written.
type auditReader struct {
	ctx   context.Context
	from  auditFile
	open  func() bool // whether the verifier waits for a seal
	moved func(n int)
	last  byte
}

func (r *auditReader) Read(b []byte) (n int, err error) {
	for wait := 0; ; wait++ {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		n, err = r.from.Read(b)
		if n > 0 {
			r.last = b[n-1]
			r.moved(n)
		}
		if n > 0 || !errors.Is(err, io.EOF) || r.from.size == 0 || wait == 5 || r.last == '\n' && !r.open() {
			return n, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-r.ctx.Done():
		}
	}
}

func (c *cli) verifyAudit(ctx context.Context, v *auditlog.Verifier, files auditFiles) error {
	progress := c.startProgress()
	var done, told int64
	size := files.size()
	moved := func(n int) {
		if done += int64(n); done-told < 1<<20 {
			return
		}
		told = done
		text := fmt.Sprintf("verified %d MiB", done>>20)
		if size > 0 {
			text += fmt.Sprintf(" of %d MiB", size>>20)
		}
		progress.set(text)
	}
	for i, f := range files {
		r := io.Reader(&auditReader{ctx: ctx, from: f, moved: moved, open: func() bool { return v.Unsealed() > 0 && i == len(files)-1 }})
		if err := v.Read(f.name, r); err != nil {
			progress.end()
			return err
		}
	}
	progress.end()
	report := v.Finish()
	if c.format == formatJSON {
		if report.Problems == nil {
			report.Problems = []auditlog.Problem{}
		}
		if err := c.printValue(report); err != nil {
			return err
		}
	} else if err := c.printReport(&report); err != nil {
		return err
	}
	if n := len(report.Problems) + report.More; n > 0 {
		return failed(exitFailure, "docs/audit.md says what each can mean; keep the files as they are", "the audit trail is not whole: %s", count(n, "problem"))
	}
	return nil
}

func (c *cli) printReport(r *auditlog.Report) error {
	for _, p := range r.Problems {
		where := ""
		if p.Lines() != "" {
			where = p.File + ", " + p.Lines() + ": "
		}
		if err := c.printf("%s%s\n", plain(where), plain(p.Text)); err != nil {
			return err
		}
	}
	if r.More > 0 {
		c.note("%d more problems are not listed", r.More)
	}
	if len(r.Problems) > 0 {
		if r.Held.Sequence == 0 {
			return c.printf("nothing of it is proved\n")
		}
		return c.printf("it holds through batch %d: %s of the trail, until %s\n", r.Held.Sequence, count(r.Held.Lines, "line"), c.when(timestamppb.New(r.Held.Time)))
	}
	if r.Earlier > 0 {
		c.note("%s from before the first batch of these files", count(r.Earlier, "checkpoint"))
	}
	checked := "no checkpoint was given, so a trail that was cut off would look the same"
	if r.Matched > 0 {
		checked = count(r.Matched, "checkpoint") + " matched"
	}
	return c.printf("ok: %s in batches %d to %d, until %s; %s\n", count(r.Lines, "line"), r.First, r.Head.Sequence, c.when(timestamppb.New(r.Head.Time)), checked)
}

const auditCheckpointHelp = `Print the newest seal of the audit trail: its sequence, hash and time, and how
many lines the trail has through it. Keep it where nobody who can write the
trail can change it, every hour say; gatehouse audit verify --checkpoint proves
with it that nothing before it was cut off or rewritten.

The authority is asked. With files, or --state, they are verified and their
newest seal is printed.`

func (c *cli) auditCheckpointCommand() *cobra.Command {
	var state string
	var first uint64
	cmd := &cobra.Command{
		Use: "checkpoint [FILE...]", Short: "Print what proves later that the trail was not cut off", Long: auditCheckpointHelp,
		Example: `  gatehouse audit checkpoint -o json >> /mnt/elsewhere/checkpoints.json
  gatehouse audit checkpoint --state /var/lib/gatehouse/authority`,
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkState(cmd); err != nil {
				return err
			}
			if cmd.Flags().Changed("first") && len(args) == 0 && state == "" {
				return usage("name the trail's files, or the authority's --state", "--first is about files")
			}
			var head *pb.GetCheckpointResponse
			var err error
			if len(args) > 0 || state != "" {
				head, err = c.checkpointOf(cmd.Context(), args, state, first)
			} else {
				head, err = c.askCheckpoint(cmd.Context())
			}
			switch {
			case err != nil:
				return err
			case head.GetSequence() == 0:
				return failed(exitNotFound, "it is written within a second of the first call", "the trail has no seal yet")
			case c.format == formatJSON:
				return c.printMessage(head)
			}
			tab := c.newTable()
			tab.row("sequence", fmt.Sprint(head.GetSequence()))
			tab.row("hash", head.GetHash())
			tab.row("time", c.when(head.GetTime()))
			tab.row("lines", fmt.Sprint(head.GetLines()))
			return tab.Flush()
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.Uint64Var(&first, "first", 1, "the batch that the files begin with, where older files are gone")
	stateFlag(f, &state)
	cmd.ValidArgsFunction = completeFiles
	return cmd
}

func (c *cli) askCheckpoint(ctx context.Context) (*pb.GetCheckpointResponse, error) {
	cl, err := c.connect()
	if err != nil {
		return nil, err
	}
	defer cl.close()
	return cl.audit.GetCheckpoint(ctx, &pb.GetCheckpointRequest{})
}

// checkpointOf verifies files: a checkpoint of a broken trail would prove it
// later.
func (c *cli) checkpointOf(ctx context.Context, args []string, state string, first uint64) (*pb.GetCheckpointResponse, error) {
	files, err := c.openAudit(args, state, false)
	if err != nil {
		return nil, err
	}
	defer files.close()
	v := &auditlog.Verifier{First: first}
	for _, f := range files {
		if err := v.Read(f.name, &auditReader{ctx: ctx, from: f, moved: func(int) {}, open: func() bool { return v.Unsealed() > 0 }}); err != nil {
			return nil, err
		}
	}
	r := v.Finish()
	if n := len(r.Problems) + r.More; n > 0 {
		return nil, failed(exitFailure, "gatehouse audit verify tells where", "the audit trail is not whole: %s", count(n, "problem"))
	}
	return &pb.GetCheckpointResponse{Sequence: r.Head.Sequence, Hash: r.Head.Hash.String(), Time: timestamppb.New(r.Head.Time), Lines: r.Head.Lines}, nil
}
