package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Report is all that a run found.
type Report struct {
	Machine  Machine  `json:"machine"`
	Rounds   int      `json:"rounds"`
	Interval string   `json:"interval"`
	Tables   []*Table `json:"tables"`
	Targets  []Target `json:"targets"`
	// What other programs took of the two cores.
	OthersMedian Number `json:"others_median_percent"`
	OthersMost   Number `json:"others_most_percent"`

	others []float64 // of each round, as a share
}

// Table is one benchmark's figures, each the median of its rounds.
type Table struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	Rows    []Row    `json:"rows"`
}

// Row is one case; its values stand under the table's columns.
type Row struct {
	Case   string   `json:"case"`
	Values []Number `json:"values"`
}

// Target is a bound that Gatehouse is held to.
type Target struct {
	Name  string `json:"name"`
	Bound string `json:"bound"`
	Found Number `json:"found"`
	Met   bool   `json:"met"`
}

// Number is a figure; NaN stands for none.
type Number float64

// none is the figure of a column that does not apply.
var none = math.NaN()

// MarshalJSON writes none as null, which JSON has no number for.
func (n Number) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// String gives three digits or all those before the point.
func (n Number) String() string {
	v := float64(n)
	switch {
	case math.IsNaN(v):
		return ""
	case v == 0:
		return "0"
	case math.Abs(v) >= 99.95:
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	case math.Abs(v) >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func thousands(digits string) string {
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func (r *Report) table(name, title string, columns ...string) *Table {
	t := &Table{Name: name, Title: title, Columns: columns}
	r.Tables = append(r.Tables, t)
	return t
}

func (t *Table) row(name string, values ...float64) {
	row := Row{Case: name}
	for _, v := range values {
		row.Values = append(row.Values, Number(v))
	}
	t.Rows = append(t.Rows, row)
}

// atLeast and atMost hold what was found to a bound.
func (r *Report) atLeast(name string, found, bound float64) {
	r.Targets = append(r.Targets, Target{name, fmt.Sprintf("at least %v", bound), Number(found), found >= bound})
}

func (r *Report) atMost(name string, found, bound float64) {
	r.Targets = append(r.Targets, Target{name, fmt.Sprintf("at most %v", bound), Number(found), found <= bound})
}

// disturbance sums up what others took.
func (r *Report) disturbance() {
	most := none
	for _, o := range r.others {
		most = worse(most, o)
	}
	r.OthersMedian, r.OthersMost = Number(100*middle(r.others)), Number(100*most)
}

func (r *Report) method() string {
	text := fmt.Sprintf("Medians of %d rounds of %s, the cases of a table in turns.", r.Rounds, r.Interval)
	if r.OthersMost > 0 {
		text += fmt.Sprintf(" Other programs took %v %% of the two cores in the median round, %v %% in the worst.", r.OthersMedian, r.OthersMost)
	}
	return text
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

func (r *Report) writeText(w io.Writer) error {
	for _, line := range r.Machine.lines() {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w, r.method())
	for _, t := range r.Tables {
		fmt.Fprintf(w, "\n%s: %s\n", t.Name, t.Title)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintf(tw, "\t%s\t\n", strings.Join(t.Columns, "\t"))
		width := 0
		for _, row := range t.Rows {
			width = max(width, len(row.Case))
		}
		for _, row := range t.Rows {
			fmt.Fprintf(tw, "%-*s\t", width, row.Case)
			for _, v := range row.Values {
				fmt.Fprintf(tw, "%v\t", v)
			}
			fmt.Fprintln(tw)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if len(r.Targets) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\ntargets:")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, t := range r.Targets {
		fmt.Fprintf(tw, "  %s\t%s\t%v\t%s\n", t.Name, t.Bound, t.Found, verdict(t.Met))
	}
	return tw.Flush()
}

func (r *Report) writeMarkdown(w io.Writer) error {
	var b strings.Builder
	for _, line := range r.Machine.lines() {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- %s\n", r.method())
	for _, t := range r.Tables {
		fmt.Fprintf(&b, "\n**%s**: %s\n\n| |", t.Name, t.Title)
		for _, c := range t.Columns {
			fmt.Fprintf(&b, " %s |", c)
		}
		b.WriteString("\n| --- |")
		b.WriteString(strings.Repeat(" ---: |", len(t.Columns)))
		for _, row := range t.Rows {
			fmt.Fprintf(&b, "\n| %s |", row.Case)
			for _, v := range row.Values {
				fmt.Fprintf(&b, " %v |", v)
			}
		}
		b.WriteString("\n")
	}
	if len(r.Targets) > 0 {
		b.WriteString("\n| held to | bound | found | |\n| --- | --- | ---: | --- |\n")
		for _, t := range r.Targets {
			fmt.Fprintf(&b, "| %s | %s | %v | %s |\n", t.Name, t.Bound, t.Found, verdict(t.Met))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
