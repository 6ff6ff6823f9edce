package boltstore

import (
	"encoding/binary"
	"time"

	"github.com/gatehouse-ws/gatehouse/storage"
)

// The buckets at the top of the file.
//
//	meta         format, epoch, created, swept: numbers, big endian; system
//	tokens       slot -> token id -> Token; a slot's sequence counts its tokens
//	uses         slot -> number of the first use -> Redemptions; a slot's
//	             sequence counts its uses
//	sessions     end, number -> Sessions; the bucket's sequence is the last
//	             number. In a file that began as format 1 also end, session id
//	             -> Session
//	ended        number of the first -> EndedSessions, whose records are still
//	             among the sessions; the bucket's sequence counts them all
//	log          sequence -> Entry; the bucket's sequence is the head
//	locks        lock id -> Lock
//	instances    instance id -> Instance
//	acknowledged instance id -> Acknowledgement
//	departed     log's head at the removal, instance id -> Departed; the bucket's
//	             sequence counts its keys
//	counts       sequence of the entry, instance id -> Closed; the bucket's
//	             sequence counts its keys
//	credentials  name -> Credential
//	edgekeys     id -> EdgeKey
//
// A slot is (minute, shard). One minute per slot, not one second: tokens that
// live for weeks would lie one or two to a page, and those that live for a
// minute would be redeemed in sixty buckets at a time. Uses of tokens that live
// for longer share slots of more minutes, named by their last: see useMinute.
var (
	metaBucket        = []byte("meta")
	tokensBucket      = []byte("tokens")
	usesBucket        = []byte("uses")
	sessionsBucket    = []byte("sessions")
	endedBucket       = []byte("ended")
	logBucket         = []byte("log")
	locksBucket       = []byte("locks")
	instancesBucket   = []byte("instances")
	credentialsBucket = []byte("credentials")
	edgeKeysBucket    = []byte("edgekeys")

	acknowledgedBucket = []byte("acknowledged")
	departedBucket     = []byte("departed")
	countsBucket       = []byte("counts")

	allBuckets = [][]byte{
		metaBucket, tokensBucket, usesBucket, sessionsBucket, endedBucket, logBucket,
		locksBucket, instancesBucket, credentialsBucket, edgeKeysBucket,
	}
	// ofHistory belong to the epoch that a restore ends.
	ofHistory = [][]byte{
		sessionsBucket, endedBucket, logBucket, instancesBucket,
		acknowledgedBucket, departedBucket, countsBucket,
	}

	// laterBuckets are not in the oldest files of format 1, and are made when one is
	// opened: what receipts are made of is then known from there on.
	laterBuckets = [][]byte{acknowledgedBucket, departedBucket, countsBucket}

	formatKey  = []byte("format")
	epochKey   = []byte("epoch")
	createdKey = []byte("created") // Unix milliseconds
	sweptKey   = []byte("swept")   // Unix milliseconds: tokens that expire until then are gone
	systemKey  = []byte("system")  // 16 random bytes: the installation
)

// format is the version of this layout. A store of a higher one is refused, one
// of a lower becomes one of this.
//
//	1  a record for each session
//	2  a record for what sessions of a batch have in common
const format = 2

// fillPercent is how full bbolt makes the pages of keys that come in order.
const fillPercent = 0.9

// slot names a bucket of tokens or uses.
type slot uint64

const shardBits = 16

// noSlot is none: there is no such minute.
const noSlot = ^slot(0)

func slotOf(minute uint64, shard int) slot { return slot(minute<<shardBits | uint64(shard)) }

func (s slot) minute() uint64 { return uint64(s) >> shardBits }
func (s slot) shard() int     { return int(s & (1<<shardBits - 1)) }

func (s slot) key() []byte { return number(uint64(s)) }

// ended is the last millisecond of the slot's minute.
func (s slot) ended() int64 { return int64(s.minute()+1)*msPerMinute - 1 }

const msPerMinute = 60_000

func minuteOf(id storage.TokenID) uint64 {
	return uint64(id.Expiry().UnixMilli()) / msPerMinute
}

// useMinute is the minute of the slot that takes the uses of a token: the one in
// which the token expires or, of a token that lives for long, the last of the 4,
// 16, 64 and so on that expire with it there. Tokens of many lives are redeemed
// side by side, and each slot that a commit writes to costs it some pages. So a use
// may lie in a later slot than its token, and outlive it: by less than four times
// what the token has lived, or than a minute where that is more, and by maxUseSpan
// at most.
func useMinute(id storage.TokenID, issued time.Time) uint64 {
	minute := minuteOf(id)
	life := id.Expiry().Sub(issued) / time.Minute
	span := uint64(1)
	for span < maxUseSpan && life >= time.Duration(span) {
		span *= 4
	}
	return minute | (span - 1)
}

// maxUseSpan is in minutes: about eleven days.
const maxUseSpan = 1 << 14

// prefixOf is the beginning of an id, its time and 16 of its random bits, as a
// number that orders as ids do.
func prefixOf(id storage.TokenID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// firstID is the lowest id of a token that expires at ms or later.
func firstID(ms int64) (id storage.TokenID) {
	binary.BigEndian.PutUint64(id[:8], uint64(max(ms, 0))<<16)
	return id
}

// number is how numbers lie in keys and in meta.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func numberOf(b []byte) (uint64, bool) {
	if len(b) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(b), true
}
