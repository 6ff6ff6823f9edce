// Package storage says what Gatehouse keeps and what a store promises. It
// knows nothing of gRPC or WebSockets; storagetest proves a store.
package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"
)

// A Store keeps tokens, sessions, the log of revocations and locks, node
// instances, credentials and edge keys.
//
// Promises, all proved by storagetest:
//
//   - Durable before acknowledged: what a write method reports as done is on
//     disk (memstore alone is as durable as its process).
//   - Linearizable: decisions happen one after another, in an order that agrees
//     with the order of calls; each sees all those before it.
//   - All or nothing: a group whose commit fails leaves no trace that a later
//     call could see.
//   - Committed before seen: no read tells of a decision that could still fail.
//   - After a failed sync nothing more is written: every write returns
//     ErrStopped, and Failed tells. What became of the writes under way is
//     known only to the next process that opens the store; reads answer from
//     what was committed before, or with ErrStopped where they cannot.
//
// All methods are safe for concurrent use. Slices and pointers given to a
// method may be kept by the store and must not be changed afterwards; those
// returned are shared and must not be changed either. The batch given to Redeem
// and its sessions are the caller's again once it returns without an error. A context's end may leave
// the outcome of a write unknown, as with any commit: the write may still be
// done. Times are kept to the millisecond, and addresses without their zone.
type Store interface {
	// Insert stores tokens, and sets the IssuedRevision of those it has stored.
	// The results answer the tokens in their order; the error says that the whole
	// batch has failed.
	Insert(ctx context.Context, tokens []*Token) ([]Inserted, error)

	// Lookup finds tokens; a token that is not stored, or was swept, is nil in
	// its place.
	Lookup(ctx context.Context, ids []TokenID) ([]*Token, error)

	// Statuses tells what has become of tokens that Lookup found.
	Statuses(ctx context.Context, tokens []*Token) ([]TokenStatus, error)

	// ListTokens pages through tokens in the order of their ids.
	ListTokens(ctx context.Context, q TokenQuery) (TokenPage, error)

	// Redeem turns tokens into sessions. The results answer the redemptions in
	// their order: within one call an earlier one is decided first. The error
	// says that the whole batch has failed; then no session exists.
	//
	// A redemption of the same token by the same instance with the same session
	// id, address, User-Agent, Origin and certificate is a retry: it is answered with the
	// session that was granted first while that one is live and nothing hits it.
	// All others are refused with the first of these that is true: ErrExpired,
	// ErrInstanceUnknown, ErrRevoked, ErrLocked, ErrUsed, ErrSessionTaken,
	// ErrSessionLimit. A token of another epoch is revoked. A session id stays
	// taken while its session is live or its token is stored. With CloseOldest,
	// sessions are ended in the order in which they were granted, in the same step
	// with it; that order is known across restarts as far as their StartedAt tells.
	// One redemption ends at most 100 of them, and one alone where 1000 have ended in
	// the same commit: of a bound that was lowered, later redemptions end the rest.
	Redeem(ctx context.Context, batch []Redemption) ([]Redeemed, error)

	// EndSessions ends live sessions and reports how many were live.
	EndSessions(ctx context.Context, ids []SessionID) (int, error)

	// Sessions finds live sessions; one that is not live is nil in its place.
	Sessions(ctx context.Context, ids []SessionID) ([]*Session, error)

	// ListSessions pages through live sessions in the order of their end.
	ListSessions(ctx context.Context, q SessionQuery) (SessionPage, error)

	// Append adds a revocation, lock or unlock to the log and gives it the next
	// revision. With a request id that an entry of the log already has, it
	// returns that entry, and ErrRequestReused if that one says something else.
	//
	// "Something else" is another kind, selector, reason, actor, grace or lifted lock;
	// times and the id of a new lock are the caller's afresh at each try.
	//
	// A lock is standing from its commit until the unlock that names it; it also
	// revokes what was issued before it. Setting a lock whose id stands is
	// ErrExists, unlocking an unknown one ErrNotFound.
	Append(ctx context.Context, e Entry) (Entry, error)

	// Entries returns up to limit entries of the log that lie above after, in
	// order. Of an after that is zero or of another epoch, it returns those from
	// the log's beginning.
	Entries(ctx context.Context, after Revision, limit int) ([]Entry, error)

	// Entry finds one entry of the log, or ErrNotFound.
	Entry(ctx context.Context, r Revision) (Entry, error)

	// Requested finds which committed entry of the log has a request id, so that
	// whoever bounds the log need not refuse a request that is in it already.
	Requested(id string) (r Revision, found bool)

	// Locks returns the standing locks in the order of their revisions.
	Locks(ctx context.Context) ([]Lock, error)

	// Head is the revision of the last entry, and a channel that is closed when
	// it has moved on.
	Head() (Revision, <-chan struct{})

	// Count counts the unexpired tokens that no entry has hit, and the live
	// sessions, that an entry with this selector would hit now. It reads in pieces
	// and may take long.
	Count(ctx context.Context, s Selector, now time.Time) (tokens, sessions int, err error)

	// PutInstance registers a node instance and sets its Registered; again, it
	// changes its record, but not that.
	PutInstance(ctx context.Context, i *Instance) error

	// RemoveInstance ends an instance's sessions, in steps, then forgets it.
	// Forgetting an unknown one succeeds. If entries were appended while it was
	// registered, it stays known as departed until the last of them is swept.
	RemoveInstance(ctx context.Context, id InstanceID, at time.Time, cause string) error

	// Instances returns the registered instances in the order of their ids.
	Instances(ctx context.Context) ([]Instance, error)

	// Acknowledge keeps through where instances have enforced the log, and what
	// entries closed there: all of one call or nothing. It never moves an instance
	// back: progress that ends below what is kept, or at 0, tells nothing new. A
	// count is written over an older one of the same entry and instance.
	// Of instances that are not registered, of entries that the log does not have,
	// and where nothing was closed, it keeps nothing.
	Acknowledge(ctx context.Context, acks []Acknowledgement) error

	// Acknowledged tells how far each registered instance has enforced the log;
	// those that have said nothing are left out.
	Acknowledged(ctx context.Context) (map[InstanceID]Progress, error)

	// Departed returns the instances that were registered when the entry with this
	// sequence was appended and have been removed since, in the order of their
	// heads and ids.
	Departed(ctx context.Context, sequence uint64) ([]Departed, error)

	// Counts returns what the entry with this sequence closed on instances,
	// registered or departed.
	Counts(ctx context.Context, sequence uint64) (map[InstanceID]Closed, error)

	// CreateCredential stores a new credential; ErrExists if its name is taken.
	CreateCredential(ctx context.Context, c Credential) error

	// UpdateCredential changes a credential in one step; ErrNotFound if there is
	// none. change may be called more than once; its error is returned and
	// changes nothing.
	UpdateCredential(ctx context.Context, name string, change func(*Credential) error) (Credential, error)

	// Credentials returns all credentials in the order of their names.
	Credentials(ctx context.Context) ([]Credential, error)

	// PutEdgeKeys replaces the whole set of edge keys.
	PutEdgeKeys(ctx context.Context, keys []EdgeKey) error

	// EdgeKeys returns the edge keys in the order of their making.
	EdgeKeys(ctx context.Context) ([]EdgeKey, error)

	// Sweep forgets tokens, with their redemptions, that expired before now less
	// keep; live sessions that ended before now; and entries of the log from its
	// beginning up to the first that must be kept at now, and beyond that those of
	// Replace that need not be. What is swept stays so,
	// whatever a later call gives for now: no id that expires in or before the
	// minute of a swept token, and before now less keep, can be stored or redeemed
	// again. Ids beyond that can: a clock that was wrong once does no lasting harm.
	// With entries go their counts, and departed instances none of whose entries is
	// left; of those too many, the oldest go: see MaxCounts and MaxDeparted.
	// It works in steps that each hold writers up shortly, and writes nothing where
	// there is nothing to forget; after an error, Swept counts what was done.
	Sweep(ctx context.Context, now time.Time, keep time.Duration) (Swept, error)

	// Stats tells the sizes of things, for metrics.
	Stats() Stats

	// Failed is closed when the store can write no more; Err then says why.
	Failed() <-chan struct{}
	// Err is why the store can write no more, or nil.
	Err() error

	// Close waits for writes under way and closes the store.
	Close() error
}

// Errors of the store as a whole.
var (
	// ErrStopped says that the store can write no more.
	ErrStopped = errors.New("store stopped")
	// ErrFull says that the disk had no room for this group. Nothing of it was
	// done; later writes may succeed.
	ErrFull = errors.New("no space left for the store")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store closed")
	// ErrCorrupt says that the store's file is damaged or not a store's.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrNewer says that a newer version wrote the store's file.
	ErrNewer = errors.New("store was written by a newer version")
	// ErrInUse says that another process has the store open.
	ErrInUse = errors.New("store is in use by another process")
)

// Errors of single items.
var (
	// ErrNotFound says that nothing has this id or name.
	ErrNotFound = errors.New("not found")
	// ErrExists says that this id or name is taken.
	ErrExists = errors.New("exists already")
	// ErrRequestReused says that a request id came back with another request.
	ErrRequestReused = errors.New("request id was used for another request")

	// ErrExpired says that a token's time is over, and its record swept.
	ErrExpired = errors.New("token expired")
	// ErrUsed says that a token has opened as many sessions as it may.
	ErrUsed = errors.New("token used")
	// ErrRevoked says that a revocation hits the token.
	ErrRevoked = errors.New("token revoked")
	// ErrLocked says that a lock denies the token.
	ErrLocked = errors.New("locked")
	// ErrSessionEnded says that the session which a retry asks for has ended.
	ErrSessionEnded = errors.New("session ended")
	// ErrSessionTaken says that the session id is another session's, or that the
	// same one was asked for with another observation.
	ErrSessionTaken = errors.New("session id taken")
	// ErrSessionLimit says that as many sessions are live as may be.
	ErrSessionLimit = errors.New("too many live sessions")
	// ErrInstanceUnknown says that the node instance is not registered.
	ErrInstanceUnknown = errors.New("node instance not registered")
)

// Revision is the place of an entry in the log. Revisions of different epochs
// have no order.
type Revision struct {
	Epoch    uint64 // names one history of the store, never zero
	Sequence uint64 // counts entries from 1; 0 is before the first
}

// TokenID is a token's id: a ULID whose time is the expiry.
type TokenID [16]byte

// Expiry is the instant from which the token is inactive.
func (id TokenID) Expiry() time.Time {
	ms := int64(id[0])<<40 | int64(id[1])<<32 | int64(id[2])<<24 | int64(id[3])<<16 | int64(id[4])<<8 | int64(id[5])
	return time.UnixMilli(ms)
}

// SessionID is a session's id, random, drawn by its node.
type SessionID [16]byte

// InstanceID is a node process's id, random, drawn at its start.
type InstanceID [16]byte

// LockID is a lock's id, random.
type LockID [16]byte

// IPBinding says how a client's address must fit the token's.
type IPBinding uint8

// IP bindings. Stored: never renumber.
const (
	IPOff IPBinding = iota + 1
	IPLog
	IPPrefix
	IPStrict
)

// UserAgentBinding says how a client's User-Agent must fit the token's.
type UserAgentBinding uint8

// User-Agent bindings. Stored: never renumber.
const (
	UserAgentOff UserAgentBinding = iota + 1
	UserAgentLog
	UserAgentClass
	UserAgentStrict
)

// Token is an issued token.
type Token struct {
	ID         TokenID
	SecretHash [32]byte // SHA-256 of the digest that nodes send

	Tenant, Subject, Audience string

	ClientIP         netip.Addr // invalid where the token is not bound to one
	IPBinding        IPBinding
	UserAgent        []byte
	Browser, OS      string // families read from UserAgent
	UserAgentBinding UserAgentBinding
	Origin           string // empty where the token is not bound to one
	Certificate      string // SHA-256 of the client's, in DER; empty where the token is not bound to one

	Attributes map[string]string
	Scopes     []string
	Limits     SessionLimits

	MaxUses    uint32 // how many sessions it may open; zero opens none
	IssuedAt   time.Time
	NotBefore  time.Time
	SessionTTL time.Duration
	Issuer     string

	IssuedRevision Revision // the log's head at the token's commit; set by Insert
}

// SessionLimits bounds one session; zero is no bound of the token's own.
type SessionLimits struct {
	MessageBytes       uint32
	MessagesPerSecond  uint32
	SessionsPerSubject uint32
}

// Inserted answers one token.
type Inserted struct {
	IssuedRevision Revision
	// Err is nil, ErrExists, ErrLocked, or ErrExpired for an id that could have
	// been swept already.
	Err error
}

// TokenStatus is what has become of a token.
type TokenStatus struct {
	Uses      uint32
	Sessions  []SessionID // that it opened, live and ended, oldest first
	RevokedBy Revision    // an entry that hits it; zero where none does. Of another epoch's token: this epoch's beginning
	Lock      LockID      // a lock that denies it; zero where none does
}

// TokenQuery filters and pages. Fields that are set must all match.
type TokenQuery struct {
	After    TokenID // tokens above this id
	Limit    int     // at most this many, at least 1
	Tenant   string
	Subject  string
	Audience string
	Issuer   string
	Prefix   netip.Prefix
	Since    time.Time // tokens that expire at or after this instant
}

// TokenPage is a page of tokens. More is where the next one begins; a page may
// be short, even empty, while there is more.
type TokenPage struct {
	Tokens []*Token
	Next   TokenID
	More   bool
}

// Session is a live session.
type Session struct {
	ID    SessionID
	Token TokenID

	// Taken from the token, so that a revocation can tell whether it hits.
	Tenant, Subject, Audience, Issuer string
	TokenIP                           netip.Addr
	IssuedRevision                    Revision

	Node      string // the node's credential name
	Instance  InstanceID
	ClientIP  netip.Addr
	UserAgent []byte
	Origin    []byte
	// Certificate is the SHA-256 of the client's, in DER, or empty.
	Certificate []byte
	StartedAt   time.Time
	ExpiresAt   time.Time

	AsOf Revision // the log's head when the call that granted it was decided; set by Redeem
}

// Redemption asks to turn a token into a session.
type Redemption struct {
	// Token is as Lookup returned it. That the digest, the bindings and the time
	// fit is for the caller to have checked: they depend on nothing that a
	// commit can change.
	Token *Token
	// Session is the session to be. The store answers with a copy, in which it
	// sets AsOf and all that is taken from the token.
	Session *Session
	// These bound the live sessions of the token's subject and of its tenant,
	// this one included, and the one that it renews not; zero is no bound.
	SubjectSessions, TenantSessions uint32
	// CloseOldest has the subject's oldest sessions end where its bound is
	// reached, each with an entry of the log, instead of this one be refused.
	CloseOldest bool
	// KeepReplaced is how long those entries are kept.
	KeepReplaced time.Duration
	// Renews is the session whose place this one takes on its socket: it is not
	// among those that end, and an entry that hits it hits this one. Zero for none.
	Renews SessionID
}

// Redeemed answers one redemption.
type Redeemed struct {
	// Session is live; on a retry it is the one that was granted first. Nil where
	// Err is not.
	Session *Session
	// Retried says that an earlier call had granted it.
	Retried bool
	// Replaced are the sessions that have ended for it, oldest first.
	Replaced []Replaced
	// Err is nil, ErrExpired, ErrUsed, ErrRevoked, ErrLocked, ErrSessionEnded,
	// ErrSessionTaken, ErrSessionLimit or ErrInstanceUnknown. Where it is not
	// nil, nothing was used up.
	Err error
}

// Replaced is a session that has ended for a newer one of its subject.
type Replaced struct {
	Entry Entry // that tells its node
	Key   SessionKey
	Token TokenID
}

// SessionKey orders sessions by their end.
type SessionKey struct {
	ExpiresAt time.Time
	ID        SessionID
}

// SessionQuery filters and pages. Fields that are set must all match.
type SessionQuery struct {
	After    SessionKey // sessions above this key
	Limit    int        // at most this many, at least 1
	Tenant   string
	Subject  string
	Issuer   string
	Node     string
	Token    TokenID
	Instance InstanceID
	Prefix   netip.Prefix // of the token's or the session's address
}

// SessionPage is a page of sessions, as TokenPage is of tokens.
type SessionPage struct {
	Sessions []*Session
	Next     SessionKey
	More     bool
}

// EntryKind says what an entry of the log does.
type EntryKind uint8

// Kinds of entries. Stored: never renumber.
const (
	Revoke EntryKind = iota + 1
	SetLock
	LiftLock
	// Replace ends one session, since newer ones of its subject are live. Redeem
	// appends it, not Append. It denies nothing, and is dropped in its time whatever
	// is kept before it.
	Replace
)

// Entry is a commit of the log.
type Entry struct {
	Revision    Revision // set by Append
	Kind        EntryKind
	Selector    Selector // of a revocation or a new lock; Append sets a lifted one's
	Lock        LockID   // that is set or lifted
	Reason      string
	Actor       string
	CommittedAt time.Time // set by the caller, so that one clock rules
	KeepUntil   time.Time // Sweep may drop it from then on; but for one of Replace, after all before it
	RequestID   string
	// Grace is how long after the commit live sessions have to renew; 0 is none.
	Grace time.Duration
}

// GraceUntil is when the entry's grace ends: its commit, where it has none.
func (e *Entry) GraceUntil() time.Time { return e.CommittedAt.Add(e.Grace) }

// Lock is a standing denial.
type Lock struct {
	ID          LockID
	Selector    Selector
	Reason      string
	Actor       string
	CommittedAt time.Time
	Revision    Revision
}

// Instance is a registered node process.
type Instance struct {
	ID           InstanceID
	Node         string // the node's credential name
	RegisteredAt time.Time
	Version      string
	Address      string
	// Registered is the sequence of the log's head when it was registered first,
	// set by PutInstance. Of a record that is older than this field it is 0.
	Registered uint64
	// SessionFence is the longest session fence that it may live by: what it was
	// told last, or what it is about to be told. 0 is not known, as of a record that
	// is older than this field.
	SessionFence time.Duration
	// SocketLife is how long it keeps a socket at most once it hears nothing more: the
	// session fence or, where it has none, until the longest session that it may have
	// is over. Told as SessionFence is; 0, as of a record that is older than this field,
	// is the session fence.
	SocketLife time.Duration
	// Fresh says that it was registered, and that no heartbeat has told since that it
	// knows. What it had before, if it had been forgotten, is over.
	Fresh bool
}

// NoFence is the session fence of a node that keeps its sockets without end,
// longer than any other.
const NoFence time.Duration = math.MaxInt64

// Role says what a credential is for.
type Role uint8

// Roles. Stored: never renumber.
const (
	Issuer Role = iota + 1
	Node
	Admin
	Viewer
)

// Credential is a caller.
type Credential struct {
	Name            string
	Role            Role
	Tenants         []string // none means every one
	Audiences       []string // none means every one
	MaxTTL          time.Duration
	TokensPerSecond uint32
	Disabled        bool
	CreatedAt       time.Time
	Generation      uint32
	APIKeyHash      []byte // SHA-256 of the API key, or nil

	// Of the certificate that it last connected with, or before that of the one that
	// it was given: by which CA it is, empty where that is not known, and its end.
	SignedBy        string
	CertificateEnds time.Time
}

// EdgeKey makes and checks the tags of tokens. It shows its id alone when it is
// printed or logged.
type EdgeKey struct {
	ID         uint16
	Key        [32]byte
	CreatedAt  time.Time
	ActiveFrom time.Time // tokens are made with it from then on
	RetiredAt  time.Time // nodes may forget it from then on; zero while it is the newest
}

// CompareEdgeKeys orders keys as they were made. That only the newest is not
// retired counts before the clock, which may have stepped back.
func CompareEdgeKeys(a, b EdgeKey) int {
	if a.RetiredAt.IsZero() != b.RetiredAt.IsZero() {
		if a.RetiredAt.IsZero() {
			return 1
		}
		return -1
	}
	return a.CreatedAt.Compare(b.CreatedAt)
}

func (k EdgeKey) String() string   { return fmt.Sprintf("edge key %d", k.ID) }
func (k EdgeKey) GoString() string { return k.String() }

// MarshalText keeps the key out of JSON.
func (k EdgeKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Swept counts what Sweep forgot.
type Swept struct {
	Tokens, Sessions, Entries int
}

// Stats tells the sizes of things.
type Stats struct {
	Tokens    int // stored and not swept
	Sessions  int // live
	Entries   int // in the log
	Locks     int
	FileBytes int64
	Groups    uint64 // commits since the start
	Grouped   uint64 // calls answered by those commits
	Queued    int    // calls that wait for a commit to take them

	CommitSeconds Distribution // how long those commits took, from their decisions to their sync
	CommitCalls   Distribution // how many calls each answered
}
