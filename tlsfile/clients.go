package tlsfile

import (
	"crypto/tls"
	"fmt"
)

// AskClients has a server ask for a certificate of the CAs in caPath, which are read
// now, and fail the handshake where another is shown; where none is, only if required.
//
// A session is resumed only while its certificate is good by the CAs of then: so who
// puts another configuration in force that has the session ticket keys of before need
// see to nothing.
func AskClients(cfg *tls.Config, caPath string, required bool) error {
	text, err := Read(caPath, 0)
	if err != nil {
		return err
	}
	pool, err := Pool(text)
	if err != nil {
		return fmt.Errorf("%s %w", caPath, err)
	}
	cfg.ClientCAs, cfg.ClientAuth = pool, tls.VerifyClientCertIfGiven
	if required {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return nil
}
