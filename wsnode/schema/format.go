package schema

import "bytes"

// formats are those that are checked, each by a look at the bytes alone. The
// internationalized ones (idn-email, idn-hostname, iri, iri-reference) are not
// among them: what they allow takes tables that change with Unicode.
var formats = map[string]func(text []byte) bool{
	"date-time": isDateTime, "date": isDate, "time": isTime, "duration": isDuration,
	"email": isEmail, "hostname": isHostname, "ipv4": isIPv4, "ipv6": isIPv6,
	"uri": isURI, "uri-reference": isURIReference, "uuid": isUUID,
	"json-pointer": isJSONPointer, "relative-json-pointer": isRelativeJSONPointer, "regex": isRegex,
}

// Steps for a format: some for any text, and so many for bytesPerStep bytes of it.
const (
	formatSteps  = 2
	formatWeight = 2
	regexSteps   = 3 // for regex, which looks at every character by itself
	regexWeight  = 5
)

// isDateTime: RFC 3339 section 5.6, date-time.
func isDateTime(b []byte) bool {
	return len(b) > 11 && b[10]|0x20 == 't' && isDate(b[:10]) && isTime(b[11:])
}

// isDate: RFC 3339 section 5.6, full-date.
func isDate(b []byte) bool {
	if len(b) != 10 || b[4] != '-' || b[7] != '-' {
		return false
	}
	year, month, day := digits2(b)*100+digits2(b[2:]), digits2(b[5:]), digits2(b[8:])
	if year < 0 || month < 1 || month > 12 || day < 1 {
		return false
	}
	last := int("\x1f\x1c\x1f\x1e\x1f\x1e\x1f\x1f\x1e\x1f\x1e\x1f"[month-1])
	if month == 2 && year%4 == 0 && (year%100 != 0 || year%400 == 0) {
		last = 29
	}
	return day <= last
}

// digits2 is the number that two digits are, or one far below zero.
func digits2(b []byte) int {
	if !isDigit(b[0]) || !isDigit(b[1]) {
		return -1 << 20
	}
	return int(b[0]-'0')*10 + int(b[1]-'0')
}

// isTime: RFC 3339 section 5.6, full-time. A leap second is one at 23:59:60 UTC.
func isTime(b []byte) bool {
	if len(b) < 9 || b[2] != ':' || b[5] != ':' {
		return false
	}
	hour, minute, second := digits2(b), digits2(b[3:]), digits2(b[6:])
	if hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60 {
		return false
	}
	b = b[8:]
	if b[0] == '.' {
		n := leadingDigits(b[1:])
		if n == 0 {
			return false
		}
		b = b[1+n:]
	}
	sinceMidnight := hour*60 + minute
	switch {
	case len(b) == 1 && b[0]|0x20 == 'z':
	case len(b) == 6 && (b[0] == '+' || b[0] == '-') && b[3] == ':':
		hours, minutes := digits2(b[1:]), digits2(b[4:])
		if hours < 0 || hours > 23 || minutes < 0 || minutes > 59 {
			return false
		}
		offset := hours*60 + minutes
		if b[0] == '-' {
			offset = -offset
		}
		sinceMidnight = (sinceMidnight - offset + 2*24*60) % (24 * 60)
	default:
		return false
	}
	return second < 60 || sinceMidnight == 23*60+59
}

func leadingDigits(b []byte) int {
	n := 0
	for n < len(b) && isDigit(b[n]) {
		n++
	}
	return n
}

// isDuration: RFC 3339 appendix A, whose units may be left out as ISO 8601 has it.
func isDuration(b []byte) bool {
	if len(b) < 2 || b[0] != 'P' {
		return false
	}
	b = b[1:]
	if n := leadingDigits(b); n > 0 && n == len(b)-1 && b[n] == 'W' {
		return true
	}
	date, time, hasTime := bytes.Cut(b, []byte("T"))
	return areDurationUnits(date, "YMD") && (!hasTime || len(time) > 0 && areDurationUnits(time, "HMS"))
}

// areDurationUnits checks numbers with units, in this order.
func areDurationUnits(b []byte, units string) bool {
	for ok := true; len(b) > 0; {
		if b, units, ok = durationUnit(b, units); !ok {
			return false
		}
	}
	return true
}

// durationUnit takes a number and its unit, and returns the units that may follow.
func durationUnit(b []byte, units string) (rest []byte, left string, ok bool) {
	n := leadingDigits(b)
	if n == 0 || n == len(b) {
		return nil, "", false
	}
	for i := range len(units) {
		if units[i] == b[n] {
			return b[n+1:], units[i+1:], true
		}
	}
	return nil, "", false
}

// isEmail: RFC 5321 section 4.1.2, Mailbox.
func isEmail(b []byte) bool {
	at := bytes.LastIndexByte(b, '@')
	if at < 1 || at > 64 || len(b) > 254 {
		return false
	}
	local, domain := b[:at], b[at+1:]
	if local[0] == '"' {
		if !isQuoted(local) {
			return false
		}
	} else if !isDotString(local) {
		return false
	}
	if n := len(domain); n > 2 && domain[0] == '[' && domain[n-1] == ']' {
		literal := domain[1 : n-1]
		if len(literal) > 5 && equalFold(literal[:5], "ipv6:") {
			return isIPv6(literal[5:])
		}
		return isIPv4(literal)
	}
	return isHostname(domain)
}

func isQuoted(b []byte) bool {
	if len(b) < 2 || b[len(b)-1] != '"' {
		return false
	}
	b = b[1 : len(b)-1]
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' {
			i++
		} else if b[i] == '"' {
			return false
		}
		if i >= len(b) || b[i] < ' ' || b[i] > '~' {
			return false
		}
	}
	return true
}

func isDotString(b []byte) bool {
	for {
		n := atext.span(b)
		if n == 0 || n == len(b) {
			return n > 0
		}
		if b[n] != '.' {
			return false
		}
		b = b[n+1:]
	}
}

// Sets of characters, as the RFCs name them.
var (
	alphanumeric = newByteSet("azAZ09", "")
	labelSet     = newByteSet("azAZ09", "-") // of a hostname
	hexadecimal  = newByteSet("afAF09", "")
	atext        = newByteSet("azAZ09", "!#$%&'*+-/=?^_`{|}~") // RFC 5322 section 3.2.3
	unreserved   = newByteSet("azAZ09", "-._~")                // RFC 3986, as those below
	subDelims    = newByteSet("", "!$&'()*+,;=")
	scheme       = newByteSet("azAZ09", "+-.")
	pchar        = union(unreserved, subDelims, newByteSet("", ":@"))
	afterPath    = union(pchar, newByteSet("", "/?")) // a query or a fragment
	regName      = union(unreserved, subDelims)
	userinfo     = union(regName, newByteSet("", ":"))
)

// isHostname: RFC 1123 section 2.1, with a dot at its end or without.
func isHostname(b []byte) bool {
	if n := len(b); n > 1 && b[n-1] == '.' {
		b = b[:n-1]
	}
	if len(b) > 253 {
		return false
	}
	for {
		n := labelSet.span(b)
		if n == 0 || n > 63 || b[0] == '-' || b[n-1] == '-' {
			return false
		}
		if n == len(b) {
			return true
		}
		if b[n] != '.' {
			return false
		}
		b = b[n+1:]
	}
}

// isIPv4: RFC 2673 section 3.2, dotted-quad.
func isIPv4(b []byte) bool {
	for part := range 4 {
		n := leadingDigits(b)
		if n == 0 || n > 3 || n > 1 && b[0] == '0' {
			return false
		}
		value := 0
		for _, c := range b[:n] {
			value = value*10 + int(c-'0')
		}
		if value > 255 {
			return false
		}
		if b = b[n:]; part < 3 {
			if len(b) == 0 || b[0] != '.' {
				return false
			}
			b = b[1:]
		}
	}
	return len(b) == 0
}

// isIPv6: RFC 4291 section 2.2.
func isIPv6(b []byte) bool {
	groups, gap := 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		gap, b = true, b[2:]
	}
	for len(b) > 0 {
		n := 0
		for n < len(b) && hexadecimal.has(b[n]) {
			n++
		}
		if n < len(b) && b[n] == '.' { // an IPv4 address in place of two groups
			groups += 2
			return isIPv4(b) && (groups == 8 && !gap || groups < 8 && gap)
		}
		if n == 0 || n > 4 {
			return false
		}
		groups++
		if b = b[n:]; len(b) == 0 {
			break
		}
		if b[0] != ':' {
			return false
		}
		switch b = b[1:]; {
		case len(b) == 0:
			return false
		case b[0] == ':':
			if gap {
				return false
			}
			gap, b = true, b[1:]
		}
	}
	return groups == 8 && !gap || groups < 8 && gap
}

// isUUID: RFC 9562 section 4.
func isUUID(b []byte) bool {
	return len(b) == 36 && b[8] == '-' && b[13] == '-' && b[18] == '-' && b[23] == '-' &&
		hexadecimal.all(b[:8]) && hexadecimal.all(b[9:13]) && hexadecimal.all(b[14:18]) && hexadecimal.all(b[19:23]) && hexadecimal.all(b[24:])
}

// isJSONPointer: RFC 6901 section 3.
func isJSONPointer(b []byte) bool {
	if len(b) > 0 && b[0] != '/' {
		return false
	}
	for i, c := range b {
		if c == '~' && (i+1 == len(b) || b[i+1] != '0' && b[i+1] != '1') {
			return false
		}
	}
	return true
}

// isRelativeJSONPointer: draft-bhutton-relative-json-pointer-00 section 3, without
// its index manipulation, which the tests of the format do not know either.
func isRelativeJSONPointer(b []byte) bool {
	n := leadingDigits(b)
	if n == 0 || n > 1 && b[0] == '0' {
		return false
	}
	b = b[n:]
	return len(b) == 1 && b[0] == '#' || isJSONPointer(b)
}
