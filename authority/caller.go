package authority

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// caller is who makes a call: a credential as it was when the call began.
type caller struct {
	*storage.Credential
	address string          // host:port of the connection
	ended   <-chan struct{} // closed when the credential is disabled or reissued
	quota   *rate.Limiter   // of tokens; nil is without bound
}

// mayTenant reports whether the caller may act in tenant.
func (c *caller) mayTenant(tenant string) bool {
	return c.Role != issuer || len(c.Tenants) == 0 || slices.Contains(c.Tenants, tenant)
}

// mayAudience reports whether the caller may act for audience.
func (c *caller) mayAudience(audience string) bool {
	return len(c.Audiences) == 0 || slices.Contains(c.Audiences, audience)
}

// onlyTenant is the caller's tenant where it has just one.
func (c *caller) onlyTenant() string {
	if c.Role == issuer && len(c.Tenants) == 1 {
		return c.Tenants[0]
	}
	return ""
}

// callers knows every credential, so that a call costs no read of the store.
type callers struct {
	// changing is held from a change on disk until it counts here, so that two
	// changes of one credential count in the order in which they were made. It is
	// locked before mu.
	changing sync.Mutex

	mu     sync.RWMutex // guards what follows
	byName map[string]*known
	byKey  map[[sha256.Size]byte]*known
}

// known is a credential in use. It is replaced, never changed.
type known struct {
	storage.Credential
	ended chan struct{} // closed when calls by this record must end
	quota *rate.Limiter // of tokens; nil is without bound

	// shown is of the certificate that it last connected with; before that, what
	// the record says.
	shown *atomic.Pointer[signature]
}

// tokenBurst is how many tokens every issuer may issue at once after a pause,
// one full batch; of an issuer with a greater quota it is a second's worth.
const tokenBurst = maxBatch

func loadCallers(ctx context.Context, store storage.Store) (*callers, error) {
	all, err := store.Credentials(ctx)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	c := &callers{byName: map[string]*known{}, byKey: map[[sha256.Size]byte]*known{}}
	for _, cred := range all {
		c.put(cred)
	}
	return c, nil
}

// put makes a stored credential count. Calls under way by an older record of
// the same name end if that no longer lets them in.
func (c *callers) put(cred storage.Credential) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := &known{Credential: cred, ended: make(chan struct{}), shown: new(atomic.Pointer[signature])}
	k.shown.Store(signatureOf(&cred))
	if n := cred.TokensPerSecond; n > 0 {
		k.quota = rate.NewLimiter(rate.Limit(n), max(int(n), tokenBurst))
	}
	if old := c.byName[cred.Name]; old != nil {
		if cred.TokensPerSecond == old.TokensPerSecond { // what is used up stays so
			k.quota = old.quota
		}
		if cred.Generation == old.Generation {
			k.shown = old.shown
		}
		if cred.Disabled || cred.Generation != old.Generation {
			close(old.ended)
		} else {
			k.ended = old.ended
		}
		if len(old.APIKeyHash) == sha256.Size {
			delete(c.byKey, [sha256.Size]byte(old.APIKeyHash))
		}
	}
	c.byName[cred.Name] = k
	if len(cred.APIKeyHash) == sha256.Size {
		c.byKey[[sha256.Size]byte(cred.APIKeyHash)] = k
	}
}

func (c *callers) all() []storage.Credential {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]storage.Credential, 0, len(c.byName))
	for _, name := range slices.Sorted(maps.Keys(c.byName)) {
		out = append(out, c.byName[name].Credential)
	}
	return out
}

// disabled reports whether a credential is disabled.
func (c *callers) disabled(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	k := c.byName[name]
	return k == nil || k.Disabled
}

// callerOf authenticates the peer of a call: by its client certificate, or by
// an API key in "authorization: Bearer KEY". Of a disabled credential it
// returns the caller and errDisabled, and likewise of one with too many connections.
func (c *callers) callerOf(ctx context.Context) (*caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errUnauthenticated
	}
	k, err := c.find(ctx, p)
	if err != nil {
		return nil, err
	}
	caller := &caller{Credential: &k.Credential, address: p.Addr.String(), ended: k.ended, quota: k.quota}
	if k.Disabled {
		return caller, disabledError(k.Name)
	}
	if info, ok := p.AuthInfo.(*certified); ok {
		return caller, info.show(k.Name)
	}
	return caller, nil
}

func disabledError(name string) error {
	return fmt.Errorf("credential %s is disabled (%w)", name, errDisabled)
}

func (c *callers) find(ctx context.Context, p *peer.Peer) (*known, error) {
	var info *certified
	switch a := p.AuthInfo.(type) {
	case *certified:
		info = a
	case credentials.TLSInfo: // of another transport
		info = certify(a, 0)
	default:
		return nil, errUnauthenticated
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if info.shown {
		if info.err != nil {
			return nil, fmt.Errorf("client certificate: %w (%w)", info.err, errUnknown)
		}
		k := c.byName[info.name]
		if k == nil || k.Generation != info.generation || k.APIKeyHash != nil {
			return nil, errUnknown
		}
		// By the newest connection: older ones go on with what they began with, though
		// their caller has another certificate by now.
		if last := k.shown.Load(); info.by.nth >= last.nth && *last != info.by {
			k.shown.Store(&info.by)
		}
		return k, nil
	}
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return nil, errUnauthenticated
	}
	scheme, key, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "bearer") || len(key) != apiKeySize {
		return nil, errUnauthenticated
	}
	k := c.byKey[sha256.Sum256([]byte(key))]
	if k == nil {
		return nil, errUnknown
	}
	return k, nil
}

const (
	apiKeyPrefix = "ghk1_"
	apiKeySize   = len(apiKeyPrefix) + 43 // 32 bytes of base64url
)

// newAPIKey draws a key and the hash that is kept of it.
func newAPIKey(random io.Reader) (key string, hash []byte, err error) {
	var b [32]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", nil, fmt.Errorf("draw API key: %w", err)
	}
	key = apiKeyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(key))
	return key, sum[:], nil
}

// hostOf is an address without its port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
