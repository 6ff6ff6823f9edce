package auditlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// maxLine is above the longest line that an authority writes. Longer ones are
// not read as records.
const maxLine = 256 << 10

// Field is what a line says about something. Numbers and truth values are text.
type Field struct{ Key, Value string }

// Record is a line of the trail.
type Record struct {
	Time    time.Time
	Action  string
	Outcome string // ok, or a reason
	Caller  string // the credential; empty for a stranger
	Peer    string // its address, where the line has it
	Fields  []Field
}

// ParseRecord reads a line. Of keys that come twice the last counts.
func ParseRecord(line []byte) (r Record, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return r, errors.New("not a JSON object")
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return r, err
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return r, err
		}
		if err := r.set(key.(string), raw); err != nil { // it is a string, or Token fails
			return r, err
		}
	}
	if _, err := d.Token(); err != nil {
		return r, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return r, errors.New("more than one JSON object")
	}
	if r.Action == "" || r.Time.IsZero() {
		return r, errors.New("no time or action")
	}
	return r, nil
}

func (r *Record) set(key string, raw json.RawMessage) error {
	value := string(raw)
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &value); err != nil {
			return err
		}
	}
	switch key {
	case "time":
		t, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return fmt.Errorf("time: %w", err)
		}
		r.Time = t.UTC()
	case "action":
		r.Action = value
	case "outcome":
		r.Outcome = value
	case "caller":
		r.Caller = value
	case "peer":
		r.Peer = value
	default:
		r.Fields = append(r.Fields, Field{key, value})
	}
	return nil
}

// Filter takes lines by what they say; all of it must fit. It needs no parsing,
// since a field has one text, which no other field's value can hold: quotes in
// values are escaped.
type Filter struct {
	since, until []byte // as lines write them; nil is no bound
	needles      [][]byte
}

// NewFilter takes lines from since on and before until, where they are not zero,
// with these texts; of a field without one all.
func NewFilter(since, until time.Time, equal ...Field) *Filter {
	f := &Filter{}
	if !since.IsZero() {
		f.since = since.UTC().AppendFormat(nil, TimeLayout)
	}
	if !until.IsZero() {
		f.until = until.UTC().AppendFormat(nil, TimeLayout)
	}
	for _, e := range equal {
		if e.Value != "" {
			f.needles = append(f.needles, appendJSON(append(appendJSON([]byte{','}, e.Key), ':'), e.Value))
		}
	}
	return f
}

// Takes reports whether a line is a record that fits.
func (f *Filter) Takes(line []byte) bool {
	if bytes.HasPrefix(line, []byte(sealBegin)) {
		return false
	}
	if f.since != nil || f.until != nil {
		at, ok := bytes.CutPrefix(line, []byte(lineBegin))
		if !ok || len(at) < len(TimeLayout) {
			return false
		}
		at = at[:len(TimeLayout)]
		if bytes.Compare(at, f.since) < 0 || f.until != nil && bytes.Compare(at, f.until) >= 0 {
			return false
		}
	}
	for _, n := range f.needles {
		if !bytes.Contains(line, n) {
			return false
		}
	}
	return true
}

// Scan calls take with the lines of r that are not empty, without their line
// breaks, and with how many bytes of r end with them, until it returns false. A
// line is borrowed until take returns; one that is too long to be a record is
// cut. Before such a one take is called with no line for each piece of it that was
// read, so that whoever wants to stop need not wait for its end.
func Scan(r io.Reader, take func(line []byte, end int64) bool) error {
	br := bufio.NewReaderSize(r, maxLine)
	var end int64
	for {
		line, err := br.ReadSlice('\n')
		end += int64(len(line))
		for errors.Is(err, bufio.ErrBufferFull) {
			line = append([]byte(nil), line[:maxSeal]...)
			if !take(nil, end) {
				return nil
			}
			var rest []byte
			rest, err = br.ReadSlice('\n')
			end += int64(len(rest))
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if line = bytes.TrimSuffix(line, []byte("\n")); len(line) > 0 && !take(line, end) || err != nil {
			return nil
		}
	}
}

// ScanBack is Scan from end back to the beginning of r; take gets where a line
// begins.
func ScanBack(r io.ReaderAt, end int64, take func(line []byte, begin int64) bool) error {
	buf := make([]byte, maxLine)
	for end > 0 {
		low := max(end-int64(len(buf)), 0)
		b := buf[:end-low]
		if n, err := r.ReadAt(b, low); n < len(b) {
			return fmt.Errorf("read %d bytes at %d: %w", len(b), low, err)
		}
		for len(b) > 0 {
			from := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
			if from == 0 && low > 0 {
				break // the line may begin before b
			}
			line := bytes.TrimSuffix(b[from:], []byte("\n"))
			if len(line) > 0 && !take(line, low+int64(from)) {
				return nil
			}
			b = b[:from]
		}
		if len(b) == len(buf) { // longer than any record: pass over it piece by piece
			b = b[:1]
			if !take(nil, low+1) {
				return nil
			}
		}
		end = low + int64(len(b))
	}
	return nil
}
