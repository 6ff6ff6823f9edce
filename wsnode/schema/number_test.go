package schema

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

var anyNumber = Guards{Depth: 1, Names: 1, Tokens: 1, MaxInteger: math.MaxUint64, WideNumbers: true}

// tapeOf reads a text that is all right.
func tapeOf(t testing.TB, text string, g Guards) *tape {
	t.Helper()
	out := new(tape)
	if at, why := out.read([]byte(text), &g); why != nil {
		t.Fatalf("%s: %v at byte %d", text, why, at)
	}
	return out
}

func decimalOf(t testing.TB, text string) decimal {
	tape := tapeOf(t, text, anyNumber)
	return tape.decimal(&tape.entries[0])
}

// numbers are pairs' worth of cases around every rule of this file.
var numbers = []string{
	"0", "-0", "0.0", "0e5", "1", "-1", "1.0", "1e0", "10", "1e1", "0.1e2", "100e-1", "1.5", "-1.5", "1.50", "15e-1", "0.1", "0.10", "0.01", "1e-2", "19.99", "1999e-2",
	"999999999999999999", "1000000000000000000", "1e18", "1e17", "100000000000000000", "1000000000000000001", "9223372036854775807", "-9223372036854775808", "18446744073709551616", "12e17", "1200000000000000000",
	"9007199254740992", "9007199254740993", "9007199254740993.0", "9007199254740992.5", "0.99999999999999999999", "0.100000000000000000000000000001", "0.1000000000000000000000000000000", "123456789012345678901234567890", "123456789012345678901234567890e-20",
	"1e308", "1.7976931348623157e308", "5e-324", "1e-323", "0.0000000000000000000001", "1e-22", "123456789.123456789123456789", "1e36", "1e37", "1e-36", "1e-18", "1e-19", "2e-18", "17e-18",
}

func TestNumbersCompareExactly(t *testing.T) {
	for _, a := range numbers {
		for _, b := range numbers {
			for _, sign := range []string{"", "-"} {
				compareAsRat(t, a, strings.ReplaceAll(sign+b, "--", ""))
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	rounds := 10_000
	if raceEnabled {
		rounds = 500
	}
	for range rounds {
		compareAsRat(t, randomNumber(random), randomNumber(random))
	}
}

func randomNumber(r *rand.Rand) string {
	text := strconv.FormatUint(r.Uint64()>>r.IntN(64), 10)
	if r.IntN(2) == 0 {
		text += "." + strconv.FormatUint(r.Uint64()>>r.IntN(64), 10)
	}
	if r.IntN(2) == 0 {
		text += fmt.Sprintf("e%d", r.IntN(60)-30)
	}
	if r.IntN(2) == 0 {
		text = "-" + text
	}
	return text
}

func compareAsRat(t *testing.T, a, b string) {
	t.Helper()
	x, _ := new(big.Rat).SetString(a)
	y, _ := new(big.Rat).SetString(b)
	p, q := decimalOf(t, a), decimalOf(t, b)
	if got, want := p.compare(q), x.Cmp(y); got != want {
		t.Errorf("%s beside %s: %d, want %d", a, b, got, want)
	}
	if q.text == nil && q.n > 0 {
		if got, want := p.multipleOf(q), new(big.Rat).Quo(x, y).IsInt(); got != want {
			t.Errorf("%s is a multiple of %s: %v, want %v", a, b, got, want)
		}
	}
	tape := tapeOf(t, a, anyNumber)
	if e := &tape.entries[0]; (e.kind == kindInteger) != x.IsInt() || e.kind&kindNumber == 0 {
		t.Errorf("%s has the kind %b", a, e.kind)
	}
}

// What is equal has equal entries, unless it is long.
func TestNumbersAreInLowestTerms(t *testing.T) {
	for _, same := range [][]string{
		{"0", "-0", "0.000", "0e99", "-0e-99"}, {"1", "1.0", "1e0", "10e-1", "0.1e1", "1.000000000000000000000000000000"}, {"150", "1.5e2", "15e1", "1500e-1"},
		{"0.015", "15e-3", "1.5e-2", "0.0150"}, {"1e18", "1000000000000000000", "10e17", "1000000000000000000.0"}, {"-12e17", "-1200000000000000000", "-1.2e18"}, {"99e16", "990000000000000000"},
	} {
		first := decimalOf(t, same[0])
		for _, other := range same {
			if d := decimalOf(t, other); d.n != first.n || d.scale != first.scale || d.text != nil || first.text != nil {
				t.Errorf("%s is %+v, %s is %+v", same[0], first, other, d)
			}
		}
	}
}

// Which numbers are doubles is what strconv says, to the last digit.
func TestNumbersAreDoubles(t *testing.T) {
	g := Default().Guards
	texts := []string{
		"1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "17976931348623158e292", "179769313486231580000e288", "1.8e308", "1e309", "0.1e309", "9e308", "1e400", "1e99999999",
		"5e-324", "2.4703282292062328e-324", "2.4703282292062327e-324", "2e-324", "3e-324", "0.3e-323", "1e-325", "1e-400", "1e-99999999", "0.0e999", "4e-324",
	}
	for _, bound := range []string{halfToInfinity, halfToSmallest} {
		for _, exponent := range []string{"e309", "e-323"} {
			for _, n := range []int{1, 2, 17, 20, 50, 110} {
				texts = append(texts, "0."+bound[:n]+exponent, "0."+bound[:n]+"9"+exponent, "0."+bound[:n]+"01"+exponent)
			}
		}
	}
	for _, text := range texts {
		f, err := strconv.ParseFloat(text, 64)
		want := err == nil && (f != 0 || strings.HasPrefix(text, "0.0e"))
		var tape tape
		_, why := tape.read([]byte(text), &g)
		if (why == nil) != want {
			t.Errorf("%s: %v, strconv says %v, %v", text, why, f, err)
		}
	}
}
