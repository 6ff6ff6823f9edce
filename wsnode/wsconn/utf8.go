package wsconn

import (
	stdutf8 "unicode/utf8"

	"github.com/segmentio/asm/utf8"
)

// validUTF8 reports whether p is UTF-8. The assembly is eight times as fast as
// the standard library off ASCII.
func validUTF8(p []byte) bool { return utf8.Valid(p) }

// utf8Prefix reports whether p, as far as it goes, can begin a UTF-8 text, and
// how many bytes at its end begin a character that p does not finish. So a
// text fails at its first wrong byte, wherever it was cut.
func utf8Prefix(p []byte) (unfinished int, ok bool) {
	for n := 1; n <= min(3, len(p)); n++ {
		c := p[len(p)-n]
		if c < stdutf8.RuneSelf {
			break
		}
		if stdutf8.RuneStart(c) {
			// FullRune also says yes to what no further byte can mend.
			if !stdutf8.FullRune(p[len(p)-n:]) {
				unfinished = n
			}
			break
		}
	}
	return unfinished, validUTF8(p[:len(p)-unfinished])
}
