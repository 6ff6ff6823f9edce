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
//	uses         minute, number of the first use -> Redemptions; the bucket's
//	             sequence is the next number. The minute is useMinute's
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
// A slot of tokens is (first minute, stretch, shard): a minute or, for tokens that
// live for long, 16 or 256; see stretch. Tokens of many lives would else lie in as
// many small trees as there are minutes in the longest.
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
//	3  slots of tokens that stretch over more than a minute, and uses that lie in no slot
const format = 3

// fillPercent is how full bbolt makes the pages of keys that come in order.
const fillPercent = 0.9

// slot names a bucket of tokens.
type slot uint64

const (
	minuteBits  = 16
	stretchBits = 14
	lastShard   = 1<<stretchBits - 1 // takes all that comes
)

// noSlot is none: there is no such minute.
const noSlot = ^slot(0)

// slotOf is the slot of a stretch that a minute lies in.
func slotOf(minute uint64, over stretch, shard int) slot {
	return slot(minute&^(over.minutes()-1)<<minuteBits | uint64(over)<<stretchBits | uint64(shard))
}

func (s slot) minute() uint64   { return uint64(s) >> minuteBits } // its first
func (s slot) stretch() stretch { return stretch(s >> stretchBits & (1<<(minuteBits-stretchBits) - 1)) }
func (s slot) shard() int       { return int(s & (1<<stretchBits - 1)) }

func (s slot) first() slot { return s &^ (1<<stretchBits - 1) } // of its shards

func (s slot) key() []byte { return number(uint64(s)) }

// began and ended are the first and the last millisecond of the slot's minutes.
func (s slot) began() int64 { return int64(s.minute()) * msPerMinute }
func (s slot) ended() int64 { return int64(s.minute()+s.stretch().minutes())*msPerMinute - 1 }

// A stretch is over how many minutes a slot of tokens is: 1, 16 or 256.
type stretch int

const (
	oneMinute stretch = iota
	longer
	longest
	stretches = int(longest) + 1

	stretchStep = 4 // each has 2^4 of the one before
)

func (s stretch) minutes() uint64 { return 1 << (int(s) * stretchStep) }

// stretchOf is over how many minutes the slot of a token may be: an eighth of its life
// at most, since the token stays in the file until all of its slot have expired.
func stretchOf(life time.Duration) stretch {
	s := longest
	for s > oneMinute && life < 8*time.Duration(s.minutes())*time.Minute {
		s--
	}
	return s
}

const msPerMinute = 60_000

func minuteOf(id storage.TokenID) uint64 {
	return uint64(id.Expiry().UnixMilli()) / msPerMinute
}

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
