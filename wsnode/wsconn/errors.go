package wsconn

import "errors"

// Why an opening handshake is refused. A cause that a list below names matches
// its group too, by errors.Is.
var (
	// ErrMalformed groups what is no opening handshake (RFC 6455 §4.2.1,
	// RFC 9112).
	ErrMalformed = errors.New("malformed opening handshake")
	// ErrMethod says that the method is not GET; it also groups ErrHead.
	ErrMethod = errors.New("method is not GET")
	// ErrHTTPVersion says that the request is of another HTTP version than 1.1.
	ErrHTTPVersion = errors.New("HTTP version is not 1.1")
	// ErrVersion says that Sec-WebSocket-Version is not 13; the answer must
	// name 13 (§4.4).
	ErrVersion = errors.New("WebSocket version is not 13")
	// ErrHeadTooLarge says that the head has more than HeadBytes; it also
	// groups ErrTooManyFields.
	ErrHeadTooLarge = errors.New("request head has too many bytes")
	// ErrHandshakeTimeout says that the head did not arrive in HandshakeTimeout.
	ErrHandshakeTimeout = errors.New("request head did not arrive in time")
	// ErrPipelined says that the peer sent more than PipelinedBytes without
	// waiting for the answer, as §4.1 has it wait.
	ErrPipelined = errors.New("too many bytes before the handshake was answered")

	// ErrHead says that the method is HEAD: the answer tells the length of its
	// body and has none (RFC 9110 §9.3.2).
	ErrHead error = &cause{ErrMethod, "method is HEAD, not GET"}
	// ErrTooManyFields says that the head has more than HeadFields fields.
	ErrTooManyFields error = &cause{ErrHeadTooLarge, "request head has too many fields"}
)

// Causes of ErrMalformed.
var (
	ErrControlCharacter error = &cause{ErrMalformed, "control character or lone CR in the request head"}
	ErrLineEnd          error = &cause{ErrMalformed, "line of the request head ends without CR LF"}
	ErrRequestLine      error = &cause{ErrMalformed, "request line is not method, target and version with one space between"}
	ErrTarget           error = &cause{ErrMalformed, "request target is not an absolute path with an optional query"}
	ErrFieldName        error = &cause{ErrMalformed, "header line does not begin with a field name and a colon"}
	ErrDuplicateField   error = &cause{ErrMalformed, "header field that may stand once is repeated"}
	ErrHost             error = &cause{ErrMalformed, "no Host, or not a host with an optional port"}
	ErrBody             error = &cause{ErrMalformed, "opening handshake announces a body"}
	ErrNoUpgrade        error = &cause{ErrMalformed, "Connection does not list upgrade, or Upgrade not websocket"}
	ErrKey              error = &cause{ErrMalformed, "Sec-WebSocket-Key is not the base64 of 16 bytes"}
	ErrSubprotocols     error = &cause{ErrMalformed, "Sec-WebSocket-Protocol is not a list of unique tokens"}
)

// Why an open connection ends.
var (
	// ErrProtocol groups the breaches of RFC 6455 that close with 1002.
	ErrProtocol = errors.New("protocol error")
	// ErrInvalidUTF8 says that a text message is not UTF-8 (§8.1).
	ErrInvalidUTF8 = errors.New("text message is not UTF-8")
	// ErrMessageTooBig says that a message has more than MessageBytes, over
	// all its fragments; it also groups ErrTooManyFragments.
	ErrMessageTooBig = errors.New("message too big")
	// ErrMessageTimeout says that a message begun was not finished in
	// MessageTimeout.
	ErrMessageTimeout = errors.New("message was not finished in time")
	// ErrPeerClosed says that the peer began the closing handshake. Sink got
	// its code and reason.
	ErrPeerClosed = errors.New("peer closed")
	// ErrCloseTimeout says that the peer did not answer our close frame in
	// CloseTimeout.
	ErrCloseTimeout = errors.New("peer did not answer the close frame in time")

	// ErrTooManyFragments says that a message has more than Fragments frames.
	ErrTooManyFragments error = &cause{ErrMessageTooBig, "message has too many fragments"}
	// ErrCloseReason says that a close frame's reason is not UTF-8 (§5.5.1).
	ErrCloseReason error = &cause{ErrInvalidUTF8, "close reason is not UTF-8"}
)

// Causes of ErrProtocol.
var (
	ErrReservedBits      error = &cause{ErrProtocol, "reserved bits without an extension (5.2)"}
	ErrReservedOpCode    error = &cause{ErrProtocol, "reserved opcode (5.2)"}
	ErrLengthForm        error = &cause{ErrProtocol, "payload length is not in its shortest form (5.2)"}
	ErrLengthRange       error = &cause{ErrProtocol, "payload length has its highest bit set (5.2)"}
	ErrUnmasked          error = &cause{ErrProtocol, "frame is not masked (5.1)"}
	ErrNoMessageBegun    error = &cause{ErrProtocol, "continuation frame without a message begun (5.4)"}
	ErrMessageUnfinished error = &cause{ErrProtocol, "new message before the last fragment of another (5.4)"}
	ErrControlFragmented error = &cause{ErrProtocol, "fragmented control frame (5.5)"}
	ErrControlTooLong    error = &cause{ErrProtocol, "control frame of more than 125 bytes (5.5)"}
	ErrCloseLength       error = &cause{ErrProtocol, "close frame with a payload of one byte (5.5.1)"}
	ErrCloseCode         error = &cause{ErrProtocol, "close code that no endpoint may send (7.4)"}
)

// Calls that come at the wrong time.
var (
	// ErrNotVerifying says that no valid request waits for an answer.
	ErrNotVerifying = errors.New("no opening handshake waits for its answer")
	// ErrNotOpen says that the connection takes no messages: it is not open
	// yet, or its close frame is sent.
	ErrNotOpen = errors.New("connection is not open")
	// ErrSubprotocol says that a subprotocol to answer with is not a token.
	ErrSubprotocol = errors.New("subprotocol is not a token")
)

// cause is a fixed error that belongs to a group.
type cause struct {
	group error
	text  string
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.group }
