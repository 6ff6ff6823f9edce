package schema

import "strconv"

// explain says why the message is refused.
func (s *Set) explain(r *run) *Error {
	say := r.p.reasons[r.reason()]
	if r.failed.want != "" {
		say.want = r.failed.want
	}
	return &Error{Err: ErrNotAllowed, Offset: -1, Pointer: s.pointer(r), Keyword: say.keyword, Want: say.want}
}

// reason is that of the last failure.
func (r *run) reason() reason {
	why := r.failed.reason
	if why.keyword == kwNumber {
		rule := &r.p.numbers[r.p.nodes[why.node].number]
		why.keyword = rule.refusal(r.decimal(&r.entries[r.failed.at]))
	}
	if original, ok := r.p.copies[why.node]; ok {
		why.node = original
	}
	return why
}

// pointer writes the place of the refused value in the message. The names in it
// are the peer's words, which may be anything: only those are shown that the
// schemas have too.
func (s *Set) pointer(r *run) string {
	var buf [256]byte
	out := buf[:0]
	for at, to := uint32(0), r.failed.at; at != to; {
		// Down to the part of this value that the refused one is in.
		isObject, i, part := r.entries[at].kind == kindObject, 0, at+1
		for part != to {
			value := part
			if isObject {
				value++
			}
			if to < r.entries[value].next {
				break
			}
			part = r.entries[value].next
			i++
		}
		switch {
		case !isObject:
			out = append(out, '/')
			out = strconv.AppendInt(out, int64(i), 10)
			at = part
		case part == to: // a name: what it names is not at fault
			return string(out)
		default:
			out = append(out, '/')
			out = s.appendName(out, r.bytes(&r.entries[part]))
			at = part + 1
		}
	}
	return string(out)
}

func (s *Set) appendName(out, name []byte) []byte {
	if !s.names[string(name)] {
		return append(out, '*')
	}
	for _, c := range name {
		switch c {
		case '~':
			out = append(out, "~0"...)
		case '/':
			out = append(out, "~1"...)
		default:
			out = append(out, c)
		}
	}
	return out
}
