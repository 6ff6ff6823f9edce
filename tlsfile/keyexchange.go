package tlsfile

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// keyExchanges are what two peers may agree on a key by, under the names of the IANA
// registry of TLS's supported groups, and for the curves of NIST under their own too
// (SP 800-186). Of the hybrid ones, which come first, both parts have to be broken.
var keyExchanges = []struct {
	id    tls.CurveID
	names []string
}{
	{tls.X25519MLKEM768, []string{"X25519MLKEM768"}},
	{tls.SecP256r1MLKEM768, []string{"SecP256r1MLKEM768"}},
	{tls.SecP384r1MLKEM1024, []string{"SecP384r1MLKEM1024"}},
	{tls.X25519, []string{"X25519"}},
	{tls.CurveP256, []string{"P-256", "secp256r1"}},
	{tls.CurveP384, []string{"P-384", "secp384r1"}},
	{tls.CurveP521, []string{"P-521", "secp521r1"}},
}

// KeyExchange finds key exchanges by their names, in any case; there is none for no
// names, which has crypto/tls take all of them. Which of them two peers take is
// crypto/tls's to choose: their order has no meaning.
func KeyExchange(names []string) (ids []tls.CurveID, err error) {
	for _, name := range names {
		id, ok := keyExchange(name)
		if !ok {
			return nil, fmt.Errorf("%q is none of %s", name, strings.Join(keyExchangeNames(), ", "))
		}
		if slices.Contains(ids, id) {
			return nil, fmt.Errorf("%q stands there twice", name)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func keyExchange(name string) (tls.CurveID, bool) {
	for _, k := range keyExchanges {
		for _, n := range k.names {
			if strings.EqualFold(n, name) {
				return k.id, true
			}
		}
	}
	return 0, false
}

func keyExchangeNames() (names []string) {
	for _, k := range keyExchanges {
		names = append(names, k.names[0])
	}
	return names
}
