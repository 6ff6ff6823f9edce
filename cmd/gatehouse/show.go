package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// plain makes s safe to show on a terminal: what is not printable, which a peer
// may have put there to hide or forge text, is written as Go escapes.
func plain(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return hidden(r) || r == utf8.RuneError }) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if hidden(r) || r == utf8.RuneError && size == 1 {
			q := strconv.QuoteToASCII(s[i : i+size])
			b.WriteString(q[1 : len(q)-1])
		} else {
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// hidden reports whether a terminal shows r as anything but itself.
func hidden(r rune) bool { return !unicode.IsPrint(r) }

const timeLayout = "2006-01-02 15:04:05 MST"

// when is a time for tables of details: local, and how far away.
func (c *cli) when(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().In(c.zone).Format(timeLayout) + " (" + c.relative(t) + ")"
}

// relative is how far away a time is, for lists.
func (c *cli) relative(t *timestamppb.Timestamp) string {
	if t == nil || t.AsTime().IsZero() {
		return ""
	}
	switch d := t.AsTime().Sub(c.now()); {
	case d <= -time.Millisecond:
		return span(-d) + " ago"
	case d < time.Millisecond:
		return "now"
	default:
		return "in " + span(d)
	}
}

// span is a duration with the precision that a reader wants.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// spanOf is the span of a message; empty for none.
func spanOf(d *durationpb.Duration) string {
	if d == nil {
		return ""
	}
	return span(d.AsDuration())
}

// count is n with its noun, which takes an s for more than one.
func count[N int | uint32 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func yesNo(v bool) string {
	if v {
		return "yes"
	}
	return "no"
}
