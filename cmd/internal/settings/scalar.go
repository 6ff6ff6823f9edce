package settings

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// shownBytes bounds what an error repeats of a value or key.
const shownBytes = 64

// setText parses text into v, which is a scalar. Its error says what was found
// and what is wanted; of a secret it says only the latter.
func setText(v reflect.Value, text string, secret bool) error {
	if secret && text == masked {
		return errors.New("holds the mask of a printed configuration; write the secret itself")
	}
	err := parseText(v, text)
	switch {
	case err == nil:
		return nil
	case !secret:
		return fmt.Errorf("%s %w", quoted(text), err)
	case hasText(v.Type()) && !isAddress(v.Type()): // the type's own error may repeat the value
		return errors.New("the value is not accepted")
	}
	return fmt.Errorf("the value %w", err)
}

// parseText leaves v alone when it fails.
func parseText(v reflect.Value, text string) error {
	t := v.Type()
	if !utf8.ValidString(text) {
		return errors.New("is not UTF-8")
	}
	if t == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			example := "30s, 5m or 12h"
			if _, err := strconv.ParseUint(text, 10, 32); err == nil {
				example = text + "s"
			}
			return errors.New("is not a duration; write " + example)
		}
		v.SetInt(int64(d))
		return nil
	}
	if hasText(t) {
		fresh := reflect.New(t)
		if err := fresh.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
			switch t {
			case reflect.TypeFor[netip.AddrPort]():
				return errors.New("is not an address and port; write 127.0.0.1:8443 or [::]:8443")
			case reflect.TypeFor[netip.Prefix]():
				return errors.New("is not an address prefix; write 10.0.0.0/8 or fd00::/8")
			case reflect.TypeFor[netip.Addr]():
				return errors.New("is not an address; write 192.0.2.1 or 2001:db8::1")
			}
			return fmt.Errorf("is not accepted: %w", err)
		}
		v.Set(fresh.Elem())
		return nil
	}
	switch t.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("is not a switch; write true or false")
		}
		v.SetBool(text == "true")
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, t.Bits())
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return errors.New("is not a number that fits here; write 0.5")
		}
		v.SetFloat(f)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, t.Bits())
		if _, negative := strconv.ParseInt(text, 10, 64); err != nil && negative == nil {
			err = strconv.ErrRange
		}
		if err != nil || isOctal(text) {
			return notWhole(err, 0, uint64(math.MaxUint64)>>(64-t.Bits()))
		}
		v.SetUint(n)
	default:
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil || isOctal(text) {
			return notWhole(err, math.MinInt64>>(64-t.Bits()), uint64(math.MaxInt64)>>(64-t.Bits()))
		}
		v.SetInt(n)
	}
	return nil
}

// isOctal finds numbers that YAML 1.1 and YAML 1.2 read differently.
func isOctal(text string) bool {
	digits := strings.TrimLeft(text, "+-")
	return len(digits) > 1 && digits[0] == '0'
}

func notWhole(err error, least int64, most uint64) error {
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("is out of range; write a whole number from %d to %d", least, most)
	}
	return errors.New("is not a whole number; write it in decimal digits, as 10")
}

// textOf is the inverse of parseText.
func textOf(v reflect.Value) (string, error) {
	t := v.Type()
	if t == durationType {
		return durationText(time.Duration(v.Int())), nil
	}
	if hasText(t) {
		p := reflect.New(t) // MarshalText may have a pointer receiver
		p.Elem().Set(v)
		text, err := p.Interface().(encoding.TextMarshaler).MarshalText()
		return string(text), err
	}
	switch t.Kind() {
	case reflect.Float32, reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, t.Bits()), nil
	case reflect.String:
		return v.String(), nil
	}
	return fmt.Sprint(v.Interface()), nil
}

// durationText writes 1h instead of time.Duration's 1h0m0s.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func isAddress(t reflect.Type) bool {
	return t == reflect.TypeFor[netip.AddrPort]() || t == reflect.TypeFor[netip.Prefix]() || t == reflect.TypeFor[netip.Addr]()
}

// kindName is how a flag's usage calls what it takes.
func kindName(t reflect.Type) string {
	switch {
	case t == durationType:
		return "duration"
	case isAddress(t):
		return "address"
	case hasText(t) || t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Bool:
		return "bool" // pflag then shows no argument
	}
	return "number"
}

// quoted and shown bound what a message repeats, and keep it on one line.
func quoted(s string) string {
	if len(s) > shownBytes {
		return strconv.Quote(s[:shownBytes]) + "..."
	}
	return strconv.Quote(s)
}

func shown(s string) string {
	q := quoted(s)
	if q == `"`+s+`"` {
		return s
	}
	return q
}
