package deliver

import "errors"

// Echo sends each message back as it came.
type Echo struct{}

// Opened does nothing.
func (Echo) Opened(Session) {}

// Message sends the message back. ErrClosed and ErrSlowReader are no failure of
// the echo: the node is then closing the session, for a reason of its own. Nor is
// ErrNotAllowed, which the node has told its log.
func (Echo) Message(s Session, op Op, payload []byte) error {
	send := s.Send
	if op == Binary {
		send = s.SendBinary
	}
	if err := send(payload); errors.Is(err, ErrMessageTooBig) {
		return err
	}
	return nil
}

// Closed does nothing.
func (Echo) Closed(Session, uint16, string) {}
